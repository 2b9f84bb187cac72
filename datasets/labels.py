"""Label sets: names, colours, and the map from raw IDs or colours to train IDs. Defines that of Cityscapes.

A train ID is a number 0 ... C-1, the network's output channel; 255 is ignored. Raw IDs are the values in the label
files of a data set; some data sets have colours instead.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from core.cli import UserError
from core.files import read_yaml, write_bytes
from core.values import written

IGNORE = 255
NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")
BESIDE_MASKS = "classes.yaml"  # in a folder of masks of a label set other than Cityscapes'


@dataclass(frozen=True)
class LabelSet:
    """The classes of a task, in the order of their train IDs."""

    name: str
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]  # RGB
    raw_to_train: Mapping[int, int]  # any other raw ID -> 255
    colour_to_train: Mapping[tuple[int, int, int], int] = field(default_factory=dict)  # RGB; any other -> 255

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.names)

    def palette(self) -> np.ndarray:
        """Colours by train ID, uint8 [256,3] RGB; black for all other values."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colours
        return palette

    def to_train(self) -> np.ndarray:
        """Look-up table raw ID -> train ID, uint8 [256]."""
        return lookup_table(self.raw_to_train)

    def to_raw(self) -> np.ndarray:
        """Look-up table train ID -> raw ID (the first of several), uint8 [256].

        All other values become 0, which Cityscapes calls "unlabeled", or 255 if raw ID 0 belongs to a class.
        """
        no_class = 0 if self.raw_to_train.get(0, IGNORE) == IGNORE else IGNORE
        table = np.full(256, no_class, np.uint8)
        for raw, train in reversed(self.raw_to_train.items()):
            if train != IGNORE:
                table[train] = raw
        return table


def lookup_table(raw_to_train: Mapping[int, int]) -> np.ndarray:
    """Look-up table raw ID -> train ID, uint8 [256]; IDs missing from the map -> 255."""
    table = np.full(256, IGNORE, np.uint8)
    for raw, train in raw_to_train.items():
        table[raw] = train
    return table


_CITYSCAPES = (  # name, label ID in Cityscapes and GTA5, colour
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

CITYSCAPES = LabelSet(
    name="cityscapes",
    names=tuple(name for name, _, _ in _CITYSCAPES),
    colours=tuple(colour for _, _, colour in _CITYSCAPES),
    raw_to_train={raw: train for train, (_, raw, _) in enumerate(_CITYSCAPES)},
)

def load(name_or_path: str) -> LabelSet:
    """The label set "cityscapes", or the one described by a YAML file.

    Keys of the file: `names`, a list of class names in the order of their train IDs; `colours`, a [red, green, blue]
    for each; `raw_ids` (optional), {raw ID: train ID or name}, or `raw_colours`, {red green blue: train ID or name},
    without which raw IDs are train IDs; `ignore` (optional), raw IDs to ignore, like all those not in `raw_ids`.

    Raises:
        UserError: the file is missing or not valid YAML, or has unknown keys or wrong values.
    """
    if name_or_path == CITYSCAPES.name:
        return CITYSCAPES
    if not name_or_path.endswith((".yaml", ".yml")):
        raise UserError(f"unknown label set {name_or_path!r}: expected cityscapes or a YAML file (.yaml)")
    content = read_yaml(name_or_path)
    try:
        return _label_set(name_or_path, content)
    except ValueError as error:
        raise UserError(f"{name_or_path}: {error}") from None


def say_beside_masks(folder: Path, label_set: LabelSet) -> None:
    """Write a label set's names and colours, unless Cityscapes', into a folder of masks; UserError if that fails."""
    if label_set is not CITYSCAPES:
        content = {"names": label_set.names, "colours": label_set.colours}
        write_bytes(folder / BESIDE_MASKS, json.dumps(content).encode())  # JSON is YAML


def _label_set(name: str, content: Any) -> LabelSet:
    """From what `read_yaml` returns, all strings; ValueError with what is wrong."""
    allowed = ("names", "colours", "raw_ids", "raw_colours", "ignore")
    if not isinstance(content, dict):
        raise ValueError(f"expected the keys {', '.join(allowed)}")
    unknown = [key for key in content if key not in allowed]
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; expected {', '.join(allowed)}")
    names = content.get("names")
    if not isinstance(names, list) or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError("`names` must be a list of class names")
    if not 2 <= len(names) <= IGNORE or len(set(names)) != len(names):
        raise ValueError(f"`names` must be 2 to {IGNORE} different names")
    colours = content.get("colours")
    triples = isinstance(colours, list) and all(isinstance(c, list) and len(c) == 3 for c in colours)
    if not triples or len(colours) != len(names):
        raise ValueError(f"`colours` must be {len(names)} lists [red, green, blue], each value from 0 to 255")
    rgb = [tuple(_byte(part, "`colours`") for part in colour) for colour in colours]
    coloured = colour_map(content["raw_colours"], names) if content.get("raw_colours") is not None else {}
    if coloured and content.get("raw_ids") is not None:
        raise ValueError("`raw_ids` and `raw_colours`: expected only one of them")
    raw_to_train = _raw_to_train(content.get("raw_ids"), content.get("ignore"), names)
    mapped = coloured or raw_to_train
    without = set(range(len(names))) - set(mapped.values())
    if without:
        raise ValueError(f"no raw {'colour' if coloured else 'ID'} is mapped to train ID {min(without)}")
    return LabelSet(name, tuple(names), tuple(rgb), raw_to_train, coloured)


def _raw_to_train(raw_ids: Any, ignore: Any, names: Sequence[str]) -> dict[int, int]:
    if ignore is not None and not isinstance(ignore, list):
        raise ValueError("`ignore` must be a list of raw IDs, each from 0 to 255")
    ignored = [_byte(raw, "`ignore`") for raw in ignore or []]
    if raw_ids is None:
        raw_ids = {str(i): str(i) for i in range(len(names)) if i not in ignored}
    raw_to_train = id_map(raw_ids, names)
    for raw, train in raw_to_train.items():
        if raw in ignored and train != IGNORE:
            raise ValueError(f"raw ID {raw} is both in `raw_ids` and in `ignore`")
    return raw_to_train | dict.fromkeys(ignored, IGNORE)


def id_map(raw_ids: Any, names: Sequence[str]) -> dict[int, int]:
    """`raw_ids` of a YAML file, {raw ID: train ID, or name of a class} -> {raw ID: train ID}; ValueError if invalid."""
    if not isinstance(raw_ids, dict):
        raise ValueError("`raw_ids` must be {raw ID: train ID}, with raw IDs from 0 to 255")
    return {_byte(raw, "`raw_ids`"): _train_id("raw_ids", raw, train, names) for raw, train in raw_ids.items()}


def colour_map(raw_colours: Any, names: Sequence[str]) -> dict[tuple[int, int, int], int]:
    """`raw_colours` of a YAML file, {red green blue: train ID, or name} -> {(red, green, blue): train ID}."""
    example = "`raw_colours` must be {red green blue: train ID}, such as {128 64 128: 0}"
    if not isinstance(raw_colours, dict):
        raise ValueError(example)
    found = {}
    for text, train in raw_colours.items():
        parts = text.split()
        if len(parts) != 3 or not all(_is_byte(part) for part in parts):
            raise ValueError(f"{example}, not {text!r}")
        found[tuple(map(int, parts))] = _train_id("raw_colours", text, train, names)
    return found


def _train_id(key: str, raw: str, train: Any, names: Sequence[str]) -> int:
    """The train ID that a raw ID or colour is mapped to, by number or by name."""
    if _is_byte(train) and (int(train) < len(names) or int(train) == IGNORE):
        return int(train)
    if train in names:
        return list(names).index(train)
    allowed = f"train IDs are 0 to {len(names) - 1}, or 255 for ignored"
    raise ValueError(f"`{key}` maps {raw} to {written(train)}, which is not a class; {allowed}")


def _is_byte(text: Any) -> bool:
    """Whether it is the text of a number from 0 to 255."""
    return isinstance(text, str) and NUMBER.fullmatch(text) is not None and int(text) <= 255


def _byte(text: Any, key: str) -> int:
    """Parse a number from 0 to 255; the ValueError names its key."""
    if not _is_byte(text):
        raise ValueError(f"{key} holds {'nothing' if text is None else text}, expected numbers from 0 to 255")
    return int(text)
