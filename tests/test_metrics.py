"""core/metrics.py: counts equal the published ones and a count by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.metrics import ConfusionMatrix, class_counts, pair_counts

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("case", ["s0", "s1"])
def test_counts_and_ratios_are_the_published_ones(case: str) -> None:
    arrays = np.load(GOLDEN / "c10_jaccard.npz")
    published = json.loads((GOLDEN / "c10_jaccard.json").read_text())["cases"][case]
    matrix = ConfusionMatrix(published["C"])
    for i in range(3):
        matrix.update(torch.from_numpy(arrays[f"{case}/pred{i}"]), torch.from_numpy(arrays[f"{case}/gt{i}"]))
    hits, counts = matrix.counts.diagonal(), matrix.counts
    assert hits.tolist() == arrays[f"{case}/tp"].tolist()
    assert (counts.sum(0) - hits).tolist() == arrays[f"{case}/fp"].tolist()
    assert (counts.sum(1) - hits).tolist() == arrays[f"{case}/fn"].tolist()

    # A class that does not occur is None here and 0 in the released code (quirk C5), in its means too.
    absent = [v is None for v in matrix.iou()]
    assert absent == (arrays[f"{case}/tp"] + arrays[f"{case}/fp"] + arrays[f"{case}/fn"] == 0).tolist()
    for name in ("iou", "precision", "recall"):
        values = [v or 0.0 for v in getattr(matrix, name)()]
        np.testing.assert_allclose(values, arrays[f"{case}/{name}"], rtol=0, atol=1e-6)
        mean = {"iou": "mIoU", "precision": "mPrecision", "recall": "mRecall"}[name]
        assert math.isclose(sum(values) / len(values), published[mean], abs_tol=1e-6)
    present = len(absent) - sum(absent)
    assert math.isclose(matrix.miou(), published["mIoU"] * published["C"] / present, abs_tol=1e-6)
    if published["C"] == 19:
        assert math.isclose(matrix.miou((9, 14, 16)), published["mIoU_ignoring_9_14_16"], abs_tol=1e-6)


def test_by_hand() -> None:
    matrix = ConfusionMatrix(3)
    label = torch.tensor([[0, 0, 0, 1], [1, 255, 0, 0]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 0, 1, 1], [0, 1, 255, 0]], dtype=torch.uint8)
    matrix.update(prediction, label)
    assert matrix.counts.tolist() == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert matrix.iou() == [3 / 6, 1 / 3, None]  # class 0: one miss is a prediction that is no class
    assert matrix.precision() == [3 / 4, 1 / 2, None]
    assert matrix.recall() == [3 / 5, 1 / 2, None]
    assert matrix.miou() == (3 / 6 + 1 / 3) / 2
    assert matrix.miou(ignore=[0]) == 1 / 3
    assert matrix.accuracy() == 4 / 7


def test_nothing_counted() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.zeros(4, dtype=torch.int64), torch.full((4,), 255))
    assert matrix.iou() == [None] * 3
    assert math.isnan(matrix.miou()) and math.isnan(matrix.accuracy())
    assert math.isnan(ConfusionMatrix(2).miou(ignore=[0, 1]))


@settings(max_examples=50, deadline=None)
@given(
    classes=st.integers(2, 200),
    seed=st.integers(0, 2**32 - 1),
    kinds=st.tuples(*[st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64])] * 2),
)
def test_equals_counting_pixel_by_pixel_and_is_additive(
    classes: int, seed: int, kinds: tuple[torch.dtype, torch.dtype]
) -> None:
    rng = np.random.default_rng(seed)
    whole, parts = ConfusionMatrix(classes), ConfusionMatrix(classes)
    expected = np.zeros((classes, classes + 1), np.int64)
    pairs = []
    for kind in kinds:
        low, high = (0, 256) if kind == torch.uint8 else (-300, 300)
        pairs.append(torch.from_numpy(rng.integers(low, high, (2, 5, 7))).to(kind))
    for p, t in zip(pairs[0].flatten().tolist(), pairs[1].flatten().tolist(), strict=True):
        if 0 <= t < classes:
            expected[t, p if 0 <= p < classes else classes] += 1
    copies = [x.clone() for x in pairs]
    whole.update(*pairs)
    for i in range(2):
        parts.update(pairs[0][i], pairs[1][i])
    assert whole.table.tolist() == expected.tolist() == parts.table.tolist()
    assert whole.table.dtype == torch.int64
    # The released code overwrites its input (quirk C5).
    assert all(torch.equal(x, copy) for x, copy in zip(pairs, copies, strict=True))


def test_counts_beyond_float32() -> None:
    matrix = ConfusionMatrix(2)
    matrix.table[0, 0] = 2**24
    matrix.update(torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8))
    assert matrix.counts[0, 0] == 2**24 + 1


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"\(2,\) and label \(3,\)"):
        ConfusionMatrix(2).update(torch.zeros(2, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8))


def test_reduce_is_the_identity_for_one_process() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 0]))
    before = matrix.table.clone()
    matrix.reduce()
    assert torch.equal(matrix.table, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 5), (64, 128), (0, 4)])
def test_class_counts(shape: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    counts = class_counts(mask)
    assert counts.dtype == np.int64
    assert np.array_equal(counts, np.bincount(mask.ravel(), minlength=256))
    other = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    pairs = np.zeros((256, 256), np.int64)
    np.add.at(pairs, (mask, other), 1)
    assert np.array_equal(pair_counts(mask, other), pairs)


def test_class_counts_beyond_float32() -> None:
    mask = np.full((8193, 8193), 7, np.uint8)  # an odd number of pixels, more than 2^26
    mask[0, 0] = 3
    counts = class_counts(mask)
    assert counts[7] == 8193 * 8193 - 1 and counts[3] == 1 and counts.sum() == mask.size
    pairs = pair_counts(mask, mask)
    assert pairs[7, 7] == 8193 * 8193 - 1 and pairs[3, 3] == 1 and pairs.sum() == mask.size
