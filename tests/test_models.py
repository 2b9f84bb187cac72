"""The networks: shapes, modes, dropout by seed, new layers."""

import pytest
import torch
from torch import Tensor, nn

from models import NETWORKS, build
from models.deeplabv2 import DILATIONS
from models.fcn import dropout_masks
from models.sac import freeze_batchnorm


@pytest.fixture(scope="module", params=sorted(set(NETWORKS) - {"stub", "plain"}))
def network(request: pytest.FixtureRequest) -> nn.Module:
    """Each network for 5 classes, in evaluation mode, with biases and means unlike the initial ones."""
    torch.manual_seed(0)
    network = build(request.param, 5).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1)
    return network


fcn = pytest.mark.parametrize("network", ["fcn_vgg16_bn"], indirect=True)
small = pytest.mark.parametrize("network", ["deeplabv2_resnet18"], indirect=True)


def images(batch: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch + height + width)
    return torch.randn(batch, 3, height, width, generator=generator)


@torch.no_grad()
def test_any_number_of_classes_and_batched_is_single(network: nn.Module) -> None:
    x = images(3, 64, 96)
    logits = network(x)
    assert logits.shape[:2] == (3, 5)
    singles = torch.cat([network(image[None]) for image in x])
    torch.testing.assert_close(logits, singles, rtol=0, atol=5e-5 * logits.std().item())
    assert logits.std() > 0 and not torch.allclose(logits[0], logits[1])


@torch.no_grad()
def test_channels_last_gives_the_same_logits(network: nn.Module) -> None:
    x = images(2, 64, 96)
    logits = network(x)
    last = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    network.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(last, logits, rtol=0, atol=1e-4 * logits.std().item())


@small
@torch.no_grad()
@pytest.mark.parametrize("height, width", [(64, 128), (65, 129), (61, 70), (15, 33), (7, 8), (97, 54)])
def test_resnet_takes_any_size(network: nn.Module, height: int, width: int) -> None:
    expected = (1, 5, (height + 1) // 8 + 1, (width + 1) // 8 + 1)
    assert network(images(1, height, width)).shape == expected
    assert network.multiple_of == 1


@pytest.mark.parametrize("network", ["deeplabv2_resnet18", "deeplabv2_resnet10"], indirect=True)
def test_small_resnets_have_their_strides_and_dilations(network: nn.Module) -> None:
    body = network.model
    assert body.maxpool.ceil_mode
    assert [body.layer2[0].conv1.stride, body.layer2[0].conv2.stride] == [(2, 2), (1, 1)]
    for layer, dilation in ((body.layer1, 1), (body.layer2, 1), (body.layer3, 2), (body.layer4, 4)):
        for block in layer:
            for conv in (block.conv1, block.conv2):
                assert conv.dilation == conv.padding == (dilation, dilation)
    for layer in (body.layer3, body.layer4):
        assert {m.stride for m in layer.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


@torch.no_grad()
def test_deeplabs_ignore_seeds() -> None:
    network = build("deeplabv2_resnet18", 4)
    freeze_batchnorm(network)
    x = images(2, 33, 40)
    assert torch.equal(network(x, torch.tensor([1, 2])), network(x))


@fcn
@torch.no_grad()
def test_fcn_refuses_other_sizes(network: nn.Module) -> None:
    assert network.multiple_of == 32
    assert network(images(1, 32, 64)).shape == (1, 5, 4, 8)
    with pytest.raises(ValueError, match="33x64"):
        network(images(1, 33, 64))
    with pytest.raises(ValueError, match="64x48"):
        network(images(1, 64, 48))


@fcn
@torch.no_grad()
def test_fcn_dropout_is_on_with_seeds_only(network: nn.Module) -> None:
    """Whatever the training mode, which here means BatchNorm."""
    x, seeds = images(1, 32, 32), torch.tensor([3])
    plain, dropped = network(x), network(x, seeds)
    assert not torch.equal(plain, dropped)
    network.train()
    freeze_batchnorm(network)
    assert torch.equal(network(x), plain)
    assert torch.equal(network(x, seeds), dropped)
    network.eval()


@fcn
@torch.no_grad()
def test_fcn_dropout_depends_on_the_image_s_seed_alone(network: nn.Module) -> None:
    x, seeds = images(3, 64, 64), torch.tensor([11, 5, 7])
    together = network(x, seeds)
    apart = torch.cat([network(x[i : i + 1], seeds[i : i + 1]) for i in (2, 0, 1)])[[1, 2, 0]]
    tolerance = 5e-5 * together.std().item()
    torch.testing.assert_close(together, apart, rtol=0, atol=tolerance)
    other = network(x, torch.tensor([11, 6, 7]))
    torch.testing.assert_close(other[[0, 2]], together[[0, 2]], rtol=0, atol=tolerance)
    assert (other[1] - together[1]).abs().max() > 100 * tolerance


@fcn
@torch.no_grad()
def test_fcn_dropout_drops_channels_and_rescales(network: nn.Module) -> None:
    seen = []
    hook = network.vgg_head[4].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = images(2, 32, 64)
    network(x)
    network(x, torch.tensor([1, 2]))
    hook.remove()
    plain, dropped = seen  # [2,4096,1,2]
    keep = dropout_masks(torch.tensor([1, 2]), 2, 4096, 0.1)[0]
    torch.testing.assert_close(dropped, plain * keep / 0.9)
    assert (plain > 0).any(dim=(2, 3)).float().mean() > 0.1


@fcn
def test_fcn_wants_one_seed_for_each_image(network: nn.Module) -> None:
    with pytest.raises(ValueError, match="2 images"):
        network(images(2, 32, 32), torch.tensor([1]))


def test_dropout_masks() -> None:
    seeds = torch.tensor([0, 1, 2**32, -1, 1])
    masks = dropout_masks(seeds, 2, 4096, 0.1)
    assert masks.shape == (2, 5, 4096, 1, 1) and masks.dtype == torch.bool
    shares = 1 - masks.float().mean(dim=(2, 3, 4))
    assert ((shares - 0.1).abs() < 0.02).all()  # four standard deviations
    assert torch.equal(masks[:, 1], masks[:, 4])
    distinct = {masks[layer, image].numpy().tobytes() for layer in range(2) for image in range(5)}
    assert len(distinct) == 8  # every seed, bits above the 32nd too, and each of both layers
    assert dropout_masks(seeds, 1, 10, 0.0).all()


def test_freezing_batchnorm_touches_nothing_else(network: nn.Module) -> None:
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    network.train()
    freeze_batchnorm(network)
    frozen = [m for m in network.modules() if not m.training]
    assert frozen == norms and len(norms) in (12, 20, 104, 13, 15)
    network.eval()


def test_freezing_batchnorm_knows_the_synchronised_kind() -> None:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(build("deeplabv2_resnet18", 2))
    freeze_batchnorm(network)
    assert {type(m) for m in network.modules() if not m.training} == {nn.SyncBatchNorm}
    assert [type(m).__name__ for m in network.new_modules()] == ["Head"]


def test_random_weights_of_new_layers(network: nn.Module) -> None:
    """Four-branch heads and FCN's scores are N(0, 0.01), fc6, fc7 and FCN's head torch's default."""
    for name, module in network.named_modules():
        new = any(module is m for n in network.new_modules() for m in n.modules())
        if not new or not isinstance(module, nn.Conv2d):
            continue
        weight = module.weight
        if "conv2d_list" in name or "score" in name:
            assert weight.std().item() == pytest.approx(0.01, rel=0.1) and weight.abs().max() > 0.025
        else:
            bound = weight[0].numel() ** -0.5
            assert 0.99 * bound < weight.abs().max() <= bound
    heads = [m for m in network.modules() if hasattr(m, "conv2d_list")]
    assert all([c.dilation[0] for c in head.conv2d_list] == list(DILATIONS) for head in heads)
