"""Self-supervised augmentation consistency: the mathematics, in the method's order, as pure functions of tensors.

Letters: N images, T views of each (the paper writes N for the crops of an image and T for the teacher's period),
C classes, H x W the crop, h x w the logits at stride 8. `m` are the teacher's probabilities, `chi` (χ) the class
prior, `theta` (θ) the thresholds, `beta` (β), `zeta` (ζ) and `lambda` (λ, `focal_p`) as in the paper.
Everything is float32 and, but for the loss, without gradient. The numbers are those of docs/method.md.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from models.upsampling import cross_entropy, highest
from models.warping import highest_warped, positions, warp, warped

IGNORE = 255
POOLS = ("avg_pool", "minentropy_pool")
LOSSES = ("focal_ce", "focal_ce_conf", "focal_ce_conf_batch")

MIN_SUM = 1e-3  # the averaged probabilities' sum over classes is clamped here before dividing by it
MIN_MASS = 0.1  # less probability than this in the reference frame is no view at all: the pixel is invalid
EMPTY_ENTROPY = 1e5  # of a view that does not see the pixel: never the smallest where another sees it


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, `align_corners=True`: logits [B,C,h,w] -> [B,C,H,W], float32 (section 2)."""
    return F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)


def class_prior(m: Tensor) -> Tensor:
    """χ', the share of each class in these views (section 4.6): mean of m [n,C,H,W] over views and pixels -> [C]."""
    return m.mean(dim=(0, 2, 3))


def update_prior(chi: Tensor, chi_now: Tensor, gamma: float, beta: float) -> Tensor:
    """Moving average of the class prior (section 4.6): χ <- γ_χ χ + (1-γ_χ) χ'.

    A class still exactly at β that occurs at all (χ'_c > 1e-8) first jumps to χ'_c; in effect only at the first update.

    Args:
        chi: χ [C] float32, the prior so far.
        chi_now: χ' [C] float32, over all views of all processes.
        gamma: γ_χ in [0, 1].
        beta: β > 0, where χ starts.

    Returns:
        The new χ [C].
    """
    untouched = (chi == torch.tensor(beta, dtype=chi.dtype, device=chi.device)) & (chi_now > 1e-8)
    chi = torch.where(untouched, chi_now, chi)
    return gamma * chi + (1 - gamma) * chi_now


def visibility(A_inv: Tensor, size: tuple[int, int]) -> Tensor:
    """v_t [T,1,H,W] in [0,1]: a picture of ones warped with A⁻¹ [T,2,3] (section 4.7).

    Released code: this lies in the view's frame, yet multiplies probabilities in the reference's; kept, since the
    published numbers contain it.
    """
    x, y = positions(A_inv, size)  # [T,W], [T,H]
    inside = (torch.minimum(z + 1, side - z).clamp(0, 1) for z, side in ((y, size[0]), (x, size[1])))
    v_y, v_x = inside  # a pixel beside the border has part of its weight outside
    return (v_y[:, :, None] * v_x[:, None, :])[:, None]


def fuse(
    m: Iterable[Tensor], padding: Tensor, A: Tensor, A_inv: Tensor, pool: str = "avg_pool", out: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Merge the T views of one image in its reference frame (section 4.7, paper section 3.2).

    View by view: the probabilities of one and what is merged so far are all that need exist.

    Args:
        m: teacher's probabilities [C,H,W] of the views, as one tensor or one after the other, all in the same memory if
            need be; overwritten where the view is padding.
        padding: bool [T,H,W], True where the view shows nothing.
        A: [T,2,3], reference coordinates -> view.
        A_inv: [T,2,3], view coordinates -> reference.
        pool: "avg_pool" (mean of the views, normalised over classes) or "minentropy_pool" (the most certain view).
        out: memory for the merged probabilities [C,H,W]; None = new.

    Returns:
        The merged probabilities [C,H,W] and their validity [H,W], 1.0 or 0.0.
    """
    merged, mass = out, A.new_zeros(padding.shape[1:])  # [C,H,W], [H,W]
    lowest = torch.full_like(mass, torch.inf)  # entropy so far
    for t, (view, hidden) in enumerate(zip(m, padding, strict=True)):
        if hidden.is_cuda or hidden.any():
            view.masked_fill_(hidden, 0)
        if t == 0:
            merged = torch.zeros_like(view) if out is None else out.zero_()
        v = visibility(A_inv[t : t + 1], mass.shape)[0, 0]  # [H,W]
        for part, x in warped(view, A[t]):  # [C,r,w]
            here = (slice(None), *part)
            if pool == "avg_pool":
                merged[here].addcmul_(x, v[part])
                continue
            x = x * v[part]
            seen = x.sum(dim=0)
            mass[part] += seen
            entropy = -(x * ((x + 1e-5) / (1 + 1e-5)).log()).sum(dim=0)
            entropy[seen < MIN_MASS] = EMPTY_ENTROPY
            # The first of equal ones stays.
            merged[here] = torch.where(entropy < lowest[part], x, merged[here])
            lowest[part] = torch.minimum(entropy, lowest[part])
        lowest.clamp_(max=EMPTY_ENTROPY)  # where the view shows nothing
    if pool == "avg_pool":
        mass = merged.sum(dim=0)
        merged /= mass.clamp(min=MIN_SUM)
    return merged, (mass > MIN_MASS).to(mass.dtype)


def to_views(merged: Tensor, valid: Tensor, A_inv: Tensor) -> Tensor:
    """m̄: the merged probabilities [C,H,W] and validity [H,W] seen from views with A⁻¹ [t,2,3] -> [t,C,H,W]."""
    t = A_inv.shape[0]
    seen = warp(valid.expand(t, 1, *valid.shape), A_inv)  # [t,1,H,W]
    return warp(merged.expand(t, *merged.shape), A_inv).mul_(seen)


def fuse_views(m: Tensor, padding: Tensor, A: Tensor, A_inv: Tensor, pool: str = "avg_pool") -> Tensor:
    """m̄ [T,C,H,W]: the T views of one image fused and brought back into each (section 4.7); arguments as `fuse`."""
    return to_views(*fuse(m, padding, A, A_inv, pool), A_inv)


def confidence(m: Tensor) -> tuple[Tensor, Tensor]:
    """m̄* and c* (section 4.8): maximum and argmax of m̄ [n,C,H,W] over classes -> float32 and uint8 [n,H,W]."""
    best, label = m.new_empty(m[:, 0].shape), m.new_empty(m[:, 0].shape, dtype=torch.uint8)
    for one, own_best, own_label in zip(m, best, label, strict=True):
        own_best[...], own_label[...] = highest(one, blockwise=True)
    return best, label


def confidence_in_views(merged: Tensor, valid: Tensor, A_inv: Tensor) -> tuple[Tensor, Tensor]:
    """`confidence` of `to_views`, whose result is never whole; the class where a view sees nothing is any."""
    if valid.is_cuda or not valid.all():
        seen = warp(valid.expand(len(A_inv), 1, *valid.shape), A_inv)  # [t,1,H,W]
    else:
        seen = visibility(A_inv, valid.shape)
    best, label = highest_warped(merged, A_inv)
    return best.mul_(seen[:, 0]), label


def discount(chi: Tensor, beta: float) -> Tensor:
    """d_c = 1 - exp(-χ_c/β) [C] (section 4.8): lowers the thresholds of rare classes."""
    return 1 - torch.exp(-chi / beta)


def thresholds(best: Tensor, label: Tensor, d: Tensor, zeta: float, floor: float) -> Tensor:
    """θ per view and class (section 4.8): max(floor, ζ · d_c · max of m̄* over the view's pixels with c* = c).

    Args:
        best: m̄* [n,H,W].
        label: c* [n,H,W], any integer type.
        d: discount d_c [C] (ones: none).
        zeta: ζ, RUN_CONF_UPPER.
        floor: RUN_CONF_LOWER.

    Returns:
        θ [n,C]; the floor for a class that no pixel has.
    """
    highest = best.new_zeros(best.shape[0], d.shape[0])  # [n,C]
    for own, m, c in zip(highest, best, label, strict=True):
        own.scatter_reduce_(0, c.flatten().long(), m.flatten(), "amax")
    # In this order: the published arithmetic multiplies by ζ first, and a strict comparison follows.
    return (highest * zeta * d).clamp(min=floor)


def pseudo_labels(best: Tensor, label: Tensor, theta: Tensor, padding: Tensor) -> Tensor:
    """c* where m̄* > θ_{c*}, else 255; padding is 255 (section 4.8).

    Args:
        best: m̄* [n,H,W].
        label: c* [n,H,W], any integer type.
        theta: θ [n,C].
        padding: bool [n,H,W].

    Returns:
        [n,H,W] of the label's type.
    """
    kept = torch.empty_like(label)
    for own, m, c, needed, hidden in zip(kept, best, label, theta, padding, strict=True):
        enough = m > needed.index_select(0, c.flatten().long()).view_as(m)
        own[...] = c.masked_fill(~enough | hidden, IGNORE)
    return kept


def pixel_weight(best: Tensor, loss: str) -> Tensor | None:
    """Weight w of the loss (section 4.9) from m̄* [n,H,W] of all these views: None, [n,H,W], or [1,H,W] for all.

    "focal_ce": none. "focal_ce_conf": the pixel's own confidence, as the paper has it. "focal_ce_conf_batch": the mean
    over all views at the pixel's position, as the released code computes it; several processes average it once more.
    """
    if loss == "focal_ce":
        return None
    return best if loss == "focal_ce_conf" else best.mean(dim=0, keepdim=True)


def focal_loss(logits: Tensor, label: Tensor, chi: Tensor, focal_p: float, weight: Tensor | None = None) -> Tensor:
    """L_t (section 4.9): mean over all pixels of w · (1-χ_{c*})^λ · CE; ignored pixels count in the mean with 0.

    Args:
        logits: student's [n,C,h,w], with gradient; upsampled to the label's size here.
        label: [n,H,W], any integer type, 255 = ignored.
        chi: χ [C]; clamped at 0 from below.
        focal_p: λ >= 0.
        weight: w [n,H,W] or [1,H,W], or None for 1.

    Returns:
        A scalar.
    """
    return cross_entropy(logits, label, (1 - chi.clamp(min=0)) ** focal_p, weight)


def source_loss(logits: Tensor, label: Tensor) -> Tensor:
    """L_s (section 3): cross-entropy averaged over all pixels, those labelled 255 with loss 0; see `focal_loss`."""
    return cross_entropy(logits, label, logits.new_ones(logits.shape[1], dtype=torch.float32))
