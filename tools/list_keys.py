"""Print a table of every configuration key: default, what is allowed, what it means; from core/config.py.

With --write, the table between the marks of docs/configuration.md is replaced by it.
"""

import sys
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

from core.config import IGNORED, KEYS, Key
from core.files import read_bytes, write_bytes

EXAMPLES = """examples:
  python tools/list_keys.py
  python tools/list_keys.py --write
"""
PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
BEGIN, END = "<!-- keys: tools/list_keys.py --write -->", "<!-- /keys -->"
TITLES = {
    "TRAIN": "what is trained on, how much of it, and how it runs",
    "VAL": "measuring while training",
    "DATASET": "files, geometry, noise, colours",
    "MODEL": "network, optimiser, the method's constants",
    "LOG": "how often something is measured",
    "TB": "TensorBoard",
}
HEAD = ("| key | default | allowed | meaning |", "| --- | --- | --- | --- |")
BAR = r"\|"  # a bar within a cell
KINDS = {bool: "True or False", str: "text", list: "a list of names"}


def default(value: object) -> str:
    """A default as it is written in YAML."""
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, list):
        return f"`[{', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in value)}]`"
    return '`""`' if value == "" else f"`{value}`"


def row(key: Key) -> str:
    """A key's line of the table; where its rule says nothing, its default's kind tells what is allowed."""
    allowed = KINDS[type(key.default)] if key.rule.allowed == "anything" else key.rule.allowed
    cells = (f"`{key.name}`", default(key.default), allowed, key.meaning)
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def tables() -> str:
    """All keys in Markdown, a table a section, and the keys that are ignored."""
    parts = []
    for section, keys in groupby(KEYS, lambda key: key.name.split(".")[0]):
        head = [f"## {section}: {TITLES[section]}", "", *HEAD]
        parts.append("\n".join([*head, *map(row, keys)]))
    names = ", ".join(f"`{name}`" for name in IGNORED)
    parts.append(f"## Ignored\n\n{names} stand in the authors' files and mean nothing here; the log says so.")
    return "\n\n".join(parts)


def replaced(page: str) -> str:
    """The page with the tables of now; UserError if it has lost its marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{PAGE} has no lines {BEGIN} and {END}; put them back")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
    """Print, or write into the page."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--write", action="store_true", help="into docs/configuration.md, not on the screen")
    args = parser.parse_args()
    if not args.write:
        print(tables())
        return
    write_bytes(PAGE, replaced(read_bytes(PAGE).decode()).encode())
    print(f"{len(KEYS)} keys in {PAGE}")


if __name__ == "__main__":
    run(main)
