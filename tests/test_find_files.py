"""core.files.find_files: which files of a folder are a user's, wherever links lead."""

import os
from pathlib import Path

import pytest

from core.cli import UserError
from core.files import find_files


def put(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(folder: Path, *endings: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(folder, endings or (".png", ".jpg"))]


def test_files_of_all_folders_sorted_whatever_their_case(tmp_path: Path) -> None:
    others = ["a.txt", "png", "x.png.txt"]
    put(*(tmp_path / name for name in ("b.png", "a/c.PNG", "a/b.Jpg", "a-b.png", "A/x/y/1.JPG", *others)))
    names = ["A/x/y/1.JPG", "a/b.Jpg", "a/c.PNG", "a-b.png", "b.png"]
    assert found(tmp_path) == names
    assert found(tmp_path) == [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path / n for n in names)]
    assert found(tmp_path, "C.png") == ["a/c.PNG"] and found(tmp_path, ".TXT") == ["a.txt", "x.png.txt"]
    assert found(tmp_path, ".tif") == []


@pytest.mark.parametrize("name", [
    ".a.png", "._a.png", ".DS_Store", ".Trash/a.png", ".git/a.png", "x/.hidden/y/a.png", "__MACOSX/a.png",
    "x/__MACOSX/._a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.png", "$RECYCLE.BIN/S-1/a.png",
    "System Volume Information/a.png", "Thumbs.db", "desktop.ini", "folder.png/a.txt",
])  # fmt: skip
def test_what_is_not_the_user_s(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, tmp_path / "own.png")
    assert found(tmp_path) == ["own.png"]


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    put(*(tmp_path / name for name in ("disk/split/a.png", "disk/split/more/b.png", "disk/c.png", "data/d.png")))
    for link, target in (("train", "disk/split"), ("val", "disk/split"), ("c.png", "disk/c.png")):
        (tmp_path / "data" / link).symlink_to(tmp_path / target)
    # Two links to one folder are two splits.
    split = ["a.png", "more/b.png"]
    assert found(tmp_path / "data") == ["c.png", "d.png", *(f"{s}/{name}" for s in ("train", "val") for name in split)]
    (tmp_path / "link").symlink_to("data")
    assert found(tmp_path / "link") == found(tmp_path / "data")


@pytest.mark.parametrize("link, target", [
    ("loop", "data"), ("a/loop", "data"), ("a/loop", "data/a"), ("a/loop", "."), ("a/b/loop", "data/a"),
])  # fmt: skip
def test_loops_end(tmp_path: Path, link: str, target: str) -> None:
    put(tmp_path / "data/a/b/1.png", tmp_path / "data/2.png")
    (tmp_path / "data" / link).symlink_to(tmp_path / target)
    assert found(tmp_path / "data") == ["2.png", "a/b/1.png"]


def test_two_links_into_each_other(tmp_path: Path) -> None:
    put(tmp_path / "a/1.png", tmp_path / "b/2.png")
    (tmp_path / "a/b").symlink_to(tmp_path / "b")
    (tmp_path / "b/a").symlink_to(tmp_path / "a")
    assert found(tmp_path / "a") == ["1.png", "b/2.png"]


@pytest.mark.parametrize("name", ["train", "a.png", "x/y"])
def test_a_link_that_leads_nowhere_is_said(tmp_path: Path, name: str) -> None:
    put(tmp_path / "own.png")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to("/mnt/gone")
    with pytest.raises(UserError, match=f"{name} is a link to /mnt/gone, which does not exist; "):
        find_files(tmp_path, (".png",))
    (tmp_path / name).unlink()
    (tmp_path / ".#lock").symlink_to("user@host.123")  # an editor's
    assert found(tmp_path) == ["own.png"]


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("a.png")
    with pytest.raises(UserError, match="a.png is a link to a.png, which does not exist"):
        find_files(tmp_path, (".png",))


def test_folders_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot read the folder .*none: No such file"):
        find_files(tmp_path / "none", (".png",))
    put(tmp_path / "a.png", tmp_path / "locked/b.png")
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="cannot read the folder .*locked: Permission denied"):
        find_files(tmp_path, (".png",))


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert found(tmp_path) == []
