"""One iteration of the baseline and of SAC, in the order and with the numbers of docs/method.md, sections 3 and 4."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core import distributed
from core.compute import Compute, Images, Source, Views
from models import consistency, has_batchnorm
from models.sac import SAC

Values = dict[str, Tensor]  # what an iteration returns, without gradient and over all processes


class PseudoLabels(NamedTuple):
    """The teacher's predictions for this process's views, [n,H,W] each."""

    label: Tensor  # uint8, 255 = none
    confidence: Tensor  # m̄*, float32
    guess: Tensor  # c*, uint8


@dataclass(frozen=True)
class Method:
    """The method's constants, with the paper's symbols and the configuration keys."""

    views: int  # T, TRAIN.GROUP_SIZE
    lr_target: float  # MODEL.LR_TARGET
    net_momentum: float  # γ_ψ, MODEL.NET_MOMENTUM
    net_momentum_iter: int  # MODEL.NET_MOMENTUM_ITER
    stat_momentum: float  # γ_χ, MODEL.STAT_MOMENTUM
    fusion: str  # MODEL.CONF_POOL, or "" without fusion
    upper: float  # ζ, MODEL.RUN_CONF_UPPER
    lower: float  # MODEL.RUN_CONF_LOWER
    beta: float  # β, MODEL.THRESHOLD_BETA
    discount: bool  # MODEL.CONF_DISCOUNT
    loss: str  # MODEL.LOSS
    focal_p: float  # λ, MODEL.FOCAL_P
    ramp: int = 0  # MODEL.LR_TARGET_RAMP


def descend(
    compute: Compute, loss_of: Callable[[slice], Tensor], parts: Iterable[slice], total: int, weight: float = 1.0
) -> Tensor:
    """Accumulate the gradient of weight · L, one micro-batch at a time.

    Args:
        compute: scales the loss if its precision needs that.
        loss_of: mean loss of some of this process's images, with gradient.
        parts: the micro-batches, at least one; an empty one if the process has no images.
        total: images over all processes; L is the mean over them.
        weight: of L.

    Returns:
        This process's share of L, without gradient.
    """
    losses = []
    for part in parts:
        share = loss_of(part) * ((part.stop - part.start) / total)
        compute.scaler.scale(weight * share).backward()
        losses.append(share.detach() if part.stop > part.start else torch.zeros_like(share))  # an empty mean is NaN
    return torch.stack(losses).sum()


def descend_source(network: nn.Module, compute: Compute, source: Source, largest: int | None = None) -> Tensor:
    """`descend` for L_s (sections 3 and 4.1); `largest` as in `Compute.slices`."""

    def loss_of(part: slice) -> Tensor:
        logits = compute.logits(network, source.image[part], source.seeds[part])
        return consistency.source_loss(logits, source.label[part])

    return descend(compute, loss_of, compute.slices(len(source.image), largest), source.total)


def no_change(done: int) -> None:
    """Constant learning rates, the default of a step (see core/optim.py:Rates)."""


class BaselineStep:
    """One iteration of the ABN baseline (section 3).

    Args:
        student: the network; with SyncBatchNorm if there are several processes.
        optimiser: of its parameters.
        compute: how it runs.
        clip: MODEL.CLIP_GRAD.
    """

    class_prior = None

    def __init__(self, student: nn.Module, optimiser: torch.optim.Optimizer, compute: Compute, clip: float = 0) -> None:
        self.student, self.optimiser, self.compute, self.clip = student, optimiser, compute, clip
        self.network = nn.ModuleDict({"backbone": student})  # under its published name
        self.called = compute.called(student)
        self.adapts, self.rates = has_batchnorm(student), no_change  # without BatchNorm the target has no effect

    def __call__(self, source: Source, target: Images, iteration: int, done: int = 0) -> Values:
        """A step on the source's cross-entropy; then the target updates BatchNorm's running statistics."""
        self.student.train()
        self.rates(done)
        self.optimiser.zero_grad(set_to_none=True)
        loss = descend_source(self.called, self.compute, source, distributed.most_of(source.total))
        distributed.sum_gradients(self.student.parameters())
        self.compute.take_step(self.optimiser, self.clip)
        if self.adapts:
            self.adapt(target)
        return distributed.totals({"loss_ce": loss})

    @torch.no_grad()
    def adapt(self, target: Images) -> None:
        """Adaptive BatchNorm: a forward pass over the target, only for its statistics."""
        for part in self.compute.slices(len(target.image), distributed.most_of(target.total)):
            self.compute.logits(self.called, target.image[part])


class SACStep:
    """One iteration of SAC (section 4).

    Args:
        network: student, teacher, class prior.
        optimiser: of the student's parameters.
        compute: how the networks run.
        constants: of the method.
        clip: MODEL.CLIP_GRAD.
    """

    def __init__(
        self, network: SAC, optimiser: torch.optim.Optimizer, compute: Compute, constants: Method, clip: float = 0.0
    ) -> None:
        self.network, self.optimiser, self.compute, self.constants = network, optimiser, compute, constants
        self.student, self.class_prior, self.clip = network.backbone, network.running_conf, clip  # χ [C]
        self.called, self.teacher = compute.called(network.backbone), compute.called(network.slow_net)
        self.rates = no_change

    def __call__(self, source: Source | None, views: Views, iteration: int, done: int = 0) -> Values:
        """One optimiser step on L_s + LR_TARGET · L_t.

        Args:
            source: this process's source images; None with TARGET_ONLY.
            views: this process's views of the target images.
            iteration: i, from 0 in each epoch.
            done: iterations of the run before this one.

        Returns:
            loss_ce, self_ce, kept (share of pixels with a pseudo label), seen [C] (> 0 for the classes among the pseudo
            labels), and teacher_diff if the teacher was updated.
        """
        c, moved, values = self.constants, {}, {}
        self.network.train()
        self.rates(done)
        self.optimiser.zero_grad(set_to_none=True)
        if source is not None:
            values["loss_ce"] = descend_source(self.called, self.compute, source)  # 4.1
        if iteration % c.net_momentum_iter == 0:
            moved["teacher_diff"] = self.network.update_teacher(c.net_momentum, c.beta)  # 4.4
        pseudo = self.label(views)  # 4.5 to 4.8
        weight = c.lr_target * min(1.0, done / c.ramp) if c.ramp else c.lr_target
        values["self_ce"] = self.descend_target(views, pseudo, weight)  # 4.3 and 4.9
        distributed.sum_gradients(self.student.parameters())
        self.compute.take_step(self.optimiser, self.clip)  # 4.10
        values["kept"] = (pseudo.label != consistency.IGNORE).sum() / (views.total * pseudo.label.shape[1:].numel())
        values["seen"] = classes_in(pseudo.label, len(self.class_prior))
        return distributed.totals(values) | moved

    @torch.no_grad()
    def label(self, views: Views, learn: bool = True) -> PseudoLabels:
        """Sections 4.5 to 4.8: the teacher's pseudo labels; `learn` False leaves the class prior as it is.

        Image by image, so that only one image's probabilities [T,C,H,W] exist at a time. The class prior needs those of
        all images, and only the thresholds need the class prior, so they come last.
        """
        c, size = self.constants, views.clean.shape[2:]
        best = views.clean.new_empty(len(views.clean), *size)  # [n,H,W]
        guess = torch.empty_like(best, dtype=torch.uint8)
        chi_now = torch.zeros_like(self.class_prior)  # [C]
        for image in whole_images(self.teach(views.clean), views, c.views):
            m = consistency.upsample(image.logits, size).softmax(dim=1)  # 4.5: [T,C,H,W]
            chi_now += consistency.class_prior(m[image.own]) * (len(m[image.own]) / views.total)  # 4.6
            if c.fusion:
                m = consistency.fuse_views(m, image.padding, image.A, image.A_inv, c.fusion)  # 4.7: m̄
            else:
                m = m.masked_fill(image.padding[:, None], 0)
            best[image.here], guess[image.here] = consistency.confidence(m[image.own])  # 4.8
        if learn:
            self.network.update_prior(distributed.total(chi_now), c.stat_momentum, c.beta)  # 4.6
        chi = self.class_prior
        d = consistency.discount(chi, c.beta) if c.discount else torch.ones_like(chi)  # 4.8
        theta = consistency.thresholds(best, guess, d, c.upper, c.lower)
        return PseudoLabels(consistency.pseudo_labels(best, guess, theta, views.padding), best, guess)

    def teach(self, clean: Tensor) -> Tensor:
        """Section 4.5: the teacher's logits at stride 8 of x [n,3,H,W] -> [n,C,h,w]."""
        return torch.cat([self.compute.logits(self.teacher, clean[part]) for part in self.compute.slices(len(clean))])

    def descend_target(self, views: Views, pseudo: PseudoLabels, weight: float) -> Tensor:
        """Sections 4.3 and 4.9: `descend` for L_t; weight is LR_TARGET, less during its ramp."""
        c, n = self.constants, len(views.noisy)
        w = consistency.pixel_weight(pseudo.confidence, c.loss)  # None, [n,H,W] or [1,H,W]
        if c.loss == "focal_ce_conf_batch":  # the mean over all processes' views
            w = distributed.total(w * (n / views.total) if n else torch.zeros_like(w))

        def loss_of(part: slice) -> Tensor:
            logits = self.compute.logits(self.called, views.noisy[part], views.seeds[part])  # 4.3
            own = w[part] if c.loss == "focal_ce_conf" else w
            return consistency.focal_loss(logits, pseudo.label[part], self.class_prior, c.focal_p, own)

        return descend(self.compute, loss_of, self.compute.slices(n), views.total, weight)


def classes_in(label: Tensor, num_classes: int) -> Tensor:
    """1.0 for each class that occurs in a label uint8 [n,H,W], else 0.0: [C]."""
    present = torch.zeros(num_classes + 1, device=label.device)  # the last entry is for 255
    return present.index_fill_(0, label.clamp(max=num_classes).flatten().long(), 1)[:num_classes]


class WholeImage(NamedTuple):
    """One target image with all its views, wherever they are."""

    logits: Tensor  # [T,C,h,w]
    padding: Tensor  # bool [T,H,W]
    A: Tensor  # [T,2,3]
    A_inv: Tensor  # [T,2,3]
    own: slice  # this process's views among the T
    here: slice  # the same among this process's views


def whole_images(logits: Tensor, views: Views, group_size: int) -> Iterator[WholeImage]:
    """The images of which this process has views, including the views that other processes have.

    Args:
        logits: the teacher's [n,C,h,w] of this process's views.
        views: this process's views.
        group_size: T.
    """
    n, alone = len(logits), views.total == len(logits)
    first, tensors = 0 if alone else distributed.share(views.total).start, (logits, views.padding, views.A, views.A_inv)
    offset = first
    if not alone and distributed.cuts(views.total, group_size):
        tensors, offset = distributed.gather(tensors, views.total), 0
    for start in range(first - first % group_size, first + n, group_size):
        a, b = max(start, first), min(start + group_size, first + n)  # this process's views of the image
        whole = slice(start - offset, start - offset + group_size)
        yield WholeImage(*map(itemgetter(whole), tensors), slice(a - start, b - start), slice(a - first, b - first))
