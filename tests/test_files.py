"""core/files.py: reading what has no size, writing under names that nobody can foresee."""

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import core.files
from core.cli import UserError
from core.files import atomic_write, kind_of, read_bytes, read_yaml, sha256, sweep, write_bytes


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def piped(content: bytes) -> str:
    """A file that gives this content and has the size 0."""
    end, start = os.pipe()
    os.write(start, content)
    os.close(start)
    return f"/dev/fd/{end}"


# --- reading


def test_a_pipe_is_read() -> None:
    path = piped(b"a: [1, 2]")
    assert os.stat(path).st_size == 0
    assert read_yaml(path) == {"a": ["1", "2"]}
    assert read_bytes(piped(b"x" * 50_000), most=50_000) == b"x" * 50_000
    assert sha256(piped(b"")) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_the_system_s_own_files_are_read() -> None:
    assert os.stat("/proc/self/status").st_size == 0
    assert b"Name:" in read_bytes("/proc/self/status")
    assert read_yaml("/proc/sys/kernel/ostype") == "Linux"


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert refusal(lambda: read_bytes(tmp_path / "empty")).endswith("is empty (0 bytes)")
    assert read_yaml(tmp_path / "empty") is None
    (tmp_path / "comment").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "comment") is None
    for read in (read_bytes, read_yaml):  # a pipe that another process has read already is no empty file
        assert "a pipe with nothing in it" in refusal(lambda read=read: read(piped(b"")))
    for read in (read_bytes, read_yaml, sha256):
        for path in (tmp_path, tmp_path / "nowhere", tmp_path / "empty" / "below", "x" * 300):
            assert str(path) in refusal(lambda read=read, path=path: read(path))
    for read in (read_bytes, read_yaml):
        assert "cannot read" in refusal(lambda read=read: read("a\0b"))


@pytest.mark.parametrize("source", ["/dev/zero", "pipe", "file"])
def test_no_more_is_read_than_may_be(tmp_path: Path, source: str) -> None:
    content = b"x" * 101
    (tmp_path / "file").write_bytes(content)
    path = {"pipe": lambda: piped(content), "file": lambda: tmp_path / "file"}.get(source, lambda: source)()
    assert "longer than the 100 bytes allowed" in refusal(lambda: read_bytes(path, most=100))


# --- writing


def test_the_temporary_name_is_drawn(tmp_path: Path) -> None:
    seen = []
    for _ in range(20):
        atomic_write(tmp_path / "file", lambda file: seen.append(file.name))
    names = {Path(name).name for name in seen}
    assert len(names) == 20 and not any("file" in name for name in names)
    assert {Path(name).parent for name in seen} == {tmp_path} and os.listdir(tmp_path) == ["file"]


def test_a_name_that_is_taken_after_all_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever guesses it gains nothing."""
    monkeypatch.setattr(core.files.secrets, "token_hex", lambda n: "0" * 16)
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / f".{'0' * 16}.part").symlink_to(tmp_path / "theirs")
    assert "cannot write" in refusal(lambda: write_bytes(tmp_path / "file", b"x"))
    assert (tmp_path / "theirs").read_bytes() == b"theirs" and not (tmp_path / "file").exists()


def test_many_writers_of_one_file_make_no_mixture(tmp_path: Path) -> None:
    path, errors = tmp_path / "file", []
    contents = [bytes([65 + i]) * 100_000 for i in range(8)]

    def write(content: bytes) -> None:
        def halves(file: object) -> None:
            file.write(content[:50_000])
            file.flush()
            file.write(content[50_000:])

        try:
            for _ in range(20):
                atomic_write(path, halves, durable=False)
                assert path.read_bytes() in contents
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == [] and os.listdir(tmp_path) == ["file"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_bytes(tmp_path / "file", b"x")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"x")
    assert "cannot write" in refusal(lambda: write_bytes(tmp_path / ("x" * 256), b"x"))
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "pipe"])
def test_only_files_are_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(tmp_path / "theirs"),
     "dangling link": lambda: path.symlink_to(tmp_path / "nowhere")}[kind]()
    (tmp_path / "theirs").write_bytes(b"theirs")
    before = path.lstat()
    assert f"it is {kind_of(path)}; nothing was changed" in refusal(lambda: write_bytes(path, b"x"))
    assert path.lstat() == before and (tmp_path / "theirs").read_bytes() == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["out", "theirs"]


def test_a_linked_folder_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    write_bytes(tmp_path / "data" / "deep" / "file", b"x")
    assert (tmp_path / "disk" / "deep" / "file").read_bytes() == b"x"


def test_a_file_that_has_come_in_the_meantime_stays(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"first", replace=False)
    said = refusal(lambda: write_bytes(tmp_path / "file", b"second", replace=False))
    assert said == f"{tmp_path / 'file'} has just been written by another process; it was left alone"
    assert (tmp_path / "file").read_bytes() == b"first" and os.listdir(tmp_path) == ["file"]


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is there; that its folder cannot be synced is no failure."""
    original = os.open

    def refuse(path: object, flags: int, *args: object) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return original(path, flags, *args)

    monkeypatch.setattr(core.files.os, "open", refuse)
    write_bytes(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_what_kills_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    mine = [".part", ".0123456789abcde.part", ".0123456789abcdef.part.bak", "0123456789abcdef.part", ".notes.part",
            ".0123456789ABCDEF.part"]  # fmt: skip
    left, alive = tmp_path / f".{'a' * 16}.part", tmp_path / f".{'b' * 16}.part"
    for path in (*(tmp_path / name for name in mine), left, alive):
        path.touch()
        os.utime(path, (0, 0))
    os.utime(alive)
    (tmp_path / f".{'c' * 16}.part").mkdir()
    (tmp_path / f".{'d' * 16}.part").symlink_to(tmp_path / ".notes.part")
    sweep(tmp_path)
    assert not left.exists() and alive.exists()
    sweep(tmp_path, 0)
    kept = {*mine, f".{'c' * 16}.part", f".{'d' * 16}.part"}
    assert set(os.listdir(tmp_path)) == kept
    sweep(tmp_path / "nowhere")


def test_kinds(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    assert [kind_of(tmp_path / name) for name in ("file", ".", "link", "pipe", "nowhere", "file/below")] == [
        "a file", "a folder", "a symbolic link", "not a regular file", "", ""]  # fmt: skip
    assert kind_of(os.devnull) == "not a regular file" and stat.S_ISCHR(os.stat(os.devnull).st_mode)
