"""Geometry, noise and normalisation against Pillow, torchvision and themselves."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets import noise
from datasets.transforms import (
    Frame,
    Window,
    centre_window,
    crop,
    draw_size,
    draw_window,
    flip,
    normalise,
    resize,
    whole,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
sides = st.integers(1, 60)
sizes = st.tuples(sides, sides)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=60, deadline=None)


def random_frame(seed: int, size: tuple[int, int], padded: bool = True) -> Frame:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    label = rng.integers(0, 19, size, np.uint8)
    padding = rng.random(size) < 0.2 if padded else np.zeros(size, bool)
    return Frame(image, label, padding)


def scene(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Colours that change smoothly, with noise: no pure noise, for which every hue is as good as another."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(20, 236, (4, 6, 3), np.uint8))
    image = np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def assert_equal(ours: Frame, theirs: Frame) -> None:
    for plane, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(plane, other)


def difference(ours: np.ndarray, theirs: object) -> float:
    return float(np.abs(ours.astype(int) - np.asarray(theirs)).mean())


@few
@given(seeds, sizes, sizes)
def test_resize_is_pillows(seed, size, wanted):
    frame = random_frame(seed, size)
    ours = resize(frame, wanted)
    image = np.asarray(Image.fromarray(frame.image).resize(wanted[::-1], Image.Resampling.BILINEAR))
    assert np.abs(ours.image.astype(int) - image).max() <= 2  # test_resizing.py: how often it is how much
    for plane, other in ((frame.label, ours.label), (frame.padding.astype(np.uint8), ours.padding)):
        nearest = Image.fromarray(plane).resize(wanted[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(other, np.asarray(nearest))
    assert ours.padding.dtype == bool


def test_resize_of_a_part_of_an_array():
    frame = random_frame(0, (40, 50))
    part = crop(frame, Window(3, 5, 20, 30))
    assert not part.image.flags.c_contiguous
    copy = Frame(*(np.ascontiguousarray(plane) for plane in part))
    assert_equal(resize(part, (33, 17)), resize(copy, (33, 17)))


def test_resize_keeps_what_has_no_label():
    assert resize(whole(np.zeros((4, 6, 3), np.uint8)), (2, 3)).label is None


@few
@given(seeds, sizes, st.integers(-70, 70), st.integers(-70, 70), sides, sides)
def test_crop_with_padding(seed, size, top, left, height, width):
    frame = random_frame(seed, size)
    ours = crop(frame, Window(top, left, height, width))
    # The same by padding everything by more than any window reaches.
    far = 140
    part = (slice(far + top, far + top + height), slice(far + left, far + left + width))
    np.testing.assert_array_equal(ours.image, np.pad(frame.image, ((far, far), (far, far), (0, 0)))[part])
    np.testing.assert_array_equal(ours.label, np.pad(frame.label, far, constant_values=255)[part])
    np.testing.assert_array_equal(ours.padding, np.pad(frame.padding, far, constant_values=True)[part])


@few
@given(seeds, sizes, st.integers(-30, 30), st.integers(-30, 30), sides, sides)
def test_mirrored_window(seed, size, top, left, height, width):
    frame, window = random_frame(seed, size), Window(top, left, height, width)
    assert_equal(flip(crop(frame, window.mirrored(size[1]))), crop(flip(frame), window))
    assert window.mirrored(size[1]).mirrored(size[1]) == window


@few
@given(seeds, sizes)
def test_flip_twice(seed, size):
    frame = random_frame(seed, size)
    assert_equal(flip(flip(frame)), frame)
    np.testing.assert_array_equal(flip(frame).image, frame.image[:, ::-1])


@few
@given(seeds, sizes, sizes)
def test_draw_window(seed, size, crop_size):
    window = draw_window(np.random.default_rng(seed), size, crop_size)
    assert window[2:] == crop_size
    for start, side, wanted in zip(window[:2], size, crop_size, strict=True):
        if side >= wanted:
            assert 0 <= start <= side - wanted
        else:  # the smaller half of the padding comes first
            assert -start == (wanted - side) // 2


def test_every_place_is_drawn():
    rng = np.random.default_rng(0)
    windows = {draw_window(rng, (5, 4), (3, 3))[:2] for _ in range(200)}
    assert windows == {(top, left) for top in range(3) for left in range(2)}


def test_draw_size():
    rng = np.random.default_rng(0)
    assert draw_size(rng, (1052, 1914), (0.5, 0.5)) == (526, 957)
    assert draw_size(rng, (3, 3), (0.6, 0.6)) == (1, 1)
    assert draw_size(rng, (1, 1), (0.5, 0.5)) == (1, 1)
    heights = [draw_size(rng, (1000, 10), (0.5, 2.0))[0] for _ in range(300)]
    assert 500 <= min(heights) < 520 and 1980 < max(heights) < 2000


@few
@given(sizes, sizes)
def test_centre_window_is_torchvisions(size, crop_size):
    frame = random_frame(0, size, padded=False)
    theirs = TF.center_crop(torch.from_numpy(frame.image).permute(2, 0, 1), list(crop_size)).permute(1, 2, 0)
    np.testing.assert_array_equal(crop(frame, centre_window(size, crop_size)).image, theirs.numpy())


def test_normalise():
    frame = random_frame(1, (9, 14))
    image = torch.from_numpy(np.stack([frame.image, 255 - frame.image]))
    padding = torch.from_numpy(np.stack([frame.padding, ~frame.padding]))
    ours = normalise(image, padding, MEAN, STD)
    theirs = torch.stack([TF.normalize(TF.to_tensor(i.numpy()), MEAN, STD) for i in image])
    assert ours.dtype == torch.float32 and ours.is_contiguous(memory_format=torch.channels_last)
    inside = (~padding)[:, None].expand_as(ours)
    torch.testing.assert_close(ours[inside], theirs[inside], rtol=0, atol=1e-6)
    assert (ours[~inside] == 0).all()
    torch.testing.assert_close(normalise(image, None, MEAN, STD), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_jitter_is_torchvisions(seed):
    rng = np.random.default_rng(seed)
    image = scene(seed, (48, 96))
    order = tuple(rng.permutation(4).tolist())
    factors = noise.Jitter(order, *rng.uniform(0.5, 1.5, 3), rng.uniform(-0.5, 0.5))
    theirs = Image.fromarray(image)
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for step in factors.order:
        theirs = adjust[step](theirs, factors[1 + step])
    assert difference(noise.jitter(image, factors), theirs) < 1.0
    assert difference(image, theirs) > 2.0


@pytest.mark.parametrize("step, allowed", [(0, 0.05), (1, 0.05), (2, 0.3), (3, 0.6)])
def test_single_steps_of_the_jitter(step, allowed):
    image = scene(3, (48, 96))
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)[step]
    for value in (0.2, 0.7, 1.0, 1.6) if step < 3 else (-0.5, -0.13, 0.04, 0.31):
        factors = noise.Jitter((step,), value, value, value, value)
        theirs = adjust(Image.fromarray(image), value)
        assert difference(noise.jitter(image, factors), theirs) < allowed, value


def test_factors_of_one_change_nothing():
    image = scene(0, (20, 30))
    factors = noise.Jitter((noise.SATURATION, noise.BRIGHTNESS, noise.CONTRAST), 1.0, 1.0, 1.0, 0.0)
    np.testing.assert_array_equal(noise.jitter(image, factors), image)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1)])
def test_jitter_of_a_part_follows_the_whole(order):
    image = scene(5, (240, 320))
    factors = noise.Jitter(order, 1.3, 0.6, 1.4, 0.1)
    part = noise.jitter(image[120:200, 40:90], factors, around=np.ascontiguousarray(image[::4, ::4]))
    assert difference(part, noise.jitter(image, factors)[120:200, 40:90]) < 1.0
    assert difference(noise.jitter(image[120:200, 40:90], factors), part) > 3.0


def test_draw_jitter():
    rng = np.random.default_rng(0)
    drawn = [noise.draw_jitter(rng, 0.4, 0.1) for _ in range(1000)]
    factors = [jitter for jitter in drawn if jitter is not None]
    assert 430 < len(factors) < 570
    values = np.array([jitter[1:] for jitter in factors])
    assert np.all((values >= [0.6, 0.6, 0.6, -0.1]) & (values <= [1.4, 1.4, 1.4, 0.1]))
    assert values[:, :3].min() < 0.62 and values[:, :3].max() > 1.38
    assert {tuple(sorted(jitter.order)) for jitter in factors} == {(0, 1, 2, 3)}
    assert len({jitter.order for jitter in factors}) == 24
    assert noise.draw_jitter(rng, 0.0, 0.0) is None
    strong = [noise.draw_jitter(rng, 2.0, 0.5) for _ in range(50)]
    assert min(min(jitter[1:4]) for jitter in strong if jitter) >= 0


def test_draw_noise():
    rng = np.random.default_rng(0)
    drawn = [noise.draw_noise(rng, True, 0.4, 0.2) for _ in range(1000)]
    radii = [one.blur for one in drawn]
    assert 0.1 <= min(radii) < 0.15 and 1.95 < max(radii) <= 2.0
    assert 150 < sum(one.greyscale for one in drawn) < 250
    assert noise.draw_noise(rng, False, 0.0, 0.0) == noise.Noise(0.0, None, False)


def test_add_noise_in_the_order_of_the_method():
    image = scene(0, (40, 50))
    before = image.copy()
    jitter = noise.Jitter((0, 1, 2, 3), 1.2, 0.7, 1.3, 0.05)
    out = np.empty_like(image)
    noise.add_noise(image, noise.Noise(1.3, jitter, True), out)
    np.testing.assert_array_equal(out, noise.greyscale(noise.jitter(noise.blur(image, 1.3), jitter)))
    noise.add_noise(image, noise.Noise(0.0, None, False), out)
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 2.0])
def test_blur(radius):
    grey = np.full((30, 40, 3), 77, np.uint8)
    np.testing.assert_array_equal(noise.blur(grey, radius), grey)
    # A step's blurred slope has the deviation asked for.
    step = np.zeros((30, 41, 3), np.uint8)
    step[:, 20:] = 200
    slope = np.diff(noise.blur(step, radius)[15, :, 0].astype(float)) / 200
    position = np.arange(len(slope))
    mean = (slope * position).sum()
    deviation = np.sqrt((slope * (position - mean) ** 2).sum())
    assert abs(deviation - radius) < 0.12
