"""Self-supervised augmentation consistency: the mathematics of docs/method.md, section 4, in its order. Pure functions.

N images, T views of each (the paper writes N for the crops of an image and T for the teacher's period), C classes,
H x W the crop, h x w the logits at stride 8; m the teacher's probabilities, χ (`chi`) the class prior, θ (`theta`) the
thresholds, β (`beta`), ζ (`zeta`), λ (`focal_p`) as in the paper. Labels have any integer type, 255 = ignored.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = 255
POOLS, LOSSES = ("avg_pool", "minentropy_pool"), ("focal_ce", "focal_ce_conf", "focal_ce_conf_batch")
MIN_SUM, MIN_MASS = 1e-3, 0.1  # for summed probabilities: clamp before dividing; a pixel is unseen below
EMPTY_ENTROPY = 1e5  # of a view that does not see the pixel: larger than of any view that does


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with `align_corners=True`, at least float32: logits [B,C,h,w] -> [B,C,H,W] (section 2)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


def classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The most likely class of every pixel (section 6): logits [B,C,h,w] -> uint8 [B,H,W]."""
    return confidence(upsample(logits, size))[1]


def source_loss(logits: Tensor, label: Tensor) -> Tensor:
    """L_s (sections 3 and 4.1): mean cross-entropy of [n,C,h,w], upsampled here, and [n,H,W]; ignored pixels are 0."""
    picture = upsample(logits, label.shape[1:])  # [n,C,H,W]
    return F.cross_entropy(picture, label.long(), ignore_index=IGNORE, reduction="none").mean()


def class_prior(m: Tensor) -> Tensor:
    """χ', the share of each class in these views (section 4.6): mean over m [n,C,H,W] -> [C]."""
    return m.mean(dim=(0, 2, 3))


def update_prior(chi: Tensor, chi_now: Tensor, gamma: float, beta: float) -> Tensor:
    """χ <- γ_χ χ + (1-γ_χ) χ' (section 4.6): `chi` χ [C] so far, `chi_now` χ' [C] over all processes, `gamma` γ_χ.

    A class that occurs (χ' > 1e-8) and is still exactly at β, where χ starts, is set to χ' first.
    """
    untouched = (chi == torch.full_like(chi, beta)) & (chi_now > 1e-8)
    return gamma * torch.where(untouched, chi_now, chi) + (1 - gamma) * chi_now


def warp(x: Tensor, A: Tensor) -> Tensor:
    """Resample x [n,c,H,W] with A [n,2,3]: bilinear, zeros outside; the output at coordinates r is the input at A·r."""
    grid = F.affine_grid(A, x.shape, align_corners=False)  # [n,H,W,2]
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def fuse_views(m: Tensor, padding: Tensor, A: Tensor, A_inv: Tensor, pool: str = "avg_pool") -> Tensor:
    """m̄: the T views of one image, fused in its reference frame and brought back (section 4.7, paper section 3.2).

    Args:
        m: the teacher's probabilities [T,C,H,W].
        padding: bool [T,H,W], True outside the image.
        A: [T,2,3], reference coordinates -> view.
        A_inv: [T,2,3], view coordinates -> reference.
        pool: "avg_pool" (mean of the views) or "minentropy_pool" (the most certain view).

    Returns:
        m̄ [T,C,H,W], 0 where no view sees the pixel.
    """
    # Released code: v is in the view's frame, but multiplies in the reference frame. The published numbers include it.
    v = warp(torch.ones_like(m[:, :1]), A_inv)  # [T,1,H,W]
    x = warp(m.masked_fill(padding[:, None], 0), A) * v  # [T,C,H,W]
    mass = x.sum(dim=1, keepdim=True)  # [T,1,H,W]
    if pool == "avg_pool":
        total = x.sum(dim=0, keepdim=True)  # [1,C,H,W]
        fused = total / total.sum(dim=1, keepdim=True).clamp(min=MIN_SUM)
    else:
        entropy = -(x * ((x + 1e-5) / (1 + 1e-5)).log()).sum(dim=1, keepdim=True)  # [T,1,H,W]
        first = entropy.masked_fill(mass < MIN_MASS, EMPTY_ENTROPY).argmin(dim=0, keepdim=True)  # [1,1,H,W]
        fused = x.gather(0, first.expand_as(x[:1]))  # [1,C,H,W]
    valid = (mass.sum(dim=0, keepdim=True) > MIN_MASS).to(m.dtype)  # [1,1,H,W]
    return warp(fused.expand_as(x), A_inv) * warp(valid.expand_as(v), A_inv)


def confidence(m: Tensor) -> tuple[Tensor, Tensor]:
    """m̄* and c* (section 4.8): maximum over the classes of m̄ [n,C,H,W] and the first class that attains it, uint8."""
    best, label = m.max(dim=1)  # [n,H,W]
    return best, label.to(torch.uint8)


def discount(chi: Tensor, beta: float) -> Tensor:
    """d_c = 1 - exp(-χ_c/β) [C] (section 4.8): lowers the thresholds of rare classes."""
    return 1 - torch.exp(-chi / beta)


def thresholds(best: Tensor, label: Tensor, d: Tensor, zeta: float, floor: float) -> Tensor:
    """θ [n,C] = max(floor, ζ · d_c · max of m̄* over the view's pixels with c* = c) (section 4.8).

    Args:
        best: m̄* [n,H,W].
        label: c* [n,H,W].
        d: the discount d_c [C]; ones for none.
        zeta: ζ, RUN_CONF_UPPER.
        floor: RUN_CONF_LOWER; also the threshold of absent classes.
    """
    none = best.new_zeros(len(best), len(d))
    highest = none.scatter_reduce(1, label.flatten(1).long(), best.flatten(1), "amax")  # [n,C]
    # As published, multiply by ζ first: rounding matters, since a strict comparison follows.
    return (highest * zeta * d).clamp(min=floor)


def pseudo_labels(best: Tensor, label: Tensor, theta: Tensor, padding: Tensor) -> Tensor:
    """c* where m̄* > θ_{c*}, else 255; padding is 255 (section 4.8). Arguments as above; padding bool [n,H,W]."""
    needed = theta.gather(1, label.flatten(1).long()).view_as(best)  # [n,H,W]
    return label.masked_fill(~(best > needed) | padding, IGNORE)


def pixel_weight(best: Tensor, loss: str) -> Tensor | None:
    """The weight w (section 4.9) from m̄* [n,H,W] of all views: None for 1, [n,H,W], or [1,H,W] for all views.

    "focal_ce": 1. "focal_ce_conf": the pixel's own confidence, as in the paper. "focal_ce_conf_batch": the mean over
    all views at the pixel's position, as in the released code.
    """
    if loss == "focal_ce":
        return None
    return best if loss == "focal_ce_conf" else best.mean(dim=0, keepdim=True)


def focal_loss(logits: Tensor, label: Tensor, chi: Tensor, focal_p: float, weight: Tensor | None = None) -> Tensor:
    """L_t (section 4.9): the mean over all pixels of w · (1-χ_{c*})^λ · CE; ignored pixels count as 0.

    Args:
        logits: the student's [n,C,h,w], upsampled to the label's size here.
        label: [n,H,W].
        chi: χ [C]; negative values count as 0.
        focal_p: λ >= 0.
        weight: w [n,H,W] or [1,H,W]; None for 1.
    """
    picture = upsample(logits, label.shape[1:])  # [n,C,H,W]
    focal = ((1 - chi.clamp(min=0)) ** focal_p).to(picture.dtype)
    loss = F.cross_entropy(picture, label.long(), weight=focal, ignore_index=IGNORE, reduction="none")  # [n,H,W]
    return (loss if weight is None else loss * weight).mean()
