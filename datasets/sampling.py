"""Importance sampling of the target images, docs/method.md section 7: weights file -> tables -> draws."""

import logging
import math
import operator
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from core import tensor_files
from core.cli import UserError
from core.files import atomic_write
from datasets import lists
from datasets.labels import IGNORE

# {mask's file name: {class: the image's pixels of the class / all images' pixels of the class}}
Weights = dict[str, dict[int, float]]


def save_weights(weights: Mapping[str, Mapping[int, float]], path: str | Path) -> None:
    """Write a weights file of plain numbers, atomically; UserError if that fails."""
    atomic_write(path, partial(write_weights, weights))


def write_weights(weights: Mapping[str, Mapping[int, float]], file: IO[bytes]) -> None:
    """Write weights to an open file."""
    torch.save({name: {int(c): float(share) for c, share in row.items()} for name, row in weights.items()}, file)


def load_weights(path: str | Path) -> Weights:
    """Read a weights file, ours or a published one (whose keys and values are NumPy scalars).

    Raises:
        UserError: as `tensor_files.read`; also for content that is not {name: {class: fraction from 0 to 1}}.
    """
    advice = "make it with tools/compute_image_weights.py"
    content = tensor_files.read(path, "weights file", advice)
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} holds no weights; {advice}")
    try:
        weights = {
            name: {operator.index(c): float(share) for c, share in row.items()}
            for name, row in content.items()
        }
        classes = np.fromiter(chain.from_iterable(weights.values()), np.int64)
        shares = np.fromiter(chain.from_iterable(row.values() for row in weights.values()), np.float64)
    except (TypeError, ValueError, AttributeError, OverflowError, RuntimeError):  # the last from tensors
        raise UserError(f"{path} is not {{file name: {{class: fraction}}}}; {advice}") from None
    if not all(isinstance(name, str) for name in weights) or not np.all((classes >= 0) & (classes < IGNORE)):
        raise UserError(f"{path} is not {{file name: {{class: fraction}}}}; {advice}")
    if not np.all((shares >= 0) & (shares <= 1)):
        name = next(n for n, row in weights.items() if not all(0 <= share <= 1 for share in row.values()))
        raise UserError(f"{path}: {name} has a fraction that is not between 0 and 1; {advice}")
    return weights


def cumulative_tables(
    weights: Mapping[str, Mapping[int, float]] | None, names: Sequence[str], num_classes: int, uniform_prior: float,
    ignore: Collection[int] = (),
) -> np.ndarray:
    """Cumulative probabilities of the images, for each class.

    An image's probability for a class is u/M + (1-u)·fraction. Classes in `ignore`, and those that no image has
    (the released code stops there, quirk B11), are uniform: 1/M.

    Args:
        weights: of the images' masks; None = every class is uniform.
        names: the M images' mask names, in list order.
        num_classes: C.
        uniform_prior: u, 0 to 1.
        ignore: classes to be uniform.

    Returns:
        float64 [C,M]; a row's last entry is 1 up to rounding.

    Raises:
        UserError: the weights are for other images or classes, or a class's fractions do not add up to 1.
    """
    shares = np.zeros((num_classes, len(names)))  # [C,M]
    if weights is not None:
        _check_names(weights, names)
        rows = [weights[name] for name in names]
        classes = np.fromiter(chain.from_iterable(rows), np.int64)
        if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
            raise UserError(f"the weights file has class {classes.max()}, but the label set only {num_classes} classes")
        images = np.repeat(np.arange(len(rows)), np.fromiter(map(len, rows), np.int64, len(rows)))
        values = np.fromiter(chain.from_iterable(row.values() for row in rows), np.float64, classes.size)
        shares[classes, images] = values
    totals = shares.sum(1)  # [C]
    used = [c for c in range(num_classes) if weights is not None and c not in ignore]
    absent = [c for c in used if totals[c] == 0]
    if absent:
        logging.getLogger("sac").warning("no image of the weights file has class %s: drawn uniformly", absent)
    for c in set(used) - set(absent):
        if not math.isclose(totals[c], 1, abs_tol=1e-3):
            raise UserError(f"the weights of class {c} add up to {totals[c]:.4g}, not 1; compute them again")
    uniform = [c for c in range(num_classes) if c not in used or c in absent]
    shares *= 1 - uniform_prior
    shares += uniform_prior / len(names)
    shares[uniform] = 1 / len(names)
    return np.cumsum(shares, axis=1, out=shares)


def _check_names(weights: Mapping[str, Any], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in weights]
    extra = weights.keys() - set(names)
    alike = {lists.mask_name(name): name for name in extra}
    if missing and alike.keys() == set(missing):
        found = alike[missing[0]]
        raise UserError(
            f"the weights are for the target list's images, but call {found} what training calls {missing[0]}; compute "
            "them again from the folder of their masks: python tools/compute_image_weights.py --labels MASKS --ext "
            f"'*{Path(found).suffix}' --out WEIGHTS --force"
        )
    if missing or extra:
        found = [f"{len(missing)} images of the list have none (first: {missing[0]})"] if missing else []
        found += [f"{len(extra)} are for other images (such as {min(extra)})"] if extra else []
        advice = "compute them from masks of this list (tools/compute_image_weights.py)"
        raise UserError(f"the weights are not for the target list: {'; '.join(found)}; {advice}")


def draw_image(tables: np.ndarray, index: int, u: float) -> int:
    """The image for item `index` of the target set, by the probabilities of class index % C; O(log M).

    Args:
        tables: cumulative probabilities, float64 [C,M].
        index: of the item, from 0.
        u: uniform in [0,1); scaled by the row's last entry.
    """
    row = tables[index % len(tables)]
    return bisect_left(row, u * row[-1])
