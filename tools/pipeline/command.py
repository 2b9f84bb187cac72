"""`sac NAME ...` is `python tools/NAME.py ...`, or `python train.py ...`: the installed package's one command."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the command that the first argument names."""
    paths = [*ROOT.glob("tools/*.py"), ROOT / "train.py", ROOT / "infer_val.py"]
    commands = {path.stem: path for path in paths}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: sac NAME ..., NAME one of {', '.join(sorted(commands))}; sac NAME --help says more")
        return
    if name not in commands:
        print(f"error: there is no command {name}: expected one of {', '.join(sorted(commands))}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [str(commands[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
