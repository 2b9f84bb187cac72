"""Started by torchrun: several trainings one after the other in the same processes, to import torch once.

`several.py FILE`, a JSON list of {"name", "command": train or infer_val, "arguments", "plant": name of a function here,
or ""}; what a process raised goes to FILE.RANK.json, by name.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from runs import kill_at, wrap

import core.files
import infer_val
import models.fcn
import train
from core import distributed
from core.cli import UserError
from core.inference import Predictor
from core.trainer import Trainer
from datasets.iterations import Iterations

FIVE = 5  # iterations before the faults below


def small_networks() -> None:
    """FCN-8s with a small head."""
    models.fcn.HIDDEN = 16


def signal_to_one() -> None:
    """SIGTERM, but to the last process alone."""
    later(lambda: os.kill(os.getpid(), signal.SIGTERM))


def fault_of_one() -> None:
    """Loading fails, but in the last process alone."""

    def fail(*_: object) -> None:
        raise UserError("image x.png is damaged")

    later(lambda: setattr(Iterations, "__getitem__", fail))


def kill_after_four_files() -> None:
    """A process kills itself before it gives a fifth file its name: in the middle of its second image."""
    wrap(core.files.os, "replace", before=kill_at(5))


def slow_last() -> None:
    """Images take the last process longer than processes wait for each other."""
    os.environ["SAC_TIMEOUT_MINUTES"] = "0.1"
    wrap(Predictor, "__call__", before=lambda: time.sleep(4 * (distributed.rank() == distributed.size() - 1)))


def later(action: Callable[[], None]) -> None:
    """Do it on the last process after so many iterations."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done == FIVE and distributed.rank() == distributed.size() - 1:
            action()

    wrap(Trainer, "train_on", after=count)


def name_space(name: str, store: dist.Store) -> None:
    """Let the processes meet under this name: groups made again and again would read each other's old addresses."""
    here = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
    dist.init_process_group = partial(MEET, store=dist.PrefixStore(name, store), **here)


MEET = dist.init_process_group


def main() -> None:
    """Run all of them."""
    torch.set_num_threads(1)
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    small_networks()
    file = Path(sys.argv[1])
    raised, originals = {}, (Trainer.train_on, Iterations.__getitem__, Predictor.__call__)
    for number, run in enumerate(json.loads(file.read_text())):
        name_space(str(number), store)  # names come twice
        if run["plant"]:
            globals()[run["plant"]]()
        sys.argv = [run["command"], *run["arguments"]]
        try:
            {"train": train, "infer_val": infer_val}[run["command"]].main()
        except UserError as error:
            raised[run["name"]] = f"{type(error).__name__}: {error}"
        distributed.stop()
        Trainer.train_on, Iterations.__getitem__, Predictor.__call__ = originals
        os.environ.pop("SAC_TIMEOUT_MINUTES", None)
        file.with_suffix(f".{os.environ['RANK']}.json").write_text(json.dumps(raised))


if __name__ == "__main__":
    main()
