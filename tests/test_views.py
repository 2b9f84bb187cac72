"""Views of an image: their parameters, their geometry, and the maps that describe it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.transforms import Frame, Window, flip, whole
from datasets.views import SharedParams, ViewParams, affine, apply_shared, apply_view, draw_shared, draw_views

few = settings(max_examples=60, deadline=None)
seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(2, 64), st.integers(2, 64))
areas = st.tuples(st.integers(32, 64), st.integers(32, 64))
views = st.builds(
    ViewParams, st.sampled_from([-1, 1]), st.floats(-300, 300), st.floats(-300, 300), st.floats(0.2, 3.0)
)


@few
@given(views, st.integers(2, 700), st.integers(2, 1300))
def test_inverse(view, height, width):
    A, A_inv = (np.vstack([m.astype(np.float64), [0, 0, 1]]) for m in affine(view, height, width))
    scale = max(1.0, np.abs(A).max() * np.abs(A_inv).max())
    np.testing.assert_allclose(A @ A_inv, np.eye(3), rtol=0, atol=1e-6 * scale)
    assert affine(view, height, width)[0].dtype == np.float32


def test_reference_view_is_the_identity():
    for matrix in affine(ViewParams(), 512, 1024):
        np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 1, 0]])


@few
@given(seeds, sizes, st.tuples(st.floats(0.3, 1.0), st.floats(1.0, 2.0)), st.booleans())
def test_draw_views(seed, size, zoom, guided):
    drawn = draw_views(np.random.default_rng(seed), 4, size, zoom, guided)
    assert len(drawn) == 4
    assert drawn[0] == ViewParams(drawn[0].flip) and drawn[0].window(*size) == (0, 0, *size)
    for view in drawn:
        assert view.flip in ((-1, 1) if guided else (1,))
        assert zoom[0] <= view.scale <= zoom[1] or view is drawn[0]
        window = view.window(*size)
        assert window[2:] == tuple(max(1, int(view.scale * side)) for side in size)
        for start, part, side, offset in zip(window[:2], window[2:], size, (view.dy, view.dx), strict=True):
            assert offset == start + part / 2 - side / 2
            # A part of the image, or all of it with padding around.
            assert min(0, side - part) <= start <= max(0, side - part)


@pytest.mark.parametrize("end", [0.7, 1.0, 1.2])
@pytest.mark.parametrize("guided", [False, True])
def test_equal_ends_are_no_zoom(end, guided):
    for seed in range(10):
        rng, other = (np.random.default_rng(seed) for _ in range(2))
        drawn = draw_views(rng, 4, (60, 100), (end, end), guided)
        zoomed = draw_views(other, 4, (60, 100), (end, end + 1e-9), guided)
        assert drawn == [ViewParams(view.flip) for view in zoomed]  # the flips are drawn all the same
        assert all(view.window(60, 100) == (0, 0, 60, 100) for view in drawn)


def test_every_view_is_drawn():
    drawn = [draw_views(np.random.default_rng(i), 2, (8, 8), (0.5, 1.5), True) for i in range(400)]
    assert 150 < sum(views_[0].flip > 0 for views_ in drawn) < 250
    assert 150 < sum(views_[1].flip > 0 for views_ in drawn) < 250
    assert len({(views_[0].flip, views_[1].flip) for views_ in drawn}) == 4
    scales = [views_[1].scale for views_ in drawn]
    assert min(scales) < 0.52 and max(scales) > 1.48
    # All places of a crop of 6x6 out of 8x8, and of 8x8 in 10x10 with padding.
    for side, places in ((6, range(0, 3)), (10, range(-2, 1))):
        windows = [views_[1].window(8, 8) for views_ in drawn]
        assert {w.top for w in windows if w.height == side} == set(places)
        assert {w.left for w in windows if w.height == side} == set(places)


@few
@given(seeds, sizes)
def test_draw_shared(seed, crop_size):
    shared = draw_shared(np.random.default_rng(seed), crop_size, (0.8, 1.1), True)
    assert shared.window[2:] == crop_size
    for scaled, side in zip(shared.size, crop_size, strict=True):
        assert int(0.8 * side) <= scaled <= int(1.1 * side)
    assert not draw_shared(np.random.default_rng(seed), crop_size, (0.8, 1.1), False).flip


def smooth(size: tuple[int, int]) -> np.ndarray:
    """An image without edges, each channel a different slope or wave."""
    y, x = np.mgrid[: size[0], : size[1]]
    waves = np.sin(x / size[1] * 5) * np.cos(y / size[0] * 4)
    channels = [40 + 180 * x / size[1], 40 + 180 * y / size[0], 128 + 90 * waves]
    return np.stack(channels, -1).astype(np.uint8)


@pytest.mark.parametrize("mirrored", [-1, 1])
@pytest.mark.parametrize("zoom", [(0.5, 0.6), (0.9, 1.0), (1.0, 1.0), (1.1, 1.3)])
@pytest.mark.parametrize("seed", range(3))
def test_maps_describe_the_view(mirrored, zoom, seed):
    height, width = 128, 256
    reference = whole(smooth((height, width)))
    view = draw_views(np.random.default_rng(seed), 2, (height, width), zoom, False)[1]
    view = ViewParams(mirrored, view.dy, view.dx, view.scale)
    ours = apply_view(reference, view)
    A, A_inv = (torch.from_numpy(m)[None] for m in affine(view, height, width))

    def warp(image: np.ndarray, theta: torch.Tensor) -> np.ndarray:
        batch = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float()
        grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
        return F.grid_sample(batch, grid, align_corners=False)[0].permute(1, 2, 0).numpy()

    # What lies at x in the view lies at A⁻¹ x in the reference, and the other way round.
    inside = warp(np.ones((height, width, 3), np.float32), A_inv)[..., 0] > 0.999
    near = np.abs(warp(reference.image, A_inv) - ours.image).max(-1)
    # The crop has whole pixels, A the exact scale: they are up to a pixel apart.
    assert near[inside & ~ours.padding].max() <= 8
    # Padding is where the view looks outside of the reference, to a pixel or two.
    assert (inside == ours.padding).mean() < 0.04
    back = warp(ours.image, A)
    seen = warp(np.repeat(~ours.padding[..., None], 3, -1).astype(np.float32), A)[..., 0] > 0.999
    assert seen.mean() > 0.2
    # Except for the rim, which the padding around it darkens.
    seen &= np.pad(np.ones((height - 6, width - 6), bool), 3)
    assert np.abs(back - reference.image).max(-1)[seen].max() <= 8


def blocks(rng: np.random.Generator, size: tuple[int, int]) -> Frame:
    """Random areas of classes 0 and 1, dark and bright: the image tells the label."""
    coarse = Image.fromarray(rng.integers(0, 2, (3, 4), np.uint8))
    label = np.asarray(coarse.resize(size[::-1], Image.Resampling.NEAREST))
    return whole(np.repeat(60 + 180 * label[..., None], 3, -1), label)


@few
@given(seeds, areas, areas)
def test_image_label_and_padding_keep_in_step(seed, size, crop_size):
    rng = np.random.default_rng(seed)
    reference = apply_shared(blocks(rng, size), draw_shared(rng, crop_size, (0.7, 1.3), True))
    for view in draw_views(rng, 3, crop_size, (0.5, 1.5), True):
        part = apply_view(reference, view)
        assert part.image.shape == (*crop_size, 3) and part.label.shape == part.padding.shape == crop_size
        assert part.image.dtype == part.label.dtype == np.uint8 and part.padding.dtype == bool
        np.testing.assert_array_equal(part.label == 255, part.padding)
        # Interpolation moves borders by a pixel or so; out of step, half of the areas would not agree.
        agrees = np.where(part.padding, part.image[..., 0] < 60, (part.image[..., 0] > 150) == part.label)
        assert agrees.mean() > 0.8


def test_shared_flip_comes_after_the_crop():
    frame = blocks(np.random.default_rng(3), (20, 30))
    window = Window(2, 1, 10, 16)
    plain, mirrored = (apply_shared(frame, SharedParams((14, 20), window, f)) for f in (False, True))
    for ours, theirs in zip(mirrored, flip(plain), strict=True):
        np.testing.assert_array_equal(ours, theirs)
