"""Where a run starts: from its own last.pth, another run's snapshot, ImageNet weights, or nothing.

From its own last.pth, a run resumes exactly or not at all; from anything else it starts anew, taking over what
docs/method.md, section 8b, C8, says.
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
    """How far a run has got. Snapshots are only made between two iterations, or after a validation."""

    epoch: int = 0  # epochs done
    iteration: int = 0  # iterations done in this epoch
    step: int = 0  # iterations done in total, since this run's start
    validated: bool = True  # whether the validation due after these epochs is done too


@dataclass(frozen=True)
class Origin:
    """What a run starts from."""

    own: bool  # its own last.pth
    snapshot: str  # of another run; "" = none
    init: str  # ImageNet weights; "" = random ones, or a snapshot's


@dataclass
class Beginning:
    """What a run starts with."""

    progress: Progress
    lines: list[str]  # for the log
    own: dict[str, Any] | None = None  # `run` of its last.pth


def find(folder: Run, snapshot: str, init: str) -> Origin:
    """What the run starts from; the first process looks.

    Args:
        folder: the run's.
        snapshot: --resume; "" = none.
        init: MODEL.INIT_MODEL, not used by a run that starts from a snapshot.
    """
    own = distributed.from_first(folder.last.exists)
    return Origin(own, snapshot, "" if own or snapshot else init)


def begin(
    origin: Origin, folder: Run, network: nn.Module, optimiser: torch.optim.Optimizer, expected: Mapping[str, Any]
) -> Beginning:
    """Fill the network and the optimiser; the first process reads, and passes on what it has read.

    Args:
        origin: from `find`.
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
             f"{progress.step} iterations in all" + ("; --resume is ignored" if origin.snapshot else "")]
    own = state["run"]
    if changed := changes(own["config"], expected["config"]):
        lines.append(f"the configuration has changed: {', '.join(changed)}")
    if own["lists"] != expected["lists"]:
        lines.append("the lists have changed since the last epoch")
    return Beginning(progress, lines, own)


def snapshot(
    progress: Progress, network: nn.Module, optimiser: torch.optim.Optimizer, score: float, own: Mapping[str, Any]
) -> dict[str, Any]:
    """A snapshot: the four published entries, and `run` for an exact resume.

    Args:
        progress: how far the run has got.
        network: SAC, or the baseline's ModuleDict.
        optimiser: of the student.
        score: mIoU (a fraction).
        own: what else `run` holds, plain values; checkpoint.RUN lists those that a resume needs.
    """
    model = {checkpoint.PREFIX + name: value for name, value in network.state_dict().items()}
    return {
        "model": model, "opt": optimiser.state_dict(), "epoch": progress.epoch, "score": score,
        "run": {**asdict(progress), "rng": torch.get_rng_state(), **own},
    }


def _check(state: Mapping[str, Any], path: str, expected: Mapping[str, Any]) -> None:
    """UserError for a snapshot that this run cannot resume from."""
    saved = checkpoint.checked_run(state.get("run"), path)
    advice = f"start from it with --resume {path} and another --run"
    if saved["seed"] != expected["seed"]:
        raise UserError(f"{path} was started with --seed {saved['seed']}, not {expected['seed']}; use that seed, or "
                        "another --run")
    if saved["baseline"] != expected["baseline"]:
        raise UserError(f"{path} belongs to a run with MODEL.BASELINE {saved['baseline']}; choose another --run")
    if saved["iteration"] and saved["per_epoch"] != expected["per_epoch"]:
        raise UserError(f"{path} is in the middle of an epoch of {saved['per_epoch']} iterations, which now has "
                        f"{expected['per_epoch']}: leave TRAIN.BATCH_SIZE, TRAIN.NUM_GROUPS and the list as they were, "
                        f"or {advice}")
    if saved["iteration"] and saved["lists"] != expected["lists"]:
        raise UserError(f"{path} is in the middle of an epoch, and the lists it trains on, or their shares, have "
                        f"changed: restore them, or {advice}")


def _restore(
    state: Mapping[str, Any], path: str, network: nn.Module, optimiser: torch.optim.Optimizer, arch: str
) -> Progress:
    """Restore weights, momentum and random state; learning rates are the configuration's, which may have changed."""
    checkpoint.load_into(network, state["model"], path, arch)
    if not isinstance(state.get("opt"), dict) or not isinstance(state["opt"].get("state"), dict):
        raise UserError(f"{path} has no optimiser state; start from it with --resume and another --run")
    if state["opt"]["state"] and not checkpoint.carry_momentum(optimiser, state["opt"], path):
        raise UserError(f"{path} holds the state of another optimiser; restore MODEL.OPT")
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
        left.append("teacher and class prior (it has none: the teacher starts as a copy of the student)")
    momentum = checkpoint.carry_momentum(optimiser, state.get("opt"), path)
    (taken if momentum else left).append("the optimiser's momentum")
    epoch = state.get("epoch", 0)
    if type(epoch) is not int or epoch < 0:
        raise UserError(f"snapshot {path}: its epoch count is {epoch!r}, not a whole number >= 0")
    if epoch >= expected["num_epochs"]:
        raise UserError(f"{path} has done {epoch} epochs, which TRAIN.NUM_EPOCHS = {expected['num_epochs']} includes: "
                        "nothing is left to train; set it higher")
    taken.append(f"the epoch count ({epoch})")
    left.append("learning rate and best score (this run's own)")
    lines = [f"taken from {path}: {', '.join(taken)}", f"not taken from {path}: {', '.join(left)}"]
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
