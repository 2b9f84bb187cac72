"""What newer encoders are trained with, off by default: groups, rates, ramp, clipping, scaled losses, recomputation."""

import copy
from pathlib import Path

import batches
import pytest
import torch
from runs import Stub
from torch import Tensor, nn

import models.fcn
from core import config
from core.cli import UserError
from core.compute import Compute, Images
from core.optim import POWER, Rates, adamw_groups, build_optimiser
from core.recompute import blocks, recompute
from core.steps import BaselineStep, SACStep
from models import build

ROOT = Path(__file__).parents[1]
CLASSES, SIZE = 5, (32, 64)


def adamw(network: nn.Module, **options: float) -> dict[str, tuple[float, float]]:
    """(rate / lr, decay) of every parameter."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = adamw_groups(network, 1.0, 0.5, **options)
    assert sorted(names[id(p)] for g in groups for p in g["params"]) == sorted(names.values())
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_adamw_lets_weights_alone_decay() -> None:
    network = build("deeplabv2_resnet18", CLASSES)
    for name, (rate, decay) in adamw(network).items():
        assert rate == (10 if "layer5" in name else 1)
        convolution = name.endswith("weight") and dict(network.named_parameters())[name].ndim == 4
        assert decay == (0.5 if convolution else 0.0), name
    optimiser = build_optimiser(network, "AdamW", 1e-4, 0.9, False, 0.01)
    assert type(optimiser) is torch.optim.AdamW and {g["betas"] for g in optimiser.param_groups} == {(0.9, 0.999)}


@pytest.mark.parametrize("encoder, still", [
    ("vit_small_patch14_dinov2", ["pos_embed", "cls_token", "blocks.3.ls1.gamma", "norm.weight"]),
    ("swinv2_tiny_window8_256", ["layers.0.blocks.0.attn.logit_scale", "layers.1.blocks.0.attn.cpb_mlp.0.weight"]),
    ("test_vit", ["pos_embed", "cls_token", "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias"]),
])
def test_tokens_embeddings_and_scales_do_not_decay(encoder: str, still: list[str]) -> None:
    pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
    groups = adamw(build("timm", CLASSES, encoder=encoder))
    moving = {name for name, (_, decay) in groups.items() if decay}
    assert moving.isdisjoint({f"encoder.model.{name}" for name in still}) and "head.classifier.weight" in moving
    assert any(".mlp.fc1.weight" in name for name in moving)


def test_layer_decay_counts_back_from_the_last_layer() -> None:
    pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
    network = build("timm", CLASSES, encoder="vit_small_patch14_dinov2")
    rates = {name.removeprefix("encoder.model."): rate for name, (rate, _) in adamw(network, layer_decay=0.5).items()}
    assert rates["norm.weight"] == 1 and rates["head.classifier.weight"] == rates["head.laterals.0.bias"] == 10
    assert [rates[f"blocks.{i}.mlp.fc1.weight"] for i in (11, 10, 0)] == [1, 0.5, 0.5**11]
    assert rates["pos_embed"] == rates["patch_embed.proj.weight"] == 0.5**12


def rates(schedule: str, warmup: int, total: int) -> list[float]:
    optimiser = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.5, 5.0)])
    course, found = Rates(optimiser, schedule, warmup, total), []
    for done in reversed(range(total)):  # in any order: they have no memory
        course(done)
        first, second = (group["lr"] for group in optimiser.param_groups)
        assert second == 10 * first
        found.append(2 * first)
    return found[::-1]


def test_rates() -> None:
    assert rates("constant", 0, 9) == [1.0] * 9
    assert rates("constant", 3, 6) == [0.25, 0.5, 0.75, 1, 1, 1]
    assert rates("poly", 0, 4) == pytest.approx([1, 0.75**POWER, 0.5**POWER, 0.25**POWER])
    assert rates("poly", 2, 4) == pytest.approx([1 / 3, 2 / 3, 1, 0.5**POWER])
    assert rates("poly", 9, 4) == pytest.approx([0.1, 0.2, 0.3, 0.4])


def sac(clip: float = 0.0, float16: bool = False, ramp: int = 0) -> SACStep:
    torch.manual_seed(0)
    net = Stub(CLASSES)
    step = batches.sac_step(net, copy.deepcopy(net), CLASSES, 2, ramp=ramp, lr=1e-2)
    step.clip, step.compute = clip, Compute(batches.CPU, False, float16=float16)
    return step


def gradients(step: SACStep, done: int = 0) -> Tensor:
    step(batches.source(2, SIZE, CLASSES), batches.views(1, 2, SIZE), 0, done)
    return torch.cat([parameter.grad.flatten() for parameter in step.student.parameters()])


def test_the_target_s_loss_rises_over_its_ramp() -> None:
    full = gradients(sac())
    none, half, whole, after = (gradients(sac(ramp=10), done) for done in (0, 5, 10, 99))
    assert torch.equal(whole, full) and torch.equal(after, full) and not torch.allclose(none, full)
    torch.testing.assert_close(half, (none + full) / 2)
    step = sac()
    step.constants = step.constants.__class__(**{**step.constants.__dict__, "lr_target": 0.0})
    torch.testing.assert_close(none, gradients(step))


def test_gradients_are_clipped_together() -> None:
    full = gradients(sac())
    clipped = gradients(sac(clip=0.1))
    assert full.norm() > 0.2 and clipped.norm() == pytest.approx(0.1, rel=1e-4)
    torch.testing.assert_close(clipped, full * (0.1 / full.norm()))
    assert torch.equal(gradients(sac(clip=100.0)), full)


def test_float16_scales_the_losses_and_leaves_out_what_overflows() -> None:
    plain, scaled = sac(), sac(float16=True)
    expected = gradients(plain)
    torch.testing.assert_close(gradients(scaled), expected, rtol=0.05, atol=0.02 * expected.abs().max().item())
    before = copy.deepcopy(scaled.student.state_dict())
    scale = scaled.compute.scaler.get_scale()
    broken = batches.source(2, SIZE, CLASSES)
    scaled.student.conv1.weight.register_hook(lambda gradient: gradient * float("inf"))
    scaled(broken, batches.views(1, 2, SIZE), 1)
    assert all(torch.equal(before[name], x) for name, x in scaled.student.state_dict().items())
    assert scaled.compute.scaler.get_scale() == scale / 2
    assert scaled.compute.precision == "float16" and plain.compute.state() == {}


def test_the_scaler_is_kept_and_taken_over(tmp_path: object) -> None:
    first, second = (Compute(batches.CPU, False, float16=True) for _ in range(2))
    first.scaler.load_state_dict({**first.scaler.state_dict(), "scale": 1024.0, "_growth_tracker": 7})
    second.restore(first.state(), "last.pth")
    assert second.state() == first.state() and second.state()["scaler"]["scale"] == 1024.0
    Compute(batches.CPU, False).restore(first.state(), "last.pth")
    second.restore({}, "last.pth")  # begun in another precision
    for wrong in (None, {}, {**first.state()["scaler"], "scale": "many"}):
        with pytest.raises(UserError, match="last.pth is damaged: its entry 'scaler' is invalid"):
            second.restore({"scaler": wrong}, "last.pth")


NETWORKS = [("deeplabv2_resnet18", ""), ("fcn_vgg16_bn", ""), ("timm", "test_efficientnet"), ("timm", "test_vit"),
            ("timm", "test_convnext")]


@pytest.mark.parametrize("name, encoder", NETWORKS)
def test_recomputed_gradients_and_statistics_are_the_same(
    name: str, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if encoder:
        pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
    monkeypatch.setattr(models.fcn, "HIDDEN", 16)
    torch.manual_seed(0)
    whole = build(name, CLASSES, **({"encoder": encoder, "drop_path": 0.2} if encoder else {}))
    parts = copy.deepcopy(whole)
    recompute(parts)
    assert list(parts.state_dict()) == list(whole.state_dict())
    results = []
    for network in (whole, parts):
        optimiser = build_optimiser(network, "SGD", 1e-3, 0.9, False, 0.0)
        step = BaselineStep(network, optimiser, Compute(batches.CPU, False, micro_batch=2))
        step(batches.source(4, SIZE, CLASSES), Images(torch.randn(2, 3, *SIZE, generator=generator()), 2), 0)
        results.append({**network.state_dict(), **{f"{n} grad": p.grad for n, p in network.named_parameters()}})
    for key, tensor in results[0].items():
        assert torch.equal(tensor, results[1][key]), key
    assert bytes_kept(parts) < 0.7 * bytes_kept(whole)


def bytes_kept(network: nn.Module) -> int:
    """What a forward pass keeps for the backward pass, without the parameters themselves."""
    own, kept = {parameter.data_ptr() for parameter in network.parameters()}, []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        network(torch.randn(2, 3, *SIZE))
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in kept}
    return sum(size for pointer, size in storages.items() if pointer not in own)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_blocks_are_the_innermost_ones() -> None:
    network = build("deeplabv2_resnet18", CLASSES)
    assert [type(block).__name__ for block in blocks(network)] == ["BasicBlock"] * 8
    with pytest.raises(UserError, match="TRAIN.CHECKPOINT: Stub has no blocks"):
        recompute(Stub(CLASSES))


@pytest.mark.parametrize("pairs, said", [
    (("MODEL.LAYER_DECAY", "0.9"), "MODEL.LAYER_DECAY = 0.9 needs MODEL.ARCH timm and MODEL.OPT AdamW"),
    (("MODEL.LAYER_DECAY", "0.9", "MODEL.OPT", "AdamW"), "needs MODEL.ARCH timm"),
    (("TRAIN.CHECKPOINT", "True", "TRAIN.COMPILE", "True"), "cannot be combined"),
    (("MODEL.ARCH", "timm"), "MODEL.ARCH timm needs an encoder, and vice versa"),
    (("MODEL.ENCODER", "resnet50"), "MODEL.ARCH timm needs an encoder, and vice versa"),
    (("MODEL.DROP_PATH", "0.1"), "need MODEL.ARCH timm, not deeplabv2_resnet101"),
    (("MODEL.SCHEDULE", "cosine"), "constant | poly"),
    (("MODEL.OPT_NESTEROV", "True", "MODEL.OPT", "AdamW"), "needs MODEL.OPT SGD"),
])
def test_keys_that_do_not_fit_together(tmp_path: Path, pairs: tuple[str, ...], said: str) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UserError) as caught:
        config.load(str(tmp_path / "empty.yaml"), pairs)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("network", ["dinov2b", "convnext", "lite0"])
def test_a_pair_of_configurations_fits_together(network: str) -> None:
    """SAC starts from the baseline's snapshot: the same network, and epochs that are left."""
    abn, sac = (config.load(str(ROOT / f"configs/{network}_timm{kind}.yaml"))[0] for kind in ("", "_train"))
    assert abn.MODEL.BASELINE and not sac.MODEL.BASELINE and sac.TRAIN.NUM_EPOCHS > abn.TRAIN.NUM_EPOCHS
    for section, key in [("MODEL", "ARCH"), ("MODEL", "ENCODER"), ("MODEL", "PATCH_SIZE"), ("DATASET", "MEAN"),
                         ("DATASET", "STD"), ("MODEL", "OPT"), ("MODEL", "LAYER_DECAY")]:
        assert abn[section][key] == sac[section][key], key
    timm = pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
    entry = timm.get_pretrained_cfg(abn.MODEL.ENCODER)
    file = f"models/pretrained/{entry.architecture}.{entry.tag}.safetensors"
    assert abn.MODEL.INIT_MODEL == sac.MODEL.INIT_MODEL == file  # as tools/download.py names it
    assert (tuple(abn.DATASET.MEAN), tuple(abn.DATASET.STD)) == (entry.mean, entry.std)
