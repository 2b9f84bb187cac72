"""The plan from raw data to the report: stages, their commands, and what each depends on. Runs nothing."""

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from core import config
from core.cli import UserError
from core.files import read_yaml
from datasets import PUBLISHED, lists

ROWS = ("source", "abn", "control", "sac", "oracle")  # the trainings to compare, in this order
TITLES = {"source": "source only", "abn": "ABN", "control": "ABN, as long as SAC", "sac": "SAC", "oracle": "oracle"}
# Parts of run names, as in launch/train.sh; names of files.
INFIX = {"source": "_source", "abn": "_abn", "control": "_control", "sac": "", "oracle": "_oracle"}
FILES = {"source": "source_only", "abn": "baseline", "control": "control", "sac": "sac", "oracle": "oracle"}

Command = tuple[str, ...]  # arguments to python, run in the repository's root


@dataclass(frozen=True)
class Stage:
    """A stage of the plan."""

    name: str
    says: str  # what it does
    commands: tuple[Command, ...]
    after: tuple[str, ...] = ()  # stages that it depends on
    log: str = ""  # a training's log.txt


@dataclass(frozen=True)
class Task:
    """What is adapted to what, and where the files are."""

    abn: str  # configuration of the baseline
    sac: str  # configuration of SAC
    abn_pairs: Command  # KEY VALUE ... for the baseline only
    pairs: Command  # KEY VALUE ... for all trainings
    validation: str  # labelled target list; "" = none
    home: str  # results folder
    exp: str
    runs: dict[str, str]  # row -> run name
    dataloader: str = "cityscapes"
    root: str = ""  # folder of snapshots/, logs/ and masks/; "" = the repository
    out: str = ""  # folder of the report and summary; "" = home
    beside: str = ""  # home of another task to compare with in the table
    seed: int = 0
    prepare: tuple[Stage, ...] = ()  # stages that prepare the data
    train_options: Command = ()
    infer_options: Command = ()
    processes: int = 1

    def folder(self, kind: str, row: str) -> str:
        """A row's folder; `kind` is snapshots, logs or masks."""
        middle = () if kind == "masks" else (self.dataloader,)
        return str(Path(self.root, kind, *middle, self.exp, self.runs[row]))

    @property
    def joined(self) -> str:
        """The joined list of all source images, if there are several source lists."""
        return f"{self.home}/sources.txt"

    def snapshot(self, row: str) -> str:
        """A row's last snapshot: choosing a better one would take labels."""
        return f"{self.folder('snapshots', row)}/last.pth"

    def configuration(self, row: str) -> tuple[str, Command]:
        """A row's configuration file and KEY VALUE ..., without the importance weights."""
        if row == "sac":
            return self.sac, self.pairs
        cfg, own = config.load(self.sac, self.pairs)[0], config.load(self.abn, self.abn_pairs)[0]
        total, pairs = cfg.TRAIN.NUM_EPOCHS, (*self.abn_pairs, *self.pairs)
        if total < 2:
            raise UserError(f"TRAIN.NUM_EPOCHS = {total}: expected at least 2; SAC continues the baseline's count")
        epochs = own.TRAIN.NUM_EPOCHS if own.TRAIN.NUM_EPOCHS < total else total // 2
        if row in ("control", "oracle"):
            epochs = total
        if config.load(self.abn, pairs)[0].TRAIN.NUM_EPOCHS != epochs:
            pairs += ("TRAIN.NUM_EPOCHS", str(epochs))
        if row == "source":  # BatchNorm statistics and colours are the source's
            target = cfg.TRAIN.TASK[0] if len(cfg.TRAIN.TASK) == 1 else self.joined
            pairs += ("TRAIN.TARGET", target, "DATASET.RENORM_SOURCE", "False")
        if row == "oracle":
            pairs += ("TRAIN.TASK", cfg.TRAIN.TARGET, "DATASET.RENORM_SOURCE", "False", "VAL.SELECT", "",
                      "VAL.LISTS", f"[{self.validation}]")
            # A single list, with no class ignored.
            pairs += tuple(x for name in ("TASK_SHARES", "TASK_IGNORE") if cfg.TRAIN[name]
                           for x in (f"TRAIN.{name}", "[]"))
        return self.abn, pairs


def stages(task: Task, rows: Collection[str]) -> list[Stage]:
    """All stages for these rows, each after those it depends on.

    Raises:
        UserError: a row is not possible for this task.
    """
    cfg, _ = config.load(task.sac, task.pairs)
    if cfg.MODEL.BASELINE:
        raise UserError(f"{task.sac}: MODEL.BASELINE is True; expected a SAC configuration")
    if "oracle" in rows:
        _check_labels(cfg, task)
    rows, weights = [row for row in ROWS if row in rows], cfg.DATASET.SAMPLE_WEIGHTS
    found = [*task.prepare, _check(task, tuple(s.name for s in task.prepare[-1:]))]
    trained = [row for row in ROWS if row in rows or row == "abn" and {"sac", "control"} & set(rows)]
    for row in trained:
        if row == "source" and len(cfg.TRAIN.TASK) > 1:
            command = ("tools/join_lists.py", *cfg.TRAIN.TASK, "--root", cfg.DATASET.ROOT, "--out", task.joined,
                       "--force")
            found.append(Stage("sources", "join the source lists", (command,), ("check",)))
        if row == "sac" and not weights:
            found += _weights(task, cfg)
        found.append(_training(task, row, "" if weights or row != "sac" else f"{task.home}/weights.data"))
    for row in rows if task.validation else ("sac",) if "sac" in rows else ():
        found.append(_masks(task, row, task.validation or cfg.TRAIN.TARGET, f"infer_{FILES[row]}"))
    for row in rows if task.validation else ():
        found.append(_evaluation(task, row, cfg))
    return [*found, *_pages(task, rows, trained, cfg)]


def _check_labels(cfg: CfgNode, task: Task) -> None:
    name, root = cfg.TRAIN.TARGET, cfg.DATASET.ROOT
    if not task.validation:
        raise UserError("--rows oracle: there is no labelled target list to evaluate on (VAL.LISTS)")
    if lists.exists(name, root) and any(sample.label is None for sample in lists.read(name, root)):
        raise UserError(f"--rows oracle: the target list {name} has no labels to train on; leave out the oracle")


def _check(task: Task, after: tuple[str, ...]) -> Stage:
    abn, pairs = task.configuration("abn")
    command = ("tools/check_data.py", "--cfg", abn, *_set(pairs))
    return Stage("check", "check every file that training will read", (command,), after)


def _training(task: Task, row: str, weights: str) -> Stage:
    cfg, pairs = task.configuration(row)
    says = {
        "source": "train on the source only; no target data is read",
        "abn": "train the baseline: source labels, target BatchNorm statistics (ABN)",
        "control": "continue the baseline, up to SAC's total number of epochs",
        "sac": "train SAC, starting from the baseline",
        "oracle": "train on the target labels: an upper bound for adaptation",
    }[row]
    continued = row in ("control", "sac")
    resume = ("--resume", task.snapshot("abn")) if continued else ()
    if weights:
        pairs += ("DATASET.SAMPLE_WEIGHTS", weights)
    folders = ("--snapshot-dir", f"{task.root}/snapshots", "--logdir", f"{task.root}/logs") if task.root else ()
    command = ("train.py", "--cfg", cfg, "--exp", task.exp, "--run", task.runs[row], "--dataloader", task.dataloader,
               "--seed", str(task.seed), *folders, *resume, *task.train_options, *_set(pairs))
    start = FILES["abn"] if continued else "sources" if task.joined in pairs else "check"
    after = (*(("weights",) if weights else ()), start)
    return Stage(FILES[row], says, (_parallel(task, command),), after, f"{task.folder('logs', row)}/log.txt")


def _weights(task: Task, cfg: CfgNode) -> list[Stage]:
    """Predict the target's masks, and compute the importance weights from them."""
    masks = _masks(task, "abn", cfg.TRAIN.TARGET, "infer_target")
    command = ("tools/compute_image_weights.py", "--labels", _mask_folder(task, "abn", cfg.TRAIN.TARGET),
               "--ext", "*.png", "--classes", cfg.DATASET.CLASSES, "--out", f"{task.home}/weights.data", "--force")
    return [masks, Stage("weights", "find the target images with rare classes", (command,), ("infer_target",))]


def _mask_folder(task: Task, row: str, name: str) -> str:
    return f"{task.folder('masks', row)}/{Path(name).stem}"


def _masks(task: Task, row: str, name: str, stage: str) -> Stage:
    cfg, pairs = task.configuration(row)
    kinds = ("--save", "ids", "vis") if not task.validation and stage != "infer_target" else ()
    command = ("infer_val.py", "--cfg", cfg, "--resume", task.snapshot(row), "--infer-list", name,
               "--mask-output-dir", _mask_folder(task, row, name), "--resume-output", "--force", *kinds,
               *task.infer_options, *_set(pairs))
    return Stage(stage, f"predict masks of {name} with {TITLES[row]}", (_parallel(task, command),), (FILES[row],))


def _evaluation(task: Task, row: str, cfg: CfgNode) -> Stage:
    ignored = ("--ignore", *map(str, cfg.VAL.IGNORE_CLASS)) if cfg.VAL.IGNORE_CLASS else ()
    command = ("tools/evaluate.py", "--predictions", _mask_folder(task, row, task.validation), "--list",
               task.validation, "--root", cfg.DATASET.ROOT, "--classes", cfg.DATASET.CLASSES, *ignored,
               "--json", f"{task.home}/{FILES[row]}.json", "--force")
    return Stage(f"evaluate_{FILES[row]}", f"evaluate {TITLES[row]} on {task.validation}", (command,),
                 (f"infer_{FILES[row]}",))


def _pages(task: Task, rows: list[str], trained: list[str], cfg: CfgNode) -> list[Stage]:
    """The report and, with labels, the table. The report compares its first run with its last: SAC."""
    ordered = sorted(trained, key=lambda row: (row == "sac", row != "abn"))
    data, out = ("--root", cfg.DATASET.ROOT, "--classes", cfg.DATASET.CLASSES), task.out or task.home
    logs = (task.folder("logs", row) for row in ordered)
    command = ("tools/report.py", *logs, "--out", f"{out}/report", *data, "--force")
    if not task.validation:
        return [Stage("report", "write the report", (command,), tuple(FILES[row] for row in trained))]
    masks = [f"{FILES[r]}={_mask_folder(task, r, task.validation)}" for r in ordered if r in rows]
    command += ("--list", task.validation, "--masks", *masks)
    table = ("tools/summarise_rows.py", "--folder", task.home, "--out", out, "--list", task.validation, *data,
             "--seed", str(task.seed), "--masks", *(m for row in rows for m in masks if m.startswith(FILES[row] + "=")))
    table += ("--baseline-log", f"{task.folder('logs', 'abn')}/log.txt") if "abn" in rows else ()
    table += ("--beside", task.beside) if task.beside else ()
    after = tuple(f"evaluate_{FILES[row]}" for row in rows)
    return [Stage("report", "write the report", (command,), after), Stage("table", "compare scores", (table,), after)]


def _set(pairs: Command) -> Command:
    return ("--set", *pairs) if pairs else ()


def _parallel(task: Task, command: Command) -> Command:
    """The command, under torchrun if there are several processes."""
    if task.processes == 1:
        return command
    return ("-m", "core.torchrun", "--standalone", "--nproc_per_node", str(task.processes), "--", *command)


def keys(found: Iterable[Stage]) -> dict[str, str]:
    """A key for what each stage depends on: its commands, the content of their YAML files, and earlier stages."""
    result: dict[str, str] = {}
    for stage in found:
        said = [_said(word) for command in stage.commands for word in command]
        content = json.dumps([stage.commands, [one for one in said if one], [result[name] for name in stage.after]])
        result[stage.name] = hashlib.sha256(content.encode()).hexdigest()[:16]
    return result


def _said(word: object, deep: bool = True) -> list:
    """The content of a YAML file and, if deep, of those it names (label sets); [] if the word is not a YAML file."""
    if not (isinstance(word, str) and word.endswith((".yaml", ".yml")) and Path(word).is_file()):
        return []
    content = read_yaml(word)
    parts = content.values() if deep and isinstance(content, dict) else ()
    named = [one for part in parts for one in (part.values() if isinstance(part, dict) else [part])]
    return [repr(content), *(_said(one, deep=False) for one in named)]


def source_list_that_selects(cfg: CfgNode) -> Command:
    """VAL.SELECT ... for a published task: the source's own list, so that no target label selects anything."""
    published = [PUBLISHED[name] for name in cfg.TRAIN.TASK if name in PUBLISHED]
    return ("VAL.SELECT", published[0]) if published and not (cfg.VAL.SELECT or cfg.VAL.LISTS) else ()
