"""The installed package's only command: `sac NAME ...` is `python tools/NAME.py ...` or `python train.py ...`."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Run the command named by the first argument."""
    paths = [*ROOT.glob("tools/*.py"), ROOT / "train.py", ROOT / "infer_val.py"]
    commands = {path.stem: path for path in paths}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"usage: sac NAME ..., where NAME is one of {', '.join(sorted(commands))}; see sac NAME --help")
        return
    if name not in commands:
        print(f"error: unknown command {name}: expected one of {', '.join(sorted(commands))}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [str(commands[name]), *sys.argv[2:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
