"""The README and the pages of docs/ keep to what is there: files, functions, tests, links, options, sections."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from core import config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "data/README.md", ROOT / "snapshots/README.md", *sorted(ROOT.glob("docs/*.md"))]
SOURCES = [*ROOT.glob("*.py"), *(path for room in ("core", "datasets", "models", "tools", "tests")
                                 for path in (ROOT / room).rglob("*.py"))]
# Files of ours, as opposed to those that a reader brings, or that a run writes.
OURS = r"(?:core|datasets|models|tools|launch|configs|docs|tests)/[\w./-]*\w|(?:train|infer_val)\.py"
NOT_OURS = ("models/pretrained/", "configs/own")  # downloaded; written by the reader of docs/own_data.md
COMMAND = re.compile(rf"(?:^|[\s`(;]|\.venv/bin/)(?:python|bash|torchrun[^\n]*?) ((?:{OURS})[^\n`|]*)")
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("\\\n", " ")


@cache
def defined(path: Path) -> set[str]:
    """Names of a module's classes and functions, `Class.method` too."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def commands(page: Path) -> list[tuple[str, str]]:
    """(file, arguments) of every command with a file of ours on a page."""
    return [(file, rest) for line in COMMAND.findall(text(page)) for file, _, rest in [line.strip().partition(" ")]]


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have."""
    titles = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_files_exist(page: Path) -> None:
    named = {name for name in re.findall(rf"(?<![\w/.]){OURS}", text(page)) if not name.startswith(NOT_OURS)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@cache
def options(file: str) -> frozenset[str]:
    """The options of a command: those that its parser is given, or that a launcher's text names."""
    if file.endswith(".sh"):
        return frozenset(re.findall(r"(?<!\w)--[a-z][\w-]*", text(ROOT / file)))
    calls = [node for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.Call)]
    given = [arg.value for call in calls for arg in call.args if isinstance(arg, ast.Constant)]
    return frozenset(arg for arg in given if isinstance(arg, str) and re.fullmatch(r"--[a-z][\w-]*", arg))


# A launcher hands its arguments on.
BEHIND = {"launch/infer_val.sh": "infer_val.py", "launch/train.sh": "train.py"}
BEHIND |= {f"tools/download_{kind}.sh": "tools/download.py" for kind in ("imagenet", "snapshots", "weights")}


@pages
def test_options_exist(page: Path) -> None:
    for file, rest in commands(page):
        given = set(re.findall(r"(?<!\S)--[a-z][\w-]*", rest.partition(" # ")[0]))
        known = options(file) | options(BEHIND.get(file, file)) if given else set()
        assert given - known - {"--help"} == set(), f"{file} {rest}"


@pages
def test_configuration_keys_exist(page: Path) -> None:
    keys = {key.name for key in config.KEYS} | set(config.IGNORED)
    sections = {name.partition(".")[0] for name in keys}
    named = set(re.findall(rf"\b(?:{'|'.join(sections)})\.[A-Z][A-Z_0-9]*\b", text(page)))
    assert named - keys == set()


@pages
def test_functions_exist(page: Path) -> None:
    """`path.py:name` and `test_file.py::test_name`."""
    for path, name in re.findall(r"`([\w/]+\.py):([A-Za-z_][\w.]*)`", text(page)):
        assert (ROOT / path).exists() and name in defined(ROOT / path), f"{path}:{name}"
    for path, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", text(page)):
        assert (ROOT / "tests" / path).exists() and name in defined(ROOT / "tests" / path), f"{path}::{name}"


@pages
def test_no_path_of_a_machine(page: Path) -> None:
    assert re.findall(r"(?<![\w.:}\]/])/(?:home|root|work|tmp|mnt|Users|usr|opt|var)\b[^\s`]*", text(page)) == []


@pages
def test_tables_have_as_many_cells_in_each_row(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", text(page), re.MULTILINE):
        cells = [len(re.sub(r"\\\|", "", row).split("|")) for row in table.splitlines()]
        assert len(set(cells)) == 1, table.splitlines()[cells.index(max(cells))]


def test_sections_that_the_code_cites_exist() -> None:
    """`section 4.7`, `sections 3 and 4.1`, `sections 4.5 to 4.8`, `section 5, step 6`, `section 8b`."""
    titles = set(re.findall(r"^#+ (\d+b?(?:\.\d+)?)\.? ", text(ROOT / "docs/method.md"), re.MULTILINE))
    cited = set()
    for path in SOURCES:
        for numbers in re.findall(r"\bsections? (\d[\d.b]*(?:(?:, | and | to | or )\d[\d.b]*)*)", path.read_text()):
            cited |= {(number.rstrip("."), path.name) for number in re.findall(r"\d[\d.]*b?", numbers)}
    # The paper's own sections are cited, too; it has no 4.x.
    assert len(cited) > 20
    assert sorted((number, name) for number, name in cited if number not in titles | {"3.2"}) == []


def test_method_keeps_the_numbers() -> None:
    titles = re.findall(r"^#+ (\d+b?(?:\.\d+)?)\.? ", text(ROOT / "docs/method.md"), re.MULTILINE)
    top = [title for title in titles if "." not in title]
    assert top == ["1", "2", "3", "4", "5", "6", "7", "8", "8b", "9"]
    assert [title for title in titles if title.startswith("4.")] == [f"4.{i}" for i in range(1, 11)]
    assert [title for title in titles if title.startswith("5.")] == [f"5.{i}" for i in range(1, 8)]


def test_each_step_names_what_implements_it() -> None:
    parts = re.split(r"^#+ (\d+b?(?:\.\d+)?)\.? .*$", text(ROOT / "docs/method.md"), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    steps = "2 3 4 4.1 4.3 4.4 4.5 4.6 4.7 4.8 4.9 5.3 5.5 5.6 5.7 6 7 8 8b".split()
    assert [step for step in steps if not re.search(r"`[\w/]+\.py:\w", sections[step])] == []


def test_every_page_is_reached_from_the_readme() -> None:
    readme = text(ROOT / "README.md")
    assert [page.name for page in PAGES if page.parent.name == "docs" and f"docs/{page.name}" not in readme] == []


def test_every_tool_is_named_somewhere() -> None:
    every = "".join(map(text, PAGES))
    tools = [f"tools/{path.name}" for path in (ROOT / "tools").iterdir() if path.suffix in (".py", ".sh")]
    inner = {"tools/download.py", "tools/download.sh", "tools/summarise_rows.py"}  # behind others
    assert sorted(tool for tool in tools if tool not in every and tool not in inner) == []


def test_commands_are_found() -> None:
    found = {file for page in PAGES for file, _ in commands(page)}
    assert {"train.py", "infer_val.py", "launch/demo.sh", "launch/test.sh", "launch/train.sh"} <= found
    assert len(found) > 12
