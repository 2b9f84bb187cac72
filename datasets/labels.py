"""The only definition of the classes: names, colours, and all maps between raw IDs and train IDs.

A train ID is a number 0 ... C-1, the network's output channel; 255 is ignored. Raw IDs are the values in the label
files of the data sets.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.cli import UserError
from core.files import read_yaml

IGNORE = 255
NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")


@dataclass(frozen=True)
class LabelSet:
    """The classes of a task, in the order of their train IDs."""

    name: str
    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]  # RGB
    raw_to_train: Mapping[int, int]  # any other raw ID -> 255

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
_LABEL_IDS = {raw: train for train, (_, raw, _) in enumerate(_CITYSCAPES)}

CITYSCAPES = LabelSet(
    name="cityscapes",
    names=tuple(name for name, _, _ in _CITYSCAPES),
    colours=tuple(colour for _, _, colour in _CITYSCAPES),
    raw_to_train=_LABEL_IDS,
)

# SYNTHIA's evaluation protocols leave out these train IDs.
SYNTHIA_16 = (9, 14, 16)
SYNTHIA_13 = (3, 4, 5, 9, 14, 16)

# Raw IDs of the published data sets -> train IDs of CITYSCAPES. SYNTHIA's 22, lane marking, is ignored.
RAW_MAPS: dict[str, Mapping[int, int]] = {
    "cs": _LABEL_IDS,
    "gta": _LABEL_IDS,
    "synthia": {
        **{1: 10, 2: 2, 3: 0, 4: 1, 5: 4, 6: 8, 7: 5, 8: 13, 9: 7, 10: 11, 11: 18, 12: 17},
        **{15: 6, 16: 9, 17: 12, 18: 14, 19: 15, 20: 16, 21: 3},
    },
}


def load(name_or_path: str) -> LabelSet:
    """The label set "cityscapes", or the one described by a YAML file.

    Keys of the file: `names`, a list of class names in the order of their train IDs; `colours`, a [red, green, blue]
    for each; `raw_ids` (optional), {raw ID: train ID}, without which raw IDs are train IDs; `ignore` (optional), raw
    IDs to ignore, like every raw ID that `raw_ids` does not list.

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


def _label_set(name: str, content: Any) -> LabelSet:
    """From what `read_yaml` gives, all of it text; ValueError with what is wrong."""
    allowed = ("names", "colours", "raw_ids", "ignore")
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
    raw_to_train = _raw_to_train(content.get("raw_ids"), content.get("ignore"), len(names))
    return LabelSet(name, tuple(names), tuple(rgb), raw_to_train)


def _raw_to_train(raw_ids: Any, ignore: Any, num_classes: int) -> dict[int, int]:
    if ignore is not None and not isinstance(ignore, list):
        raise ValueError("`ignore` must be a list of raw IDs, each from 0 to 255")
    ignored = [_byte(raw, "`ignore`") for raw in ignore or []]
    if raw_ids is None:
        raw_ids = {str(i): str(i) for i in range(num_classes) if i not in ignored}
    if not isinstance(raw_ids, dict):
        raise ValueError("`raw_ids` must be {raw ID: train ID}, with raw IDs from 0 to 255")
    mapping = {_byte(raw, "`raw_ids`"): _byte(train, "`raw_ids`") for raw, train in raw_ids.items()}
    for raw, train in mapping.items():
        if not (train < num_classes or train == IGNORE):
            allowed = f"train IDs are 0 to {num_classes - 1}, or 255 for ignored"
            raise ValueError(f"`raw_ids` maps {raw} to {train}; {allowed}")
        if raw in ignored and train != IGNORE:
            raise ValueError(f"raw ID {raw} is both in `raw_ids` and in `ignore`")
    without = set(range(num_classes)) - set(mapping.values())
    if without:
        raise ValueError(f"no raw ID is mapped to train ID {min(without)}")
    return mapping | dict.fromkeys(ignored, IGNORE)


def _byte(text: Any, key: str) -> int:
    """A number from 0 to 255 that is written as one; ValueError naming the key it stands in."""
    if not isinstance(text, str) or not NUMBER.fullmatch(text) or int(text) > 255:
        raise ValueError(f"{key} holds {'nothing' if text is None else text}, expected numbers from 0 to 255")
    return int(text)
