"""From the configuration and the loaders' batches to what the steps take: constants, and tensors on the device."""

from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

from core.steps import Method, Source, Views
from datasets.transforms import normalise, renormalised


def constants(cfg: CfgNode) -> Method:
    """The method's constants from the configuration."""
    model = cfg.MODEL
    return Method(
        views=cfg.TRAIN.GROUP_SIZE, lr_target=model.LR_TARGET,
        net_momentum=model.NET_MOMENTUM, net_momentum_iter=model.NET_MOMENTUM_ITER,
        stat_momentum=model.STAT_MOMENTUM, fusion=model.CONF_POOL if model.CONF_POOL_ON else "",
        upper=model.RUN_CONF_UPPER, lower=model.RUN_CONF_LOWER, beta=model.THRESHOLD_BETA,
        discount=model.CONF_DISCOUNT, loss=model.LOSS, focal_p=model.FOCAL_P,
    )


def prepare_source(cfg: CfgNode, batch: Any, device: torch.device, seeds: torch.Tensor) -> Source:
    """A SourceBatch on the device, normalised (section 6); seeds int64 [B] of the dropout."""
    data = cfg.DATASET
    mean, std = data.MEAN, data.STD
    if data.RENORM_SOURCE:
        mean, std = renormalised(mean, std, data.SOURCE_MEAN, data.SOURCE_STD, data.TARGET_MEAN, data.TARGET_STD)
    image, label, padding = (x.to(device, non_blocking=True) for x in (batch.image, batch.label, batch.padding))
    return Source(normalise(image, padding, mean, std), label.long(), seeds)


def prepare_images(cfg: CfgNode, batch: Any, device: torch.device) -> torch.Tensor:
    """A SourceBatch's images on the device, normalised with MEAN/STD -> float32 [B,3,H,W]."""
    image, padding = (x.to(device, non_blocking=True) for x in (batch.image, batch.padding))
    return normalise(image, padding, cfg.DATASET.MEAN, cfg.DATASET.STD)


def prepare_views(cfg: CfgNode, batch: Any, device: torch.device, seeds: torch.Tensor) -> Views:
    """A TargetBatch on the device, normalised (section 5.7); seeds int64 [n] of the dropout."""
    noisy, clean, padding, a, a_inv = (
        x.to(device, non_blocking=True) for x in (batch.noisy, batch.clean, batch.padding, batch.A, batch.A_inv)
    )
    mean, std = cfg.DATASET.MEAN, cfg.DATASET.STD
    return Views(normalise(noisy, padding, mean, std), normalise(clean, padding, mean, std), padding, a, a_inv, seeds)


class Preparation:
    """From what the loader gave for an iteration to what the step takes.

    Args:
        cfg: the configuration.
        device: where it goes.
        seed: of the run.
        rank: of this process.
    """

    SOURCE, TARGET = 4, 5  # streams of random numbers for the dropout; those of the data are in datasets

    def __init__(self, cfg: CfgNode, device: torch.device, seed: int, rank: int) -> None:
        self.cfg, self.device, self.seed, self.rank = cfg, device, seed, rank

    def __call__(self, source: Any, target: Any, epoch: int, iteration: int) -> tuple:
        """(Source or None, Views), in the baseline (Source, images of the target)."""
        cfg, device = self.cfg, self.device
        prepared = None
        if source is not None:
            seeds = self.dropout_seeds((self.SOURCE, epoch, iteration), len(source.index))
            prepared = prepare_source(cfg, source, device, seeds)
        if cfg.MODEL.BASELINE:
            return prepared, prepare_images(cfg, target, device)
        seeds = self.dropout_seeds((self.TARGET, epoch, iteration), len(target.index))
        return prepared, prepare_views(cfg, target, device, seeds)

    def dropout_seeds(self, key: tuple[int, ...], n: int) -> torch.Tensor:
        """A seed for each of this process's n images, int64 [n]: by its place in the batch of all processes."""
        places = range(n * self.rank, n * (self.rank + 1))
        sequences = (np.random.SeedSequence((self.seed, *key, place)) for place in places)
        return torch.tensor([int(s.generate_state(1, np.uint64)[0] >> 1) for s in sequences])
