"""The tests' networks have names of their own in every test, whatever it imports; fixtures of several files."""

import sys
from collections.abc import Callable

import pytest
from runs import Plain, Stub

from models import NETWORKS

assert NETWORKS["stub"] is Stub and NETWORKS["plain"] is Plain


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """Call a tool's main as the command line would; returns what it prints."""

    def run(tool: object, *args: object) -> str:
        monkeypatch.setattr(sys, "argv", ["tool", *map(str, args)])
        capsys.readouterr()
        tool.main()
        return capsys.readouterr().out

    return run
