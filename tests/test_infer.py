"""infer_val.py: every option, on images that the tests write, against a forward pass written out here."""

import hashlib
import io
import json
import shutil
import sys
import threading
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_data import Golden
from PIL import Image
from test_golden_networks import rule
from torch import Tensor, nn

import infer_val
from core import checkpoint, visual
from core.cli import UserError
from core.compute import Compute
from core.inference import Predictor, _starts, load_network
from core.outputs import MADE_BY
from datasets import labels, lists, sampling
from models import build
from models.sac import SAC
from tools import compute_image_weights, evaluate
from tools.batch.masks import of_masks

ROOT = Path(__file__).parents[1]
ARCH = "deeplabv2_resnet18"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = Compute(torch.device("cpu"), False)
SIZES = {"a_leftImg8bit.png": (40, 60), "b.jpg": (33, 65), "c.bmp": (64, 64), "grey.png": (48, 32)}


def network(seed: int, classes: int = 19) -> nn.Module:
    """Random weights whose masks have many classes."""
    torch.manual_seed(seed)
    net = build(ARCH, classes)
    for conv in net.model.layer5.conv2d_list:
        nn.init.normal_(conv.weight, 0, 0.1)
    return net.eval()


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Snapshots: of SAC, whose teacher is another network; of a baseline; with no teacher yet."""
    folder = tmp_path_factory.mktemp("snapshots")
    sac = SAC(network(0), network(1), 19)
    paths = {}
    for name, module in (("fresh", sac), ("base", nn.ModuleDict({"backbone": sac.backbone})), ("sac", sac)):
        if name == "sac":
            sac.slow_init.fill_(1)
        model = {checkpoint.PREFIX + key: value for key, value in module.state_dict().items()}
        paths[name] = str(folder / f"{name}.pth")
        torch.save({"model": model, "opt": {}, "epoch": 3, "score": 0.5}, paths[name])
    return paths


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes and formats, two of them in a folder below, and a list of three."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    (root / "more").mkdir()
    for name, size in SIZES.items():
        noise = rng.integers(0, 256, (max(1, size[0] // 8), max(1, size[1] // 8), 3), np.uint8)
        image = cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)
        path = root / "more" / name if name in ("b.jpg", "c.bmp") else root / name
        cv2.imwrite(str(path), image[..., 0] if name.startswith("grey") else image)
    (root / "list.txt").write_text("/a_leftImg8bit.png labels/none.png\n\nmore/b.jpg\ngrey.png\n")
    (root / "empty").mkdir()
    settings = {"MODEL": {"ARCH": ARCH}, "TRAIN": {"DEVICE": "cpu"}, "DATASET": {"ROOT": str(root)}}
    (root / "cfg.yaml").write_text(json.dumps(settings))
    return root


Infer = Callable[..., Path]


@pytest.fixture
def infer(
    pictures: Path, snapshots: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Infer:
    """Call the command with these options; returns the output folder."""

    def call(*options: object, snapshot: str = "sac", out: str = "out") -> Path:
        if "--infer-list" not in options and "--images" not in options:
            options = ("--infer-list", "list", *options)
        weights = snapshots.get(snapshot, snapshot)
        fixed = ["--cfg", pictures / "cfg.yaml", "--resume", weights, "--mask-output-dir", tmp_path / out]
        arguments = map(str, ["infer_val.py", *fixed, "--workers", 0, *options])
        monkeypatch.setattr(sys, "argv", list(arguments))
        infer_val.main()
        return tmp_path / out

    return call


def decoded(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def rgb(path: Path) -> np.ndarray:
    return cv2.imread(str(path))[..., ::-1].copy()


def scores(net: nn.Module, image: np.ndarray) -> Tensor:
    """Logits [C,H,W] of an image [H,W,3], written out."""
    x = torch.from_numpy(image.astype(np.float32) / 255)
    x = ((x - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]
    with torch.no_grad():
        return F.interpolate(net(x), size=image.shape[:2], mode="bilinear", align_corners=True)[0]


def files(folder: Path) -> list[str]:
    """All but the record of what made them."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MADE_BY)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    return float((a == b).mean())


def test_a_list(infer: Infer, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    out = infer()
    names = ["a_gtFine_labelIds.png", "b.png", "grey.png"]
    assert files(out) == sorted([*names, *(f"cs/{name}" for name in names)])
    assert f"3 images: masks in {out}" in capsys.readouterr().out
    for name, image in zip(names, ("a_leftImg8bit.png", "more/b.jpg", "grey.png"), strict=True):
        expected = scores(network(0), rgb(pictures / image)).argmax(0).numpy().astype(np.uint8)
        assert len(np.unique(expected)) > 2  # else any mask would do
        assert agreement(decoded(out / name), expected) > 0.999
        assert np.array_equal(decoded(out / "cs" / name), labels.CITYSCAPES.to_raw()[decoded(out / name)])


def test_images_of_one_name_in_two_folders(
    infer: Infer, call: Callable[..., str], pictures: Path, tmp_path: Path
) -> None:
    """As frames of several drives are named: masks, weights and evaluation tell them apart by their folders."""
    for drive, image in (("1", "a_leftImg8bit.png"), ("2", "more/b.jpg")):
        (tmp_path / drive).mkdir()
        (tmp_path / drive / "frame_leftImg8bit.png").symlink_to(pictures / image)
        cv2.imwrite(str(tmp_path / drive / "label.png"), np.zeros(rgb(pictures / image).shape[:2], np.uint8))
    lines = [f"{drive}/frame_leftImg8bit.png {drive}/label.png\n" for drive in "12"]
    (tmp_path / "drives.txt").write_text("".join(lines))
    out = infer("--infer-list", "drives", "--save", "ids", "--set", "DATASET.ROOT", tmp_path)
    names = ["1_frame_gtFine_labelIds.png", "2_frame_gtFine_labelIds.png"]
    assert files(out) == names
    whole = infer(out="whole")
    for name, mask in zip(names, ("a_gtFine_labelIds.png", "b.png"), strict=True):
        assert np.array_equal(decoded(out / name), decoded(whole / mask))
    call(compute_image_weights, "--labels", out, "--out", tmp_path / "weights.data")
    weights, samples = sampling.load_weights(tmp_path / "weights.data"), lists.read("drives", tmp_path)
    assert sorted(weights) == names == lists.mask_names(samples)
    assert sampling.cumulative_tables(weights, names, 19, 0.0, []).shape == (19, 2)
    said = call(evaluate, "--predictions", out, "--list", "drives", "--root", tmp_path)
    assert "images: 2\n" in said


def test_what_is_inferred_does_not_depend_on_what_else_is(infer: Infer, pictures: Path) -> None:
    together = infer("--workers", 2)
    for image, name in (("a_leftImg8bit.png", "a_gtFine_labelIds.png"), ("more/b.jpg", "b.png")):
        alone = infer("--images", pictures / image, "--save", "ids", "prob", out="alone")
        assert np.array_equal(decoded(alone / name), decoded(together / name))


def test_folders_and_single_images(infer: Infer, pictures: Path, capsys: pytest.CaptureFixture) -> None:
    more, single = pictures / "more", pictures / "a_leftImg8bit.png"
    out = infer("--images", single, more, more / "b.jpg", "--save", "ids", "--dataloader", "own")
    assert files(out) == ["a_leftImg8bit.png", "b.png", "c.png"]  # b.jpg once, names as the images'


def test_masks_below_the_images_are_no_images(infer: Infer, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "more", tmp_path / "images")
    for _ in range(2):
        out = infer("--images", tmp_path / "images", "--save", "ids", out="images/masks")
    assert files(out) == ["b.png", "c.png"]


def test_images_beside_and_below_the_masks_stay_images(infer: Infer, pictures: Path, tmp_path: Path) -> None:
    """The output folder may be the images' own, lie below it, or hold it; what is read are pictures, never masks."""
    for where in ("images", "images/deep/masks", ".", "images/../images/masks"):
        shutil.copytree(pictures / "more", tmp_path / "images", dirs_exist_ok=True)
        for _ in range(2):
            out = infer("--images", tmp_path / "images", "--save", "ids", "cs", "vis", out=where)
            assert files(out / "vis") == ["b.png", "c.png"] and files(out / "cs") == ["b.png", "c.png"], where
        for made in (*out.glob("*.png"), *out.glob("*/*.png")):
            made.unlink()


def test_images_in_the_output_folder_are_not_hidden(infer: Infer, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(pictures / "more", tmp_path / "tree" / "own")
    (tmp_path / "tree" / "own" / "d.png").write_bytes((pictures / "grey.png").read_bytes())
    with pytest.raises(UserError, match="d.png would be replaced"):
        infer("--images", tmp_path / "tree", out="tree/own")
    (tmp_path / "tree" / "own" / "d.png").unlink()
    out = infer("--images", tmp_path / "tree", "--save", "ids", out="tree/own")
    assert files(out) == ["b.jpg", "b.png", "c.bmp", "c.png"]


def test_a_relative_output_folder_below_absolute_images(
    infer: Infer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(pictures / "more", tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        infer("--images", tmp_path / "images", "--mask-output-dir", "images/masks", "--save", "ids")
    assert files(tmp_path / "images" / "masks") == ["b.png", "c.png"]


@pytest.mark.parametrize(
    ("options", "resume", "found"),
    [
        ((), "last.pth", "last.pth"),  # a path goes before the run's
        ((), "other", "other.pth"),
        (("--run", "r", "--exp", "e"), "baseline_abn_e040", "snapshots/own/e/r/baseline_abn_e040.pth"),
        (("--run", "r", "--exp", "e"), "baseline_abn_e040.pth", "snapshots/own/e/r/baseline_abn_e040.pth"),
        (("--run", "r"), "epoch1", "snapshots/own/main/r/epoch1.pth"),
        (("--run", "r", "--exp", "e"), "last.pth", "last.pth"),
        (("--exp", "e"), "snapshots/own/e/r/baseline_abn_e040", "snapshots/own/e/r/baseline_abn_e040.pth"),
    ],
)
def test_snapshots_by_name(
    options: tuple[str, ...], resume: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the released launcher names them: --exp, --run, and a name without .pth."""
    for name in ("last", "other", "snapshots/own/e/r/last", "snapshots/own/e/r/baseline_abn_e040",
                 "snapshots/own/main/r/epoch1"):
        (tmp_path / f"{name}.pth").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.pth").touch()
    monkeypatch.chdir(tmp_path)
    fixed = ["infer_val.py", "--cfg", "c", "--images", "i", "--mask-output-dir", "m", "--dataloader", "own"]
    monkeypatch.setattr(sys, "argv", [*fixed, "--resume", resume, *options])
    assert infer_val.find_snapshot(infer_val.arguments()) == found
    monkeypatch.setattr(sys, "argv", [*fixed, "--resume", "nowhere", *options])
    with pytest.raises(UserError, match="snapshot nowhere does not exist: looked for nowhere, nowhere.pth"):
        infer_val.find_snapshot(infer_val.arguments())


@pytest.fixture
def small_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """FCN-8s with a head of 64 channels: its 4096 take seconds to draw."""
    monkeypatch.setattr("models.fcn.HIDDEN", 64)


@pytest.mark.parametrize("arch", ["deeplabv2_resnet18", "deeplabv2_vgg16_bn", "fcn_vgg16_bn"])
def test_any_size(arch: str, small_head: None) -> None:
    predict = Predictor(build(arch, 3).eval(), CPU, MEAN, STD)
    for size in ((1, 1), (7, 30), (33, 41)):
        ids, probabilities = predict(torch.zeros(*size, 3, dtype=torch.uint8), True)
        assert ids.shape == size and ids.dtype == torch.uint8 and probabilities.shape == (3, *size)


def test_fcn_is_padded_and_cropped(small_head: None) -> None:
    net = build("fcn_vgg16_bn", 4).eval()
    image = torch.randint(0, 256, (40, 70, 3), dtype=torch.uint8)
    x = ((image / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]
    with torch.no_grad():
        up = F.interpolate(net(F.pad(x, (0, 26, 0, 24))), size=(64, 96), mode="bilinear", align_corners=True)
    ids, _ = Predictor(net, CPU, MEAN, STD)(image)
    assert (ids == up[0, :, :40, :70].argmax(0)).float().mean() > 0.999


class Pixelwise(nn.Module):
    """Logits of a pixel from that pixel alone, at the image's size: windows and flips change nothing."""

    multiple_of = 1

    def __init__(self, slope: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.slope = nn.Conv2d(3, 5, 1), slope

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        """`slope` makes logits depend on the place in the picture that the network is given."""
        place = torch.linspace(-1, 1, x.shape[3]) * self.slope * torch.arange(5).view(1, 5, 1, 1)
        return self.conv(x) + place


def test_windows_see_every_pixel_and_change_nothing_for_a_pixelwise_network() -> None:
    image = torch.randint(0, 256, (70, 131, 3), dtype=torch.uint8)
    whole = Predictor(Pixelwise(), CPU, MEAN, STD)(image, True)[1]
    for window in ((32, 32), (70, 40), (200, 64), (64, 200), (69, 130)):
        looked = Predictor(Pixelwise(), CPU, MEAN, STD, window=window)
        assert torch.allclose(looked(image, True)[1], whole, atol=1e-6), window
    # Not smaller than a window: one look, the very same numbers.
    assert torch.equal(Predictor(Pixelwise(), CPU, MEAN, STD, window=(70, 131))(image, True)[1], whole)
    # A progress bar sees each window, at each scale.
    seen = []

    def watch(windows: list) -> list:
        seen.append(len(windows))
        return windows

    Predictor(Pixelwise(), CPU, MEAN, STD, (1.0, 2.0), window=(32, 32), watch=watch)(image, True)
    assert seen == [len(list(_starts(h, 32))) * len(list(_starts(w, 32))) for h, w in ((70, 131), (140, 262))]
    # A network that knows where it is in its picture notices the windows.
    sees = Predictor(Pixelwise(3.0), CPU, MEAN, STD)(image, True)[1]
    parts = Predictor(Pixelwise(3.0), CPU, MEAN, STD, window=(32, 32))(image, True)[1]
    assert not torch.allclose(parts, sees)


@pytest.mark.parametrize("side, window", [(100, 64), (64, 64), (1000, 64), (65, 64), (2048, 1024), (5, 64)])
def test_windows_overlap_and_end_with_the_image(side: int, window: int) -> None:
    starts = list(_starts(side, window))
    assert starts[0] == 0 and (starts[-1] + window == side or len(starts) == 1)
    assert all(0 < b - a <= window * 2 / 3 + 1 for a, b in zip(starts, starts[1:], strict=False))
    assert (len(starts) == 1) == (side <= window)


def test_flip_averages_with_the_mirrored_image() -> None:
    image = torch.randint(0, 256, (40, 52, 3), dtype=torch.uint8)
    plain = Predictor(Pixelwise(3.0), CPU, MEAN, STD)
    mean = (plain(image, True)[1] + plain(image.flip(1), True)[1].flip(2)) / 2
    flipped = Predictor(Pixelwise(3.0), CPU, MEAN, STD, flip=True)
    assert torch.allclose(flipped(image, True)[1], mean, atol=1e-6)
    assert not torch.allclose(plain(image, True)[1], mean, atol=1e-3)
    assert torch.allclose(flipped(image.flip(1), True)[1].flip(2), flipped(image, True)[1], atol=1e-6)


def test_scales_average_over_sizes() -> None:
    class Seen(Pixelwise):
        sizes: list[tuple[int, int]] = []

        def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
            self.sizes.append(tuple(x.shape[2:]))
            return super().forward(x, seeds)

    image = torch.full((40, 53, 3), 77, dtype=torch.uint8)
    predict = Predictor(Seen(), CPU, MEAN, STD, scales=(0.75, 1.0, 1.25), flip=True)
    _, probabilities = predict(image, True)
    assert Seen.sizes == [(30, 40)] * 2 + [(40, 53)] * 2 + [(50, 66)] * 2
    # A picture of one colour has the same probabilities at every size.
    once = Predictor(Pixelwise(), CPU, MEAN, STD)(image, True)[1]
    assert probabilities.shape == once.shape and torch.allclose(probabilities, once, atol=1e-5)
    # Another size is another look at a real image.
    noise = torch.randint(0, 256, (40, 53, 3), dtype=torch.uint8)
    smaller = Predictor(Pixelwise(), CPU, MEAN, STD, scales=(0.5,))(noise, True)[1]
    assert not torch.allclose(smaller, Predictor(Pixelwise(), CPU, MEAN, STD)(noise, True)[1], atol=1e-2)


def test_options_of_the_command(infer: Infer, pictures: Path) -> None:
    image = torch.from_numpy(rgb(pictures / "more/c.bmp"))
    options = ("--images", pictures / "more/c.bmp", "--scales", 0.75, 1, 1.25, "--flip", "--window", 40, 48)
    out = infer(*options, "--save", "ids", "prob")
    predict = Predictor(network(0), CPU, MEAN, STD, (0.75, 1.0, 1.25), True, (40, 48))
    ids, probabilities = predict(image, True)
    assert np.array_equal(decoded(out / "c.png"), ids.numpy())
    assert not np.array_equal(decoded(out / "c.png"), scores(network(0), image.numpy()).argmax(0).numpy())
    stored = np.load(out / "prob" / "c.npz")["probabilities"]
    assert stored.dtype == np.float16 and np.allclose(stored, probabilities.numpy(), atol=1e-3)


def test_teacher(infer: Infer, pictures: Path) -> None:
    out = infer("--teacher", "--images", pictures / "more/c.bmp", "--save", "ids")
    image = rgb(pictures / "more/c.bmp")
    teacher, student = (scores(network(seed), image).argmax(0).numpy().astype(np.uint8) for seed in (1, 0))
    assert agreement(decoded(out / "c.png"), teacher) > 0.999 and agreement(teacher, student) < 0.9


@pytest.mark.parametrize("snapshot", ["base", "fresh"])
def test_no_teacher(infer: Infer, snapshot: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no teacher"):
        infer("--teacher", snapshot=snapshot)
    assert not (tmp_path / "out").exists()


def test_kinds(infer: Infer, pictures: Path) -> None:
    out = infer("--images", pictures / "more/b.jpg", "--save", "ids", "cs", "vis", "prob")
    assert files(out) == ["b.png", "cs/b.png", "prob/b.npz", "vis/b.png"]
    image, ids = rgb(pictures / "more/b.jpg"), decoded(out / "b.png")
    drawn = rgb(out / "vis/b.png")  # with a legend below
    assert np.array_equal(drawn[:33], visual.overlay(image, ids, labels.CITYSCAPES.palette()))
    assert drawn.shape == visual.explained(image, ids, labels.CITYSCAPES.palette(), labels.CITYSCAPES.names).shape
    stored = np.load(out / "prob/b.npz")["probabilities"].astype(np.float32)
    assert stored.shape == (19, 33, 65) and np.allclose(stored.sum(0), 1, atol=0.01)
    assert (stored.argmax(0) == ids).mean() > 0.99
    assert files(infer("--images", pictures / "more/b.jpg", "--save", "vis", out="vis")) == ["vis/b.png"]


def test_submission(infer: Infer, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = infer("--submission", tmp_path / "sub" / "masks.zip")
    assert "3 masks in" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "sub" / "masks.zip") as archive:
        assert archive.namelist() == ["a_gtFine_labelIds.png", "b.png", "grey.png"]
        assert all(archive.read(name) == (out / "cs" / name).read_bytes() for name in archive.namelist())


def own_classes(folder: Path) -> list[str]:
    """A label set of one's own with as many classes as Cityscapes'."""
    names = [f"c{i}" for i in range(19)]
    (folder / "own.yaml").write_text(json.dumps({"names": names, "colours": [[i, 0, 9] for i in range(19)]}))
    return ["--set", "DATASET.CLASSES", str(folder / "own.yaml")]


def test_masks_say_which_classes_they_hold(infer: Infer, tmp_path: Path) -> None:
    out = infer(*own_classes(tmp_path))
    found = of_masks(out)
    assert found.names[18] == "c18" and found.colours[18] == (18, 0, 9)
    assert of_masks(out, "cityscapes") is labels.CITYSCAPES
    assert of_masks(infer("--force")) is labels.CITYSCAPES  # the same folder


def test_classes_beside_masks_keep_the_rule(infer: Infer, tmp_path: Path) -> None:
    """They are no foreign file to the next run, and a user's own file of that name stays."""
    out = infer(*own_classes(tmp_path))
    infer("--resume-output", *own_classes(tmp_path))
    shutil.rmtree(out)
    out.mkdir()
    (out / "classes.yaml").write_text("mine")
    for more in ([], own_classes(tmp_path)):
        with pytest.raises(UserError, match="classes.yaml"):
            infer(*more)
    assert [path.name for path in out.iterdir()] == ["classes.yaml"]
    assert (out / "classes.yaml").read_text() == "mine"


def test_submission_of_other_classes(infer: Infer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="test server takes masks of Cityscapes' classes"):
        infer("--submission", tmp_path / "masks.zip", *own_classes(tmp_path))
    assert not (tmp_path / "out").exists()


def test_resume_output(infer: Infer, capsys: pytest.CaptureFixture) -> None:
    out = infer()
    before = {name: (out / name).read_bytes() for name in files(out)}
    (out / "cs" / "b.png").unlink()
    (out / "grey.png").write_bytes(b"mine")
    capsys.readouterr()
    infer("--resume-output")
    assert "1 images, 2 already existed" in capsys.readouterr().out
    assert {name: (out / name).read_bytes() for name in files(out)} == before | {"grey.png": b"mine"}
    infer("--resume-output", "--save", "ids", "vis")  # a kind that is not there yet: all of them again
    assert (out / "grey.png").read_bytes() == before["grey.png"] and len(list((out / "vis").iterdir())) == 3


def refused(infer: Infer, *options: object, **names: str) -> str:
    with pytest.raises(UserError) as caught:
        infer(*options, **names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_masks_of_another_snapshot_are_not_kept(
    infer: Infer, pictures: Path, snapshots: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    other, images = tmp_path / "other.pth", ("--images", pictures / "more", "--save", "ids")
    torch.save(torch.load(snapshots["sac"], weights_only=True) | {"epoch": 4}, other)
    out = infer(*images)
    record = json.loads((out / MADE_BY).read_text())
    assert record["snapshot"] == hashlib.sha256(Path(snapshots["sac"]).read_bytes()).hexdigest()
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    for resumed in ((), ("--resume-output",)):
        said = refused(infer, *images, *resumed, snapshot=str(other))
        assert f"snapshot {record['snapshot'][:12]}" in said and "--force" in said and "another folder" in said
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == before
    capsys.readouterr()
    infer(*images, "--resume-output", "--force", snapshot=str(other))
    assert "2 images, 0 already existed" in capsys.readouterr().out
    assert "snapshot" in refused(infer, *images, "--resume-output")


def test_masks_of_another_configuration_are_not_kept(infer: Infer, pictures: Path) -> None:
    names, colours = [f"class {i}" for i in range(19)], [[i, i, i] for i in range(19)]
    (pictures / "nineteen.yaml").write_text(json.dumps({"names": names, "colours": colours}))
    images = ("--images", pictures / "more" / "b.jpg", "--save", "ids")
    infer(*images)
    for options, named in (
        (("--teacher",), "weights student, not teacher"),
        (("--flip",), "flip false, not true"),
        (("--scales", 0.5, 1), "scales [1.0], not [0.5, 1.0]"),
        (("--window", 32, 40), "window null, not [32, 40]"),
        (("--set", "DATASET.MEAN", "0.4,0.4,0.4"), "mean"),
        (("--set", "DATASET.STD", "0.3,0.2,0.2"), "std"),
        (("--set", "TRAIN.PRECISION", "bfloat16"), "precision float32, not bfloat16"),
        (("--set", "DATASET.CLASSES", pictures / "nineteen.yaml"), "classes"),
    ):
        said = refused(infer, *images, "--resume-output", *options)
        assert named in said and "--force" in said


def test_a_folder_without_a_mask_belongs_to_nobody(infer: Infer, tmp_path: Path, snapshots: dict[str, str]) -> None:
    """What made the first attempt fail may have to be changed: --window where the GPU's memory is too small."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert "bad.png" in refused(infer, "--images", bad)
    assert not (tmp_path / "out").exists()
    infer("--window", 32, 40)


def test_masks_that_do_not_say_what_made_them(infer: Infer, tmp_path: Path) -> None:
    out = infer()
    (out / MADE_BY).unlink()
    assert "no made_by.json says what made them" in refused(infer, "--resume-output")
    assert f"3 images: masks in {out}" not in refused(infer) and not (out / MADE_BY).exists()
    infer("--force")
    assert (out / MADE_BY).exists()


def test_the_submission_replaces_nothing(
    infer: Infer, pictures: Path, snapshots: dict[str, str], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.zip"
    mine.write_bytes(b"mine")
    assert "--submission" in refused(infer, "--submission", mine) and mine.read_bytes() == b"mine"
    used = [snapshots["sac"], pictures / "cfg.yaml", pictures / "grey.png", tmp_path / "out" / "grey.png",
            tmp_path / "out" / "cs" / "b.png"]
    before = {path: Path(path).read_bytes() for path in used[:3]}
    for path in used:
        assert "would be replaced" in refused(infer, "--submission", path, "--force")
    assert {path: Path(path).read_bytes() for path in used[:3]} == before and not (tmp_path / "out").exists()
    infer("--submission", mine, "--force")
    assert zipfile.is_zipfile(mine)


def test_a_snapshot_that_is_replaced_while_it_is_read(
    infer: Infer, snapshots: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a training does it with its last.pth."""
    last = tmp_path / "last.pth"
    shutil.copy(snapshots["sac"], last)

    def load(*args: object) -> nn.Module:
        torch.save({"another": 1}, last)
        return network(0)

    monkeypatch.setattr(infer_val, "load_network", load)
    assert "was replaced while it was read" in refused(infer, snapshot=str(last))
    assert not (tmp_path / "out").exists()


def test_two_inferences_into_one_folder_at_once(infer: Infer) -> None:
    """Both end well, and every mask is whole."""
    expected = infer(out="alone")
    errors = []

    def call() -> None:
        try:
            infer_val.main()
        except BaseException as error:
            errors.append(error)

    infer("--images", expected / "grey.png", out="both")  # for the arguments alone
    sys.argv[sys.argv.index("--images") :] = ["--infer-list", "list"]
    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    both = expected.parent / "both"
    assert errors == []
    assert all((both / name).read_bytes() == (expected / name).read_bytes() for name in files(expected))


def test_which_files_of_a_folder_are_images(tmp_path: Path) -> None:
    """Linked folders are, whatever the suffix's case; what other systems leave behind, and earlier masks, are not."""
    others = ["in/._b.jpeg", "in/@eaDir/a.png", "in/notes.txt", "in/out/a.png"]
    for name in ("in/a.PNG", "in/b.JPEG", "disk/c.tif", *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "in/split").symlink_to(tmp_path / "disk")
    (tmp_path / "in/split/back").symlink_to(tmp_path / "in")
    args = Namespace(infer_list=None, images=[str(tmp_path / "in")], dataloader="own")
    output = infer_val.Output(str(tmp_path / "in/out"), ["ids"], labels.CITYSCAPES)
    _, samples = infer_val.find_images(args, "", output)
    assert [str(Path(s.image).relative_to(tmp_path / "in")) for s in samples] == ["a.PNG", "b.JPEG", "split/c.tif"]


def test_a_photo_s_mask_is_upright(infer: Infer, tmp_path: Path) -> None:
    """A phone held upright stores a picture that lies, and says so in EXIF."""
    upright = np.random.default_rng(0).integers(0, 256, (64, 33, 3), np.uint8)
    Image.fromarray(upright).save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "phone.png", exif=exif)
    out = infer("--images", tmp_path / "plain.png", tmp_path / "phone.png", "--save", "ids", "vis")
    for folder in (out, out / "vis"):
        np.testing.assert_array_equal(decoded(folder / "phone.png"), decoded(folder / "plain.png"))


@pytest.mark.parametrize(
    "options, message",
    [
        (("--images", "{}/more", "{}/x/b.png"), "both have the mask b.png"),
        (("--images", "{}/empty"), "no images"),
        (("--images", "{}/nowhere"), "no such file"),
        (("--images", "{}/more", "--mask-output-dir", "{}/list.txt"), "is a file"),
        (("--images", "{}/grey.png", "--mask-output-dir", "{}"), "grey.png would be replaced"),
        (("--images", "{}/more", "--scales", "0"), "--scales"),
        (("--images", "{}/more", "--scales", "nan"), "--scales"),
        (("--images", "{}/more", "--window", "8", "900"), "--window"),
        (("--images", "{}/more", "--window", "64", "1000000"), "--window"),
        (("--images", ""), "--images: expected a value"),
        (("--images", "{}/more", "--workers", "1000000"), "--workers: expected"),
        (("--images", "{}/more", "--dataloader", "../x"), "--dataloader: expected the name of a folder"),
        (("--images", "{}/more", "--resume", "{}/" + "x" * 300), "does not exist"),
        (("--images", "{}/more", "--set", "MODEL.LR", "-1e-4"), "MODEL.LR = -1e-4 in --set: expected a number"),
        (("--images", "{}/more", "--save", "ids", "--submission", "x.zip"), "cs"),
        (("--images", "{}/more", "--submission", "{}/more"), "is a folder"),
        (("--images", "{}/more", "--save", "png"), "--save"),
        (("--infer-list", "holes.txt"), "1 of 2 images"),
        (("--infer-list", "nolist"), "no list"),
        (("--images", "{}/list.txt"), "not an image"),
        (("--images", "{}/more", "--set", "MODEL.ARCH", "deeplabv2_vgg16_bn"), "does not fit"),
        (("--images", "{}/more", "--set", "DATASET.CLASSES", "{}/five.yaml"), "number of classes"),
    ],
)
def test_mistakes(
    infer: Infer, pictures: Path, options: tuple[str, ...], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line, and nothing is written."""
    (pictures / "x").mkdir(exist_ok=True)
    (pictures / "x" / "b.png").write_bytes((pictures / "grey.png").read_bytes())
    (tmp_path / "holes.txt").write_text("grey.png\nnot_there.png\n")
    (pictures / "five.yaml").write_text("names: [a, b, c, d, e]\ncolours: [" + "[1, 2, 3], " * 5 + "]\n")
    monkeypatch.chdir(tmp_path)
    before = files(pictures)
    with pytest.raises(UserError, match=message) as error:
        infer(*(option.format(pictures) for option in options))
    assert "\n" not in str(error.value)
    assert files(pictures) == before and not files(tmp_path / "out")


# --- the published method's numbers


class Fixed:
    """A predictor that gives the golden probabilities' classes."""

    def __init__(self, probabilities: Tensor) -> None:
        self.probabilities = probabilities

    def __call__(self, image: Tensor, wanted: bool) -> tuple[Tensor, Tensor | None]:
        return self.probabilities.argmax(0).to(torch.uint8), self.probabilities if wanted else None


def test_golden_masks(tmp_path: Path) -> None:
    golden = Golden("c12_infer")
    name = "frankfurt_000000_000294_leftImg8bit.png"
    cv2.imwrite(str(tmp_path / name), np.zeros((32, 64, 3), np.uint8))
    output = infer_val.Output(str(tmp_path / "out"), ("ids", "cs"), labels.CITYSCAPES)
    sample = lists.Sample(name, None)
    (mask,) = lists.mask_names([sample])
    args = Namespace(workers=0, save=["ids", "cs"])
    infer_val.infer(args, [(sample, mask)], str(tmp_path), output, Fixed(golden["probs"]))
    assert files(tmp_path / "out") == golden.json["files_default_flags"]
    assert np.array_equal(decoded(tmp_path / "out" / mask), golden.array("pred_train_ids"))
    assert np.array_equal(decoded(tmp_path / "out/cs" / mask), golden.array("pred_cs_ids"))


def test_golden_label_ids(tmp_path: Path) -> None:
    """Every train id, and what is none: 255 -> 0."""
    golden = Golden("c12_infer")
    ids = golden.array("convert_to_cs/in")
    output = infer_val.Output(str(tmp_path), ("cs",), labels.CITYSCAPES)
    output.write("x.png", ids, np.zeros((16, 16, 3), np.uint8), None)
    written = decoded(tmp_path / "cs" / "x.png")
    assert np.array_equal(written, golden.array("convert_to_cs/out"))
    assert ids[15, 15] == 255 and written[15, 15] == 0


@pytest.mark.parametrize("arch", ["deeplabv2_vgg16_bn", "deeplabv2_resnet101"])
def test_golden_masks_of_a_published_snapshot(arch: str, tmp_path: Path) -> None:
    """A file as the authors published it, with the golden weights, gives the golden mask."""
    golden = Golden("c07_forward")
    state = {k: rule(k, v.shape) for k, v in build(arch, 19).state_dict().items()}
    model = {f"module.backbone.{k}": v for k, v in state.items()}
    torch.save({"model": model, "opt": {}, "epoch": 100, "score": 0.4}, tmp_path / "published.pth")
    predict = Predictor(load_network(arch, 19, str(tmp_path / "published.pth")), CPU, MEAN, STD)
    with torch.inference_mode():
        ids = predict.logits(golden[f"{arch}/input"]).argmax(1)
    assert torch.equal(ids, golden[f"{arch}/logits_up_argmax"].long())


def test_names_from_standard_input(infer: Infer, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{pictures / 'grey.png'}\n\n{pictures / 'more/b.jpg'}\n"))
    out = infer("--images", "-", "--save", "ids")
    assert {"b.png", "grey.png"} == {path.name for path in out.glob("*.png")}
