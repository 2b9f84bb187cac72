"""The tests' networks have names of their own in every test, whatever it imports; fixtures of several files."""

import signal
import sys
from collections.abc import Callable

import pytest
from hypothesis import settings
from runs import Plain, Stub

from models import NETWORKS

# The same examples in every run, so that a suite that passed passes again; --hypothesis-profile=default draws new ones.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

# What is started in the background ignores Ctrl-C and hands that on: the tests' commands must heed it.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("test_processes.py", "test_adapt.py", "test_device_rules.py", "test_encoder_runs.py", "test_infer.py",
           "test_precision.py", "test_continuation.py", "test_encoder_steps.py", "test_estimate_memory.py")

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: then processes that share the files end at about the same time."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
