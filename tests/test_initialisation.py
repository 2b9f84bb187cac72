"""Initialisation: random weights, ImageNet's files, and what is refused."""

import logging
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from core.cli import UserError
from models import build
from models.deeplabv2 import vgg16_bn_features


def test_the_seed_fixes_random_weights() -> None:
    for name in ("deeplabv2_resnet18", "deeplabv2_vgg16_bn"):
        states = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            states.append(build(name, 3).state_dict())
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        weights = [key for key, x in states[0].items() if x.dim() == 4]
        assert not any(torch.equal(states[0][key], states[2][key]) for key in weights)


def test_random_vgg_features_are_torchvision_s() -> None:
    torch.manual_seed(3)
    features = vgg16_bn_features()
    with torch.device("meta"):
        theirs = torchvision.models.vgg16_bn(weights=None).features
    assert str(features) == str(theirs)
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            std = (2 / (9 * layer.out_channels)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
            assert not layer.bias.any()
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all() and (layer.running_var == 1).all()
            assert not (layer.bias.any() or layer.running_mean.any() or layer.num_batches_tracked)


def test_build_names_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match=r"'resnet50'.*deeplabv2_resnet18, .*fcn_vgg16_bn"):
        build("resnet50", 19)


@pytest.fixture(scope="module")
def resnet18_weights() -> dict[str, Tensor]:
    """As torchvision's own files of 2017: without num_batches_tracked."""
    torch.manual_seed(9)
    state = torchvision.models.resnet18(weights=None).state_dict()
    state["bn1.running_mean"].normal_()
    return {name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("zipped", [True, False])
def test_init_loads_imagenet_s_body(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, resnet18_weights: dict[str, Tensor], zipped: bool
) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(resnet18_weights, path, _use_new_zipfile_serialization=zipped)
    with caplog.at_level(logging.INFO, logger="sac"):
        state = build("deeplabv2_resnet18", 3, str(path)).state_dict()
    line = f"deeplabv2_resnet18: {path}; left out: fc.weight, fc.bias; new: model.layer5"
    assert caplog.messages == [line]
    for name, tensor in resnet18_weights.items():
        assert name.startswith("fc.") or torch.equal(state[f"model.{name}"], tensor)
    assert state["model.bn1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    "name, new",
    [
        ("deeplabv2_vgg16_bn", "features.42, features.44, classifier"),
        ("fcn_vgg16_bn", "vgg_head, score_pool4, score_pool3"),
    ],
)
def test_init_loads_vgg_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, new: str
) -> None:
    """Whether the names move up behind pool4 or keep torchvision's index, the layers' order is the same."""
    path = tmp_path / "vgg16_bn.pth"
    body = vgg16_bn_features().state_dict()
    weights = {f"features.{key}": torch.rand_like(x.float()) for key, x in body.items()}
    torch.save({**weights, "classifier.0.weight": torch.zeros(2, 2)}, path)
    with caplog.at_level(logging.INFO, logger="sac"):
        network = build(name, 3, str(path))
    assert caplog.messages == [f"{name}: {path}; left out: classifier.0.weight; new: {new}"]
    ours = list(network.state_dict().values())[: len(weights)]
    theirs = [x.to(our.dtype) for x, our in zip(weights.values(), ours, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def spoil(weights: dict[str, Tensor], kind: str) -> object:
    """Files that are not a network's ImageNet weights."""
    if kind == "lacks":
        return {name: x for name, x in weights.items() if name != "layer3.1.bn2.weight"}
    if kind == "shape":
        return {**weights, "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}
    return [1, 2] if kind == "list" else {"state_dict": weights}


@pytest.mark.parametrize(
    "kind, message",
    [
        ("lacks", "deeplabv2_resnet18: it has no layer3.1.bn2.weight"),
        ("shape", r"deeplabv2_resnet18: layer1.0.conv1.weight is \[64, 64, 1, 1\], not \[64, 64, 3, 3\]"),
        ("list", "dictionary of tensors"),
        ("nested", "dictionary of tensors"),
    ],
)
def test_init_refuses_other_files(
    tmp_path: Path, resnet18_weights: dict[str, Tensor], kind: str, message: str
) -> None:
    path = tmp_path / "other.pth"
    torch.save(spoil(resnet18_weights, kind), path)
    with pytest.raises(UserError, match=message) as caught:
        build("deeplabv2_resnet18", 3, str(path))
    assert str(path) in str(caught.value)


def test_init_of_another_network_is_refused(tmp_path: Path, resnet18_weights: dict[str, Tensor]) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(resnet18_weights, path)
    for name in ("deeplabv2_resnet101", "deeplabv2_vgg16_bn", "fcn_vgg16_bn"):
        with pytest.raises(UserError, match=f"resnet18.pth does not hold the ImageNet weights of {name}"):
            build(name, 3, str(path))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04", None])
def test_init_that_cannot_be_read(
    tmp_path: Path, resnet18_weights: dict[str, Tensor], content: bytes | None
) -> None:
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save(resnet18_weights, path)
        content = path.read_bytes()[:100_000]
    path.write_bytes(content)
    with pytest.raises(UserError, match="weights.pth is damaged"):
        build("deeplabv2_resnet18", 3, str(path))


def test_init_runs_no_code_of_the_file(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "touched",)

    torch.save({"conv1.weight": Touch()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="evil.pth"):
        build("deeplabv2_resnet18", 3, str(tmp_path / "evil.pth"))
    assert not (tmp_path / "touched").exists()


def test_missing_init_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pth.*bash tools/download_imagenet\.sh"):
        build("deeplabv2_resnet18", 19, str(tmp_path / "nowhere.pth"))


def test_without_timm_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match="needs the package timm: pip install -r requirements-encoders.txt"):
        build("timm", 3, encoder="resnet50")
    build("deeplabv2_resnet18", 3)
