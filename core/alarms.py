"""Warns when training looks broken: each warning once, with its usual causes."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

WINDOW = 200  # consecutive iterations before a warning
RARE = 20  # a class has vanished once it is absent this many times longer than usual
START, FEW, RISE = 200, 10, 1.5  # in the first START iterations, the mean loss of FEW rises by this factor
SPARSE = 0.01  # a smaller share of labelled pixels is a mistake


class Finding(NamedTuple):
    """A warning: a short name for machines, and a text for people."""

    name: str
    text: str


class Alarms:
    """The checks, and everything they remember between iterations, as plain values.

    Args:
        names: the class names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.memory: dict[str, Any] = {
            "said": [],  # names of the warnings given so far
            "steps": 0,
            "seen": [0] * len(names),  # iterations with pseudo labels of the class
            "absent": [0] * len(names),  # iterations since the last of those
            "few": 0,  # consecutive iterations with almost no pseudo labels
            "all": 0,  # consecutive iterations with pseudo labels almost everywhere
            "entropy": 0.0,  # the largest entropy of the class prior so far
            "first": {},  # mIoU of the first validation, by list
            "losses": [],  # on the source, of the first and the latest iterations
        }

    def step(
        self, kept: float, seen: Sequence[bool], chi: Sequence[float] | None, loss: float | None = None
    ) -> list[Finding]:
        """Check an iteration of SAC; returns new warnings.

        Args:
            kept: share of pixels that have a pseudo label, 0 ... 1.
            seen: [C], whether the class occurs among the pseudo labels.
            chi: the class prior χ [C], if it has been read.
            loss: the cross-entropy on the source, if any.
        """
        m = self.memory
        m["steps"] += 1
        m["few"] = m["few"] + 1 if kept < 0.01 else 0
        m["all"] = m["all"] + 1 if kept > 0.99 else 0
        found = []
        if m["few"] == WINDOW:
            found.append(Finding("kept_near_0", (
                f"fewer than 1 % of the pixels have had a pseudo label for {WINDOW} iterations, so nothing is learnt "
                "from the target. The teacher is not confident about anything: the baseline may be poor, the learning "
                "rate too high, or MODEL.RUN_CONF_LOWER above the teacher's confidence")))
        if m["all"] == WINDOW:
            found.append(Finding("kept_near_1", (
                f"more than 99 % of the pixels have had a pseudo label for {WINDOW} iterations, so errors are learnt "
                "as well. The teacher is confident about everything: it may have collapsed, or MODEL.RUN_CONF_UPPER is "
                "too low")))
        found += self._vanished(seen)
        if chi is not None:
            found += self._collapsed(chi)
        if loss is not None and m["steps"] <= START:
            found += self._rises(loss)
        return self._new(found)

    def _rises(self, loss: float) -> list[Finding]:
        """The student starts with a low source loss; if it rises, the start was too abrupt."""
        losses = self.memory.setdefault("losses", [])
        losses[:] = losses[:FEW] + [*losses[FEW:], loss][-FEW:]
        before, now = sum(losses[:FEW]) / FEW, sum(losses[FEW:]) / FEW
        if len(losses) < 2 * FEW or now < RISE * before:
            return []
        return [Finding("rise", (
            f"the loss on the source has risen from {before:.2f} in the first {FEW} iterations to {now:.2f}: the start "
            "is so abrupt that the student forgets what it has learnt. Ramp up the target loss (MODEL.LR_TARGET_RAMP, "
            "e.g. 1000) and warm up the learning rates (MODEL.WARMUP_ITER)"))]

    def _vanished(self, seen: Sequence[bool]) -> list[Finding]:
        m, found = self.memory, []
        for c, name in enumerate(self.names):
            m["seen"][c] += bool(seen[c])
            m["absent"][c] = 0 if seen[c] else m["absent"][c] + 1
            usual = (m["steps"] - m["absent"][c]) / max(1, m["seen"][c])  # iterations between occurrences
            if m["seen"][c] >= 10 and m["absent"][c] >= max(WINDOW, RARE * usual):
                found.append(Finding(f"vanished/{name}", (
                    f"{name} has not occurred among the pseudo labels for {m['absent'][c]} iterations; it used "
                    f"to occur every {usual:.0f}. The student is forgetting it: importance weights "
                    "(DATASET.SAMPLE_WEIGHTS) may be missing or belong to other images, or a larger class is taking "
                    "its place")))
        return found

    def _collapsed(self, chi: Sequence[float]) -> list[Finding]:
        """The entropy of the class prior measures how many classes share the pixels."""
        total = max(1e-12, math.fsum(max(0.0, x) for x in chi))
        entropy = -math.fsum(x / total * math.log(x / total) for x in chi if x > 0)
        m = self.memory
        m["entropy"] = max(m["entropy"], entropy)
        if entropy >= 0.5 * m["entropy"]:
            return []
        largest = max(range(len(chi)), key=chi.__getitem__)
        return [Finding("collapse", (
            f"the class prior is collapsing: {self.names[largest]} has {100 * chi[largest] / total:.0f} % of it, and "
            f"its entropy has dropped from {m['entropy']:.2f} to {entropy:.2f}. Teacher and student agree on fewer "
            "and fewer classes: try a lower MODEL.LR or MODEL.LR_TARGET, or a better baseline"))]

    def validation(self, name: str, miou: float) -> list[Finding]:
        """Check the student's validation on the list `name`, miou in 0 ... 1; returns new warnings."""
        first = self.memory["first"].setdefault(name, miou)
        if not miou < first * 2 / 3:
            return []
        return self._new([Finding(f"fall/{name}", (
            f"the mIoU on {name} has dropped by more than a third, from {100 * first:.1f} % at the first validation "
            f"to {100 * miou:.1f} %. The pseudo labels have drifted: the best snapshots are earlier ones; try a lower "
            "MODEL.LR or MODEL.LR_TARGET, or a better baseline"))])

    def _new(self, found: list[Finding]) -> list[Finding]:
        """The findings not reported before."""
        new = [f for f in found if f.name not in self.memory["said"]]
        self.memory["said"] += [f.name for f in new]
        return new


def label_findings(counts: Sequence[int], names: Sequence[str]) -> list[Finding]:
    """What makes labels useless for training: no labelled pixels, very few, or only one class.

    Args:
        counts: [256], pixels of each label, in all files or a sample of them; all zeros give no findings.
        names: the class names.
    """
    classes, ignored = [int(n) for n in counts[: len(names)]], int(counts[255])
    labelled, present = sum(classes), [name for name, n in zip(names, classes, strict=True) if n]
    advice = "check how the labels were converted: --dataset of tools/convert_train_ids.py, or raw_ids of the label set"
    if labelled == 0 and ignored:
        return [Finding("unlabelled", f"every pixel is ignored (255), so there is nothing to learn; {advice}")]
    found = []
    if labelled < SPARSE * (labelled + ignored):
        share = 100 * labelled / (labelled + ignored)
        found.append(Finding("sparse", f"only {share:.2g} % of the pixels are labelled, the rest are ignored (255); "
                             f"{advice}"))
    if len(present) == 1 < len(names):
        found.append(Finding("one_class", f"all labelled pixels are {present[0]}: a network that always predicts it "
                             f"has zero loss; {advice}"))
    return found
