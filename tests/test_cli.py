"""What all commands share: their arguments, and the line and status that they end with."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from core.cli import KEY_VALUE, SEED, WORKERS, Fault, Parser, UserError, explain, folder_name, run


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UserError("no list\n'x': make one"), 2, "error: no list 'x': make one\n"),
        (Fault("process 1 cannot go on"), 1, "error: process 1 cannot go on\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out.png"), 2, "error: out.png: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "error: a/b: Permission denied\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long"), 2, "error: File name too long\n"),
    ],
)
def test_one_line_and_a_status(
    error: BaseException, status: int, line: str, capfd: pytest.CaptureFixture
) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == status and capfd.readouterr() == ("", line)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: 1 / 0,
        lambda: open("/nowhere/at/all"),  # ENOENT: what we look for and is not there is our affair
        lambda: __import__("core.nothing"),
        lambda: __import__("xml.nothing"),
        lambda: "χ".encode("ascii"),
    ],
)
def test_our_own_mistakes_keep_their_traceback(mistake: Callable[[], object]) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011, B017
        run(mistake)
    assert not isinstance(raised.value, UserError)


def test_a_name_that_is_not_utf_8_is_said_in_ascii() -> None:
    with pytest.raises(UnicodeEncodeError) as raised:
        "caf\udce9.png".encode()
    line, status = explain(raised.value)
    assert status == 2 and line.isascii() and r"caf\udce9.png" in line and "rename" in line


# --- arguments


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="x.py")
    parser.add_argument("--cfg", required=True)
    parser.add_argument("--resume", default="")
    parser.add_argument("--images", nargs="+", type=Path)
    parser.add_argument("--seed", type=SEED, default=0)
    parser.add_argument("--workers", type=WORKERS)
    parser.add_argument("--exp", type=folder_name, default="main")
    parser.add_argument("--set", **KEY_VALUE)
    return parser


@pytest.mark.parametrize("value", ["-1e-4", "-1", "-.5", "-1,2", "-1.5e3,-2", "-inf", "-nan"])
def test_negative_numbers_are_values(parser: Parser, value: str) -> None:
    args = parser.parse_args(["--cfg", "c", "--set", "MODEL.LR", value, "TRAIN.TASK", "x", "--seed", "1"])
    assert args.pairs == ["MODEL.LR", value, "TRAIN.TASK", "x"] and args.seed == 1


def test_a_second_set_adds_to_the_first(parser: Parser) -> None:
    for _ in range(2):  # nothing is left in the parser
        args = parser.parse_args("--set A 1 B 2 --cfg c --set C 3".split())
        assert args.pairs == ["A", "1", "B", "2", "C", "3"]
    assert parser.parse_args(["--cfg", "c"]).pairs == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--images", ""], "--images: expected a value"),
        (["--images", "a", " "], "--images: expected a value"),
        (["--cfg", ""], "--cfg: expected a value"),
        (["--exp", ""], "--exp: expected a value"),
        (["--seed", ""], "--seed: expected a value"),
        (["--seed", "1" + "0" * 30], "--seed: expected a whole number from 0 to 4294967295, got '1000"),
        (["--seed", "-1"], "--seed: expected a whole number from 0 to 4294967295, got '-1'"),
        (["--seed", "1e3"], "got '1e3'"),
        (["--seed", "9" * 5000], "--seed: expected a whole number"),
        (["--workers", "1000000"], "--workers: expected a whole number from 0 to 1024, got '1000000'"),
        (["--workers", "-2"], "--workers: expected"),
        (["--exp", "../../zz"], "--exp: expected the name of a folder, without slashes, got '../../zz'"),
        (["--exp", ".."], "--exp: expected the name of a folder"),
        (["--exp", "a\nb"], "--exp: expected the name of a folder"),
        (["--exp", "caf\udce9"], r"got 'caf\udce9'"),
        (["--exp", "x" * 300], "--exp: expected at most 200 bytes, got 300"),
        (["--exp", "é" * 150], "got 300"),
        (["--lr", "1"], "unrecognized arguments: --lr 1"),
    ],
)
def test_refused_arguments(parser: Parser, words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        parser.parse_args(["--cfg", "c", *words])
    assert said in str(refused.value) and str(refused.value).endswith("(see x.py --help)")
    assert len(str(refused.value)) < 200 and "\n" not in repr(str(refused.value))


def test_an_empty_value_where_it_means_none(parser: Parser) -> None:
    args = parser.parse_args(["--cfg", "c", "--resume", "", "--set", "VAL.IGNORE_CLASS", ""])
    assert args.resume == "" and args.pairs == ["VAL.IGNORE_CLASS", ""]


@pytest.mark.parametrize("name", ["v1", "-x", "straße 2", "a.b", "...", "x" * 200])
def test_names_of_folders(name: str) -> None:
    assert folder_name(name) == name


def test_workers_of_the_tools() -> None:
    from tools.batch.threads import parallel_map

    assert list(parallel_map(abs, [-1, 2], workers=1024)) == [1, 2]
    for workers in (-1, 1025, 10**6):
        with pytest.raises(UserError, match=f"--workers {workers}: expected"):
            list(parallel_map(abs, [1], workers))
