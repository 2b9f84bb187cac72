"""One training iteration, baseline and SAC: the procedure of docs/method.md, sections 3 and 4, step by step."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core import distributed
from core.compute import Compute
from models import consistency as method
from models import set_batchnorm
from models.sac import SAC
from models.upsampling import probabilities


class Source(NamedTuple):
    """Source images on the device: image float32 [B,3,H,W] normalised, label int64 [B,H,W], seeds int64 [B]."""

    image: Tensor
    label: Tensor
    seeds: Tensor


class Views(NamedTuple):
    """This process's views on the device, whole images' or not, in the order of the batch (section 5).

    noisy (x̂), clean (x): [n,3,H,W] float32 normalised; padding bool [n,H,W]; A, A_inv [n,2,3]; seeds int64 [n].
    """

    noisy: Tensor
    clean: Tensor
    padding: Tensor
    A: Tensor
    A_inv: Tensor
    seeds: Tensor


@dataclass(frozen=True)
class Method:
    """The method's constants; in brackets the paper's symbol and the configuration's key."""

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


def trained(network: nn.Module, compute: Compute) -> nn.Module:
    """The network as a training step calls it: with several processes, under DistributedDataParallel."""
    if distributed.size() == 1:
        return compute.called(network)
    device_ids = [compute.device.index] if compute.device.type == "cuda" else None
    # Buffers are BatchNorm's statistics: frozen in SAC, made equal by SyncBatchNorm in the baseline.
    return nn.parallel.DistributedDataParallel(
        compute.called(network), device_ids, broadcast_buffers=False, gradient_as_bucket_view=True
    )


def source_pass(student: nn.Module, compute: Compute, source: Source, last: bool) -> Tensor:
    """Cross-entropy on the source and its gradient (sections 3 and 4.1).

    Args:
        student: as `trained` made it.
        compute: micro-batches and precision.
        source: this process's share of the batch.
        last: whether the gradient is complete after it; only then do the processes add theirs up.

    Returns:
        L_s of this process's images, without gradient.
    """
    n = len(source.image)
    loss = source.image.new_zeros(())
    for part in compute.slices(n):
        with _alone(student, not (last and part.stop == n)):
            logits = compute.logits(student, source.image[part], source.seeds[part])
            share = method.source_loss(logits, source.label[part]) * (part.stop - part.start) / n
            share.backward()
        loss += share.detach()
    return loss


def _alone(student: nn.Module, alone: bool) -> object:
    """A context in which a gradient stays with its process, to be added to by the next backward pass."""
    return student.no_sync() if alone and hasattr(student, "no_sync") else nullcontext()


class BaselineStep:
    """One iteration of the ABN baseline (section 3).

    Args:
        network: trained; in training mode, with SyncBatchNorm where there are several processes.
        optimiser: of its parameters.
        compute: how it runs.
    """

    def __init__(self, network: nn.Module, optimiser: torch.optim.Optimizer, compute: Compute) -> None:
        self.network, self.optimiser, self.compute = network, optimiser, compute
        self.called = trained(network, compute)

    def __call__(self, source: Source, target: Tensor) -> dict[str, Tensor]:
        """Cross-entropy on the source, a step; then the target [n,3,H,W] moves BatchNorm's running statistics."""
        self.network.train()
        self.optimiser.zero_grad(set_to_none=True)
        loss = source_pass(self.called, self.compute, source, last=True)
        self.optimiser.step()
        with torch.no_grad():
            for part in self.compute.slices(len(target)):
                self.compute.logits(self.network, target[part])
        return {"loss_ce": distributed.mean(loss)}


class Pseudo(NamedTuple):
    """This process's pseudo labels [n,H,W]: label uint8 (255 = none); best and guess = m̄* float32 and c* uint8."""

    label: Tensor
    best: Tensor
    guess: Tensor


class SACStep:
    """One iteration of SAC (section 4).

    Args:
        sac: student, teacher, class prior.
        optimiser: of the student's parameters.
        compute: how the networks run.
        constants: of the method.
    """

    def __init__(self, sac: SAC, optimiser: torch.optim.Optimizer, compute: Compute, constants: Method) -> None:
        self.sac, self.optimiser, self.compute, self.constants = sac, optimiser, compute, constants
        self.student = trained(sac.backbone, compute)
        self.teacher = compute.called(sac.slow_net)

    def __call__(self, source: Source | None, views: Views, iteration: int) -> dict[str, Tensor]:
        """One optimiser step on L_s + LR_TARGET · L_t.

        Args:
            source: this process's source images; None with TARGET_ONLY.
            views: this process's views of the target images.
            iteration: i, from 0 in each epoch.

        Returns:
            Without gradient, over all processes: the means loss_ce, self_ce and kept (share of pixels with a pseudo
            label), teacher_diff where the teacher moved; seen bool [C], the classes among the pseudo labels.
        """
        c = self.constants
        set_batchnorm(self.sac.train().backbone, False)
        self.optimiser.zero_grad(set_to_none=True)
        values = {}
        if source is not None:
            values["loss_ce"] = distributed.mean(source_pass(self.student, self.compute, source, last=False))  # 1
        if iteration % c.net_momentum_iter == 0:
            values["teacher_diff"] = self.sac.update_teacher(c.net_momentum, c.beta)  # 4
        pseudo = self.label(views)  # 5-8
        values["self_ce"] = distributed.mean(self.target_pass(views, pseudo))  # 3, 9
        values["kept"] = distributed.mean((pseudo.label != method.IGNORE).float().mean())
        values["seen"] = distributed.total(classes_in(pseudo.label, len(self.sac.running_conf))) > 0
        self.optimiser.step()  # 10
        return values

    @torch.no_grad()
    def label(self, views: Views, learn: bool = True, shared: bool = True) -> Pseudo:
        """The teacher's pseudo labels of this process's views (sections 4.5 to 4.8).

        Image by image and view by view, so that no more than one view's probabilities [C,H,W] exist at a time. The
        class prior needs those of all images, and only the thresholds need the class prior: they come last.

        Args:
            views: this process's views.
            learn: False leaves the class prior as it is.
            shared: False where each process has whole images of its own: nothing is communicated then.
        """
        c, n = self.constants, len(views.clean)
        groups = gather_groups(self.teach(views.clean), views, c.views, shared)
        best = views.clean.new_empty(n, *views.clean.shape[2:])  # [n,H,W]
        guess = torch.empty_like(best, dtype=torch.uint8)
        chi_now = torch.zeros_like(self.sac.running_conf)  # [C]
        m, merged = best.new_empty(2, len(chi_now), *best.shape[1:])  # [C,H,W], of one view and one image at a time
        for group in groups:
            best[group.here], guess[group.here] = self.fused(self.probabilities(group, m, chi_now), group, merged)
        if learn:
            self.sac.update_prior(distributed.mean(chi_now / n), c.stat_momentum, c.beta)
        chi = self.sac.running_conf
        d = method.discount(chi, c.beta) if c.discount else torch.ones_like(chi)
        theta = method.thresholds(best, guess, d, c.upper, c.lower)
        return Pseudo(method.pseudo_labels(best, guess, theta, views.padding), best, guess)

    def teach(self, clean: Tensor) -> Tensor:
        """The teacher's logits at stride 8 of x [n,3,H,W] -> [n,C,h,w] (section 4.5)."""
        return torch.cat([self.compute.logits(self.teacher, clean[part]) for part in self.compute.slices(len(clean))])

    def probabilities(self, group: "Group", out: Tensor, prior: Tensor) -> Iterator[Tensor]:
        """Give m [C,H,W] of an image's views, each in `out`; this process's own add their share to `prior` [C]."""
        for t, logits in enumerate(group.logits):
            m = probabilities(logits, out.shape[1:], out)
            if group.own.start <= t < group.own.stop:
                prior += method.class_prior(m[None])
            yield m

    def fused(self, m: Iterator[Tensor], group: "Group", out: Tensor) -> tuple[Tensor, Tensor]:
        """m̄* and c* [t,H,W] of this process's views of an image from m of all of its views, merged in `out`."""
        if self.constants.fusion:
            merged, valid = method.fuse(m, group.padding, group.A, group.A_inv, self.constants.fusion, out)
            return method.confidence_in_views(merged, valid, group.A_inv[group.own])
        seen = [method.confidence(x.masked_fill_(p, 0)[None]) for x, p in zip(m, group.padding, strict=True)]
        best, label = zip(*seen[group.own], strict=True)
        return torch.cat(best), torch.cat(label)

    def target_pass(self, views: Views, pseudo: Pseudo) -> Tensor:
        """LR_TARGET · L_t and its gradient (section 4.9); returns L_t of this process's views, without gradient."""
        c, n = self.constants, len(views.noisy)
        weight = method.pixel_weight(pseudo.best, c.loss)  # None, [n,H,W] or [1,H,W]
        if c.loss == "focal_ce_conf_batch":
            weight = distributed.mean(weight)
        loss = views.noisy.new_zeros(())
        for part in self.compute.slices(n):
            w = weight[part] if weight is not None and len(weight) == n else weight
            with _alone(self.student, part.stop < n):
                logits = self.compute.logits(self.student, views.noisy[part], views.seeds[part])
                share = method.focal_loss(logits, pseudo.label[part], self.sac.running_conf, c.focal_p, w)
                share = share * (part.stop - part.start) / n
                (c.lr_target * share).backward()
            loss += share.detach()
        return loss


def classes_in(label: Tensor, num_classes: int) -> Tensor:
    """1.0 for each class that a label uint8 [n,H,W] has, else 0.0: [C]."""
    present = torch.zeros(num_classes + 1, device=label.device)  # the last place is for 255
    return present.index_fill_(0, label.clamp(max=num_classes).flatten().long(), 1)[:num_classes]


class Group(NamedTuple):
    """One target image as a process sees it: all its views, wherever they lie.

    logits [T,C,h,w], padding bool [T,H,W], A and A_inv [T,2,3]; `own`: this process's views among them; `here`: the
    same among this process's views.
    """

    logits: Tensor
    padding: Tensor
    A: Tensor
    A_inv: Tensor
    own: slice
    here: slice


def gather_groups(logits: Tensor, views: Views, group_size: int, shared: bool = True) -> list[Group]:
    """The images of which this process holds views; logits of their other views come from the processes that do.

    Args:
        logits: the teacher's [n,C,h,w] of this process's views.
        views: this process's views, n of the batch's N·T in order.
        group_size: T.
        shared: False where each process has whole images of its own.
    """
    n = len(logits)
    first = distributed.rank() * n if shared else 0
    tensors = (logits, views.padding, views.A, views.A_inv)
    offset = first
    if n % group_size:  # images are shared among processes: every process knows this of itself, n being equal
        tensors, offset = tuple(distributed.gather_views(x) for x in tensors), 0
    groups = []
    for start in range(first - first % group_size, first + n, group_size):
        a, b = max(start, first), min(start + group_size, first + n)  # this process's views of the image
        whole = slice(start - offset, start - offset + group_size)
        groups.append(
            Group(*(x[whole] for x in tensors), slice(a - start, b - start), slice(a - first, b - first))
        )
    return groups
