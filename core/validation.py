"""Validation while training: the student on labelled lists, the teacher and its pseudo labels on the target's views.

Labels are used here to measure, and to choose among snapshots where the run says so; nothing here trains.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from yacs.config import CfgNode

import datasets
from core import distributed, visual
from core.compute import Compute
from core.log import Log, progress_bar
from core.metrics import ConfusionMatrix
from core.prepare import prepare_images, prepare_views
from core.steps import SACStep
from datasets.labels import IGNORE, LabelSet
from models import upsampling

PICTURES = 4  # rows of a panel
Agree = Callable[[Exception | None], None]


class Evaluation:
    """Measures on lists and logs it.

    Args:
        cfg: the configuration.
        labels: the label set.
        compute: how networks run.
        log: where results go.
        seed: of the target's views.
        share: (rank, size): each process measures its share, every image once.
        workers: loader processes.
    """

    def __init__(
        self, cfg: CfgNode, labels: LabelSet, compute: Compute, log: Log, seed: int, share: tuple[int, int],
        workers: int,
    ) -> None:
        self.cfg, self.labels, self.compute, self.log = cfg, labels, compute, log
        self.seed, self.share, self.workers = seed, share, workers
        self.palette = labels.palette()

    @torch.no_grad()
    def validate(self, student: nn.Module, name: str, epoch: int, step: int, agree: Agree) -> float:
        """The student on a list, at crop resolution as published (section 6); returns its mIoU.

        Args:
            student: its mode is left in evaluation.
            name: of the list.
            epoch: epochs done.
            step: iterations done.
            agree: called before each batch with what went wrong in loading it, or None; raises to end all processes.
        """
        student.eval()
        matrix = ConfusionMatrix(self.labels.num_classes, self.compute.device)
        loader = datasets.validation(self.cfg, name, self.share, self.workers)
        rows = []
        for batch in self._watched(loader, name, agree):
            image = prepare_images(self.cfg, batch, self.compute.device)
            guess = upsampling.classes(self.compute.logits(student, image), image.shape[2:])
            matrix.update(guess, batch.label.to(self.compute.device))
            for i in range(min(PICTURES - len(rows), len(guess))):
                rows.append([batch.image[i].numpy(), self._colour(batch.label[i]), self._colour(guess[i])])
        crop = "centre crop" if self.cfg.DATASET.VAL_CROP else "resized"
        height, width = self.cfg.DATASET.CROP_SIZE
        note = f"at {width}x{height}, {crop}; tools/evaluate.py measures at the labels' own size"
        self._picture(f"{name}/input_label_student", rows, step)
        return self._report(matrix, name, "student", epoch, step, note)

    @torch.no_grad()
    def target(self, sac_step: SACStep, epoch: int, step: int, agree: Agree) -> None:
        """The target's training views: IoU of the teacher before and after fusion and of the pseudo labels.

        Pixels without a pseudo label do not count for the pseudo labels. Without target labels, pictures alone.
        """
        loader, labelled = datasets.target_views(self.cfg, self.seed, epoch, self.share, self.workers)
        sac_step.sac.eval()
        classes, device = self.labels.num_classes, self.compute.device
        layers = {layer: ConfusionMatrix(classes, device) for layer in ("teacher", "fused", "pseudo")}
        rows, name = [], self.cfg.TRAIN.TARGET
        for item in self._watched(loader, f"views of {name}", agree):
            batch, label = item if labelled else (item, torch.full(item.padding.shape, IGNORE, dtype=torch.uint8))
            seeds = torch.zeros(len(batch.index), dtype=torch.int64)  # the student is looked at without dropout
            views, label = prepare_views(self.cfg, batch, device, seeds), label.to(device)
            alone = sac_step.label(views, learn=False, shared=False)
            first = upsampling.classes(sac_step.teach(views.clean), label.shape[1:])
            known = label.masked_fill(views.padding, IGNORE)
            layers["teacher"].update(first, known)
            layers["fused"].update(alone.guess, known)
            layers["pseudo"].update(alone.label, known.masked_fill(alone.label == IGNORE, IGNORE))
            if len(rows) < PICTURES:
                student = self.compute.logits(sac_step.sac.backbone, views.noisy[-1:])
                student = upsampling.classes(student, label.shape[1:])
                shown = (known[-1], student[0], first[-1], alone.guess[-1], alone.label[-1])
                confidence = visual.heat(alone.best[-1].cpu().numpy())
                rows.append([batch.noisy[-1].numpy(), *map(self._colour, shown), confidence])
        self._picture(f"{name}/input_label_student_teacher_fused_pseudo_confidence", rows, step)
        if labelled:
            for layer, matrix in layers.items():
                self._report(matrix, name, layer, epoch, step, "training views; measured, not trained on")

    def _watched(self, loader: Any, name: str, agree: Agree) -> Iterator[Any]:
        """The loader's batches with a bar; `agree` is called as often on every process, with what went wrong here."""
        batches = datasets.batches(loader)
        with progress_bar(total=len(loader), desc=name, unit="batch", disable=self.share[0] != 0, leave=False) as bar:
            for _ in range(distributed.largest(len(loader))):
                batch = error = None
                try:
                    batch = next(batches, None)
                except Exception as failed:  # raised by `agree`, once the others know
                    error = failed
                agree(error)
                if batch is not None:
                    yield batch
                    bar.update()

    def _colour(self, label: torch.Tensor) -> np.ndarray:
        return visual.colour(label.to("cpu", torch.uint8).numpy(), self.palette)

    def _picture(self, name: str, rows: list, step: int) -> None:
        if rows and self.log.active:
            self.log.picture(name, visual.panel(rows, tuple(self.cfg.TB.IM_SIZE)), step)

    def _report(self, matrix: ConfusionMatrix, name: str, layer: str, epoch: int, step: int, note: str) -> float:
        """Add up over the processes, log; returns the mIoU."""
        matrix.reduce()
        iou, precision, recall = matrix.iou(), matrix.precision(), matrix.recall()
        miou = matrix.miou(self.cfg.VAL.IGNORE_CLASS)
        self.log.record({"kind": "val", "epoch": epoch, "iter": step, "list": name, "layer": layer, "miou": miou,
                         "iou": iou, "precision": precision, "recall": recall})
        self.log.scalars({f"{name}/{layer}/miou": miou}, step)
        for title, values in (("iou", iou), ("precision", precision), ("recall", recall)):
            tags = (f"{name}/{layer}_{title}/{n}" for n in self.labels.names)
            self.log.scalars(dict(zip(tags, values, strict=True)), step)
        self.log.say(f"epoch {epoch}, {name}, {layer}: mIoU {100 * miou:.1f} % ({note})")
        return miou
