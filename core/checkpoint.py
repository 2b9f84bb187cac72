"""Snapshots: the best three and last.pth, written atomically, read without executing code from them.

A snapshot is a dictionary with the published entries `model` (published names, prefix "module."), `opt`, `epoch` and
`score`, and with `run`: what an exact resume needs.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import distributed, tensor_files
from core.cli import UserError
from core.files import atomic_write, kind_of, parse_yaml, read_bytes, remove, sweep, write_bytes

PREFIX = "module."
STUDENT, TEACHER = "backbone.", "slow_net."
BEST = 3
BEST_NAME = re.compile(r"epoch[0-9]{3,}_score[0-9]\.[0-9]{3}\.pth")
# Required entries of `run`. A type; [of each]; (of the first, the second, ...); {str: of each}; {name: of its own}.
RUN = {
    "epoch": int, "iteration": int, "step": int, "validated": bool,
    "seed": int, "baseline": bool, "per_epoch": int, "config": str, "origin": {str: str}, "classes": [str],
    "kept": [(float, int, str)], "log": {str: int}, "skipped": {str: [str]}, "rng": Tensor,
    "lists": {"source": str, "target": str},
    "alarms": {"said": [str], "steps": int, "seen": [int], "absent": [int], "few": int, "all": int, "entropy": float,
              "first": {str: float}},
}  # fmt: skip
MOST = 2**53  # bound on its whole numbers


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a snapshot, atomically.

    Raises:
        UserError: it cannot be written, or a weight is not finite; an older file is kept.
    """
    wrong = [k for k, v in state["model"].items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if wrong:
        raise UserError(f"the weights have become NaN or infinite ({wrong[0]}), {path} was not changed: try a lower "
                        "MODEL.LR, or TRAIN.PRECISION float32")
    sweep(path.parent, 0)  # no other run writes to this folder (core/run_folder.py)
    atomic_write(path, lambda file: torch.save(dict(state), file))


def load(path: str | Path) -> dict[str, Any]:
    """Read a snapshot onto the CPU; model keys are without "module.".

    Raises:
        UserError: the file is missing, truncated or not a snapshot, contains code, or has weights that are not finite.
    """
    state = tensor_files.read(path, "snapshot", "use another one")
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is not a snapshot: it has no `model`")
    model = {str(k).removeprefix(PREFIX): v for k, v in state["model"].items()}
    for name, value in model.items():
        if not isinstance(value, Tensor):
            raise UserError(f"snapshot {path}: {name} is not a tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"snapshot {path}: {name} holds NaN or infinite values; use an earlier snapshot")
    return {**state, "model": model}


def checked_run(saved: Any, path: str | Path) -> dict[str, Any]:
    """A snapshot's `run`, after a check of its types (RUN) and values.

    Args:
        saved: the entry, whatever it is.
        path: of the snapshot, for messages.

    Raises:
        UserError: a part is missing, of the wrong type, or invalid.
    """
    if not isinstance(saved, dict) or not set(RUN) <= set(saved):
        raise UserError(f"{path} was not written by a training run of this program; start from it with --resume {path} "
                        "and another --run")
    if wrong := next((name for name in RUN if _misfit(saved[name], RUN[name])), "") or _nonsense(saved):
        raise UserError(f"{path} is damaged: its entry {wrong!r} is invalid; start from an earlier snapshot with "
                        "--resume and another --run")
    return saved


def _misfit(value: Any, kind: Any) -> bool:
    """Whether a value is not of a type, in RUN's notation."""
    if isinstance(kind, list):
        return type(value) is not list or any(_misfit(part, kind[0]) for part in value)
    if isinstance(kind, tuple):
        return type(value) is not list or len(value) != len(kind) or any(map(_misfit, value, kind))
    if isinstance(kind, dict) and str in kind:
        return type(value) is not dict or any(type(k) is not str or _misfit(v, kind[str]) for k, v in value.items())
    if isinstance(kind, dict):
        return type(value) is not dict or any(k not in value or _misfit(value[k], kind[k]) for k in kind)
    return type(value) is not kind or (kind is int and not 0 <= value < MOST)


def _nonsense(run: Mapping[str, Any]) -> str:
    """Name of the first part that has the right type but an invalid value; "" if there is none."""
    alarms = run["alarms"]
    if run["iteration"] > run["per_epoch"]:
        return "iteration"
    if not len(alarms["seen"]) == len(alarms["absent"]) == len(run["classes"]) or not math.isfinite(alarms["entropy"]):
        return "alarms"
    if len(run["kept"]) > BEST or not all(0 <= s <= 1 and BEST_NAME.fullmatch(name) for s, _, name in run["kept"]):
        return "kept"
    try:
        torch.Generator().set_state(run["rng"])
    except (RuntimeError, TypeError):
        return "rng"
    try:
        config = parse_yaml(run["config"], "")
    except UserError:
        config = None
    return "" if isinstance(config, dict) and all(isinstance(keys, dict) for keys in config.values()) else "config"


def has_teacher(model: Mapping[str, Tensor]) -> bool:
    """Whether a snapshot has an initialised teacher; a baseline has none."""
    begun = model.get("slow_init")
    return begun is not None and begun.numel() == 1 and begun.item() > 0


def part(model: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under `prefix` ("backbone." or "slow_net."), without the prefix."""
    return {k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}


def load_into(network: nn.Module, weights: Mapping[str, Tensor], path: str | Path, name: str) -> None:
    """Strictly load `weights` into `network`.

    Args:
        network: the network to fill.
        weights: its state dict.
        path: the weights' file, for messages.
        name: of the architecture, for messages.

    Raises:
        UserError: names are missing or unexpected, or shapes differ; nothing is loaded.
    """
    own = network.state_dict()
    missing, unexpected = [k for k in own if k not in weights], [k for k in weights if k not in own]
    if missing or unexpected:
        raise UserError(
            f"{path} does not fit {name}: {len(missing)} tensors missing {_some(missing)}, {len(unexpected)} "
            f"unexpected {_some(unexpected)}; choose the configuration (MODEL.ARCH) of the snapshot's network"
        )
    differ = [k for k in own if own[k].shape != weights[k].shape]
    if differ:
        k = differ[0]
        raise UserError(
            f"{path} does not fit {name}: {k} is {list(weights[k].shape)} there and {list(own[k].shape)} here "
            f"({len(differ)} such); another network, or another number of classes (DATASET.CLASSES)"
        )
    network.load_state_dict(weights)


def _some(names: list[str]) -> str:
    return f"({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else ""


def carry_momentum(optimiser: torch.optim.Optimizer, saved: Any, path: str | Path) -> bool:
    """Load the optimiser state (momentum) from a snapshot's `opt`, but not the learning rates.

    Returns:
        Whether there was one for these parameters; False for another optimiser's, or none at all.
    """
    if not isinstance(saved, dict) or saved.get("state") is None:
        return False
    try:
        return len(saved["state"].items()) > 0 and _take_momentum(optimiser, saved, path)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        raise UserError(f"snapshot {path}: its optimiser state is damaged; use an earlier snapshot") from None


def _take_momentum(optimiser: torch.optim.Optimizer, saved: Mapping[str, Any], path: str | Path) -> bool:
    own = optimiser.state_dict()
    sizes = [[len(g.get("params", ())) for g in d["param_groups"]] for d in (own, saved)]
    adam = isinstance(optimiser, (torch.optim.Adam, torch.optim.AdamW))
    buffers = ("exp_avg", "exp_avg_sq") if adam else ("momentum_buffer",)
    if sizes[0] != sizes[1] or not all(name in state for state in saved["state"].values() for name in buffers):
        return False
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for index, state in saved["state"].items():
        for name in buffers:
            buffer = state[name]
            if buffer is None and name == "momentum_buffer":  # the parameter had no gradient
                continue
            if buffer.shape != parameters[index].shape:
                raise UserError(f"{path}: optimiser state {index} is {list(buffer.shape)}, "
                                f"its parameter {list(parameters[index].shape)}")
            if not torch.isfinite(buffer).all():
                raise UserError(f"snapshot {path}: the optimiser state holds NaN or infinite values; use an earlier "
                                "snapshot")
        if not 0 <= float(state.get("step", 0)) < MOST:  # Adam's
            raise ValueError
    optimiser.load_state_dict({"state": saved["state"], "param_groups": own["param_groups"]})
    return True


class Best:
    """The best three snapshots of a run, `epochEEE_scoreS.SSS.pth`: by score, the earlier one first in a tie.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: list[tuple[float, int, str]] = []  # score, epoch, file name
        self._written = folder / ".written"  # names that this run has written; it removes no others

    @property
    def score(self) -> float:
        """The best score so far; 0 if there is none."""
        return max((score for score, _, _ in self.kept), default=0.0)

    @property
    def result(self) -> Path:
        """The best of the snapshots kept, the earlier one in a tie."""
        return self.folder / min(self.kept, key=lambda entry: (-entry[0], entry[1]))[2]

    def begin(self, kept: list | None) -> None:
        """Take over the snapshots that the run had kept; a new run (None) owns none of those already there."""
        if kept is not None:
            self.kept = [tuple(entry) for entry in kept]
        elif distributed.rank() == 0:
            remove(self._written)

    def offer(self, score: float, epoch: int, state: Mapping[str, Any]) -> bool:
        """Write the snapshot if it is among the best three; `tidy` removes what it displaces."""
        if math.isnan(score):  # a list without labelled pixels selects nothing
            return False
        entry = (score, epoch, f"epoch{epoch:03d}_score{score:.3f}.pth")
        ranked = sorted([*self.kept, entry], key=lambda e: (-e[0], e[1]))[:BEST]
        if entry in ranked:
            write_bytes(self._written, "".join(f"{name}\n" for name in sorted({*self._own(), entry[2]})).encode())
            save(self.folder / entry[2], {**state, "score": score})
        self.kept = ranked
        return entry in ranked

    def tidy(self) -> None:
        """Remove this run's displaced snapshots; only after last.pth lists the kept ones, so that a kill loses none."""
        for name in self._own() - {name for _, _, name in self.kept}:
            if kind_of(self.folder / name) == "a file":
                remove(self.folder / name)

    def _own(self) -> set[str]:
        """Names that this run has written; anything else in the file, such as a path elsewhere, is ignored."""
        if kind_of(self._written) != "a file" or not self._written.stat().st_size:
            return set()
        return set(filter(BEST_NAME.fullmatch, read_bytes(self._written).decode(errors="replace").split()))
