"""Long work shows a bar on a terminal, and plain lines elsewhere."""

import re

import pytest

from core import progress


def test_elsewhere_there_are_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    assert list(progress.bar(range(3), desc="masks", unit="image")) == [0, 1, 2]
    said = capsys.readouterr().err
    assert "\r" not in said and "\x1b" not in said
    for line in said.splitlines():
        assert re.fullmatch(r"masks: [0-3] of 3, .*image/s, .* left", line)
    assert "masks: 2 of 3" in said


def test_work_of_seconds_says_nothing_elsewhere(capsys: pytest.CaptureFixture) -> None:
    assert list(progress.bar(iter(range(100)), unit="image")) == list(range(100))
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(progress._Screen, "isatty", lambda self: True)
    assert list(progress.bar(range(3), unit="image", mininterval=0.0)) == [0, 1, 2]
    assert "\r" in (said := capsys.readouterr().err) and "3/3" in said
    assert list(progress.bar(range(3), False)) == [0, 1, 2] and capsys.readouterr().err == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_screen_that_is_gone_ends_nothing(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        encoding = "utf-8"

        def write(self, text: str) -> None:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            return terminal

    monkeypatch.setattr(progress.sys, "stderr", Gone())
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    assert list(progress.bar(range(3), mininterval=0.0)) == [0, 1, 2]
