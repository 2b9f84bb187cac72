"""Domains: where a data set's images and labels are, how they are named and encoded, and which lists it has.

Each is a YAML file, given by its name in configs/domains or, for a user's own, by its path (docs/own_data.md). Paths
are relative to the data root and have placeholders: `{name}` stands for part of a file or folder name, `{name/}` for
any number of folders. A label's path is filled with what the placeholders stand for in its image's path.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from core.cli import UserError
from core.files import find_files, read_yaml
from core.values import single, written
from datasets import labels
from datasets.images import SUFFIXES
from datasets.labels import LabelSet
from tools.batch.png import GREY, PALETTE, RGB, RGBA

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "domains"
ALIASES = {"cs": "cityscapes"}
# How labels encode their classes: bit depth and colour type of the PNGs, and a description.
ENCODED: dict[str, tuple[tuple[tuple[int, int], ...], str]] = {
    "raw_ids": (((8, GREY),), "an 8-bit grey PNG of raw IDs"),
    "palette": (((1, PALETTE), (2, PALETTE), (4, PALETTE), (8, PALETTE), (8, GREY)),
                "a palette or 8-bit grey PNG of raw IDs"),
    "rgb": (((8, RGB), (8, RGBA)), "an 8-bit RGB PNG of class colours"),
    "red16": (((16, RGB),), "a 16-bit RGB PNG of raw IDs in the red channel"),
    "train_ids": (((8, GREY),), "an 8-bit grey PNG of train IDs"),
}  # fmt: skip
KINDS = {dict: "{placeholder: value}", int: "a whole number", str: "a list's name"}
PLACEHOLDER = re.compile(r"\{(\w+)(/?)\}")


class Pattern:
    """A path with placeholders.

    Args:
        text: such as `rgb_anon/{condition}/{split}/{frame}_rgb_anon.png`.

    Raises:
        ValueError: not a relative path, or a brace outside a placeholder.
    """

    def __init__(self, text: str) -> None:
        rest = PLACEHOLDER.sub("x", text)
        if not text or "{" in rest or "}" in rest or text.startswith("/") or ".." in text.split("/"):
            raise ValueError(f"{text!r} is not a relative path with placeholders such as {{name}} or {{folders/}}")
        self.text, self.fields, regex, end = text, set(), "", 0
        for found in PLACEHOLDER.finditer(text):
            name, folders = found.groups()
            one = f"(?P={name})" if name in self.fields else f"(?P<{name}>{'(?:[^/]+/)*' if folders else '[^/]+'})"
            regex += re.escape(text[end : found.start()]) + one
            self.fields.add(name)
            end = found.end()
        self.tail = text[end:]
        self._regex = re.compile(regex + re.escape(self.tail), re.IGNORECASE)

    @property
    def folder(self) -> str:
        """The folder that all matching files are below; "" = the root."""
        return self.text.partition("{")[0].rpartition("/")[0]

    def match(self, path: str) -> dict[str, str] | None:
        """What the placeholders stand for in a path; None if it does not match."""
        found = self._regex.fullmatch(path)
        return found.groupdict() if found else None

    def fill(self, values: Mapping[str, str]) -> str:
        """The path with its placeholders filled in; those without a value stay."""
        return PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), self.text)


@dataclass(frozen=True)
class Labels:
    """The labels of a domain."""

    files: Pattern  # as published
    train_ids: Pattern  # as written by convert_train_ids.py; the published ones if they are train IDs
    encoding: str  # a key of ENCODED
    ending: str  # of the published files' names


@dataclass(frozen=True)
class ListRule:
    """Which images a list contains."""

    images: int = 0  # as published; 0 = unknown
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # placeholder -> allowed values
    labels: str = "required"  # required, optional or none
    numbered_to: int = 0  # only images whose {name} is a number up to this one; 0 = all
    drawn_of: int = 0  # draw `images` out of this many, or in proportion; 0 = all
    without: str = ""  # a list whose images are excluded


@dataclass(frozen=True)
class Domain:
    """A data set."""

    name: str
    images: Pattern
    labels: Labels | None
    classes: LabelSet  # with this data set's raw IDs, or colours
    lists: Mapping[str, ListRule]
    licence: str = ""
    root: str = "data"  # default folder that the paths start from
    mean: tuple[float, ...] | None = None  # of the images, as fractions of 255; None = unknown
    std: tuple[float, ...] | None = None
    sources: tuple[str, ...] = ()  # of a user's own domain: its file and its label set's


class Found(NamedTuple):
    """An image of a domain."""

    image: str
    raw: str  # its label as published; "" in a domain without labels
    label: str  # its label as train IDs
    values: dict[str, str]  # of the placeholders


def names() -> list[str]:
    """The built-in domains."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(domain: Domain, root: str | Path) -> list[Found]:
    """A domain's images on disk, sorted by path; UserError if a folder cannot be read."""
    folder = Path(root, domain.images.folder)
    found, own = [], domain.labels
    for path in find_files(folder, SUFFIXES) if folder.is_dir() else ():
        name = path.relative_to(root).as_posix()
        values = domain.images.match(name)
        if values is None or (own and (own.files.match(name) or own.train_ids.match(name))):
            continue
        raw, label = (own.files.fill(values), own.train_ids.fill(values)) if own else ("", "")
        found.append(Found(name, raw, label, values))
    return found


def load(name_or_path: str) -> Domain:
    """Load a domain by its name in configs/domains, or by the path of a YAML file.

    Raises:
        UserError: there is no such domain, or the file is invalid.
    """
    name = ALIASES.get(name_or_path, name_or_path)
    own = name.endswith((".yaml", ".yml"))
    if not own and name not in names():
        raise UserError(f"unknown data set {name_or_path!r}: expected {', '.join(names())}, or a YAML file (.yaml)")
    path = name if own else str(FOLDER / f"{name}.yaml")
    content = read_yaml(path)
    try:
        domain = _domain(Path(name).stem, content)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None
    return replace(domain, sources=(path, *([content["classes"]] if "classes" in content else []))) if own else domain


def _domain(name: str, content: Any) -> Domain:
    allowed = ("images", "labels", "classes", "raw_ids", "raw_colours", "lists", "licence", "root", "mean", "std")
    _check_keys(content, allowed, "the file")
    if "images" not in content:
        raise ValueError("`images` is missing: where the images are, such as images/{name}.png")
    images, rules = Pattern(str(content["images"])), content.get("lists") or {}
    if not isinstance(rules, dict):
        raise ValueError("`lists` must be {name of a list: which images it contains, {} for all}")
    lists = {key: _list_rule(key, rule, images) for key, rule in rules.items()}
    return Domain(
        name=name, images=images, lists=lists, classes=_classes(content),
        labels=_labels(content["labels"], images) if content.get("labels") else None,
        licence=str(content.get("licence", "")).strip(), root=str(content.get("root", "data")),
        **{key: _three(key, content[key]) for key in ("mean", "std") if key in content},
    )


def _check_keys(content: Any, allowed: tuple[str, ...], what: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f"{what}: expected the keys {', '.join(allowed)}")
    if unknown := [key for key in content if key not in allowed]:
        raise ValueError(f"{what}: unknown key {unknown[0]!r}; expected {', '.join(allowed)}")


def _labels(content: Any, images: Pattern) -> Labels:
    _check_keys(content, ("files", "train_ids", "encoding", "ending"), "labels")
    encoding = content.get("encoding")
    if encoding not in ENCODED:
        raise ValueError(f"labels: encoding {encoding!r}; expected {', '.join(ENCODED)}")
    files = Pattern(str(content.get("files", "")))
    train_ids = files if encoding == "train_ids" else Pattern(str(content.get("train_ids", "")))
    for pattern in (files, train_ids):
        if unknown := pattern.fields - images.fields:
            raise ValueError(f"labels: {{{min(unknown)}}} does not occur in `images`")
    if files.fields != train_ids.fields:
        raise ValueError("labels: `files` and `train_ids` must have the same placeholders")
    return Labels(files, train_ids, encoding, str(content.get("ending", files.tail)))


def _single(kind: type, given: Any, expected: str) -> Any:
    """A value of this type; ValueError that says what was expected."""
    try:
        return single(kind, given)
    except ValueError:
        raise ValueError(f"{expected}, not {written(given)}") from None


def _three(key: str, given: Any) -> tuple[float, ...]:
    """Mean or std of the images' channels."""
    expected = f"{key} must be three numbers"
    if not isinstance(given, list) or len(given) != 3:
        raise ValueError(f"{expected}, not {written(given)}")
    return tuple(_single(float, one, expected) for one in given)


def _list_rule(name: str, content: Any, images: Pattern) -> ListRule:
    _check_keys(content, tuple(f.name for f in fields(ListRule)), f"list {name}")
    given = dict(content)
    for key, kind in (("images", int), ("numbered_to", int), ("drawn_of", int), ("without", str)):
        if key in content:
            given[key] = _single(kind, content[key], f"list {name}: {key} must be {KINDS[kind]}")
    if not isinstance(content.get("where", {}), dict):
        raise ValueError(f"list {name}: where must be {KINDS[dict]}, not {written(content['where'])}")
    where = {}
    for key, values in content.get("where", {}).items():
        values = values if isinstance(values, list) else [values]
        where[key] = tuple(_single(str, v, f"list {name}: where: {key} must be one text or several") for v in values)
    rule = ListRule(**given | {"where": where})
    if rule.labels not in ("required", "optional", "none"):
        raise ValueError(f"list {name}: labels: {rule.labels!r}; expected required, optional or none")
    needed = {*rule.where, *(["name"] if rule.numbered_to else [])}
    if unknown := needed - images.fields:
        raise ValueError(f"list {name}: {{{min(unknown)}}} does not occur in `images`")
    return rule


def _classes(content: Mapping[str, Any]) -> LabelSet:
    """The label set that a domain is mapped to, with the domain's own raw IDs or colours."""
    classes = labels.load(str(content.get("classes", labels.CITYSCAPES.name)))
    ids, colours = content.get("raw_ids"), content.get("raw_colours")
    if ids == labels.CITYSCAPES.name:
        return replace(classes, raw_to_train=labels.CITYSCAPES.raw_to_train)
    if ids is not None:
        return replace(classes, raw_to_train=labels.id_map(ids, classes.names))
    if colours is not None:
        return replace(classes, colour_to_train=labels.colour_map(colours, classes.names))
    return classes
