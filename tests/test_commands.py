"""A command from its first import to its last word: requirements, signals, streams, libraries' warnings."""

import ast
import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = [ROOT / "train.py", ROOT / "infer_val.py", ROOT / "core" / "torchrun.py"]
COMMANDS += [path for path in sorted((ROOT / "tools").glob("*.py")) if "run(main)" in path.read_text()]


PLAIN = ("lite0_weights.py", "summarise_rows.py")  # steps of launchers, without examples


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_commands_import_this_module_first(path: Path) -> None:
    """Of what is not Python's own; else a missing requirement, or Ctrl-C during imports, ends in a traceback."""
    first = None
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import) and node.names[0].name.partition(".")[0] in sys.stdlib_module_names:
            continue
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in sys.stdlib_module_names:
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)) and (first is None or node.lineno < first.lineno):
            first = node
    assert isinstance(first, ast.ImportFrom) and first.module == "core.cli"


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_without_the_requirements_one_line_says_how_to_install_them(path: Path) -> None:
    name = ["-m", "core.torchrun"] if path.name == "torchrun.py" else [str(path)]
    done = subprocess.run([sys.executable, "-S", *name], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: {sys.executable} has no ") and "requirements.txt" in done.stderr


@pytest.mark.parametrize("path", [path for path in COMMANDS if path.name not in ("torchrun.py", *PLAIN)],
                         ids=lambda path: path.name)
def test_help_has_examples(path: Path, call: Callable[..., str], capsys: pytest.CaptureFixture) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    with pytest.raises(SystemExit, match="0"):
        call(importlib.import_module(name), "--help")
    assert "examples:" in capsys.readouterr().out


def test_older_pythons_get_far_enough_to_be_told() -> None:
    for path in (*COMMANDS, ROOT / "core" / "cli.py", ROOT / "core" / "__init__.py"):
        ast.parse(path.read_text(), feature_version=(3, 8))


START = """
import os, signal, sys, time
from contextlib import suppress
from pathlib import Path
from core.cli import UserError, run
here = Path(__file__).parent
def ready():
    (here / "ready").touch()
"""


class Command:
    """A command in a repository that has nothing else: `python command.py`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "core").mkdir()
        shutil.copy(ROOT / "core" / "cli.py", folder / "core")
        (folder / "core" / "__init__.py").touch()

    def write(self, text: str) -> None:
        (self.folder / "command.py").write_text(START + text)

    def start(self, *options: str, **more: object) -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
        return subprocess.Popen([sys.executable, *options, str(self.folder / "command.py")], **pipes)

    def shell(self, redirections: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Its status is that of the command, not of what it is piped to."""
        line = f"set -o pipefail; '{sys.executable}' '{self.folder}/command.py' {redirections}"
        return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=self.folder,
                              env={**os.environ, **environment})

    def wait_until_ready(self, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 60
        while not (self.folder / "ready").exists():
            assert time.monotonic() < end and process.poll() is None, process.communicate()
            time.sleep(0.01)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    yield Command(tmp_path)


PHASES = {
    "imports": "ready(); time.sleep(60)",
    "main": """
def main():
    try:
        ready(); time.sleep(60)
    finally:
        (here / "tidied").touch()
run(main)""",
    "the end": "import atexit\natexit.register(lambda: (ready(), time.sleep(60)))\nrun(lambda: None)",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_at_any_time_is_one_line(command: Command, phase: str, number: signal.Signals) -> None:
    command.write(PHASES[phase])
    process = command.start()
    command.wait_until_ready(process)
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "interrupted\n")
    assert process.returncode == 128 + number
    assert (command.folder / "tidied").exists() == (phase == "main")


TIDYING = """
def main():
    try:
        (here / "begun").touch(); time.sleep(60)
    finally:
        ready(); time.sleep({})
        (here / "tidied").touch()
run(main)"""


@pytest.mark.parametrize(("second", "tidied"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
def test_a_second_signal(command: Command, second: signal.Signals, tidied: bool) -> None:
    """A second Ctrl-C ends at once; SIGTERM may come twice, to the group and handed on by the launcher."""
    command.write(TIDYING.format(0.5 if tidied else 60))
    process = command.start()
    while not (command.folder / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    command.wait_until_ready(process)
    process.send_signal(second)
    assert process.communicate(timeout=30) == ("", "interrupted\n") and process.returncode == 130
    assert (command.folder / "tidied").exists() == tidied


def test_forked_workers_leave_the_word_to_their_parent(command: Command) -> None:
    """Ctrl-C goes to all of them."""
    command.write("""
import multiprocessing
def work(n):
    time.sleep(60)
def main():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        result = pool.map_async(work, range(4)); ready(); result.get()
run(main)""")
    process = command.start(start_new_session=True)
    command.wait_until_ready(process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "interrupted\n") and process.returncode == 130


def test_an_ignored_interrupt_stays_ignored(command: Command) -> None:
    """As of what a shell starts in the background."""
    command.write("ready()\nrun(lambda: time.sleep(0.5))")
    process = command.start(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    command.wait_until_ready(process)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 0


def test_one_of_several_processes_leaves_its_line_to_the_launcher(command: Command) -> None:
    command.write("ready(); time.sleep(60)")
    (command.folder / "said").mkdir()
    process = command.start(env={**os.environ, "SAC_ERRORS": str(command.folder / "said"), "RANK": "3"})
    command.wait_until_ready(process)
    process.terminate()
    assert process.communicate(timeout=60) == ("", "") and process.returncode == 143
    assert (command.folder / "said" / "3").read_text() == "interrupted"


PRINTS = """
def main():
    for number in range(20000):
        print("line", number)
    print("to the screen", file=sys.stderr, flush=True)
    with open(here / "result", "w") as file:
        print("more")
        with suppress(OSError):
            os.write(2, b"from a library")  # which does not care
        file.write("whole")
run(main)"""


@pytest.mark.parametrize(
    ("redirections", "status", "said"),
    [
        ("| head -1", 0, "to the screen\nfrom a library"),
        ("2>&1 | head -1", 0, ""),
        ("| true", 0, "to the screen\nfrom a library"),
        (">&-", 0, "to the screen\nfrom a library"),
        ("2>&-", 0, ""),
        (">&- 2>&- <&-", 0, ""),
        (">/dev/full", 2, "error: cannot write to stdout: No space left on device\n"),
        ("2>/dev/full", 0, ""),
        (">/dev/full 2>/dev/full", 2, ""),
    ],
)
def test_streams_that_are_closed_full_or_not_read(
    command: Command, redirections: str, status: int, said: str
) -> None:
    """The work is done all the same; what cannot be written to stdout is an error."""
    command.write(PRINTS)
    done = command.shell(redirections)
    assert (done.returncode, done.stderr) == (status, said)
    if status == 0:
        assert (command.folder / "result").read_text() == "whole"


@pytest.mark.parametrize("flags", ["", "-u"])
def test_help_whose_reader_is_gone(flags: str) -> None:
    line = f"set -o pipefail; '{sys.executable}' {flags} tools/list_keys.py --help | true"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "en_US.ISO-8859-1"])
def test_names_and_letters_of_any_kind_are_printed(command: Command, locale: str) -> None:
    command.write(r"""
def main():
    name = os.fsdecode(b"caf\xe9.png")
    print("χ", name); print("ζ", name, file=sys.stderr)
    raise UserError(f"image {name} → damaged")
run(main)""")
    for encoding in ("", "ascii", "latin-1"):
        more = {"PYTHONIOENCODING": encoding} if encoding else {}
        done = command.shell("", LC_ALL=locale, PYTHONUTF8="0", **more)
        assert done.returncode == 2 and done.stdout.endswith(".png\n"), done
        assert done.stderr.splitlines()[-1].startswith("error: image caf"), done
        assert "Traceback" not in done.stderr


WARNS = """
for name in ("library", "torch", "torch.cuda"):
    folder = here / name.replace(".", "/")
    folder.mkdir()
    lines = [f'warnings.warn("{category} of {name}", {category})' for category in
             ("FutureWarning", "DeprecationWarning", "UserWarning", "RuntimeWarning")]
    (folder / "__init__.py").write_text("import warnings\\n" + "\\n".join(lines))
import library, torch.cuda
run(lambda: None)
"""


def test_libraries_warnings(command: Command) -> None:
    """Hidden are those for programmers; numbers that overflow and GPUs that cannot be used stay said, once."""
    command.write(WARNS)
    said = command.start().communicate()[1]
    warnings = [line.partition(": ")[2] for line in said.splitlines() if "Warning: " in line]
    assert warnings == ["RuntimeWarning: RuntimeWarning of library", "RuntimeWarning: RuntimeWarning of torch",
                        "UserWarning: UserWarning of torch.cuda", "RuntimeWarning: RuntimeWarning of torch.cuda"]
    for folder in ("library", "torch"):
        shutil.rmtree(command.folder / folder)
    assert "FutureWarning of library" in command.start("-Wdefault").communicate()[1]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import nowhere_at_all.x", "has no nowhere_at_all"),
        ("raise ImportError('libGL.so.1: cannot open shared object file', name='cv2')", "cannot use its cv2 (libGL.so"),
        ("from library import nothing", "cannot use its library (cannot import name 'nothing'"),
        ("raise OSError(28, 'No space left on device', 'a.pyc')", "a.pyc: No space left on device"),
    ],
)
def test_what_fails_during_imports_is_one_line(command: Command, line: str, said: str) -> None:
    (command.folder / "library.py").touch()
    command.write(line)
    process = command.start()
    out, err = process.communicate()
    assert (process.returncode, out, err.count("\n")) == (2, "", 1) and err.startswith("error: ") and said in err


def test_our_own_faults_during_imports_keep_their_traceback(command: Command) -> None:
    for line in ("from core.cli import nothing", "1 / 0", "import xml.nothing"):
        command.write(line)
        process = command.start()
        assert "Traceback" in process.communicate()[1] and process.returncode == 1


def test_commands_start_without_what_only_networks_need() -> None:
    """torchvision, and torch's compiler, which it loads, would double the time that every command takes to start."""
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in COMMANDS]
    heavy = ("torchvision", "torch._dynamo", "timm")
    code = f"import sys, {', '.join(modules)}; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (found.stdout, found.stderr) == ("[]\n", "")


def test_importing_it_elsewhere_changes_nothing() -> None:
    """In tests, notebooks and other people's programs."""
    changed = [sys.excepthook, signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), type(sys.stdout)]
    assert "core.cli" not in [getattr(thing, "__module__", "") for thing in changed]
