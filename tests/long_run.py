"""A long run that is killed again and again ends as one that nobody disturbs; neither memory nor open files grow.

    python tests/long_run.py --folder results/long_run [--iterations 2000] [--every 10 60] [--network stub]

Trains SAC on a small world twice: once undisturbed, measuring, and once with kill -9 and SIGTERM at random times. The
result is a line of JSON. A short form is in the tests: test_continuation.py.
"""

import argparse
import json
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import small_tree
import torch
from runs import Run, same, wrap

from core.trainer import Trainer

WARM_UP = 200  # iterations before memory is compared
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


def measured(file: str, every: int) -> None:
    """Every so many iterations of this process, note its memory (KB) and its open files."""
    done = 0

    def note() -> None:
        nonlocal done
        done += 1
        if done % every == 0:
            with open(file, "a", encoding="utf-8") as out:
                out.write(f"{done} {resident()} {len(os.listdir('/proc/self/fd'))}\n")

    wrap(Trainer, "train_on", after=note)


def resident() -> int:
    """Memory of this process, KB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def disturbed(run: Run, pause: tuple[float, float], seed: int) -> dict[str, int]:
    """Kill the run at random times until it has ended by itself; how often it was begun and disturbed."""
    rng, count = random.Random(seed), {"starts": 0, "SIGKILL": 0, "SIGTERM": 0}
    while True:
        before = steps(run)
        process = run.start(workers=count["starts"] % 3)
        count["starts"] += 1
        # Now and then at its start; otherwise it gets somewhere, however slow the machine.
        if rng.random() < 0.7:
            while process.process.is_alive() and steps(run) == before:
                time.sleep(0.05)
        process.process.join(rng.uniform(*pause))
        if process.process.is_alive():
            number = rng.choice(SIGNALS)
            process.send(number)
            count[number.name] += 1
        if process.wait() == 0 and "done: " in process.said:
            return count


def steps(run: Run) -> int:
    """Iterations that the last snapshot has."""
    return run.last()["run"]["step"] if (run.snapshots / "last.pth").exists() else -1


def check(
    folder: Path, iterations: int, pause: tuple[float, float], seed: int = 0, warm_up: int = WARM_UP,
    network: str = "stub",
) -> dict:
    """Both runs, compared; what was measured.

    Args:
        folder: for everything.
        iterations: of each run.
        pause: shortest and longest time from a start to a signal, seconds.
        seed: of the signals.
        warm_up: iterations before memory is compared.
        network: stub, or deeplabv2_resnet18.
    """
    tree = folder / "tree"
    small_tree.make(tree)
    epochs = -(-iterations // 4)  # of 16 images, 4 an iteration
    settings = ("MODEL.ARCH", network, "TRAIN.NUM_EPOCHS", str(epochs), "LOG.ITER_VAL",
                str(max(1, epochs // 5)), "LOG.ITER_TARGET", str(max(1, epochs // 4)),
                "TRAIN.SNAPSHOT_ITER", "7", "MODEL.LR", "1e-5")
    whole, broken = (Run(folder / name, tree, *settings) for name in ("undisturbed", "disturbed"))
    start, file = time.monotonic(), folder / "memory.txt"
    process = whole.start(before=partial(measured, str(file), max(1, warm_up // 10)))
    assert process.wait(24 * 3600) == 0, process.said
    seconds = time.monotonic() - start
    count = disturbed(broken, pause, seed)
    same(broken, whole)
    rows = [tuple(map(int, line.split())) for line in file.read_text().splitlines()]
    later = [row for row in rows if row[0] >= warm_up]
    return {
        "iterations": whole.last()["run"]["step"], "network": network, "seconds": round(seconds, 1), **count,
        "rss_mb": [round(row[1] / 1024, 1) for row in (later[0], later[-1])],
        "rss_growth": round(later[-1][1] / later[0][1] - 1, 4),
        "open_files": sorted({row[2] for row in later}),
    }


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="new, for everything")
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--every", type=float, nargs=2, default=(10, 60), metavar="S",
                        help="seconds that the run has until the next signal")
    parser.add_argument("--network", choices=("stub", "deeplabv2_resnet18"), default="deeplabv2_resnet18")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    torch.set_num_threads(1)
    print(json.dumps(check(args.folder, args.iterations, tuple(args.every), args.seed, network=args.network)))


if __name__ == "__main__":
    main()
