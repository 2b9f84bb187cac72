"""Published weights of timm's encoders: read under their names, embeddings resized, what is left out said aloud."""

import logging
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from core.cli import UserError
from models import build

timm = pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is missing (requirements-encoders.txt)")

VIT = "test_vit"


def published(name: str, **options: int) -> dict[str, Tensor]:
    """As timm has published them, but for the values."""
    torch.manual_seed(7)
    return {key: torch.rand_like(x) if x.is_floating_point() else x
            for key, x in timm.create_model(name, **options).state_dict().items()}


def write(path: Path, weights: dict[str, Tensor]) -> str:
    if path.suffix == ".safetensors":
        safetensors.save_file({name: x.contiguous() for name, x in weights.items()}, path)
    else:
        torch.save(weights, path)
    return str(path)


@pytest.mark.parametrize("name, left_out", [
    (VIT, "head.weight, head.bias"), ("test_resnet", "fc.weight, fc.bias"), ("test_convnext",
    "head.norm.weight, head.norm.bias, head.fc.weight, head.fc.bias"),
    ("test_efficientnet", "conv_head.weight, bn2.weight, bn2.bias, bn2.running_mean, bn2.running_var, "
     "bn2.num_batches_tracked, classifier.weight, classifier.bias"),
])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_body_is_read_and_the_rest_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, left_out: str, suffix: str
) -> None:
    weights = published(name)
    path = write(tmp_path / f"weights{suffix}", weights)
    with caplog.at_level(logging.INFO, logger="sac"):
        network = build("timm", 3, path, encoder=name)
    for key, tensor in network.imagenet_tensors().items():
        assert torch.equal(tensor, weights[key]), key
    begin, end = f"{name}: {path}; left out: ", "; new: head"
    assert caplog.messages[0].startswith(begin) and caplog.messages[0].endswith(end)
    assert set(caplog.messages[0][len(begin) : -len(end)].split(", ")) == set(left_out.split(", "))


def test_embeddings_of_another_size_are_resized_and_this_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = published(VIT, img_size=96)
    path = write(tmp_path / "small.pth", small)
    with caplog.at_level(logging.INFO, logger="sac"):
        tensors = build("timm", 3, path, encoder=VIT).imagenet_tensors()
    assert "resized: pos_embed; new: head" in caplog.messages[0]
    tokens = tensors["pos_embed"].shape[1] - 100
    assert tensors["pos_embed"].shape[1] != small["pos_embed"].shape[1]
    assert torch.equal(tensors["pos_embed"][:, :tokens], small["pos_embed"][:, :tokens])
    assert torch.equal(tensors["blocks.0.attn.qkv.weight"], small["blocks.0.attn.qkv.weight"])
    with caplog.at_level(logging.INFO, logger="sac"):
        build("timm", 3, write(tmp_path / "other.pth", published(VIT)), encoder=VIT, patch_size=8)
    assert "resized: pos_embed, patch_embed.proj.weight" in caplog.messages[1]


def test_what_its_authors_have_published(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Names that timm knows how to read: DINOv2's with its mask token, within a dictionary of more."""
    name = "vit_small_patch14_dinov2"
    weights = {**published(name), "mask_token": torch.zeros(1, 384)}
    path = write(tmp_path / "dinov2.pth", {"model": weights})
    with caplog.at_level(logging.INFO, logger="sac"):
        network = build("timm", 3, path, encoder=name)
    assert f"{name}: {path}; left out: mask_token; new: head" in caplog.messages
    assert all(torch.equal(x, weights[key]) for key, x in network.imagenet_tensors().items())


@pytest.mark.parametrize("kind, said", [
    ("lacks", f"does not hold the ImageNet weights of {VIT}: it has no blocks.1.norm2.bias"),
    ("other", f"does not hold the ImageNet weights of {VIT}"),
    ("cut", "is damaged"),
    ("gone", f"`python tools/download.py encoder {VIT}` fetches it"),
])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_files_are_refused_in_one_line(tmp_path: Path, kind: str, said: str, suffix: str) -> None:
    path, weights = tmp_path / f"weights{suffix}", published("test_resnet" if kind == "other" else VIT)
    if kind == "lacks":
        del weights["blocks.1.norm2.bias"]
    write(path, weights)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    if kind == "gone":
        path.unlink()
    with pytest.raises(UserError, match=f"weights{suffix}.*{said}") as caught:
        build("timm", 3, str(path), encoder=VIT)
    assert "\n" not in str(caught.value)


def test_without_safetensors_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "weights.safetensors", published(VIT))
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="needs the package safetensors: pip install -r requirements-encoders.txt"):
        build("timm", 3, path, encoder=VIT)
