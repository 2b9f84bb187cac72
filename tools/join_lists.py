"""Join lists into one, each image once: several domains as one TRAIN.TARGET or --infer-list."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, run  # isort: skip

from core.outputs import OutputFile
from datasets import lists

EXAMPLES = """examples:
  python tools/join_lists.py train_acdc train_dark_zurich --out data/train_dark.txt
"""


def main() -> None:
    """Parse, read, write."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("lists", nargs="+", metavar="NAME|FILE", help="lists in the same data folder")
    parser.add_argument("--root", default="data", metavar="DIR", help="folder of the data (default data)")
    parser.add_argument("--out", required=True, metavar="FILE", help="the list to write")
    parser.add_argument("--force", action="store_true", help="replace an existing --out")
    args = parser.parse_args()
    output = OutputFile("--out", args.out, args.force, [lists.find(name, args.root) for name in args.lists])
    samples = {sample.image: sample for name in args.lists for sample in lists.read(name, args.root)}
    output.write(lists.text(samples.values()).encode())
    print(f"{args.out}: {len(samples)} images from {len(args.lists)} lists")


if __name__ == "__main__":
    run(main)
