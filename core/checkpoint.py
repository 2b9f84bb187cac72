"""Snapshots: the best three and last.pth, written whole or not at all, read without running code from them.

A snapshot is a dictionary with `model` (published names, prefix "module."), `opt`, `epoch`, `score` and, beyond the
published four, `run`: what an exact continuation needs.
"""

import math
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import distributed
from core.cli import UserError
from core.files import atomic_write
from core.tensor_files import numpy_scalars

PREFIX = "module."
STUDENT, TEACHER = "backbone.", "slow_net."
BEST = 3


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a snapshot: to a temporary name, then renamed.

    Raises:
        UserError: the disk refuses, or a weight is not finite; the old file stays.
    """
    wrong = [k for k, v in state["model"].items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if wrong:
        raise UserError(f"the weights have become NaN or infinite ({wrong[0]}), {path} is left as it was: a lower "
                        "MODEL.LR, or TRAIN.PRECISION float32, may help")
    atomic_write(path, lambda file: torch.save(dict(state), file))


def load(path: str | Path) -> dict[str, Any]:
    """Read a snapshot onto the CPU; model keys come without "module.".

    Raises:
        UserError: the file is missing, truncated, no snapshot, holds code, or has weights that are not numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"snapshot {path} does not exist")
    try:
        with numpy_scalars(), warnings.catch_warnings():  # scalars: as a published file's score may be
            warnings.simplefilter("ignore")  # torch warns of what is refused in one line below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"snapshot {path} is damaged or holds more than tensors and plain values; not loaded") from None
    except Exception as error:  # torch raises whatever a broken file causes, from KeyError to MemoryError
        raise UserError(f"snapshot {path} cannot be read, damaged? ({_first_line(error)})") from None
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise UserError(f"{path} is no snapshot: it has no `model`")
    model = {str(k).removeprefix(PREFIX): v for k, v in state["model"].items()}
    for name, value in model.items():
        if not isinstance(value, Tensor):
            raise UserError(f"snapshot {path}: {name} is no tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise UserError(f"snapshot {path}: {name} holds NaN or infinite values; use an earlier snapshot")
    return {**state, "model": model}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def has_teacher(model: Mapping[str, Tensor]) -> bool:
    """Whether a snapshot's teacher has been begun; a baseline has none."""
    begun = model.get("slow_init")
    return begun is not None and begun.numel() == 1 and begun.item() > 0


def part(model: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below `prefix` ("backbone." or "slow_net."), without it."""
    return {k.removeprefix(prefix): v for k, v in model.items() if k.startswith(prefix)}


def load_into(network: nn.Module, weights: Mapping[str, Tensor], path: str | Path, name: str) -> None:
    """Strictly load `weights` into `network`.

    Args:
        network: takes the weights.
        weights: its state dict.
        path: where they come from, for the message.
        name: of the architecture, for the message.

    Raises:
        UserError: names that are missing or unexpected, or shapes that differ; nothing was loaded.
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
    """Take over the optimiser's state (momentum) from a snapshot's `opt`, but not its learning rates.

    Returns:
        False where the snapshot has none for these parameters (another optimiser, none at all): a fresh start.
    """
    if not isinstance(saved, dict) or saved.get("state") is None:
        return False
    try:
        return len(saved["state"].items()) > 0 and _take_momentum(optimiser, saved, path)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        raise UserError(f"snapshot {path}: the optimiser's state in it is damaged; use an earlier snapshot") from None


def _take_momentum(optimiser: torch.optim.Optimizer, saved: Mapping[str, Any], path: str | Path) -> bool:
    own = optimiser.state_dict()
    sizes = [[len(g.get("params", ())) for g in d["param_groups"]] for d in (own, saved)]
    wanted = "exp_avg" if isinstance(optimiser, (torch.optim.Adam, torch.optim.AdamW)) else "momentum_buffer"
    if sizes[0] != sizes[1] or not all(wanted in s for s in saved["state"].values()):
        return False
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    for index, state in saved["state"].items():
        buffer = state[wanted]
        if buffer is not None and buffer.shape != parameters[index].shape:
            raise UserError(f"{path}: the optimiser's state {index} is {list(buffer.shape)}, "
                            f"the parameter {list(parameters[index].shape)}")
        if buffer is not None and not torch.isfinite(buffer).all():
            raise UserError(f"snapshot {path}: the optimiser's state holds NaN or infinite values; use an earlier one")
    optimiser.load_state_dict({"state": saved["state"], "param_groups": own["param_groups"]})
    return True


class Best:
    """The best three snapshots of a run: `epochEEE_scoreS.SSS.pth`, by score, the earlier at a tie.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: list[tuple[float, int, str]] = []  # score, epoch, file name
        self._written = folder / ".written"  # names that this run has written: it removes no others

    @property
    def score(self) -> float:
        """The best score so far; 0 without any."""
        return max((score for score, _, _ in self.kept), default=0.0)

    @property
    def result(self) -> Path:
        """The best snapshot of those kept, the earlier at a tie."""
        return self.folder / min(self.kept, key=lambda entry: (-entry[0], entry[1]))[2]

    def begin(self, kept: list | None) -> None:
        """Own what the run had kept; a new run (None) owns no snapshot that lies there already."""
        if kept is not None:
            self.kept = [tuple(entry) for entry in kept]
        elif distributed.rank() == 0:
            self._written.unlink(missing_ok=True)

    def offer(self, score: float, epoch: int, state: Mapping[str, Any]) -> bool:
        """Write the snapshot if it is among the best three; `tidy` removes what it displaces."""
        if math.isnan(score):  # a list without a single labelled pixel chooses nothing
            return False
        entry = (score, epoch, f"epoch{epoch:03d}_score{score:.3f}.pth")
        ranked = sorted([*self.kept, entry], key=lambda e: (-e[0], e[1]))[:BEST]
        if entry in ranked:
            with open(self._written, "a", encoding="utf-8") as file:
                file.write(entry[2] + "\n")
            save(self.folder / entry[2], {**state, "score": score})
        self.kept = ranked
        return entry in ranked

    def tidy(self) -> None:
        """Remove this run's displaced snapshots. After last.pth names the kept ones, so that a kill loses nothing."""
        if self._written.exists():
            written = self._written.read_text(encoding="utf-8").split()
            for name in {*written} - {name for _, _, name in self.kept}:
                (self.folder / name).unlink(missing_ok=True)
