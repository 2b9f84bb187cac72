"""Where a run begins: its own last.pth, another run's snapshot, ImageNet weights, nothing.

From its own last.pth a run continues exactly, or not at all; from anything else it begins anew and takes over what
section 8b, C8, of docs/method.md says.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from core import checkpoint, distributed
from core.cli import UserError
from core.files import parse_yaml
from core.run_folder import Run
from core.values import written
from models.sac import SAC


@dataclass
class Progress:
    """How far a run is. A snapshot is only ever made between two iterations, or after a validation."""

    epoch: int = 0  # epochs done
    iteration: int = 0  # iterations done in this epoch
    step: int = 0  # iterations done in all, since this run's start
    validated: bool = True  # whether the validation that the epochs done call for is done too


@dataclass(frozen=True)
class Origin:
    """Where a run begins."""

    own: bool  # at its own last.pth
    snapshot: str  # of another run; "" = none
    init: str  # ImageNet weights; "" = random ones, or a snapshot's


@dataclass
class Beginning:
    """What a run begins with."""

    progress: Progress
    lines: list[str]  # for the log
    own: dict[str, Any] | None = None  # what the run had kept in its last.pth


def find(folder: Run, snapshot: str, init: str) -> Origin:
    """Where the run begins; the first process looks.

    Args:
        folder: the run's.
        snapshot: the one that was asked for (--resume), "" = none.
        init: MODEL.INIT_MODEL, which a run that starts from a snapshot does not need.
    """
    own = distributed.from_first(folder.last.exists)
    return Origin(own, snapshot, "" if own or snapshot else init)


def begin(
    origin: Origin, folder: Run, network: nn.Module, optimiser: torch.optim.Optimizer, expected: Mapping[str, Any]
) -> Beginning:
    """Fill the network and the optimiser; the first process reads, and hands on what it has read.

    Args:
        origin: as `find` has it.
        folder: the run's.
        network: SAC, or the baseline's ModuleDict.
        optimiser: of the student.
        expected: this run's arch, num_epochs, seed, baseline, per_epoch, lists, config.
    """
    if not origin.own and not origin.snapshot:
        return Beginning(Progress(), [f"weights: {origin.init or 'random (MODEL.INIT_MODEL is empty)'}"])
    path = str(folder.last) if origin.own else origin.snapshot
    state = distributed.from_first(lambda: checkpoint.load(path))
    if not origin.own:
        return _start(state, path, network, optimiser, expected)
    _check(state, path, expected)
    progress = _restore(state, path, network, optimiser, expected["arch"])
    lines = [f"resumes from {path}: {progress.epoch} epochs and {progress.iteration} iterations of the next are done, "
             f"{progress.step} iterations in all" + ("; --resume is not read again" if origin.snapshot else "")]
    own = state["run"]
    if changed := changes(own["config"], expected["config"]):
        lines.append(f"the configuration has changed: {', '.join(changed)}")
    if own["lists"] != expected["lists"]:
        lines.append("the lists have changed since the last epoch")
    return Beginning(progress, lines, own)


def snapshot(
    progress: Progress, network: nn.Module, optimiser: torch.optim.Optimizer, score: float, own: Mapping[str, Any]
) -> dict[str, Any]:
    """A snapshot: the published four entries, and `run` for an exact continuation.

    Args:
        progress: where the run stands.
        network: SAC, or the baseline's ModuleDict.
        optimiser: of the student.
        score: mIoU (a fraction).
        own: what else the run needs, plain values: checkpoint.RUN has those that are read again.
    """
    model = {checkpoint.PREFIX + name: value for name, value in network.state_dict().items()}
    return {
        "model": model, "opt": optimiser.state_dict(), "epoch": progress.epoch, "score": score,
        "run": {**asdict(progress), "rng": torch.get_rng_state(), **own},
    }


def _check(state: Mapping[str, Any], path: str, expected: Mapping[str, Any]) -> None:
    """Refuse to continue from a snapshot of another run than this."""
    saved = checkpoint.checked_run(state.get("run"), path)
    advice = f"start from it with --resume {path} and another --run"
    if saved["seed"] != expected["seed"]:
        raise UserError(f"{path} was begun with --seed {saved['seed']}, not {expected['seed']}; use that seed, or "
                        "another --run")
    if saved["baseline"] != expected["baseline"]:
        raise UserError(f"{path} is of a run with MODEL.BASELINE {saved['baseline']}; choose another --run")
    if saved["iteration"] and saved["per_epoch"] != expected["per_epoch"]:
        raise UserError(f"{path} is in the middle of an epoch of {saved['per_epoch']} iterations, which now has "
                        f"{expected['per_epoch']}: leave TRAIN.BATCH_SIZE, TRAIN.NUM_GROUPS and the list as they were, "
                        f"or {advice}")
    if saved["iteration"] and saved["lists"] != expected["lists"]:
        raise UserError(f"{path} is in the middle of an epoch, and the lists it trains on, or their shares, are no "
                        f"longer the same: restore them, or {advice}")


def _restore(
    state: Mapping[str, Any], path: str, network: nn.Module, optimiser: torch.optim.Optimizer, arch: str
) -> Progress:
    """Put weights, momentum and random state back; learning rates are the configuration's, which may have changed."""
    checkpoint.load_into(network, state["model"], path, arch)
    if not isinstance(state.get("opt"), dict) or not isinstance(state["opt"].get("state"), dict):
        raise UserError(f"{path} has no state of the optimiser; start from it with --resume and another --run")
    if state["opt"]["state"] and not checkpoint.carry_momentum(optimiser, state["opt"], path):
        raise UserError(f"{path} holds the state of another optimiser; leave MODEL.OPT as it was")
    torch.set_rng_state(state["run"]["rng"])
    return Progress(**{key: state["run"][key] for key in asdict(Progress())})


def _start(
    state: Mapping[str, Any], path: str, network: nn.Module, optimiser: torch.optim.Optimizer,
    expected: Mapping[str, Any],
) -> Beginning:
    """Start from another run's snapshot, a baseline's or SAC's (section 8b, C8)."""
    model, arch, taken, left = state["model"], expected["arch"], ["student"], []
    student = network.backbone if isinstance(network, SAC) else network["backbone"]
    checkpoint.load_into(student, checkpoint.part(model, checkpoint.STUDENT), path, arch)
    if not isinstance(network, SAC):
        left += ["teacher and class prior (a baseline has none)"] if "slow_init" in model else []
    elif checkpoint.has_teacher(model):
        _take_teacher(model, path, network, arch)
        taken += ["teacher", "class prior"]
    else:
        left.append("teacher and class prior (it has none: the teacher starts as the student)")
    momentum = checkpoint.carry_momentum(optimiser, state.get("opt"), path)
    (taken if momentum else left).append("the optimiser's momentum")
    epoch = state.get("epoch", 0)
    if type(epoch) is not int or epoch < 0:
        raise UserError(f"snapshot {path}: its epoch count is {epoch!r}, not a whole number >= 0")
    if epoch >= expected["num_epochs"]:
        raise UserError(f"{path} has done {epoch} epochs, TRAIN.NUM_EPOCHS = {expected['num_epochs']} counts them too: "
                        "nothing is left to train; set it higher")
    taken.append(f"the epoch count ({epoch})")
    left.append("learning rate and best score (this run's own)")
    lines = [f"from {path} taken: {', '.join(taken)}", f"from {path} not taken: {', '.join(left)}"]
    return Beginning(Progress(epoch=epoch), lines)


def _take_teacher(model: Mapping[str, torch.Tensor], path: str, network: SAC, arch: str) -> None:
    checkpoint.load_into(network.slow_net, checkpoint.part(model, checkpoint.TEACHER), path, f"{arch} (teacher)")
    prior = model.get("running_conf", torch.zeros(0))
    if prior.shape != network.running_conf.shape:
        raise UserError(f"{path}: its class prior has {prior.numel()} classes, this run "
                        f"{len(network.running_conf)}; see DATASET.CLASSES")
    network.running_conf.copy_(prior)
    network.slow_init.fill_(1)


def changes(before: str, after: str) -> list[str]:
    """How two dumped configurations differ: `SECTION.KEY old -> new`."""
    old, new = ({f"{s}.{k}": written(v) for s, keys in parse_yaml(text, "").items() for k, v in keys.items()}
                for text in (before, after))
    return [f"{k} {old.get(k)} -> {new.get(k)}" for k in {**old, **new} if old.get(k) != new.get(k)]
