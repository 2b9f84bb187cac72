"""Where a run stands, and how a snapshot holds it: for going on exactly."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import yaml
from torch import nn
from yacs.config import CfgNode

from core import checkpoint
from core.cli import UserError

# What else a run keeps in its snapshot, and needs to go on.
OWN = {"config": str, "watch": dict, "kept": list, "log": dict, "rng": torch.Tensor}


@dataclass
class Progress:
    """How far a run is. A snapshot is only ever made between two iterations, or after a validation."""

    epoch: int = 0  # epochs done
    iteration: int = 0  # iterations done in this epoch
    step: int = 0  # iterations done in all, since this run's start
    validated: bool = True  # whether the validation that the epochs done call for is done too


def snapshot(
    progress: Progress, network: nn.Module, optimiser: torch.optim.Optimizer, score: float, own: Mapping[str, Any]
) -> dict[str, Any]:
    """A snapshot: the published four entries, and `run` for an exact continuation.

    Args:
        progress: where the run stands.
        network: SAC, or the baseline's ModuleDict.
        optimiser: of the student.
        score: mIoU (a fraction).
        own: what else the run needs, plain values and tensors.
    """
    model = {checkpoint.PREFIX + name: value for name, value in network.state_dict().items()}
    return {
        "model": model, "opt": optimiser.state_dict(), "epoch": progress.epoch, "score": score,
        "run": {**asdict(progress), "rng": torch.get_rng_state(), **own},
    }


def check(state: Mapping[str, Any], path: object, own: Mapping[str, Any]) -> None:
    """Refuse to go on from a snapshot of another run than this.

    Args:
        state: the snapshot.
        path: where it is, for the message.
        own: seed, baseline, per_epoch of this run.
    """
    saved, kinds = state.get("run"), {k: type(v) for k, v in {**own, **asdict(Progress())}.items()} | OWN
    if not isinstance(saved, dict) or not set(kinds) <= set(saved):
        raise UserError(f"{path} was not written by a training of this program; start from it with --resume {path} "
                        "and another --run")
    wrong = [k for k, kind in kinds.items() if not isinstance(saved[k], kind)]
    if wrong or min(saved[k] for k in asdict(Progress())) < 0:
        raise UserError(f"{path} is damaged: its entry {(wrong or ['iteration'])[0]!r} makes no sense; start from an "
                        "earlier snapshot with --resume and another --run")
    if saved["seed"] != own["seed"]:
        raise UserError(f"{path} was begun with --seed {saved['seed']}, not {own['seed']}; use that, or another --run")
    if saved["baseline"] != own["baseline"]:
        raise UserError(f"{path} is of a run with MODEL.BASELINE {saved['baseline']}; choose another --run")
    if saved["iteration"] and saved["per_epoch"] != own["per_epoch"]:
        raise UserError(
            f"{path} is in the middle of an epoch of {saved['per_epoch']} iterations, which now has "
            f"{own['per_epoch']}: leave TRAIN.BATCH_SIZE, TRAIN.NUM_GROUPS and the list as they were, or start from it "
            "with --resume and another --run"
        )


def restore(state: Mapping[str, Any], path: object, network: nn.Module, optimiser: torch.optim.Optimizer,
            name: str) -> Progress:
    """Put a snapshot's weights, momentum and random state back; returns where the run stands.

    Learning rates are the configuration's, which may have changed.
    """
    checkpoint.load_into(network, state["model"], path, name)
    if not isinstance(state.get("opt"), dict) or not isinstance(state["opt"].get("state"), dict):
        raise UserError(f"{path} has no state of the optimiser; start from it with --resume and another --run")
    if state["opt"]["state"] and not checkpoint.carry_momentum(optimiser, state["opt"], path):
        raise UserError(f"{path} holds the state of another optimiser; leave MODEL.OPT as it was")
    try:
        torch.set_rng_state(state["run"]["rng"])
    except (RuntimeError, TypeError):
        raise UserError(f"{path} is damaged: the random state in it is none") from None
    return Progress(**{key: state["run"][key] for key in asdict(Progress())})


def changes(before: str, cfg: CfgNode) -> list[str]:
    """What has changed since a configuration was dumped: `SECTION.KEY old -> new`."""
    old = {f"{s}.{k}": v for s, keys in yaml.safe_load(before).items() for k, v in keys.items()}
    new = {f"{s}.{k}": v for s, keys in cfg.items() for k, v in keys.items()}
    return [f"{k} {old.get(k)} -> {new.get(k)}" for k in {**old, **new} if old.get(k) != new.get(k)]
