"""The networks against the published method's names, orders and outputs (golden c07)."""

import copy
import math
import zlib

import pytest
import torch
import torch.nn.functional as F
from golden_data import Golden
from torch import Tensor, nn

from core.optim import build_optimiser, parameter_groups
from models import NETWORKS, build

ARRAYS = Golden("c07_forward")
FORWARD = ARRAYS.json
GROUPS = Golden("c07_parameter_groups").json
KEYS = Golden("c07_state_dict_keys").json
CHECKPOINT = Golden("c07_checkpoint_keys").json
PUBLISHED = list(KEYS)
# Of the logits' standard deviation. The ResNet with the golden weights as they are has logits of 4e5 and a
# float32 noise of 4e-6, in the golden outputs and in ours each: twice as much for it.
TOLERANCE = 1e-5
NOISY = "deeplabv2_resnet101"


def rule(name: str, shape: torch.Size) -> Tensor:
    """The golden weights: a function of a tensor's name and shape."""
    r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if len(shape) == 4:
        return r * math.sqrt(2 / math.prod(shape[1:]))
    if name.endswith("running_var"):
        return 1 + 0.1 * r.abs()
    return 1 + 0.1 * r if name.endswith("weight") else 0.1 * r


@pytest.fixture(scope="module", params=PUBLISHED)
def golden(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """The name of a published network and the network with the golden weights, in evaluation mode."""
    network = build(request.param, 19).eval()
    for name, tensor in network.state_dict().items():
        tensor.copy_(rule(name, tensor.shape))
    return request.param, network


def signature(state: dict[str, Tensor], prefix: str = "") -> list[list]:
    return [[prefix + key, list(x.shape), str(x.dtype).removeprefix("torch.")] for key, x in state.items()]


def gaussian(shape: list[int], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at stride 8, and upsampled to the input's size."""
    logits = network(x)
    return logits, F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=True)


def source_loss(up: Tensor, label: Tensor) -> float:
    return F.cross_entropy(up, label.long(), ignore_index=255, reduction="none").mean().item()


def assert_close(ours: Tensor, theirs: Tensor, scale: float) -> None:
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max().item() <= TOLERANCE * scale


def test_every_published_network_has_a_constructor() -> None:
    assert set(PUBLISHED) == set(NETWORKS) - {"deeplabv2_resnet10", "deeplabv2_resnet18", "stub", "plain"}


def test_state_dict_is_the_published_one(golden: tuple[str, nn.Module]) -> None:
    name, network = golden
    assert signature(network.state_dict()) == KEYS[name]["state_dict"]
    assert sum(p.numel() for p in network.parameters()) == KEYS[name]["n_parameters"]
    student = nn.ModuleDict({"backbone": network}).state_dict()
    assert signature(student, "module.") == CHECKPOINT[name]["SAC_Baseline"]["state_dict_keys"]


def test_weights_are_the_rule_s(golden: tuple[str, nn.Module]) -> None:
    name, network = golden
    state = network.state_dict()
    for key, check in FORWARD[name]["param_check"].items():
        assert state[key].flatten()[:3].tolist() == pytest.approx(check["first"], rel=1e-6)
        assert state[key].double().sum().item() == pytest.approx(check["sum"], rel=1e-6, abs=1e-6)


def test_parameter_groups(golden: tuple[str, nn.Module]) -> None:
    name, network = golden
    names = {id(parameter): key for key, parameter in network.named_parameters()}
    groups = parameter_groups(network, 3e-4, 5e-4)
    assert len(groups) == len(GROUPS[name]["groups"]) == 4
    for ours, theirs in zip(groups, GROUPS[name]["groups"], strict=True):
        assert [names[id(p)] for p in ours["params"]] == theirs["names_in_optimizer_order"]
        assert ours["lr"] == pytest.approx(3e-4 * theirs["lr_mult"], rel=1e-12)
        assert ours["weight_decay"] == theirs["weight_decay"]


def test_optimiser_numbers_the_parameters_as_published(golden: tuple[str, nn.Module]) -> None:
    name, network = golden
    student = nn.ModuleDict({"backbone": network})
    names = {id(parameter): key for key, parameter in student.named_parameters()}
    optimiser = build_optimiser(network, "SGD", 3e-4, 0.9, False, 5e-4)
    order = [names[id(p)] for group in optimiser.param_groups for p in group["params"]]
    assert order == CHECKPOINT[name]["optimizer_state_index_to_name"]
    numbers = [group["params"] for group in optimiser.state_dict()["param_groups"]]
    assert [len(group) for group in numbers] == CHECKPOINT[name]["SAC"]["optimizer_param_count_per_group"]
    assert sum(numbers, []) == list(range(len(order)))


def test_outputs(golden: tuple[str, nn.Module]) -> None:
    """The logits' summary and the loss; every value where the arrays are stored (not the FCN's)."""
    name, network = golden
    facts = FORWARD[name]
    x = gaussian(facts["input_shape"], facts["input_seed"])
    logits, up = outputs(network, x)
    scale = facts["logits_std"] * (2 if name == NOISY else 1)
    assert list(logits.shape) == facts["logits_shape"] and list(up.shape) == facts["logits_up_shape"]
    summary = [logits.mean().item(), logits.std().item(), logits.abs().max().item()]
    expected = [facts["logits_mean"], facts["logits_std"], facts["logits_absmax"]]
    assert summary == pytest.approx(expected, rel=0, abs=TOLERANCE * scale)
    # The golden labels: uniform from seed 71, the first five rows ignored.
    label = torch.randint(0, 19, (1, *x.shape[2:]), generator=torch.Generator().manual_seed(71))
    label[:, :5] = 255
    assert source_loss(up, label) == pytest.approx(facts["loss_ce"], rel=TOLERANCE)
    if f"{name}/logits" in ARRAYS:
        assert torch.equal(x, ARRAYS[f"{name}/input"])
        assert torch.equal(label, ARRAYS[f"{name}/label"].long())
        assert_close(logits, ARRAYS[f"{name}/logits"], scale)
        assert_close(up[..., ::4, ::4], ARRAYS[f"{name}/logits_up_stride4"], scale)
        assert torch.equal(up.argmax(1), ARRAYS[f"{name}/logits_up_argmax"].long())


@pytest.mark.parametrize("golden", ["deeplabv2_resnet101"], indirect=True)
def test_resnet_outputs_with_small_residuals(golden: tuple[str, nn.Module]) -> None:
    """Every `bn3.weight` x 0.2, for logits of an ordinary size; only the even sides show the ceil mode."""
    name, network = golden[0], copy.deepcopy(golden[1])
    for key, tensor in network.state_dict().items():
        if key.endswith("bn3.weight"):
            tensor.mul_(0.2)
    facts, even = FORWARD[name]["variant_bn3x0.2"], FORWARD[name]["even_size_case"]
    case = f"{name}_bn3x0.2"
    logits, up = outputs(network, ARRAYS[f"{name}/input"])
    assert_close(logits, ARRAYS[f"{case}/logits"], facts["logits_std"])
    assert_close(up[..., ::4, ::4], ARRAYS[f"{case}/logits_up_stride4"], facts["logits_std"])
    assert source_loss(up, ARRAYS[f"{name}/label"]) == pytest.approx(facts["loss_ce"], rel=TOLERANCE)
    logits, up = outputs(network, gaussian(even["input_shape"], even["input_seed"]))
    assert list(logits.shape) == even["logits_shape"]
    assert_close(logits, ARRAYS[f"{case}_even/logits"], facts["logits_std"])
    assert_close(up[..., ::4, ::4], ARRAYS[f"{case}_even/logits_up_stride4"], facts["logits_std"])


@pytest.mark.parametrize("golden", ["deeplabv2_vgg16_bn"], indirect=True)
def test_vgg_logits_of_even_sides(golden: tuple[str, nn.Module]) -> None:
    name, network = golden
    even = FORWARD[name]["even_size_case"]
    logits, _ = outputs(network, gaussian(even["input_shape"], even["input_seed"]))
    assert list(logits.shape) == even["logits_shape"]
