"""Converts what a user wrote to a value of the required type, and back to text for messages."""

import re
from typing import Any

from core.cli import UserError
from core.files import parse_yaml

# Accepted notations; Python itself would also take 1_000, and the digits of every script.
NUMBERS = {
    int: re.compile(r"[+-]?(0|[1-9][0-9]*)"),
    float: re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"),
}
LONGEST = 100  # characters of a value in a message


def single(kind: type, given: Any) -> Any:
    """Convert to a value of a type.

    Args:
        kind: bool, int, float or str; list: of whole numbers.
        given: a string, or a list of strings for a list; anything else from `read_yaml` is rejected.

    Raises:
        ValueError: wrong type.
    """
    if kind is list and isinstance(given, list):
        return listed(int, given)
    if not isinstance(given, str) or kind is list:
        raise ValueError
    text = given.strip()
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    if kind in NUMBERS and not NUMBERS[kind].fullmatch(text):
        raise ValueError
    return given if kind is str else kind(text)


def listed(kind: type, given: Any) -> list[Any]:
    """Convert a list of strings, or `9,14`, `[9, 14]` or `(9, 14)`, to a list of values; names may be in quotes."""
    if isinstance(given, str):
        text = given.strip()
        inner = text[1:-1] if text[:1] + text[-1:] in ("[]", "()") else text
        try:
            given = parse_yaml(f"[{inner}]", "")
        except UserError:
            raise ValueError from None
    if not isinstance(given, list):
        raise ValueError
    return [single(kind, item) for item in given]


def written(given: Any) -> str:
    """A value as the user wrote it, truncated for messages."""
    if isinstance(given, list):
        text = f"[{', '.join(map(written, given))}]"
    elif isinstance(given, dict):
        text = "{" + ", ".join(f"{name}: {written(value)}" for name, value in given.items()) + "}"
    else:
        text = "nothing" if given is None else given if given and given == given.strip() else repr(given)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
