"""A shell that runs the documentation's commands as printed, whose Python is this process.

The bash, the launchers and the arguments are real. What they call `python` hands its arguments to the test, which runs
that command's main here: a start of its own would take seconds each.
"""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Arguments and working directory go to the test; the answer is the exit status.
PYTHON = """#!/bin/bash
case "$1 $2" in
    -c*) exit 0 ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "${0%/*}/pip" "$3/bin/pip" && : >"$3/bin/activate"
        exit ;;
esac
exec 3<>"/dev/tcp/127.0.0.1/$PORT"
printf '%s\\0' "$PWD" "$#" "$@" >&3
read -r status <&3
exit "$status"
"""
# Other people's programs: they see to it that the files that they are given are there.
PIP = """#!/bin/bash
[ "$1" = install ] || exit 2
while shift && [ $# -gt 0 ]; do case $1 in -r) [ -f "$2" ] || exit 1 ;; esac; done
"""
EVALUATION = """#!/bin/bash
ls "$CITYSCAPES_DATASET"/gtFine/val/*/*_gtFine_labelIds.png "$CITYSCAPES_RESULTS"/*_gtFine_labelIds.png >/dev/null
"""
PROGRAMS = {"python": PYTHON, "python3": PYTHON, "pip": PIP, "csEvalPixelLevelSemanticLabeling": EVALUATION}


class Shell:
    """A place with the repository's launchers and configurations, and a bash in it.

    Args:
        place: an empty folder.
        run: of the arguments of a `python` command, in the folder where it was given; returns the exit status.
    """

    def __init__(self, place: Path, run: Callable[[list[str]], int]) -> None:
        self.place, self.run, self.ran = place, run, []
        for name in ("launch", "configs"):
            shutil.copytree(ROOT / name, place / name)
        (place / "tools").mkdir()
        for path in [*ROOT.glob("tools/*.sh"), *ROOT.glob("requirements*.txt")]:
            shutil.copy(path, place / path.relative_to(ROOT), follow_symlinks=False)
        (place / "bin").mkdir()
        for name, text in PROGRAMS.items():
            (place / "bin" / name).write_text(text)
            (place / "bin" / name).chmod(0o755)

    def __call__(self, text: str) -> str:
        """Run a block of commands, which must succeed; returns what it printed, but for our Python."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(0.05)
            environment = {"PATH": f"{self.place / 'bin'}:/usr/bin:/bin", "PORT": str(server.getsockname()[1])}
            process = subprocess.Popen(["bash", "-euo", "pipefail", "-c", text], cwd=self.place, text=True,
                                       env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            while process.poll() is None:
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection, connection.makefile("rwb") as file:
                    folder, count = _word(file), int(_word(file))
                    status = self._python([_word(file) for _ in range(count)], Path(folder))
                    file.write(f"{status}\n".encode())
            said = process.stdout.read()
        assert process.returncode == 0, f"{text}\nexit status {process.returncode}\n{said}"
        return said

    def _python(self, words: list[str], folder: Path) -> int:
        script = Path(words[0])
        words[0] = str(script.relative_to(self.place) if script.is_absolute() else script)
        self.ran.append(words)
        before = Path.cwd()
        os.chdir(folder)
        try:
            return self.run(words)
        finally:
            os.chdir(before)


def _word(file: object) -> str:
    """Up to the next zero byte."""
    found = bytearray()
    while (byte := file.read(1)) not in (b"\0", b""):
        found += byte
    return found.decode()
