"""Transforms, views and noise against the published code's, for the parameters that it drew (c05, c09)."""

import numpy as np
import pytest
import torch
from golden_data import Golden

from datasets import noise
from datasets.source import Augmentation, SourceParams, as_tensor
from datasets.transforms import Frame, Window, centre_window, crop, normalise, renormalised, resize, whole
from datasets.views import SharedParams, ViewParams, affine, apply_shared, apply_view

AFFINE, GEOMETRY, PHOTOMETRIC = (Golden(n) for n in ("c05_affine", "c09_transforms", "c09_photometric"))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GAME_SIZE = (1052, 1914)
# Views never turn.
UNROTATED = [case for case in AFFINE.json["cases"] if "rot" not in case and f"{case}/params" in AFFINE]


def cases(kind: str, needs: str) -> list[str]:
    found = [case for case in GEOMETRY.json[kind] if f"{case}/{needs}" in GEOMETRY]
    assert found
    return found


def read(case: dict) -> Frame:
    return whole(GEOMETRY.array(f"input/image{case['input']}"), GEOMETRY.array(f"input/label{case['input']}"))


def window(case: dict) -> Window:
    """The crop; the published code pads first, so that its crop is relative to the padded image."""
    left, top, _, _ = case["pad_ltrb"]
    i, j, height, width = case["crop_ijhw"]
    return Window(i - top, j - left, height, width)


def assert_image(frame: Frame, expected: torch.Tensor, mean=MEAN, std=STD, ignore_padding=False) -> None:
    """Equal to one grey level, and that in few pixels (of these images; test_resizing.py has others)."""
    image, padding = as_tensor(frame.image)[None], as_tensor(frame.padding)[None]
    difference = (normalise(image, padding, mean, std)[0] - expected).abs()
    levels = difference * 255 * torch.tensor(std)[:, None, None]
    if ignore_padding:
        levels = levels[:, ~padding[0]]
    assert levels.max() < 1.001
    assert (levels > 0.001).float().mean() < 0.005


@pytest.mark.parametrize("name", cases("source", "image"))
def test_source(name):
    case = GEOMETRY.json["source"][name]
    (width, height), (scaled_width, scaled_height) = case["pre_resize_wh"], case["scaled_size_wh"]
    params = SourceParams((scaled_height, scaled_width), False, case["hflip"], None, window(case))
    frame = Augmentation(tuple(case["CROP_SIZE"])).apply(resize(read(case), (height, width)), params)
    assert_image(frame, GEOMETRY[f"{name}/image"], case["mean"], case["std"])
    np.testing.assert_array_equal(frame.label, GEOMETRY.array(f"{name}/label"))


def test_source_that_is_padded_and_mirrored():
    # This case's outputs are not stored, but its parameters and its count of ignored pixels are.
    case = GEOMETRY.json["source"]["s2"]
    params = SourceParams(case["scaled_size_wh"][::-1], False, case["hflip"], None, window(case))
    frame = Augmentation(tuple(case["CROP_SIZE"])).apply(read(case), params)
    left, top, right, bottom = case["pad_ltrb"]
    inside = np.zeros(frame.size, bool)
    inside[top : frame.size[0] - bottom, left : frame.size[1] - right] = True
    np.testing.assert_array_equal(frame.padding, ~inside)
    assert (frame.label == 255).sum() == case["n_ignored_by_padding_or_void"]


@pytest.mark.parametrize("name", cases("target", "images"))
def test_target_views(name):
    case = GEOMETRY.json["target"][name]
    shared = SharedParams(case["scaled_size_wh"][::-1], window(case), case["group_hflip"])
    reference = apply_shared(read(case), shared)
    params = case["affine_params_dy_dx_alpha_invscale_flip"]
    for i, ((dy, dx, _, _, mirrored), zoom) in enumerate(zip(params, case["zooms"], strict=True)):
        view = ViewParams(int(mirrored), dy, dx, zoom["scale"] if zoom else 1.0)
        if zoom:
            assert view.window(*reference.size) == (zoom["i"], zoom["j"], zoom["h"], zoom["w"])
        frame = apply_view(reference, view)
        assert_image(frame, GEOMETRY[f"{name}/images"][i])
        label = np.where(frame.padding, -1, frame.label.astype(int))
        np.testing.assert_array_equal(label, GEOMETRY.array(f"{name}/labels")[i])
        for ours, theirs in zip(affine(view, *reference.size), ("affine", "affine_inv"), strict=True):
            np.testing.assert_allclose(ours, GEOMETRY.array(f"{name}/{theirs}")[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", cases("val", "image"))
def test_validation(name):
    case = GEOMETRY.json["val"][name]
    frame = read(case)
    if "game" in case["split"]:
        frame = resize(frame, GAME_SIZE)
    size = tuple(case["CROP_SIZE"])
    frame = crop(frame, centre_window(frame.size, size)) if case["VAL_CROP"] else resize(frame, size)
    # Released code: the padding of a centre crop counts as road and is not 0 after normalisation (quirk B10).
    assert_image(frame, GEOMETRY[f"{name}/image"], ignore_padding=True)
    expected = np.where(frame.padding, 255, GEOMETRY.array(f"{name}/label"))
    np.testing.assert_array_equal(frame.label, expected)
    assert frame.padding.any() == (name == "v1")


@pytest.mark.parametrize("case", UNROTATED)
def test_affine(case):
    height, width = map(int, case.split("/")[0].split("x"))
    params = AFFINE.array(f"{case}/params")
    assert len(params) == 26
    for (dy, dx, _, inverse_scale, flip), A, A_inv in zip(
        params, AFFINE.array(f"{case}/affine"), AFFINE.array(f"{case}/affine_inv"), strict=True
    ):
        ours = affine(ViewParams(int(flip), dy, dx, 1 / inverse_scale), height, width)
        np.testing.assert_allclose(ours[0], A, rtol=0, atol=1e-6)
        np.testing.assert_allclose(ours[1], A_inv, rtol=0, atol=2e-6)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean difference in grey levels."""
    return float(np.abs(ours.astype(int) - theirs).mean())


@pytest.mark.parametrize("case", [k for k in PHOTOMETRIC.json["cases"] if "blur" in k])
def test_blur(case):
    kind, *values = PHOTOMETRIC.json["cases"][case]["draws"][0]
    image = PHOTOMETRIC.array("input")
    if kind == "uniform":
        ours = noise.blur(image, values[-1])
    else:
        ours = noise.blur(image, 1.0) if values[0] < 0.5 else image
    assert difference(ours, PHOTOMETRIC.array(case)) < 0.5


@pytest.mark.parametrize("case", [k for k in PHOTOMETRIC.json["cases"] if "jitter" in k])
def test_jitter(case):
    image, expected = PHOTOMETRIC.array("input"), PHOTOMETRIC.array(case)
    frames = expected if expected.ndim == 4 else expected[None]
    draws = PHOTOMETRIC.json["cases"][case]["draws"]
    decisions = [i for i, draw in enumerate(draws) if draw[0] == "random"]
    for decision, frame in zip(decisions, frames, strict=True):
        ours = image
        if draws[decision][1] < 0.5:
            _, order, *factors, _ = draws[decision + 1]
            ours = noise.jitter(image, noise.Jitter(tuple(int(step) for step in order), *factors))
            assert not np.array_equal(ours, image)
        assert difference(ours, frame) < 0.5


@pytest.mark.parametrize("case", [k for k in PHOTOMETRIC.json["cases"] if "grey" in k])
def test_greyscale(case):
    image = PHOTOMETRIC.array("input")
    draws = PHOTOMETRIC.json["cases"][case]["draws"]
    for (_, u), frame in zip(draws, PHOTOMETRIC.array(case), strict=True):
        assert difference(noise.greyscale(image) if u < 0.2 else image, frame) < 0.01


@pytest.mark.parametrize("statistics", ["gta_default", "synthia_commented_out_in_config"])
def test_renormalised(statistics):
    stored = GEOMETRY.json["renorm"]
    source = {
        "gta_default": ([0.481, 0.479, 0.465], [0.243, 0.239, 0.237]),
        "synthia_commented_out_in_config": ([0.315, 0.278, 0.248], [0.225, 0.214, 0.210]),
    }[statistics]
    mean, std = renormalised(MEAN, STD, *source, stored["target_mean"], stored["target_std"])
    np.testing.assert_allclose(mean, stored[statistics]["mean"], rtol=1e-12)
    np.testing.assert_allclose(std, stored[statistics]["std"], rtol=1e-12)
