"""The user's mistakes, faults and Ctrl-C: one line on stderr and an exit status."""

import pytest

from core.cli import Fault, UserError, run


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UserError("no list\n'x': make one"), 2, "error: no list 'x': make one\n"),
        (Fault("process 1 cannot go on"), 1, "error: process 1 cannot go on\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_one_line_and_a_status(
    error: BaseException, status: int, line: str, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.dup2", lambda *_: None)  # stdout is pytest's

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == status and capfd.readouterr() == ("", line)


def test_our_own_mistakes_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)
