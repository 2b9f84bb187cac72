"""Pictures warped with the affine maps between a view and its reference frame (docs/method.md section 4.7).

A map A [2,3] flips, scales and shifts but never rotates (section 5). `warp` is the definition. The others give the same
of one picture without its being whole, and on the CPU leave out arithmetic whose result is known beforehand; on a GPU,
which one would have to wait for to know, they compute all of it.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from models.upsampling import blocks, highest

Part = tuple[slice, slice]  # rows and columns
OPEN = 255  # no class: the neighbours differ


def warp(x: Tensor, A: Tensor) -> Tensor:
    """Resample x [n,c,H,W] with A [n,2,3]: bilinear, zeros outside; the output at coordinates r is the input at A·r."""
    return _sample(x, grid(A, x.shape[2:]))


def grid(A: Tensor, size: tuple[int, int]) -> Tensor:
    """A·r at the centres of all pixels: A [n,2,3] -> (x, y) [n,H,W,2], from -1 to 1 within the picture.

    As `affine_grid` has it, but x is computed for each column and y for each row alone.
    """
    points = A.new_empty(len(A), *size, 2)
    x, y = _coordinates(A, size)
    points[..., 0], points[..., 1] = x[:, None, :], y[:, :, None]
    return points


def _coordinates(A: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """A·r: x of all columns [n,W] and y of all rows [n,H], from -1 to 1 within the picture."""
    y, x = ((2 * torch.arange(side, device=A.device, dtype=A.dtype) + 1) / side - 1 for side in size)
    return A[:, 0, :1] * x + A[:, 0, 2:], A[:, 1, 1:2] * y + A[:, 1, 2:]


def positions(A: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`_coordinates` in pixels: x [n,W] and y [n,H]; 0 is the centre of the first pixel."""
    x, y = _coordinates(A, size)
    return ((x + 1) * size[1] - 1) / 2, ((y + 1) * size[0] - 1) / 2


def _sample(x: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(x, points, mode="bilinear", padding_mode="zeros", align_corners=False)


def _sample_by_threads(x: Tensor, points: Tensor) -> Tensor:
    """Sample x [C,H,W] at points [r,w,2] in one or more pieces of equally many rows: [pieces,C,r/pieces,w]."""
    # On the CPU grid_sample has one thread a picture: each gets the same picture and some of the rows.
    threads = torch.get_num_threads()
    pieces = 1 if x.is_cuda or len(points) % threads else threads
    return _sample(x.expand(pieces, *x.shape), points.unflatten(0, (pieces, -1)))


def warped(x: Tensor, A: Tensor) -> Iterator[tuple[Part, Tensor]]:
    """`warp` of a picture x [C,H,W] with A [2,3], some rows at a time: (rows, columns) and [C,r,w], to be read only.

    Without what is 0 because it shows nothing of x. Where A does not zoom, the result is x or its mirror image.
    """
    size = x.shape[1:]
    if not x.is_cuda and not _zooms(A):
        for rows in blocks(0, size[0], x.device):
            yield (rows, slice(0, size[1])), x[:, rows].flip(2) if A[0, 0] < 0 else x[:, rows]
        return
    rows, columns = (slice(0, side) for side in size) if x.is_cuda else _showing(A, size)
    points = grid(A[None], size)[0]
    for part in blocks(rows.start, rows.stop, x.device):
        start = part.start
        for piece in _sample_by_threads(x, points[part, columns]):
            yield (slice(start, start := start + piece.shape[1]), columns), piece


def _zooms(A: Tensor) -> bool:
    """Whether A [2,3] does more than to flip."""
    return bool((A != A.sign()).any())


def _showing(A: Tensor, size: tuple[int, int]) -> list[slice]:
    """Rows and columns of a picture that can be other than 0 after a warp with A [2,3]."""
    (a_x, _, t_x), (_, a_y, t_y) = A.tolist()
    found = []
    for side, a, t in zip(size, (a_y, a_x), (t_y, t_x), strict=True):
        reach = abs((1 + 1 / side) / a)  # a point outside by less than a pixel has a share in the picture
        first, last = (((r - t / a + 1) * side - 1) / 2 for r in (-reach, reach))
        found.append(slice(min(side, max(0, math.floor(first))), max(0, min(side, math.ceil(last) + 1))))
    return found


def highest_warped(x: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over the classes of `warp` of x [C,H,W] with each A [t,2,3], and its class: float32, uint8 [t,H,W].

    The result is a mean of four neighbours of x. Where these have their maxima in one class, so has it, and the maximum
    is the mean of theirs: on the CPU only the pixels at the borders of classes need all of them.
    """
    best = x.new_zeros(len(A), *x.shape[1:])
    label = torch.zeros_like(best, dtype=torch.uint8)
    if x.is_cuda:
        for a, own_best, own_label in zip(A, best, label, strict=True):
            for part, y in warped(x, a):
                own_best[part], own_label[part] = highest(y)
        return best, label
    known, of_class = highest(x, blockwise=True)  # [H,W]
    cells = _agreed(of_class)
    for a, own_best, own_label in zip(A, best, label, strict=True):
        if not _zooms(a):
            own_best[...], own_label[...] = (z.flip(1) if a[0, 0] < 0 else z for z in (known, of_class))
            continue
        points = grid(a[None], known.shape)[0]  # [H,W,2]
        own_best[...] = _sample_by_threads(known[None], points).view_as(known)
        torch.index_select(cells.flatten(), 0, _cell(a, known.shape).flatten(), out=own_label.view(-1))
        threads = torch.get_num_threads()
        for some in (own_label.view(-1) == OPEN).nonzero()[:, 0].split(2**15):
            some = F.pad(some, (0, -len(some) % threads)).view(threads, -1)  # with pixel 0, which may be done twice
            here = points.view(-1, 2)[some]  # [threads,n,2]
            for place, y in zip(some, _sample_by_threads(x, here), strict=True):
                own_best.view(-1)[place], own_label.view(-1)[place] = highest(y[:, 0])
    return best, label


def _agreed(label: Tensor) -> Tensor:
    """The label of four neighbouring pixels of [H,W] that have one label, else OPEN: [H+1,W+1], outer ones included."""
    first = label[:-1, :-1]
    same = (first == label[1:, :-1]) & (first == label[:-1, 1:]) & (first == label[1:, 1:])
    return F.pad(first.masked_fill(~same, OPEN), (1, 1, 1, 1), value=OPEN)


def _cell(A: Tensor, size: tuple[int, int]) -> Tensor:
    """Which four neighbours the points of `grid` lie between, as places in `_agreed`: A [2,3] -> int64 [H,W]."""
    place = zip(positions(A[None], size), size[::-1], strict=True)
    x, y = (z[0].floor().clamp(-1, side - 1).long() + 1 for z, side in place)
    return y[:, None] * (size[1] + 1) + x
