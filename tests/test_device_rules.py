"""What a GPU demands, tested without one: no mix of devices, no needless waits, no more memory than is said.

The steps, the validation and the inference run on a pretended device (tests/devices.py).
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from devices import DEVICE, Watch, pretend
from torch import Tensor
from torch.nn import functional as F

import models.fcn
from core import build, config
from core.compute import Compute
from core.inference import Predictor
from core.validation import Validation
from datasets import labels
from datasets.iterations import Iteration
from datasets.source import ImageBatch, SourceBatch
from datasets.target import TargetBatch
from models.consistency import confidence

ROOT = Path(__file__).parents[1]
NETWORKS = ("deeplabv2_resnet101", "deeplabv2_resnet18", "deeplabv2_vgg16_bn", "fcn_vgg16_bn")
SIZE, CLASSES = (64, 96), 19


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    monkeypatch.setattr(models.fcn, "HIDDEN", 16)
    watch = Watch()
    pretend(monkeypatch, watch)
    yield watch


def configuration(arch: str, baseline: bool, *pairs: str) -> config.CfgNode:
    file = "deeplabv2_resnet101.yaml" if baseline else "deeplabv2_resnet101_train.yaml"
    return config.load(str(ROOT / "configs" / file), ["MODEL.ARCH", arch, "MODEL.INIT_MODEL", "", *pairs])[0]


def made(cfg: config.CfgNode) -> object:
    """A step whose networks have no numbers."""
    with torch.device(DEVICE):
        return build.step(cfg, Compute(DEVICE, False, cfg.TRAIN.MICRO_BATCH), CLASSES, "")


def images(n: int, size: tuple[int, int]) -> ImageBatch:
    image, padding = torch.zeros(n, *size, 3, dtype=torch.uint8), torch.zeros(n, *size, dtype=torch.bool)
    return ImageBatch(image, padding, torch.zeros(n, dtype=torch.int64))


def labelled(n: int, size: tuple[int, int]) -> SourceBatch:
    batch = images(n, size)
    return SourceBatch(batch.image, torch.zeros(n, *size, dtype=torch.uint8), *batch[1:])


def iteration(cfg: config.CfgNode) -> Iteration:
    """What the loader gives."""
    size, groups, source = tuple(cfg.DATASET.CROP_SIZE), cfg.TRAIN.NUM_GROUPS, None
    if not cfg.TRAIN.TARGET_ONLY:
        source = labelled(cfg.TRAIN.BATCH_SIZE, size)
    if cfg.MODEL.BASELINE:
        return Iteration(source, images(groups, size), [])
    views = images(groups * cfg.TRAIN.GROUP_SIZE, size)
    maps = torch.zeros(2, len(views.image), 2, 3)
    return Iteration(source, TargetBatch(views.image, views.image, views.padding, *maps, views.index), [])


def run(cfg: config.CfgNode, watch: Watch, step: object, number: int) -> dict[str, Tensor]:
    values = step(*build.inputs(cfg, DEVICE, 0)(iteration(cfg), 0, number), number)
    assert all(x.device == DEVICE and not x.requires_grad and x.is_floating_point() for x in values.values())
    return values


SMALL = "DATASET.CROP_SIZE 64,96 TRAIN.BATCH_SIZE 2 TRAIN.NUM_GROUPS 1 TRAIN.GROUP_SIZE 2".split()
KINDS = ("", "MODEL.BASELINE True", "TRAIN.TARGET_ONLY True TRAIN.MICRO_BATCH 1 TRAIN.NUM_GROUPS 2",
         "MODEL.CONF_POOL minentropy_pool MODEL.LOSS focal_ce_conf MODEL.OPT Adam",
         "MODEL.CONF_POOL_ON False MODEL.LOSS focal_ce MODEL.CONF_DISCOUNT False")
CASES = [(arch, kind) for arch in NETWORKS for kind in KINDS[:2]] + [("deeplabv2_resnet18", kind) for kind in KINDS[2:]]


@pytest.mark.parametrize("arch, kind", CASES)
def test_a_step_mixes_no_devices_and_waits_for_none(arch: str, kind: str, watch: Watch) -> None:
    """The teacher's update alone asks the device for a number, whether there is a teacher yet."""
    baseline = kind == "MODEL.BASELINE True"
    cfg = configuration(arch, baseline, *SMALL, *kind.split())
    step, updates = made(cfg), 0
    with watch:
        for number, begun in ((0, 0.0), (1, 1.0), (100, 1.0)):  # the first update, none, a later one
            watch.number = begun
            updates += "teacher_diff" in run(cfg, watch, step, number)
    assert updates == (0 if baseline else 2)
    assert watch.waits == ({} if baseline else {("update_teacher", "a number"): 2})
    assert all(p.grad is not None and p.grad.device == DEVICE for p in step.student.parameters())
    assert len(watch.operations) > 30


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda x: torch.tensor(0.5, device=x.device) * x, "a copy to the device"),
        (lambda x: torch.ones(3).to(x.device) * x, "a copy to the device"),
        (lambda x: x * float(x.sum()), "a number"),
        (lambda x: x * (2 if x.sum() > 0 else 1), "a number"),
        (lambda x: x.tolist(), "a copy from the device"),
        (lambda x: x.cpu(), "a copy from the device"),
    ],
)
def test_waits_are_noticed(change: object, said: str, watch: Watch) -> None:
    with watch:
        change(torch.zeros(3, device=DEVICE))
    assert len(watch.waits) == 1 and said in next(iter(watch.waits))[1]


def test_mixes_are_noticed(watch: Watch) -> None:
    with watch, pytest.raises(AssertionError, match="mixes devices"):
        torch.zeros(3, device=DEVICE) + torch.zeros(3)
    with watch:
        torch.zeros(3, device=DEVICE) + torch.zeros(())  # a single number may come from the CPU


@pytest.mark.parametrize("views", [False, True])
def test_validation_waits_for_counts_and_pictures_alone(views: bool, watch: Watch) -> None:
    cfg = configuration("deeplabv2_resnet18", False, *SMALL)
    step, batches = made(cfg), [labelled(3, SIZE) for _ in range(6)]
    items = [(iteration(cfg).target, torch.zeros(2, *SIZE, dtype=torch.uint8)) for _ in range(6)]
    data = SimpleNamespace(validation=lambda name: batches, target_views=lambda epoch: items, target_list="t",
                           target_labelled=True, crop_size=SIZE, val_crop=True)
    log = SimpleNamespace(active=False, record=lambda entry: None, scalars=lambda *a: None, say=lambda text: None)
    inputs = build.inputs(cfg, DEVICE, 0)
    validation = Validation(data, labels.load("cityscapes"), [], inputs, log, (8, 8), lambda error: 0)
    position = {"epoch": 1, "iter": 1}
    with watch:
        if views:
            validation.target(step, position)
        else:
            validation.validate(step, "x", position)
    per_batch = {what: n for (_, what), n in watch.waits.items() if what == "bincount"}
    assert per_batch == {"bincount": 24 if views else 6}  # teacher, fused, pseudo labels, kept
    others = {who for who, what in watch.waits if what != "bincount"}
    assert others <= {"_colour", "_outcomes", "target"}  # pictures, the table at the end, a picture's heat
    pictures = sum(n for (who, _), n in watch.waits.items() if who in ("_colour", "target"))
    assert pictures <= (4 * 6 if views else 4)


@pytest.mark.parametrize(
    "arch, scales, flip, window, probabilities",
    [*((arch, (1.0,), False, None, False) for arch in NETWORKS),
     ("deeplabv2_resnet18", (0.75, 1.25), True, None, False), ("deeplabv2_resnet18", (1.0,), False, (32, 64), True)],
)
def test_inference_waits_for_its_image_alone(
    arch: str, scales: tuple[float, ...], flip: bool, window: tuple[int, int] | None, probabilities: bool, watch: Watch
) -> None:
    network = models.build(arch, CLASSES).to(DEVICE).eval()
    predict = Predictor(network, Compute(DEVICE, False), (0.5,) * 3, (0.2,) * 3, scales, flip, window)
    with watch:
        ids, _ = predict(torch.zeros(70, 100, 3, dtype=torch.uint8), probabilities)
    assert ids.shape == (70, 100) and ids.device == DEVICE and ids.dtype == torch.uint8
    assert watch.waits == {("__call__", "a copy to the device"): 1}


def test_the_published_setting_fits_where_the_docs_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/reproduction.md: SAC with ResNet-101 in 11 GB with TRAIN.MICRO_BATCH 2; 1 GB of it is CUDA's own."""
    watch = Watch()
    pretend(monkeypatch, watch)
    cfg = configuration("deeplabv2_resnet101", False, "TRAIN.MICRO_BATCH", "2")
    step = made(cfg)
    with watch:
        watch.count([*step.network.parameters(), *step.network.buffers()])
        for parameter in step.student.parameters():
            parameter.grad = torch.zeros_like(parameter)
        step.optimiser.step()  # the momentum
        run(cfg, watch, step, 1)
    assert 6e9 < watch.peak < 10e9


# What torch.use_deterministic_algorithms refuses on CUDA, after its page, by the operations' own names. Bilinear
# upsampling, cross-entropies and scatter_reduce, which it names too, are looked at below.
REFUSED = {
    "aten.avg_pool3d_backward", "aten._adaptive_avg_pool2d_backward", "aten._adaptive_avg_pool3d_backward",
    "aten.adaptive_max_pool2d_backward", "aten.adaptive_max_pool3d_backward", "aten.fractional_max_pool2d_backward",
    "aten.fractional_max_pool3d_backward", "aten.max_unpool2d", "aten.max_unpool3d",
    "aten.upsample_linear1d_backward", "aten.upsample_bicubic2d_backward", "aten.upsample_trilinear3d_backward",
    "aten._upsample_bilinear2d_aa_backward", "aten.reflection_pad1d_backward", "aten.reflection_pad2d_backward",
    "aten.reflection_pad3d_backward", "aten.replication_pad2d_backward", "aten.nll_loss_forward",
    "aten._ctc_loss_backward", "aten._embedding_bag", "aten.put_", "aten.put", "aten.histc", "aten.bincount",
    "aten.median", "aten.grid_sampler_2d_backward", "aten.grid_sampler_3d_backward", "aten.kthvalue", "aten.cumsum",
}


@pytest.mark.parametrize("baseline", [False, True])
@pytest.mark.parametrize("arch", NETWORKS)
def test_deterministic_mode_knows_every_operation(
    arch: str, baseline: bool, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = configuration(arch, baseline, *SMALL)
    step = made(cfg)
    reductions, original = [], Tensor.scatter_reduce
    monkeypatch.setattr(Tensor, "scatter_reduce", lambda *args: reductions.append(args[4]) or original(*args))
    with watch:
        run(cfg, watch, step, 1)
    used = {name.rsplit(".", 1)[0] for name in watch.operations}
    assert not used & REFUSED
    # Since some version torch's page refuses every scatter_reduce on CUDA; up to 2.11 it names products alone, as the
    # kernels do. A maximum is the same in any order.
    assert set(reductions) == (set() if baseline else {"amax"})
    assert ("aten.scatter_reduce" in used) != baseline
    # Bilinear upsampling: F.interpolate takes another way in deterministic mode, where gradients are needed.
    assert "are_deterministic_algorithms_enabled" in F.interpolate.__code__.co_names
    assert "_decomp" in str(F.interpolate.__code__.co_consts)
    # A cross-entropy of pixels is refused where it is summed up: reduction 0 is none.
    assert any("nll_loss2d" in name for name in used)


def test_losses_are_not_summed_by_the_cross_entropy(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    reductions, original = [], F.cross_entropy

    def cross_entropy(*args: object, **kwargs: object) -> Tensor:
        reductions.append(kwargs["reduction"])
        return original(*args, **kwargs)

    monkeypatch.setattr(F, "cross_entropy", cross_entropy)
    cfg = configuration("deeplabv2_resnet18", False, *SMALL)
    step = made(cfg)
    with watch:
        run(cfg, watch, step, 1)
    assert len(reductions) == 2 and set(reductions) == {"none"}


@pytest.mark.parametrize("baseline", [False, True])
def test_statistics_and_metrics_are_float32_under_autocast(baseline: bool) -> None:
    """On the CPU, whose autocast is real."""
    torch.manual_seed(0)
    cfg = configuration("deeplabv2_resnet18", baseline, *SMALL, "DATASET.CROP_SIZE", "32,32")
    cpu = torch.device("cpu")
    step = build.step(cfg, Compute(cpu, bfloat16=True, micro_batch=2), CLASSES, "")
    before = step.student.model.bn1.running_mean.clone()
    values = step(*build.inputs(cfg, cpu, 0)(iteration(cfg), 0, 0), 0)
    assert {x.dtype for x in values.values()} == {torch.float32}
    state = [*step.network.parameters(), *step.network.buffers()]
    assert {x.dtype for x in state if x.is_floating_point()} == {torch.float32}
    assert torch.equal(before, step.student.model.bn1.running_mean) != baseline
    momentum = [s["momentum_buffer"] for s in step.optimiser.state.values()]
    assert momentum and {x.dtype for x in momentum} == {torch.float32}
    logits = step.compute.logits(step.student.eval(), torch.zeros(1, 3, *SIZE))
    assert logits.dtype == confidence(logits)[0].dtype == torch.float32


def test_a_list_without_a_known_class_has_no_miou() -> None:
    """In metrics.jsonl it is null: NaN is not JSON."""
    cfg, said = configuration("stub", False, *SMALL), []
    cpu = torch.device("cpu")
    unlabelled = labelled(2, SIZE)._replace(label=torch.full((2, *SIZE), 255, dtype=torch.uint8))
    data = SimpleNamespace(validation=lambda name: [unlabelled], crop_size=SIZE, val_crop=True)
    log = SimpleNamespace(active=False, record=said.append, scalars=lambda *a: None, say=said.append)
    validation = Validation(data, labels.load("cityscapes"), [], build.inputs(cfg, cpu, 0), log, (8, 8), lambda e: 0)
    step = build.step(cfg, Compute(cpu, False), CLASSES, "")
    assert math.isnan(validation.validate(step, "x", {"epoch": 1, "iter": 1}))
    entry, line = said
    assert '"miou": null' in json.dumps(entry, allow_nan=False) and "no class that counts occurs" in line
