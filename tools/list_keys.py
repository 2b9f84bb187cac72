"""Print a table of all configuration keys in core/config.py: default, allowed values, meaning.

With --write, replace the table in docs/configuration.md instead.
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
    "TRAIN": "data, batches, length and execution of a run",
    "VAL": "validation during training",
    "DATASET": "files, geometry, noise, colours",
    "MODEL": "network, optimiser, constants of the method",
    "LOG": "how often to measure",
    "TB": "TensorBoard",
}
HEAD = ("| key | default | allowed | meaning |", "| --- | --- | --- | --- |")
BAR = r"\|"  # a bar inside a cell
KINDS = {bool: "True or False", str: "text", list: "a list of names"}


def default(value: object) -> str:
    """A default as written in YAML."""
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, list):
        return f"`[{', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in value)}]`"
    return '`""`' if value == "" else f"`{value}`"


def row(key: Key) -> str:
    """A key's row of the table; if its rule allows anything, the type of its default decides."""
    allowed = KINDS[type(key.default)] if key.rule.allowed == "anything" else key.rule.allowed
    cells = (f"`{key.name}`", default(key.default), allowed, key.meaning)
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |"


def tables() -> str:
    """All keys in Markdown, one table per section, and the ignored keys."""
    parts = []
    for section, keys in groupby(KEYS, lambda key: key.name.split(".")[0]):
        head = [f"## {section}: {TITLES[section]}", "", *HEAD]
        parts.append("\n".join([*head, *map(row, keys)]))
    names = ", ".join(f"`{name}`" for name in IGNORED)
    parts.append(f"## Ignored\n\n{names} occur in the authors' files but have no meaning here; the log says so.")
    return "\n\n".join(parts)


def replaced(page: str) -> str:
    """The page with up-to-date tables; UserError if it has lost its markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{PAGE} lacks the lines {BEGIN} and {END}; put them back")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("--write", action="store_true", help="write to docs/configuration.md, not to the screen")
    args = parser.parse_args()
    if not args.write:
        print(tables())
        return
    write_bytes(PAGE, replaced(read_bytes(PAGE).decode()).encode())
    print(f"wrote {len(KEYS)} keys to {PAGE}")


if __name__ == "__main__":
    run(main)
