"""tools/export.py: what ONNX Runtime makes of the file, at sizes and batches that were not traced."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from core import checkpoint
from core.cli import UserError
from core.compute import Compute
from core.inference import Predictor
from models import build
from models.sac import SAC
from tools import export

ROOT = Path(__file__).parents[1]
NAMES = ["a", "b", "c", "d", "e"]
SHAPES = ((1, 3, 64, 128), (2, 3, 97, 161), (1, 3, 40, 33))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a label set of five classes; FCN-8s gets a small head."""
    monkeypatch.setattr("models.fcn.HIDDEN", 32)
    colours = [[i, i, i] for i in range(5)]
    (tmp_path / "classes.yaml").write_text(json.dumps({"names": NAMES, "colours": colours}))
    return tmp_path


def snapshot(folder: Path, arch: str) -> tuple[Path, nn.Module, nn.Module]:
    """A snapshot of SAC, its student and its teacher."""
    student, teacher = build(arch, 5).eval(), build(arch, 5).eval()
    sac = SAC(student, teacher, 5)
    sac.slow_init.fill_(1)
    model = {checkpoint.PREFIX + k: v for k, v in sac.state_dict().items()}
    torch.save({"model": model, "opt": {}, "epoch": 1, "score": 0.0}, folder / "sac.pth")
    return folder / "sac.pth", student, teacher


Call = Callable[..., str]


@pytest.fixture
def call(small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Call:
    """Call the tool; returns what it prints."""

    def run(arch: str, *options: object) -> str:
        (small / "cfg.yaml").write_text(json.dumps(
            {"MODEL": {"ARCH": arch}, "DATASET": {"CLASSES": str(small / "classes.yaml"), "MEAN": [0.4, 0.5, 0.6]}}
        ))  # fmt: skip
        fixed = ["--cfg", small / "cfg.yaml", "--resume", small / "sac.pth", "--out", small / "net.onnx"]
        monkeypatch.setattr(sys, "argv", ["export.py", *map(str, [*fixed, *options])])
        export.main()
        return capsys.readouterr().out

    return run


def logits(path: Path, image: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": image.numpy()})[0]


@torch.no_grad()
def written_out(network: nn.Module, image: torch.Tensor) -> np.ndarray:
    """Logits at the image's size; the FCN's padding at the right and the bottom."""
    height, width = image.shape[2:]
    padded = F.pad(image, (0, -width % network.multiple_of, 0, -height % network.multiple_of))
    up = F.interpolate(network(padded), size=padded.shape[2:], mode="bilinear", align_corners=True)
    return up[:, :, :height, :width].numpy()


@pytest.mark.parametrize("arch", ["deeplabv2_resnet18", "fcn_vgg16_bn"])
def test_the_file_computes_what_the_network_does(call: Call, small: Path, arch: str) -> None:
    _, student, _ = snapshot(small, arch)
    shown = call(arch)
    assert shown.count("of the pixels have the same class") == 3 and "input image [batch,3,height,width]" in shown
    for shape in SHAPES:
        image = torch.randn(shape)
        ours, theirs = written_out(student, image), logits(small / "net.onnx", image)
        assert ours.shape == theirs.shape == (shape[0], 5, *shape[2:])
        assert np.abs(ours - theirs).max() < 1e-3 and (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.999
        assert theirs.std() > 0.01  # else nothing would have been compared


def test_the_file_gives_the_masks_of_infer_val(call: Call, small: Path) -> None:
    _, student, _ = snapshot(small, "deeplabv2_resnet18")
    call("deeplabv2_resnet18")
    about = {p.key: p.value for p in onnx.load(small / "net.onnx").metadata_props}
    mean, std = (torch.tensor(json.loads(about[key])) for key in ("mean", "std"))
    image = torch.randint(0, 256, (50, 70, 3), dtype=torch.uint8)
    x = ((image / 255 - mean) / std).permute(2, 0, 1)[None].contiguous()
    ids = Predictor(student, Compute(torch.device("cpu"), False), mean.tolist(), std.tolist())(image)[0]
    assert (logits(small / "net.onnx", x).argmax(1)[0] == ids.numpy()).mean() >= 0.999


def test_description(call: Call, small: Path) -> None:
    snapshot(small, "deeplabv2_resnet18")
    call("deeplabv2_resnet18")
    model = onnx.load(small / "net.onnx")
    about = {p.key: p.value for p in model.metadata_props}
    assert json.loads(about["classes"]) == NAMES and json.loads(about["mean"]) == [0.4, 0.5, 0.6]
    assert about["network"] == "deeplabv2_resnet18" and about["weights"].startswith("student of ")
    (image,), (output,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] for x in (image, output)]
    assert shapes == [["batch", 3, "height", "width"], ["batch", 5, "height", "width"]]


def test_teacher(call: Call, small: Path) -> None:
    _, student, teacher = snapshot(small, "deeplabv2_resnet18")
    call("deeplabv2_resnet18", "--teacher")
    image = torch.randn(SHAPES[0])
    theirs = logits(small / "net.onnx", image)
    assert np.abs(written_out(teacher, image) - theirs).max() < 1e-3
    assert np.abs(written_out(student, image) - theirs).max() > 0.1


def test_an_existing_file_is_kept(call: Call, small: Path) -> None:
    snapshot(small, "deeplabv2_resnet18")
    (small / "net.onnx").write_bytes(b"mine")
    with pytest.raises(UserError, match="--force"):
        call("deeplabv2_resnet18")
    assert (small / "net.onnx").read_bytes() == b"mine"
    call("deeplabv2_resnet18", "--force")
    assert (small / "net.onnx").stat().st_size > 1e6
    before = (small / "sac.pth").read_bytes()
    with pytest.raises(UserError, match="would be replaced"):
        call("deeplabv2_resnet18", "--out", small / "sac.pth", "--force")
    assert (small / "sac.pth").read_bytes() == before


def test_a_network_that_comes_out_different_is_not_written(
    call: Call, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot(small, "deeplabv2_resnet18")
    exported = export.to_onnx

    def other(network: nn.Module) -> onnx.ModelProto:
        for parameter in network.parameters():
            parameter.data *= 1.01
        model = exported(network)
        for parameter in network.parameters():
            parameter.data /= 1.01
        return model

    monkeypatch.setattr(export, "to_onnx", other)
    with pytest.raises(UserError, match="differs from PyTorch"):
        call("deeplabv2_resnet18")
    assert not (small / "net.onnx").exists()


def test_mistakes(call: Call, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="does not exist"):
        call("deeplabv2_resnet18")
    snapshot(small, "deeplabv2_resnet18")
    with pytest.raises(UserError, match="does not fit"):
        call("deeplabv2_vgg16_bn")
    monkeypatch.setattr(export, "MISSING", "No module named 'onnxruntime'")
    with pytest.raises(UserError, match="pip install onnx onnxruntime"):
        call("deeplabv2_resnet18")
    assert not (small / "net.onnx").exists()


def test_help_needs_no_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(sys, "argv", ["export", "--help"])
    with pytest.raises(SystemExit, match="0"):
        export.main()


class Odd(nn.Module):
    """What ONNX has no word for; or has one for that knows one size alone."""

    multiple_of = 1

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.fixed = fixed

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.zeros(*map(int, x.shape[2:])) if self.fixed else torch.linalg.pinv(x)


def test_what_onnx_does_not_know_is_one_line() -> None:
    with pytest.raises(UserError, match="this network cannot be exported to ONNX: .*linalg_pinv") as caught:
        export.to_onnx(Odd(fixed=False))
    assert "\n" not in str(caught.value)
    network = Odd(fixed=True)
    content = export.to_onnx(network).SerializeToString()
    with pytest.raises(UserError, match=r"ONNX Runtime does not accept images of \(2, 3, 97, 161\)") as caught:
        export.compare(network, content)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="ONNX Runtime does not accept this network"):
        export.compare(network, content[:-50])


def test_safetensors_hold_the_weights_bit_for_bit_and_a_card(call: Call, small: Path) -> None:
    from safetensors.torch import load_file

    _, student, _ = snapshot(small, "deeplabv2_resnet18")
    out = small / "net.safetensors"
    assert "fill in its licence line" in call("deeplabv2_resnet18", "--safetensors", "--out", out)
    found, expected = load_file(out), student.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    card = (small / "net.md").read_text()
    assert "Licence: (" in card and "| 4 | e | 4, 4, 4 |" in card and "ARCH: deeplabv2_resnet18" in card
