"""timm's encoders: every one passes the same identities, with random weights and small images."""

import copy

import batches
import pytest
import torch
import torch.nn.functional as F
from shallow_encoders import shallow
from torch import Tensor, nn

from core.cli import UserError
from core.compute import Compute, Images
from core.optim import build_optimiser
from core.steps import BaselineStep, SACStep
from models import build, has_batchnorm, synchronised
from models.consistency import upsample
from models.resampling import bicubic, linear, stride_8
from models.sac import freeze_batchnorm
from models.timm_encoder import TESTED, choose
from tools import export

timm = pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")

CLASSES, SIZE = 5, (32, 64)
NORMED = {"tf_efficientnet_lite0", "resnet50"}  # with BatchNorm


@pytest.fixture(scope="module", params=TESTED)
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Each of them, for 5 classes."""
    torch.manual_seed(0)
    network = build("timm", CLASSES, encoder=request.param)
    network.name = request.param
    return network


@pytest.fixture(scope="module", params=TESTED)
def small(request: pytest.FixtureRequest) -> nn.Module:
    """Each of them with fewer blocks."""
    return shallow(request.param, CLASSES)


def images(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(height + width))


@torch.no_grad()
def test_any_size_and_batched_is_single(network: nn.Module) -> None:
    network.eval()
    x = images(2, 75, 101)
    logits = network(x)
    assert logits.shape == (2, CLASSES, 75 // 8 + 1, 101 // 8 + 1) and network.multiple_of == 1
    torch.testing.assert_close(logits[1:], network(x[1:]), rtol=0, atol=1e-4 * logits.std().item())
    assert not torch.allclose(logits[0], logits[1])
    for height, width in ((8, 9), (64, 33)):
        assert network(images(1, height, width)).shape == (1, CLASSES, height // 8 + 1, width // 8 + 1)


@torch.no_grad()
def test_what_is_padded_is_cut_off_again(network: nn.Module) -> None:
    """The image padded by hand up to the patches gives the same features, looked at in the same places."""
    network.eval()
    x, patch = images(1, 61, 83), network.patch
    height, width = -(-61 // patch) * patch, -(-83 // patch) * patch
    padded = F.pad(x, (0, width - 83, 0, height - 61))
    encoder = network.encoder
    maps = encoder(padded)
    assert [m.shape[2:] for m in maps] == [(height // s, width // s) for s in encoder.strides]
    torch.testing.assert_close(network(x), network.head(maps, encoder.strides, (61, 83)))


def test_names_are_the_published_ones(network: nn.Module) -> None:
    published = timm.create_model(network.name).state_dict()
    body = network.imagenet_tensors()
    assert set(body) <= set(published) and len(body) >= len(published) - 8
    taken, left_out = network.published(published, "")
    assert left_out == [] and all(taken[name] is published[name] for name in body)
    own = {f"encoder.model.{name}" for name in body} | {f"head.{name}" for name in network.head.state_dict()}
    assert set(network.state_dict()) == own
    assert network.new_modules() == [network.head] and not has_batchnorm(network.head)
    assert has_batchnorm(network) == (network.name in NORMED)


def baseline(network: nn.Module) -> BaselineStep:
    student = copy.deepcopy(network)
    return BaselineStep(student, build_optimiser(student, "SGD", 1e-3, 0.9, False, 0.0), Compute(batches.CPU, False))


def test_baseline_trains_every_parameter_and_adapts_batchnorm_alone(small: nn.Module) -> None:
    step, target = baseline(small), Images(images(2, *SIZE), 2)
    values = step(batches.source(2, SIZE, CLASSES), target, 0)
    assert torch.isfinite(values["loss_ce"])
    assert all(parameter.grad is not None for parameter in step.student.parameters())
    other = baseline(small)
    other(batches.source(2, SIZE, CLASSES), target._replace(image=target.image + 1), 0)
    ours, theirs = step.student.state_dict(), other.student.state_dict()
    moved = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert all("running" in name for name in moved)
    assert bool(moved) == step.adapts == (small.name in NORMED)


def sac(network: nn.Module, micro_batch: int) -> SACStep:
    student, teacher = copy.deepcopy(network), copy.deepcopy(network)
    return batches.sac_step(student, teacher, CLASSES, 2, micro_batch=micro_batch, lr=1e-4)


def test_micro_batches_of_sac_are_the_whole_batch(small: nn.Module) -> None:
    whole, parts = sac(small, 0), sac(small, 1)
    ours, theirs = (step(batches.source(2, SIZE, CLASSES), batches.views(1, 2, SIZE), 0) for step in (whole, parts))
    assert ours["kept"] > 0.1 and ours["self_ce"] > 0
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-6)
    others = dict(parts.student.named_parameters())
    for name, parameter in whole.student.named_parameters():
        tolerance = 1e-4 * parameter.grad.abs().max().item() + 1e-7
        torch.testing.assert_close(others[name].grad, parameter.grad, rtol=0, atol=tolerance, msg=name)
    names = set(whole.network.state_dict())
    assert names == {f"{net}.{name}" for net in ("backbone", "slow_net") for name in small.state_dict()} | {
        "running_conf", "slow_init"}


def test_a_process_without_images_gives_a_gradient_of_zero(small: nn.Module) -> None:
    small.eval()
    logits = small(images(1, *SIZE)[:0])
    assert logits.shape == (0, CLASSES, 5, 9)
    small.zero_grad()
    logits.mean().mul(0).backward()
    assert all(p.grad is None or not p.grad.any() for p in small.parameters())


def test_paths_are_dropped_by_seed(small: nn.Module) -> None:
    """Which ones depends on the image's seed alone, as dropout's channels do in FCN-8s."""
    dropping = shallow(small.name, CLASSES, drop_path=0.9)  # the blocks before the last have less
    dropping.load_state_dict(small.state_dict())
    small.eval()
    freeze_batchnorm(dropping.train())
    x, seeds = images(2, *SIZE), torch.tensor([5, 6])
    with torch.no_grad():
        plain, dropped = dropping(x), dropping(x, seeds)
        assert torch.equal(plain, small(x)) and not torch.allclose(plain, dropped)
        single = torch.cat([dropping(x[i : i + 1], seeds[i : i + 1]) for i in (0, 1)])
        torch.testing.assert_close(dropped, single, rtol=0, atol=1e-4 * dropped.std().item())
        assert torch.equal(dropping(x), plain)


def test_onnx_gives_the_same_at_three_sizes(small: nn.Module) -> None:
    pytest.importorskip("onnxruntime")
    if small.name == "vit_small_patch14_dinov2" and torch.__version__ < "2.7":
        pytest.skip("torch 2.6 computes this encoder's position embeddings in double, which ONNX Runtime does not")
    whole = export.Upsampled(small).eval()
    content = export.to_onnx(whole).SerializeToString()
    for same, error in export.compare(whole, content):
        assert same >= export.AGREE and error <= export.TOLERANCE


def test_rotations_for_onnx_are_timm_s() -> None:
    rope = shallow("vit_small_patch16_dinov3", CLASSES).encoder.model.rope
    for shape in ((4, 8), (16, 16), (7, 3), (1, 2)):
        torch.testing.assert_close(export.rotations(rope, shape), rope.get_embed(shape))


def test_what_the_head_looks_at() -> None:
    assert choose([2, 4, 8, 16, 32]) == [1, 2, 3, 4]
    assert choose([4, 8, 16, 16, 32]) == [0, 1, 3, 4]
    assert choose([16] * 12) == [2, 5, 8, 11] and choose([14] * 24) == [5, 11, 17, 23]
    assert choose([16] * 6) == [0, 2, 3, 5] and choose([16, 16]) == [0, 1] and choose([16]) == [0]


@pytest.mark.parametrize("m, n", [(36, 37), (74, 37), (5, 37), (37, 37), (3, 1), (1, 4)])
def test_embeddings_are_resized_as_by_torch(m: int, n: int) -> None:
    x = torch.randn(2, 3, n, 9)
    theirs = F.interpolate(x, (m, 4), mode="bicubic", antialias=True)
    ours = bicubic(m, n, x.device) @ x @ bicubic(4, 9, x.device).T
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("side, stride", [(64, 14), (61, 16), (97, 4), (250, 8), (8, 14), (128, 32)])
def test_pixels_stay_where_they_are(side: int, stride: int) -> None:
    """A ramp of colours, averaged over patches and brought back to the image's size, is the ramp again."""
    n = -(-side // stride)
    ramp = torch.arange(n * stride, dtype=torch.float)
    means = ramp.view(n, stride).mean(dim=1)
    logits = stride_8(side, stride, n, means.device) @ means
    assert len(logits) == side // 8 + 1
    back = upsample(logits.view(1, 1, -1, 1), (side, 1)).flatten()
    positions = ramp[:side].clamp((stride - 1) / 2, n * stride - (stride + 1) / 2)  # no feature lies beyond
    grid = torch.linspace(0, side - 1, len(logits))
    inner = (grid >= (stride - 1) / 2) & (grid <= n * stride - (stride + 1) / 2)
    torch.testing.assert_close(logits[inner], grid[inner], rtol=1e-4, atol=1e-3)
    assert (back - positions).abs().max() <= 8  # between logits that lie within and beyond the features
    assert linear(torch.tensor([-1.0, 0.25, 9.0]), 3).tolist() == [[1, 0, 0], [0.75, 0.25, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"encoder": "resnet5"}, r"'resnet5': timm [\d.]+ has no such model; did you mean resnet50"),
        ({"encoder": "hf_hub:timm/resnet50"}, "has no such model"),
        ({"encoder": "mixer_s16_224"}, "'mixer_s16_224' cannot be used: Input height"),
        ({"encoder": "hiera_tiny_224"}, "it does not return feature maps"),
        ({"encoder": "test_resnet", "patch_size": 8}, r"it has no patches \(MODEL.PATCH_SIZE\)"),
        ({"encoder": "vgg11", "drop_path": 0.1}, r"it has no stochastic depth \(MODEL.DROP_PATH\)"),
    ],
)
def test_an_encoder_that_cannot_serve_is_one_line_with_those_that_can(options: dict, said: str) -> None:
    with pytest.raises(UserError, match=f"MODEL.ENCODER = .*{said}") as caught:
        build("timm", CLASSES, **options)
    assert "\n" not in str(caught.value) and all(name in str(caught.value) for name in TESTED)


def test_patches_of_another_size() -> None:
    network = build("timm", CLASSES, encoder="test_vit", patch_size=8)
    assert network.encoder.strides == [8] * 4 and network.eval()(images(1, 20, 30)).shape == (1, CLASSES, 3, 4)


def test_synchronised_batchnorm_keeps_its_activation() -> None:
    network = build("timm", CLASSES, encoder="test_efficientnet")
    names = list(network.state_dict())
    converted = synchronised(network)
    kinds = [m for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert kinds and all(isinstance(m, nn.SyncBatchNorm) for m in kinds) and list(converted.state_dict()) == names
    assert any(isinstance(m.act, nn.SiLU) for m in kinds)
