"""Every configuration key with its default, allowed values and meaning. `load` merges, checks and freezes.

A configuration is a yacs CfgNode, made by `load` and read only by the builders; what they build takes plain values.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple

from yacs.config import CfgNode

from core import values
from core.cli import UserError
from core.files import read_yaml
from models import NETWORKS, TIMM
from models.consistency import LOSSES, POOLS


class Rule(NamedTuple):
    """The allowed values, in words and as a test."""

    allowed: str
    test: Callable[[Any], bool]


class Key(NamedTuple):
    """One configuration key."""

    name: str
    default: Any
    rule: Rule
    meaning: str


def _numbers(length: int, allowed: str, test: Callable[[Any], bool]) -> Rule:
    return Rule(f"{length} {allowed}", lambda v: len(v) == length and all(test(x) for x in v))


def _one_of(names: Collection[str]) -> Rule:
    return Rule(" | ".join(names), lambda v: v in names)


def _from(low: float, high: float, noun: str = "a number") -> Rule:
    return Rule(f"{noun} from {low} to {high}", lambda v: low <= v <= high)


def _each_source(rule: Rule) -> Rule:
    def test(value: list[float]) -> bool:
        return bool(value) and all(rule.test(value[i : i + 3]) for i in range(0, len(value), 3))

    return Rule(f"{rule.allowed}; one triple for each list of TRAIN.TASK", test)


# The bounds are far beyond useful values: they catch typos before memory, time or the range of numbers runs out.
ANY = Rule("anything", lambda _: True)
NAMED = Rule("non-empty text", lambda v: v.strip() != "")
COUNT = _from(1, 10**9, "a whole number")
COUNT0 = _from(0, 10**9, "a whole number")
CLASSES = Rule("class numbers", lambda v: all(0 <= x < 255 for x in v))
IMAGES = _from(1, 10**4, "a whole number")
IMAGES0 = _from(0, 10**4, "a whole number")
SCALE = _from(0.01, 16)
AT_LEAST0 = _from(0, 1000)
SHARE = _from(0, 1)
RANGE = Rule("2 numbers from 0.01 to 16, the smaller first", lambda v: len(v) == 2 and 0.01 <= v[0] <= v[1] <= 16)
SIDES = (8, 16384)  # pixels
SIZE = _numbers(2, "whole numbers from {} to {}: height, width".format(*SIDES), lambda x: SIDES[0] <= x <= SIDES[1])
COLOUR = _numbers(3, "numbers from 0 to 1: red, green, blue", lambda x: 0 <= x <= 1)
SPREAD = _numbers(3, "numbers from 0.0001 to 1000: red, green, blue", lambda x: 1e-4 <= x <= 1000)

KEYS = (
    Key("TRAIN.BATCH_SIZE", 16, IMAGES, "B: source images per iteration, over all processes"),
    Key("TRAIN.NUM_EPOCHS", 200, COUNT,
        "total number of epochs; a run starts at 0, or at the epoch of its baseline snapshot"),
    Key("TRAIN.TASK", ["train_game_9K"], Rule("names of lists", lambda v: bool(v) and all(map(NAMED.test, v))),
        "list of the labelled source images, or several lists (docs/own_data.md)"),
    Key("TRAIN.TASK_SHARES", [], Rule("whole numbers from 1 to 1000", lambda v: all(1 <= x <= 1000 for x in v)),
        "each TRAIN.TASK list's share of the source images, exact over the run; empty = equal shares"),
    Key("TRAIN.TASK_IGNORE", [], Rule("lists of class numbers", lambda v: all(map(CLASSES.test, v))),
        "for each list of TRAIN.TASK, classes whose labels are ignored in training; empty = none"),
    Key("TRAIN.TARGET", "train_cityscapes", NAMED,
        "list of the target images; its labels, if any, are not used for training"),
    Key("TRAIN.TARGET_ONLY", False, ANY, "SAC without the cross-entropy on the source"),
    Key("TRAIN.NUM_GROUPS", 4, IMAGES, "N: target images per iteration, over all processes"),
    Key("TRAIN.GROUP_SIZE", 2, IMAGES, "T: views of each target image"),
    Key("TRAIN.PRECISION", "auto", _one_of(("auto", "float32", "tf32", "bfloat16", "float16")), "precision of the "
        "networks only; tf32 = float32 whose convolutions may use TF32; auto = bfloat16 on GPUs that support it, else "
        "float32; float16, for other GPUs, scales the losses"),
    Key("TRAIN.MICRO_BATCH", 0, IMAGES0, "images per forward pass, on each process; 0 = all at once"),
    Key("TRAIN.CHECKPOINT", False, ANY, "recompute the student's activations in the backward pass "
        "instead of storing them: the same gradients, less memory, more time"),
    Key("TRAIN.COMPILE", False, ANY, "torch.compile the networks"),
    Key("TRAIN.DETERMINISTIC", False, ANY, "deterministic kernels"),
    Key("TRAIN.SNAPSHOT_ITER", 500, COUNT,
        "iterations between writes of last.pth, which is also written after each epoch"),
    Key("TRAIN.MAX_ITER", 0, COUNT0, "stop after this many iterations in total; 0 = no limit"),
    Key("TRAIN.DEVICE", "auto", _one_of(("auto", "cuda", "cpu")),
        "where the networks run; auto = cuda if available"),
    Key("VAL.IGNORE_CLASS", [], CLASSES,
        "classes excluded from the mIoU; importance sampling draws uniformly for them"),
    Key("VAL.LISTS", [], ANY,
        "lists to validate on; empty = the published ones for the published tasks, none for others"),
    Key("VAL.SELECT", "", ANY, "the list whose student mIoU selects the best snapshots; empty = val2_cityscapes if "
        "it is validated on, else the last of VAL.LISTS, else none"),
    Key("DATASET.ROOT", "data", NAMED, "folder that the paths in lists are relative to"),
    Key("DATASET.CLASSES", "cityscapes", NAMED, "the label set: cityscapes, or a YAML file (docs/own_data.md)"),
    Key("DATASET.ON_ERROR", "stop", _one_of(("stop", "skip")), "what happens if a training image cannot be used: stop "
        "the run, or skip to the next item; skipped images are counted and logged, at most 1 % of a list"),
    Key("DATASET.SAMPLE_WEIGHTS", "", ANY, "importance weights of the target images; empty = uniform sampling"),
    Key("DATASET.SAMPLE_UNIFORM_PRIOR", 0.25, SHARE, "u: share of uniform sampling within the importance sampling"),
    Key("DATASET.CROP_SIZE", [512, 512], SIZE, "H, W of the training and validation crops"),
    Key("DATASET.GAME_SIZE", [1052, 1914], Rule(f"{SIZE.allowed}, or [] for none",
        lambda v: len(v) == 0 or SIZE.test(v)), "images and labels of the published GTA5 lists are "
        "first resized to this size"),
    Key("DATASET.VAL_CROP", True, ANY, "validate on a centre crop of CROP_SIZE; False = resize to it"),
    Key("DATASET.RND_CROP", True, ANY, "source: random crop of CROP_SIZE; False = resize to it"),
    Key("DATASET.RND_HFLIP", True, ANY, "flip half of the images, all views of a target image together"),
    Key("DATASET.RND_BLUR", True, ANY, "target noise: Gaussian blur with radius U(0.1, 2) on every view"),
    Key("DATASET.RND_GREYSCALE", 0.0, SHARE, "target noise: probability of turning a view grey"),
    Key("DATASET.RND_JITTER", 0.0, SHARE, "strength of the colour jitter, source and target; 0 = none"),
    Key("DATASET.GUIDED_HFLIP", False, ANY, "flip half of the views, each independently"),
    Key("DATASET.RND_ZOOM", [0.5, 1.2], RANGE, "zoom s of views 1 ... T-1; equal bounds mean no zoom, whatever "
        "their value (released code)"),
    Key("DATASET.TARGET_SCALE", [1.0, 1.1], RANGE, "scale s0 of a target image, after resizing it to CROP_SIZE"),
    Key("DATASET.SRC_RND_BLUR", False, ANY, "source noise: Gaussian blur with radius 1 on half of the images"),
    Key("DATASET.SRC_RND_JITTER", 0.4, AT_LEAST0, "source noise: > 0 switches on the colour jitter, whose strength is "
        "RND_JITTER (released code)"),
    Key("DATASET.SCALE_FROM", 0.5, SCALE, "smallest scale of a source image"),
    Key("DATASET.SCALE_TO", 1.5, SCALE, "largest scale of a source image"),
    Key("DATASET.MEAN", [0.485, 0.456, 0.406], COLOUR, "mean of the networks' input (ImageNet's)"),
    Key("DATASET.STD", [0.229, 0.224, 0.225], SPREAD, "standard deviation of the networks' input (ImageNet's)"),
    Key("DATASET.RENORM_SOURCE", True, ANY, "normalise the source so that its colours match the target's statistics"),
    Key("DATASET.SOURCE_MEAN", [0.481, 0.479, 0.465], _each_source(COLOUR),
        "mean of the source images (GTA5; for SYNTHIA .315 .278 .248); for several lists, one after the other"),
    Key("DATASET.SOURCE_STD", [0.243, 0.239, 0.237], _each_source(SPREAD),
        "standard deviation of the source images (for SYNTHIA .225 .214 .210)"),
    Key("DATASET.TARGET_MEAN", [0.3, 0.344, 0.297], COLOUR, "mean of the target images (Cityscapes)"),
    Key("DATASET.TARGET_STD", [0.175, 0.18, 0.177], SPREAD, "standard deviation of the target images (Cityscapes)"),
    Key("MODEL.ARCH", "deeplabv2_resnet101", Rule(" | ".join((*NETWORKS, TIMM)), lambda v: v in NETWORKS or v == TIMM),
        "the network; timm = MODEL.ENCODER with a light head (docs/encoders.md)"),
    Key("MODEL.ENCODER", "", ANY, "name of the encoder in the package timm; needs MODEL.ARCH timm"),
    Key("MODEL.PATCH_SIZE", 0, _from(0, 64, "a whole number"), "patch size of MODEL.ENCODER, pixels; 0 = as published"),
    Key("MODEL.DROP_PATH", 0.0, Rule("a number >= 0 and < 1", lambda v: 0 <= v < 1),
        "stochastic depth rate in the last block of MODEL.ENCODER; lower in earlier blocks"),
    Key("MODEL.INIT_MODEL", "", ANY, "file with the ImageNet weights to start from; empty = random weights"),
    Key("MODEL.BASELINE", False, ANY, "True: the ABN baseline; False: SAC"),
    Key("MODEL.OPT", "SGD", _one_of(("SGD", "Adam", "AdamW")), "the optimiser; AdamW: betas 0.9 and 0.999, the same "
        "rate for biases as for weights, no decay of norms, biases, tokens and position embeddings"),
    Key("MODEL.OPT_NESTEROV", False, ANY, "SGD with Nesterov momentum"),
    Key("MODEL.LR", 3e-4, AT_LEAST0,
        "learning rate of pretrained weights; biases x2, new layers x10, their biases x20"),
    Key("MODEL.MOMENTUM", 0.9, Rule("a number >= 0 and < 1", lambda v: 0 <= v < 1), "momentum of SGD"),
    Key("MODEL.BETA1", 0.5, Rule("a number >= 0 and < 1", lambda v: 0 <= v < 1), "first beta of Adam"),
    Key("MODEL.LAYER_DECAY", 1.0, _from(0.01, 1), "AdamW: learning rate of each layer of MODEL.ENCODER, "
        "relative to the next layer's"),
    Key("MODEL.SCHEDULE", "constant", _one_of(("constant", "poly")), "learning rate schedule; poly = decay "
        "to 0 at the end of TRAIN.NUM_EPOCHS, as (1 - fraction done)^0.9"),
    Key("MODEL.WARMUP_ITER", 0, COUNT0, "iterations of linear learning rate warm-up; 0 = none"),
    Key("MODEL.CLIP_GRAD", 0.0, _from(0, 10**6), "maximum norm of all gradients together; 0 = no limit"),
    Key("MODEL.WEIGHT_DECAY", 1e-5, AT_LEAST0, "weight decay, except for biases"),
    Key("MODEL.LR_TARGET", 1.0, AT_LEAST0, "weight of the target loss L_t relative to the source loss"),
    Key("MODEL.LR_TARGET_RAMP", 0, COUNT0,
        "iterations over which the weight of the target loss rises from 0 to LR_TARGET at the start of SAC"),
    Key("MODEL.STAT_MOMENTUM", 0.99, SHARE, "γ_χ: momentum of the class prior χ"),
    Key("MODEL.NET_MOMENTUM", 0.99, SHARE, "γ_ψ: momentum of the teacher"),
    Key("MODEL.NET_MOMENTUM_ITER", 100, COUNT, "iterations between updates of the teacher"),
    Key("MODEL.CONF_DISCOUNT", True, ANY, "lower the thresholds of rare classes, d_c = 1 - exp(-χ_c/β)"),
    Key("MODEL.CONF_POOL_ON", True, ANY, "fuse the views of an image"),
    Key("MODEL.CONF_POOL", "avg_pool", _one_of(POOLS), "how the views are fused"),
    Key("MODEL.FOCAL_P", 3.0, AT_LEAST0, "λ: power of the focal term (1-χ_c)^λ"),
    Key("MODEL.LOSS", "focal_ce_conf_batch", _one_of(LOSSES),
        "weight of a pixel: 1, its confidence (paper), the batch's mean confidence at its position (released code)"),
    Key("MODEL.RUN_CONF_UPPER", 0.75, SHARE, "ζ: a threshold is this share of the class's highest confidence"),
    Key("MODEL.RUN_CONF_LOWER", 0.2, SHARE, "the lowest threshold"),
    Key("MODEL.THRESHOLD_BETA", 1e-3, _from(1e-9, 1000), "β: classes rarer than this get lower thresholds"),
    Key("LOG.ITER_VAL", 2, COUNT, "epochs between validations"),
    Key("LOG.ITER_TARGET", 4, COUNT, "epochs between measurements on the target's training views"),
    Key("TB.IM_SIZE", [256, 256], SIZE, "height, width of each picture in TensorBoard's panels"),
)

# Keys in the authors' files that have no meaning here.
IGNORED = ("LOG.ITER_TRAIN", "MODEL.RUN_CONF_MOMENT")
# Element types of the lists with an empty default; the others hold whole numbers.
HOLDS = {"VAL.LISTS": str, "TRAIN.TASK_IGNORE": list}


def defaults() -> CfgNode:
    """A configuration with every key at its default."""
    cfg = CfgNode()
    for key in KEYS:
        section, name = key.name.split(".")
        cfg.setdefault(section, CfgNode())[name] = list(key.default) if isinstance(key.default, list) else key.default
    return cfg


def load(file: str, pairs: Iterable[str] = ()) -> tuple[CfgNode, list[str]]:
    """Merge the defaults, the YAML file and the KEY VALUE pairs, in this order; check and freeze the result.

    Args:
        file: a YAML file with sections and keys as in KEYS.
        pairs: KEY VALUE KEY VALUE ..., as on the command line.

    Returns:
        The frozen configuration, and lines worth logging (keys that were ignored).

    Raises:
        UserError: a key is unknown, or a value is of the wrong type or not allowed.
    """
    pairs = list(pairs)
    if len(pairs) % 2:
        raise UserError(f"--set takes KEY VALUE pairs, but {pairs[-1]!r} has no value")
    changes = _entries(file) + [(name, pair, "--set") for name, pair in zip(pairs[::2], pairs[1::2], strict=True)]
    cfg, notes = defaults(), []
    keys = {key.name: key for key in KEYS}
    for name, value, origin in changes:
        if name in IGNORED:
            notes.append(f"{name} ({origin}) has no meaning here and is ignored")
            continue
        if name not in keys:
            raise UserError(f"unknown key {name} in {origin}{_similar(name, keys)}")
        section, short = name.split(".")
        cfg[section][short] = parse_value(keys[name], value, origin)
    _check_together(cfg)
    cfg.freeze()
    return cfg, notes


def _entries(file: str) -> list[tuple[str, Any, str]]:
    """(SECTION.KEY, value, file) for each key in a YAML file."""
    content = read_yaml(file)
    if content is None:
        return []
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UserError(f"{file}: expected sections with keys in them, such as MODEL: {{LR: 2.5e-4}}")
    return [(f"{section}.{name}", value, file) for section, keys in content.items() for name, value in keys.items()]


def _similar(name: str, keys: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, list(keys), 1) or difflib.get_close_matches(name.upper(), list(keys), 1)
    return f"; did you mean {close[0]}?" if close else "; docs/configuration.md lists them all"


def parse_value(key: Key, given: Any, origin: str) -> Any:
    """Convert a value to the type of the key's default and check it.

    Args:
        key: the key.
        given: what the user wrote: a string, or from a file also a list of strings, or None for nothing.
        origin: where it was given, for messages.

    Raises:
        UserError: the value is of the wrong type or not allowed.
    """
    several = isinstance(key.default, list)
    kind = type(key.default)
    if several:
        kind = type(key.default[0]) if key.default else HOLDS.get(key.name, int)
    try:
        value = values.listed(kind, given) if several else values.single(kind, given)
    except ValueError:
        word = {bool: "True or False", int: "a whole number", float: "a number", str: "text",
                list: "a list of whole numbers"}[kind]
        expected = f"a list, each item {word}" if several else word
        raise UserError(f"{key.name} = {values.written(given)} in {origin}: expected {expected}") from None
    if not key.rule.test(value):
        raise UserError(f"{key.name} = {values.written(given)} in {origin}: expected {key.rule.allowed}")
    return value


def _check_together(cfg: CfgNode) -> None:
    """Checks that involve several keys."""
    data, model = cfg.DATASET, cfg.MODEL
    _check_sources(cfg.TRAIN.TASK, cfg)
    if data.SCALE_FROM > data.SCALE_TO:
        raise UserError(f"DATASET.SCALE_FROM = {data.SCALE_FROM} is larger than DATASET.SCALE_TO = {data.SCALE_TO}")
    if model.RUN_CONF_LOWER > model.RUN_CONF_UPPER:
        raise UserError(
            f"MODEL.RUN_CONF_LOWER = {model.RUN_CONF_LOWER} is larger than "
            f"MODEL.RUN_CONF_UPPER = {model.RUN_CONF_UPPER}"
        )
    if (model.ARCH == TIMM) != (model.ENCODER != ""):
        raise UserError(f"MODEL.ARCH = {model.ARCH}, MODEL.ENCODER = {model.ENCODER!r}: MODEL.ARCH {TIMM} needs "
                        "an encoder, and vice versa")
    if model.ARCH != TIMM and (model.PATCH_SIZE or model.DROP_PATH):
        raise UserError(f"MODEL.PATCH_SIZE and MODEL.DROP_PATH need MODEL.ARCH {TIMM}, not {model.ARCH}")
    if model.LAYER_DECAY != 1 and (model.ARCH != TIMM or model.OPT != "AdamW"):
        raise UserError(f"MODEL.LAYER_DECAY = {model.LAYER_DECAY} needs MODEL.ARCH {TIMM} and MODEL.OPT AdamW")
    if cfg.TRAIN.CHECKPOINT and cfg.TRAIN.COMPILE:
        raise UserError("TRAIN.CHECKPOINT and TRAIN.COMPILE cannot be combined: choose one of them")
    if model.ARCH == "fcn_vgg16_bn" and any(side % 32 for side in data.CROP_SIZE):
        raise UserError(f"DATASET.CROP_SIZE = {data.CROP_SIZE}: fcn_vgg16_bn needs sides divisible by 32")
    if model.OPT_NESTEROV and (model.OPT != "SGD" or model.MOMENTUM == 0):
        raise UserError("MODEL.OPT_NESTEROV needs MODEL.OPT SGD and a MODEL.MOMENTUM above 0")
    if cfg.VAL.SELECT and cfg.VAL.LISTS and cfg.VAL.SELECT not in cfg.VAL.LISTS:
        raise UserError(f"VAL.SELECT = {cfg.VAL.SELECT} is not one of VAL.LISTS = {cfg.VAL.LISTS}")


def _check_sources(lists: list[str], cfg: CfgNode) -> None:
    """Check the keys that have an entry for each source list."""
    if len(set(lists)) < len(lists):
        raise UserError(f"TRAIN.TASK = {lists}: a list is named twice; for a larger share, use TRAIN.TASK_SHARES")
    for name in ("TASK_SHARES", "TASK_IGNORE"):
        given = cfg.TRAIN[name]
        if given and len(given) != len(lists):
            raise UserError(f"TRAIN.{name} = {given}: expected {len(lists)}, one for each list of TRAIN.TASK = "
                            f"{lists}, or [] for none")
    for name in ("SOURCE_MEAN", "SOURCE_STD") if cfg.DATASET.RENORM_SOURCE else ():
        given = cfg.DATASET[name]
        if len(given) != 3 * len(lists):
            raise UserError(f"DATASET.{name} has {len(given)} numbers: expected {3 * len(lists)}, 3 for each list of "
                            f"TRAIN.TASK = {lists} (tools/dataset_stats.py measures them), or DATASET.RENORM_SOURCE "
                            "False")


def network_options(cfg: CfgNode) -> dict[str, Any]:
    """What `models.build` needs besides the network's name."""
    model = cfg.MODEL
    if model.ARCH != TIMM:
        return {}
    return {"encoder": model.ENCODER, "patch_size": model.PATCH_SIZE, "drop_path": model.DROP_PATH}


def check_classes(cfg: CfgNode, num_classes: int) -> None:
    """UserError if ignored classes are not in the label set, or if no classes are left."""
    ignored = [("VAL.IGNORE_CLASS", list(cfg.VAL.IGNORE_CLASS), "so there is no mIoU")]
    ignored += [("TRAIN.TASK_IGNORE", given, "so there is nothing to learn") for given in cfg.TRAIN.TASK_IGNORE]
    for name, given, so in ignored:
        if len(set(given)) >= num_classes:
            raise UserError(f"{name} = {given}: all {num_classes} classes are ignored, {so}; leave some")
        if any(c >= num_classes for c in given):
            raise UserError(f"{name} = {given}: the label set has the classes 0 to {num_classes - 1}")
