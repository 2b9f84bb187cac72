"""The toy worlds: formats, labels that match the drawing, the same scene for the same seed, the shift."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from core.cli import UserError
from datasets.labels import CITYSCAPES
from tools import make_streets
from tools.batch import png
from tools.domain import domains
from tools.streets.painter import NEAR, Painter, clip, panels
from tools.streets.render import LABEL_IDS, lay_ground, render
from tools.streets.scene import Street
from tools.streets.worlds import GAME, REAL, SYNTHIA, Style

ROOT = Path(__file__).parents[1]
STYLES = {"gta": GAME, "synthia": SYNTHIA, "cityscapes": REAL}
PROMISED = set(CITYSCAPES.names) - {"train", "motorcycle"}
SMALL = ["--gta", "3", "--synthia", "2", "--train", "3", "--val", "2", "--test", "1", "--size", "128x64",
         "--gta-size", "120x66", "--synthia-size", "100x66"]  # fmt: skip

Scenes = dict[str, tuple[np.ndarray, np.ndarray]]


def command(*arguments: str | Path) -> subprocess.CompletedProcess:
    line = [sys.executable, ROOT / "tools/make_streets.py", *arguments]
    return subprocess.run(list(map(str, line)), capture_output=True, text=True, timeout=300)


def call(*arguments: str | Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_streets.py", *map(str, arguments)])
        make_streets.main()


def fails(*arguments: str | Path) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments)
    return str(error.value)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy")
    call("--out", out, *SMALL, "--workers", "1", "--sheet", out / "sheet.png")
    return out


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Twelve scenes of each world: images [12,H,W,3], label ids [12,H,W]."""
    pairs = {name: [render(style, 256, 128, np.random.default_rng((3, i))) for i in range(12)]
             for name, style in STYLES.items()}
    return {name: (np.stack([a for a, _ in some]), np.stack([b for _, b in some])) for name, some in pairs.items()}


def test_the_number_of_processes_does_not_matter(tree: Path, tmp_path: Path) -> None:
    done = command("--out", tmp_path, *SMALL, "--workers", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("11 images rendered, 0 already existed")
    others = files(tmp_path)
    assert len(others) == 11 + 10 + 1
    assert others == {name: content for name, content in files(tree).items() if name != "sheet.png"}


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_the_seed_decides(style: Style) -> None:
    first, second, other = (render(style, 96, 64, np.random.default_rng((seed, 0, 1))) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all((a != b).mean() > 0.1 for a, b in zip(first, other, strict=True))


def test_no_two_images_are_the_same(tree: Path) -> None:
    content = files(tree).values()
    assert len(set(content)) == len(content)


def test_names_and_formats(tree: Path) -> None:
    patterns = {
        r"game/images/0000[123]\.png": (8, png.RGB, 3, (120, 66)),
        r"game/labels/0000[123]\.png": (8, png.PALETTE, 3, (120, 66)),
        r"synthia/RGB/000000[01]\.png": (8, png.RGB, 2, (100, 66)),
        r"synthia/GT/LABELS/000000[01]\.png": (16, png.RGB, 2, (100, 66)),
        r"cityscapes/leftImg8bit/train/(\w+)/\1_\d{6}_\d{6}_leftImg8bit\.png": (8, png.RGB, 3, (128, 64)),
        r"cityscapes/leftImg8bit/val/(\w+)/\1_\d{6}_\d{6}_leftImg8bit\.png": (8, png.RGB, 2, (128, 64)),
        r"cityscapes/leftImg8bit/test/(\w+)/\1_\d{6}_\d{6}_leftImg8bit\.png": (8, png.RGB, 1, (128, 64)),
        r"cityscapes/gtFine/train/(\w+)/\1_\d{6}_\d{6}_gtFine_labelIds\.png": (8, png.GREY, 3, (128, 64)),
        r"cityscapes/gtFine/val/(\w+)/\1_\d{6}_\d{6}_gtFine_labelIds\.png": (8, png.GREY, 2, (128, 64)),
    }
    found = files(tree)
    for pattern, (depth, colour, number, size) in patterns.items():
        names = [name for name in found if re.fullmatch(pattern, name)]
        assert len(names) == number, pattern
        for name in names:
            assert png.kind(found.pop(name), name) == (depth, colour)
            assert Image.open(tree / name).size == size
    assert set(found) == {"toy_streets.json", "sheet.png"}


def read_palette(path: Path) -> np.ndarray:
    image = Image.open(path)
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)
    for name in ("road", "sky", "bicycle"):
        assert tuple(colours[LABEL_IDS[name]]) == CITYSCAPES.colours[CITYSCAPES.names.index(name)]
    return np.array(image)


def read_red16(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint16 and image.shape[2] == 3
    assert image[..., 0].max() == 0 and image[..., 1].max() >= 1  # blue; green, with the instances
    return image[..., 2].astype(np.uint8)


def read_grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert image.dtype == np.uint8 and image.ndim == 2
    return image


@pytest.mark.parametrize(
    "stream, raw, read", [("gta", "gta", read_palette), ("synthia", "synthia", read_red16), ("val", "cs", read_grey)]
)
def test_files_hold_what_was_rendered(tree: Path, stream: str, raw: str, read: Callable[[Path], np.ndarray]) -> None:
    size = {"gta": (120, 66), "synthia": (100, 66), "val": (128, 64)}[stream]
    scene = make_streets.plan(tree, stream, 1, 0, size)
    image, label = make_streets.draw(scene)
    assert np.array_equal(cv2.imread(str(scene.image))[..., ::-1], image)
    train = cv2.LUT(read(scene.label), domains.load(raw).classes.to_train())
    assert np.array_equal(train, cv2.LUT(label, CITYSCAPES.to_train()))


def test_an_interrupted_run_is_continued(tree: Path, capsys: pytest.CaptureFixture) -> None:
    before = files(tree)
    missing = next(name for name in before if name.endswith("labelIds.png"))
    (tree / missing).unlink()
    call("--out", tree, *SMALL, "--workers", "1")
    assert "1 images rendered, 10 already existed" in capsys.readouterr().out
    assert files(tree) == before


@pytest.mark.parametrize("name", STYLES)
def test_classes(scenes: Scenes, name: str) -> None:
    ids = scenes[name][1]
    promised = PROMISED | ({"ego vehicle"} if name == "cityscapes" else set())
    assert set(np.unique(ids)) - {LABEL_IDS["static"]} == {LABEL_IDS[c] for c in promised}
    share = {c: (ids == LABEL_IDS[c]).mean() for c in CITYSCAPES.names}
    assert all(0.03 < share[c] < 0.5 for c in ("road", "building", "vegetation", "sky", "car"))
    assert all(share[c] < 0.03 for c in ("person", "rider", "traffic sign", "traffic light", "bicycle"))
    assert share["rider"] < share["car"] / 5


def test_perspective(scenes: Scenes) -> None:
    for _, ids in scenes.values():
        rows = [(ids == LABEL_IDS[name]).nonzero()[1].mean() for name in ("sky", "building", "road")]
        assert rows == sorted(rows)


def test_labels_match_the_drawing() -> None:
    """Each channel is left out of the colours of other classes; a pixel without it is of no other class."""
    grey = ((0.5, 0.5, 0.5),)
    pure = {"asphalt": (0, 1, 0), "marking": (0, 1, 0), "leaf": (1, 0, 0), "bark": (1, 0, 0), "grass": (1, 1, 0)}
    materials = {name: colours if name in ("signs", "signals") else grey for name, colours in GAME.materials.items()}
    blue = (0.0, 0.0, 1.0)
    style = replace(
        GAME, materials=materials | {name: (colour,) for name, colour in pure.items()}, sky=(blue, blue, 0.0),
        haze=1e12, texture=0.5, saturation=1.0, contrast=1.0, gain=(1.0, 1.0, 1.0), blur=0.0, noise=0.0,
    )  # fmt: skip
    for i in range(5):
        image, ids = render(style, 256, 128, np.random.default_rng((7, i)))
        drawn = {(0, 0, 1): "sky", (0, 1, 0): "road", (1, 0, 0): "vegetation", (1, 1, 0): "terrain"}
        for channels, name in drawn.items():
            mask = ((image > 0) == channels).all(axis=2)
            assert mask.any() and np.array_equal(mask, ids == LABEL_IDS[name]), name


def test_the_film_does_not_touch_the_labels() -> None:
    blurred = replace(REAL, blur=4.0, noise=0.2, haze=20.0, vignette=0.9, gain=(0.3, 0.3, 0.3))
    (image, ids), (other, others) = (render(s, 128, 64, np.random.default_rng(2)) for s in (REAL, blurred))
    assert np.array_equal(ids, others)
    assert (image != other).mean() > 0.9


def test_the_size_changes_the_resolution_alone() -> None:
    small, large = (render(GAME, width, width // 2, np.random.default_rng(5)) for width in (256, 1024))
    assert large[0].shape == (512, 1024, 3) and large[1].shape == (512, 1024)
    assert (large[1][2::4, 2::4] == small[1]).mean() > 0.9
    brightness = [image.mean() for image, _ in (small, large)]
    assert abs(brightness[0] - brightness[1]) < 4


def test_the_bonnet_is_in_the_real_world_only(scenes: Scenes) -> None:
    ego = {name: ids == LABEL_IDS["ego vehicle"] for name, (_, ids) in scenes.items()}
    assert not ego["gta"].any() and not ego["synthia"].any()
    assert ego["cityscapes"][:, -1, 128].all() and not ego["cityscapes"][:, :96].any()


def test_the_worlds_differ_as_the_published_means_do(scenes: Scenes) -> None:
    """Section 9 of docs/method.md has the means of GTA5, SYNTHIA and Cityscapes."""
    published = {
        "gta": (0.481, 0.479, 0.465), "synthia": (0.315, 0.278, 0.248), "cityscapes": (0.300, 0.344, 0.297),
    }  # fmt: skip
    for name, (pictures, _) in scenes.items():
        assert np.abs(pictures.mean((0, 1, 2)) / 255 - published[name]).max() < 0.08, name
    sky = {name: pictures[ids == LABEL_IDS["sky"]].mean(0) for name, (pictures, ids) in scenes.items()}
    assert sky["gta"][2] > sky["gta"][0] + 30 and abs(sky["cityscapes"][2] - sky["cityscapes"][0]) < 30


def test_ground_and_objects_share_a_camera() -> None:
    p = Painter(GAME, 256, 128, np.random.default_rng(1))
    distance, _ = lay_ground(p, Street(p))
    points = np.array([[x, 0.0, z] for x in (-3.0, 0.0, 2.0) for z in (6.0, 10.0, 16.0)])
    corners, nearest = p.project(points[None])
    depths = np.array([p.project(point[None, None])[1] for point in points])
    x, y = corners[0].T
    assert nearest == pytest.approx(depths.min())
    np.testing.assert_allclose(distance[y, x], depths, rtol=0.08)


def test_polygons_are_cut_at_the_near_plane() -> None:
    square = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 3.0], [0.0, 1.0, 3.0]])
    assert np.array_equal(clip(square), square)
    assert clip(square - (0, 0, 9)).shape == (0, 3)
    cut = clip(square - (0, 0, 2 - NEAR))
    assert cut[:, 2].min() == pytest.approx(NEAR) and cut[:, 2].max() == pytest.approx(1 + NEAR)
    assert cut[:, 1].min() == pytest.approx(0.5)


def test_panels_are_fractions_of_a_face() -> None:
    face = np.array([[0.0, 0.0, 0.0], [4.0, 0.0, 0.0], [4.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    assert np.allclose(panels(face, [(0, 1, 0, 1)])[0], face)
    assert panels(face, [(0.25, 0.5, 0.5, 1.0)])[0, :, :2].tolist() == [[1, 1], [2, 1], [2, 2], [1, 2]]


def test_contact_sheet(tree: Path) -> None:
    with Image.open(tree / "sheet.png") as sheet:
        assert sheet.mode == "P" and sheet.size == (800 // 3 * 6, 450 // 3 * 4)
        assert len(sheet.getcolors()) > 100


@pytest.mark.parametrize(
    "arguments, names",
    [
        (["--size", "0x0"], "--size"),
        (["--size", "512"], "--size"),
        (["--gta-size", "99999x256"], "--gta-size"),
        (["--worlds", "gta,mars"], "mars"),
        (["--seed", "-1"], "--seed"),
        (["--train", "many"], "--train"),
        (["--worlds", "gta", "--gta", "0"], "nothing to render"),
        (["--wrolds", "gta"], "--wrolds"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: list[str], names: str) -> None:
    assert names in fails("--out", tmp_path / "new", *arguments)
    assert not (tmp_path / "new").exists()


def test_other_settings_are_refused(tree: Path) -> None:
    before = files(tree)
    assert "--out" in fails("--out", tree, *SMALL, "--seed", "1")
    assert "--out" in fails("--out", tree, *SMALL, "--size", "64x64")
    assert files(tree) == before


def test_the_contact_sheet_replaces_nothing(tree: Path) -> None:
    before = files(tree)
    image = next(tree.rglob("game/images/*.png"))
    assert "already exists; --force replaces it" in fails("--out", tree, *SMALL, "--sheet", tree / "sheet.png")
    for path in (image, tree / "toy_streets.json"):
        assert "would be replaced" in fails("--out", tree, *SMALL, "--sheet", path, "--force")
    assert files(tree) == before


def test_real_data_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "game/images").mkdir(parents=True)
    assert "game was not made by this command" in fails("--out", tmp_path, *SMALL)
    assert not files(tmp_path)


def test_a_mistake_is_one_line_and_status_2(tmp_path: Path) -> None:
    done = command("--out", tmp_path, "--size", "0x0")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
