"""core/outputs.py, and every command's outputs: nothing is replaced that the command has not made."""

import json
import os
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.cli import UserError
from core.outputs import MADE_BY, OutputFile, OutputFolder
from tools import compute_image_weights, convert_train_ids, dataset_stats, evaluate, make_lists, summarise_runs


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- a file


def test_a_new_file_and_a_later_state_of_it(tmp_path: Path) -> None:
    output = OutputFile("--json", tmp_path / "new" / "out.json")
    assert files(tmp_path) == {}
    for content in (b"1", b"2"):  # a benchmark writes what it has again and again
        output.write(content)
    assert files(tmp_path) == {"new/out.json": b"2"}


def test_what_is_there_stays_without_force(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_bytes(b"mine")
    said = refusal(lambda: OutputFile("--json", path))
    assert said == f"--json {path} already exists; --force replaces it, or choose another name"
    assert files(tmp_path) == {"out.json": b"mine"}
    OutputFile("--json", path, force=True).write(b"new")
    assert files(tmp_path) == {"out.json": b"new"}


def by_name(path: Path) -> Path:
    return path


def by_another_way(path: Path) -> Path:
    (path.parent / "way").mkdir()
    return path.parent / "way" / ".." / path.name


def by_a_hard_link(path: Path) -> Path:
    os.link(path, path.parent / "hard")
    return path.parent / "hard"


def by_a_linked_folder(path: Path) -> Path:
    (path.parent / "linked").symlink_to(path.parent)
    return path.parent / "linked" / path.name


@pytest.mark.parametrize("name", [by_name, by_another_way, by_a_hard_link, by_a_linked_folder])
def test_an_input_stays_even_with_force(tmp_path: Path, name: Callable[[Path], Path]) -> None:
    path = tmp_path / "snapshot.pth"
    path.write_bytes(b"weights")
    output = name(path)
    said = refusal(lambda: OutputFile("--submission", output, True, [tmp_path / "other", path]))
    assert said.startswith("--submission: ") and "choose another" in said
    assert path.read_bytes() == b"weights"


def test_what_the_command_writes_elsewhere_is_no_output_either(tmp_path: Path) -> None:
    """The zip of the masks in a mask's place, which is not there yet."""
    assert "would be replaced" in refusal(lambda: OutputFile("--submission", tmp_path / "a.png", True,
                                                             [tmp_path / "b.png", tmp_path / "." / "a.png"]))


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "link to a folder", "socket"])
def test_what_is_no_file_is_never_replaced(tmp_path: Path, kind: str, force: bool) -> None:
    import socket

    path, other = tmp_path / "out.json", tmp_path / "other"
    if kind == "folder":
        path.mkdir()
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        if kind == "link":
            other.write_bytes(b"theirs")
        elif kind == "link to a folder":
            other.mkdir()
        path.symlink_to(other)
    before = path.lstat()
    assert "expected a file" in refusal(lambda: OutputFile("--json", path, force).write(b"x"))
    after = path.lstat()  # following a link counts as an access to it
    assert (after.st_ino, after.st_mtime_ns, after.st_mode) == (before.st_ino, before.st_mtime_ns, before.st_mode)
    assert not other.is_file() or other.read_bytes() == b"theirs"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    content = []
    reader = threading.Thread(target=lambda: content.append(path.read_bytes()))
    reader.start()
    OutputFile("--json", path).write(b"42")
    reader.join()
    assert content == [b"42"] and stat.S_ISFIFO(path.stat().st_mode)


def test_a_writer_that_goes_back_in_its_file_may_write_to_a_pipe() -> None:
    end, start = os.pipe()

    def writer(file: object) -> None:
        file.write(b"..cd")
        file.seek(0)
        file.write(b"ab")

    OutputFile("--out", f"/dev/fd/{start}").save(writer)
    os.close(start)
    assert os.read(end, 10) == b"abcd"
    os.close(end)


def test_devices_are_written_to() -> None:
    for force in (True, False):
        OutputFile("--json", os.devnull, force).write(b"x")
        assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
        assert "No space left" in refusal(lambda force=force: OutputFile("--json", "/dev/full", force).write(b"x"))


@pytest.mark.parametrize("name", ["", ".", "/", "file/below", "x" * 300])
def test_names_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Said before the work, in one line."""
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    refusal(lambda: OutputFile("--json", name))
    assert files(tmp_path) == {"file": b""}


def test_the_loser_of_a_race_says_so(tmp_path: Path) -> None:
    """Both have found the name free."""
    outputs = [OutputFile("--json", tmp_path / "out.json") for _ in range(2)]
    outputs[0].write(b"first")
    assert "has just been written by another process" in refusal(lambda: outputs[1].write(b"second"))
    assert files(tmp_path) == {"out.json": b"first"}


def test_the_loser_of_a_race_on_a_disk_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_the_loser_of_a_race_says_so(tmp_path)


# --- a folder


def test_one_maker_may_come_again(tmp_path: Path) -> None:
    mask = tmp_path / "a.png"
    for _ in range(2):
        folder = OutputFolder("--dir", tmp_path, {"snapshot": "1" * 64, "flip": False, "scales": (1.0, 0.5)})
        folder.claim([mask, tmp_path / "deep" / "b.png"])
        assert folder.made(mask) == mask.exists()
        mask.write_bytes(b"mask")
    assert json.loads((tmp_path / MADE_BY).read_text())["scales"] == [1.0, 0.5]


@pytest.mark.parametrize("change", [{"snapshot": "2" * 64}, {"flip": True}, {"new": 1}])
def test_another_maker_is_refused(tmp_path: Path, change: dict) -> None:
    first = {"snapshot": "1" * 64, "flip": False}
    mask = tmp_path / "a.png"
    OutputFolder("--dir", tmp_path, first).claim([mask])
    mask.write_bytes(b"by the first")
    before = files(tmp_path)
    second = OutputFolder("--dir", tmp_path, {**first, **change})
    for planned in ([mask], [tmp_path / "b.png"], []):  # a folder has one maker, whatever comes next
        said = refusal(lambda planned=planned: second.claim(planned))
        assert "--force" in said and "another folder" in said and next(iter(change)) in said
    assert files(tmp_path) == before
    second.claim([mask], force=True)
    assert list(files(tmp_path)) == [MADE_BY]  # a kill now leaves no mixture
    mask.write_bytes(b"by the second")
    assert second.made(mask)


def test_what_others_made_under_other_names_is_not_the_new_maker_s(tmp_path: Path) -> None:
    kept = tmp_path / "kept.png"
    OutputFolder("--dir", tmp_path, {"snapshot": "1"}).claim([kept])
    kept.write_bytes(b"by the first")
    os.utime(kept, ns=(1, kept.stat().st_mtime_ns - 1_000_000_000))
    second = OutputFolder("--dir", tmp_path, {"snapshot": "2"})
    second.claim([tmp_path / "a.png"], force=True)
    assert kept.exists() and not second.made(kept)
    assert "no made_by.json says what made them" in refusal(lambda: second.claim([kept]))


def test_files_that_do_not_say_what_made_them(tmp_path: Path) -> None:
    mask = tmp_path / "a.png"
    mask.write_bytes(b"somebody's")
    folder = OutputFolder("--dir", tmp_path, {"snapshot": "1"})
    assert "1 of these files, first" in refusal(lambda: folder.claim([mask]))
    assert files(tmp_path) == {"a.png": b"somebody's"}
    folder.claim([tmp_path / "b.png"])  # others may lie beside
    assert mask.read_bytes() == b"somebody's"


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b"null", b"[" * 5000, b"\xff"])
def test_a_damaged_record(tmp_path: Path, record: bytes) -> None:
    (tmp_path / MADE_BY).write_bytes(record)
    folder = OutputFolder("--dir", tmp_path, {"snapshot": "1"})
    assert "made_by.json is damaged" in refusal(lambda: folder.claim([]))
    folder.claim([], force=True)
    assert json.loads((tmp_path / MADE_BY).read_text()) == {"snapshot": "1"}


def test_an_input_in_a_folder_stays_even_with_force(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(b"image")
    folder = OutputFolder("--dir", tmp_path, {"snapshot": "1"})
    assert "would be replaced" in refusal(lambda: folder.claim([image], True, [image]))
    assert files(tmp_path) == {"a.png": b"image"}


def test_many_claim_a_folder_at_once(tmp_path: Path) -> None:
    barrier, errors = threading.Barrier(8), []

    def claim() -> None:
        folder = OutputFolder("--dir", tmp_path / "new", {"snapshot": "1"})
        barrier.wait()
        try:
            folder.claim([tmp_path / "new" / "a.png"])
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and list(files(tmp_path)) == [f"new/{MADE_BY}"]


def test_of_two_makers_at_once_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (OutputFolder("--dir", tmp_path, {"snapshot": name}) for name in "12")
    look = second._known
    monkeypatch.setattr(second, "_known", lambda: (look(), first.claim([]))[0])  # between its look and its writing
    assert "another process" in refusal(lambda: second.claim([]))
    assert json.loads((tmp_path / MADE_BY).read_text()) == {"snapshot": "1"}


# --- the commands


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """An image, its label, its mask; a list; a run's metrics; raw labels."""
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8) % 19
    for name in ("labels/a_gtFine_labelIds.png", "masks/a_gtFine_labelIds.png", "raw/a_labelIds.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), pixels)
    cv2.imwrite(str(tmp_path / "a_leftImg8bit.png"), np.dstack([pixels] * 3))
    (tmp_path / "val.txt").write_text("a_leftImg8bit.png labels/a_gtFine_labelIds.png\n")
    (tmp_path / "metrics.jsonl").write_text(
        '{"kind": "val", "epoch": 1, "list": "val", "layer": "student", "miou": 0.5}\n')
    return tmp_path


COMMANDS = {  # tool, its arguments, the option of its output, one of its inputs
    "evaluate": (evaluate, "--predictions {0}/masks --list val --root {0}", "--json", "masks/a_gtFine_labelIds.png"),
    "dataset_stats": (dataset_stats, "--list val --root {0}", "--json", "a_leftImg8bit.png"),
    "weights": (compute_image_weights, "--labels {0}/masks", "--out", "masks/a_gtFine_labelIds.png"),
    "summarise_runs": (summarise_runs, "{0}", "--json", "metrics.jsonl"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_s_output(tree: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    tool, arguments, option, used = COMMANDS[command]

    def call(path: object, *more: str) -> None:
        monkeypatch.setattr(sys, "argv", ["tool", *arguments.format(tree).split(), option, str(path), *more])
        tool.main()

    mine = tree / "mine"
    mine.write_bytes(b"mine")
    (tree / "link").symlink_to(mine)
    before = files(tree)
    for path, *more in ((mine,), (tree / "link",), (tree / "link", "--force"), (tree / used,), (tree / used, "--force"),
                        (tree / "val.txt",)):
        said = refusal(lambda path=path, more=more: call(path, *more))
        assert option in said
    assert files(tree) == before
    call(tree / "new")
    call(mine, "--force")
    call(os.devnull)
    assert mine.read_bytes() == (tree / "new").read_bytes() != b"mine" and not Path(os.devnull).is_file()


def convert(monkeypatch: pytest.MonkeyPatch, tree: Path, *more: object) -> None:
    fixed = ["--ann-data", tree / "raw", "--ann-out", tree / "out"]
    monkeypatch.setattr(sys, "argv", ["tool", *map(str, [*fixed, *more])])
    convert_train_ids.main()


def test_labels_of_another_map_are_not_kept(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tree / "own.yaml"
    text = "names: [x, y]\ncolours: [[0, 0, 0], [1, 1, 1]]\nraw_ids: {%d: 0, 4: 1}\n"
    own.write_text(text % 3)
    convert(monkeypatch, tree, "--dataset", "own", "--classes", own)
    before = files(tree / "out")
    convert(monkeypatch, tree, "--dataset", "own", "--classes", own)
    assert files(tree / "out") == before
    own.write_text(text % 5)
    said = refusal(lambda: convert(monkeypatch, tree, "--dataset", "own", "--classes", own))
    assert "raw_ids" in said and "--force" in said and files(tree / "out") == before
    convert(monkeypatch, tree, "--dataset", "own", "--classes", own, "--force")
    assert files(tree / "out")["a_labelIds.png"] != before["a_labelIds.png"]


@pytest.mark.parametrize("kind", ["colours", "16 bits", "text", "jpg"])
def test_what_no_conversion_has_written_stays(tree: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tree / "out" / "a_labelIds.png"
    path.parent.mkdir()
    pixels = np.full((6, 8, 3), 7, np.uint8)
    content = {"colours": lambda: cv2.imencode(".png", pixels)[1].tobytes(), "text": lambda: b"my notes",
               "16 bits": lambda: cv2.imencode(".png", pixels[..., 0].astype(np.uint16))[1].tobytes(),
               "jpg": lambda: cv2.imencode(".jpg", pixels)[1].tobytes()}[kind]()
    path.write_bytes(content)
    assert "--force" in refusal(lambda: convert(monkeypatch, tree, "--dataset", "cs"))
    assert path.read_bytes() == content
    convert(monkeypatch, tree, "--dataset", "cs", "--force")
    assert path.read_bytes() != content


def test_a_raw_label_is_never_the_output(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "out").mkdir()
    os.link(tree / "raw" / "a_labelIds.png", tree / "out" / "a_labelIds.png")
    before = files(tree)
    assert "would be replaced" in refusal(lambda: convert(monkeypatch, tree, "--dataset", "cs", "--force"))
    assert files(tree) == before


def test_two_conversions_into_one_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and each writes every file: both end well, and what they leave is whole."""
    pixels = cv2.imread(str(tree / "raw" / "a_labelIds.png"), cv2.IMREAD_UNCHANGED)
    for i in range(40):
        cv2.imwrite(str(tree / "raw" / f"{i}_labelIds.png"), np.roll(pixels, i))
    monkeypatch.setattr(sys, "argv", ["tool", "--dataset", "cs", "--ann-data", str(tree / "raw"), "--ann-out",
                                      str(tree / "out"), "--force"])
    errors = []

    def call() -> None:
        try:
            convert_train_ids.main()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and len(files(tree / "out")) == 41
    convert(monkeypatch, tree, "--dataset", "cs")
    assert all(convert_train_ids.is_done(path) for path in (tree / "out").iterdir())


def test_a_list_behind_a_link_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cityscapes/leftImg8bit/val/x").mkdir(parents=True)
    (tmp_path / "cityscapes/leftImg8bit/train/x").mkdir(parents=True)
    (tmp_path / "cityscapes/leftImg8bit/train/x/x_000000_000019_leftImg8bit.png").touch()
    (tmp_path / "theirs").write_bytes(b"theirs\n")
    (tmp_path / "train_cityscapes.txt").symlink_to(tmp_path / "theirs")
    monkeypatch.setattr(sys, "argv", ["tool", "--root", str(tmp_path), "--force"])
    assert "symbolic link" in refusal(make_lists.main)
    assert (tmp_path / "theirs").read_bytes() == b"theirs\n"
