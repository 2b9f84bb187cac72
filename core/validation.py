"""Validation during training: the student on labelled lists, the teacher and its pseudo labels on the target's views.

Labels are only used to measure and, if the run says so, to select snapshots; nothing here trains.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

import datasets
from core import distributed, visual
from core.alarms import Alarms
from core.compute import Inputs
from core.log import Log
from core.metrics import ConfusionMatrix
from core.progress import bar
from core.steps import BaselineStep, SACStep
from datasets import Data
from datasets.labels import IGNORE, LabelSet
from models.consistency import classes

PICTURES = 4  # rows of a panel
Agree = Callable[[Exception | None], int]


class Validation:
    """Measures on lists and logs the results.

    Args:
        data: the lists.
        labels: the label set.
        ignored: classes left out of the mIoU.
        inputs: turns batches into inputs of the networks.
        log: where results go.
        picture: (height, width) of a picture in the panels.
        agree: called before each batch with the error in loading it, or None; raises to stop all processes.
    """

    def __init__(
        self, data: Data, labels: LabelSet, ignored: Collection[int], inputs: Inputs, log: Log,
        picture: tuple[int, int], agree: Agree,
    ) -> None:
        self.data, self.labels, self.ignored, self.inputs, self.log = data, labels, ignored, inputs, log
        self.picture, self.agree, self.palette = picture, agree, labels.palette()

    def measure(
        self, step: BaselineStep | SACStep, position: dict[str, int], views: bool, lists: Sequence[str], alarms: Alarms
    ) -> dict[str, float]:
        """Measure on the target's views, if requested, and on lists; the student's mIoU on these, checked by alarms."""
        if views:
            self.target(step, position)
        scores = {}
        for name in lists:
            scores[name] = self.validate(step, name, position)
            for finding in alarms.validation(name, scores[name]):
                self.log.warning({**position, **finding._asdict()})
        return scores

    @torch.no_grad()
    def validate(self, step: BaselineStep | SACStep, name: str, position: dict[str, int]) -> float:
        """The student on a list, at crop resolution as published (section 6); returns its mIoU.

        Args:
            step: its student is left in evaluation mode.
            name: of the list.
            position: `epoch` (epochs done) and `iter` (iterations done).
        """
        step.student.eval()
        matrix = ConfusionMatrix(self.labels.num_classes, self.inputs.device)
        rows = []
        for batch in self._watched(self.data.validation(name), name):
            image = self.inputs.images(batch)
            guess = classes(step.compute.logits(step.student, image), image.shape[2:])
            matrix.update(guess, batch.label.to(guess.device, non_blocking=True))
            for i in range(min(PICTURES - len(rows), len(guess))):
                rows.append([batch.image[i].numpy(), self._colour(batch.label[i]), self._colour(guess[i])])
        crop = "centre crop" if self.data.val_crop else "resized"
        height, width = self.data.crop_size
        note = f"at {width}x{height}, {crop}; tools/evaluate.py measures at the labels' own size"
        self._panel(f"{name}/input_label_student", rows, position)
        return self._report(matrix, name, "student", position, note)

    @torch.no_grad()
    def target(self, step: SACStep, position: dict[str, int]) -> None:
        """The target's training views: IoU of the teacher, before and after fusion, and of the pseudo labels.

        Pixels without a pseudo label do not count for the pseudo labels. Without target labels: only pictures, and the
        share of each predicted class that the thresholds keep.
        """
        step.network.eval()
        *three, kept = (ConfusionMatrix(self.labels.num_classes, self.inputs.device) for _ in range(4))
        layers = dict(zip(("teacher", "fused", "pseudo"), three, strict=True))
        rows, name, labelled = [], self.data.target_list, self.data.target_labelled
        for item in self._watched(self.data.target_views(position["epoch"]), f"views of {name}"):
            batch, label = item if labelled else (item, torch.full(item.padding.shape, IGNORE, dtype=torch.uint8))
            seeds = torch.zeros(len(batch.index), dtype=torch.int64)  # not used: no dropout here
            views = self.inputs.views(batch, seeds, len(seeds))
            pseudo = step.label(views, learn=False)
            teacher = classes(step.teach(views.clean), label.shape[1:])
            known = label.to(teacher.device, non_blocking=True).masked_fill(views.padding, IGNORE)
            layers["teacher"].update(teacher, known)
            layers["fused"].update(pseudo.guess, known)
            layers["pseudo"].update(pseudo.label, known.masked_fill(pseudo.label == IGNORE, IGNORE))
            kept.update(pseudo.label, pseudo.guess.masked_fill(views.padding, IGNORE))
            if len(rows) < PICTURES:
                student = classes(step.compute.logits(step.student, views.noisy[-1:]), label.shape[1:])
                shown = (known[-1], student[0], teacher[-1], pseudo.guess[-1], pseudo.label[-1])
                confidence = visual.heat(pseudo.confidence[-1].cpu().numpy())
                rows.append([batch.noisy[-1].numpy(), *map(self._colour, shown), confidence])
        self._panel(f"{name}/input_label_student_teacher_fused_pseudo_confidence", rows, position)
        kept.reduce()
        self.log.record({"kind": "kept", **position, "list": name, "kept": kept.recall()})
        if labelled:
            for layer, matrix in layers.items():
                self._report(matrix, name, layer, position, "training views; measured, not trained on")

    def _watched(self, loader: DataLoader, name: str) -> Iterator[Any]:
        """The loader's batches, with a bar; `agree` is called equally often on all processes, with this one's error."""
        batches = datasets.batches(loader)
        with bar(shown=self.log.active, desc=name, total=len(loader), unit="batch", leave=False) as watched:
            for _ in range(distributed.largest(len(loader))):
                batch = error = None
                try:
                    batch = next(batches, None)
                except Exception as failed:  # raised by `agree`, once the others know
                    error = failed
                self.agree(error)
                if batch is not None:
                    yield batch
                    watched.update()

    def _colour(self, label: torch.Tensor) -> np.ndarray:
        return visual.colour(label.to("cpu", torch.uint8).numpy(), self.palette)

    def _panel(self, name: str, rows: list, position: dict[str, int]) -> None:
        if rows and self.log.active:
            sheet = visual.panel(rows, self.picture, headings=name.rpartition("/")[2].split("_"))
            names, colours = (*self.labels.names, "no label"), (*self.labels.colours, self.palette[IGNORE])
            below = visual.legend(names, colours, sheet.shape[1])
            self.log.picture(name, np.vstack([sheet, below]), position["iter"])

    def _report(self, matrix: ConfusionMatrix, name: str, layer: str, position: dict[str, int], note: str) -> float:
        """Sum over the processes and log; returns the mIoU, NaN if no class that counts occurs."""
        matrix.reduce()
        iou, precision, recall = matrix.iou(), matrix.precision(), matrix.recall()
        miou = matrix.miou(self.ignored)
        known = None if math.isnan(miou) else miou
        self.log.record({"kind": "val", **position, "list": name, "layer": layer, "miou": known,
                         "iou": iou, "precision": precision, "recall": recall})
        self.log.scalars({f"{name}/{layer}/miou": known}, position["iter"])
        for title, values in (("iou", iou), ("precision", precision), ("recall", recall)):
            tags = (f"{name}/{layer}_{title}/{n}" for n in self.labels.names)
            self.log.scalars(dict(zip(tags, values, strict=True)), position["iter"])
        said = "no class that counts occurs" if known is None else f"mIoU {100 * miou:.1f} %"
        self.log.say(f"epoch {position['epoch']}, {name}, {layer}: {said} ({note})")
        return miou
