"""Warnings when training looks broken: each at the right time, once, and never in a healthy run."""

import json
import random
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.alarms import WINDOW, Alarms, label_findings
from core.log import Log

NAMES = ["road", "car", "train"]
HEALTHY = (0.6, [True, True, True], [0.4, 0.3, 0.01])


def names(watch: Alarms, kept: float, seen: list[bool], chi: list[float] | None, steps: int) -> list[tuple[int, str]]:
    """(iteration, warning) over `steps` equal iterations."""
    return [(i, found.name) for i in range(1, steps + 1) for found in watch.step(kept, seen, chi)]


def test_a_healthy_run_has_no_warnings() -> None:
    watch, rng = Alarms(NAMES), random.Random(0)
    for i in range(5000):
        seen = [True, rng.random() < 0.5, rng.random() < 0.05]  # a rare class is absent for a hundred iterations
        chi = [0.4 + 0.1 * rng.random(), 0.3, 0.01]
        assert watch.step(0.02 + 0.96 * rng.random(), seen, chi if i % 10 == 0 else None) == []
    for miou in (0.3, 0.25, 0.4, 0.28, 0.21):
        assert watch.validation("val", miou) == []


def risen(watch: Alarms, losses: list[float]) -> list[int]:
    """The iterations after which the rise is told."""
    return [i for i, loss in enumerate(losses, 1) for found in watch.step(*HEALTHY, loss) if found.name == "rise"]


def test_a_loss_that_rises_at_the_start() -> None:
    rng = random.Random(0)
    calm = [0.3 * (1 + rng.uniform(-0.5, 0.5)) for _ in range(1000)]
    assert risen(Alarms(NAMES), calm) == [] == risen(Alarms(NAMES), [2 * x for x in calm[::-1]])
    watch = Alarms(NAMES)
    losses = calm[:30] + [1.0] * 60
    told = risen(watch, losses)
    assert len(told) == 1 and 30 < told[0] <= 40
    assert risen(watch, losses) == []  # once
    assert risen(Alarms(NAMES), calm[:300] + [1.0] * 50) == []  # later it is another matter
    first, second = Alarms(NAMES), Alarms(NAMES)
    assert risen(first, losses[:31]) == []
    second.memory = json.loads(json.dumps(first.memory))
    assert [31 + i for i in risen(second, losses[31:])] == told
    del second.memory["losses"]  # of a run that an earlier version began
    second.step(*HEALTHY, 0.3)


@pytest.mark.parametrize("kept, name", [(0.0, "kept_near_0"), (0.009, "kept_near_0"), (1.0, "kept_near_1")])
def test_share_of_kept_pixels(kept: float, name: str) -> None:
    watch = Alarms(NAMES)
    assert names(watch, *HEALTHY, 50) == []
    assert names(watch, kept, HEALTHY[1], HEALTHY[2], WINDOW - 1) == []
    assert watch.step(*HEALTHY) == []  # one is enough to start over
    assert names(watch, kept, HEALTHY[1], HEALTHY[2], 3 * WINDOW) == [(WINDOW, name)]
    assert names(watch, *HEALTHY, 10) == [] == names(watch, kept, *HEALTHY[1:], 3 * WINDOW)


def test_a_class_that_vanishes() -> None:
    watch = Alarms(NAMES)
    assert names(watch, *HEALTHY, 100) == []
    assert names(watch, 0.6, [True, True, False], HEALTHY[2], 2 * WINDOW) == [(WINDOW, "vanished/train")]
    assert names(watch, 0.6, [True, False, False], HEALTHY[2], 2 * WINDOW) == [(WINDOW, "vanished/car")]
    assert names(watch, *HEALTHY, 10) == [] == names(watch, 0.6, [True, False, False], HEALTHY[2], 2 * WINDOW)


def test_a_class_that_was_rare_must_stay_away_longer() -> None:
    watch = Alarms(NAMES)
    for i in range(1000):
        assert watch.step(0.6, [True, True, i % 50 == 0], None) == []
    found = names(watch, 0.6, [True, True, False], None, 2000)
    assert [name for _, name in found] == ["vanished/train"] and 900 < found[0][0] < 1000


def test_a_class_that_never_was_does_not_vanish() -> None:
    assert names(Alarms(NAMES), 0.6, [True, True, False], None, 10 * WINDOW) == []


def test_a_collapsing_class_prior() -> None:
    watch = Alarms(NAMES)
    found = []
    for i in range(100):
        share = 0.4 + 0.59 * i / 99  # of road
        found += [(share, f) for f in watch.step(0.6, [True] * 3, [share, (1 - share) * 0.9, (1 - share) * 0.1])]
    assert [f.name for _, f in found] == ["collapse"] and 0.8 < found[0][0] < 0.95
    assert "road has 9" in found[0][1].text or "road has 8" in found[0][1].text
    assert names(Alarms(NAMES), 0.6, [True] * 3, [0.97, 0.02, 0.01], 10) == []  # as it began


def test_a_validation_that_falls() -> None:
    watch = Alarms(NAMES)
    assert watch.validation("val", 0.45) == [] == watch.validation("other", 0.1)
    assert watch.validation("val", 0.301) == []
    assert [f.name for f in watch.validation("val", 0.299)] == ["fall/val"]
    assert watch.validation("val", 0.1) == [] == watch.validation("other", 0.09)


def test_memory_is_plain_and_enough() -> None:
    """Restored from a snapshot, the alarms behave like the original ones."""
    watch = Alarms(NAMES)
    names(watch, *HEALTHY, 100)
    names(watch, 0.0, [True, True, False], HEALTHY[2], WINDOW - 1)
    watch.validation("val", 0.5)
    other = Alarms(NAMES)
    other.memory = json.loads(json.dumps(watch.memory))
    for w in (watch, other):
        assert {f.name for f in w.step(0.0, [True, True, False], HEALTHY[2])} == {"kept_near_0", "vanished/train"}
        assert [f.name for f in w.validation("val", 0.2)] == ["fall/val"]
        assert w.step(0.0, [True, True, False], HEALTHY[2]) == []


def test_a_warning_is_in_all_logs(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.begin(0)
    found = Alarms(NAMES)
    found.validation("val", 0.5)
    (finding,) = found.validation("val", 0.1)
    log.warning({"epoch": 2, "iter": 7, **finding._asdict()})
    log.close()
    entry = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert entry == {"kind": "warning", "epoch": 2, "iter": 7, "name": "fall/val", "text": finding.text}
    assert f"WARNING iteration 7: {finding.text}" in (tmp_path / "log.txt").read_text()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    (tag,) = board.Tags()["tensors"]
    assert tag == "warnings/fall/val/text_summary"
    assert board.Tensors(tag)[0].step == 7
    assert board.Tensors(tag)[0].tensor_proto.string_val[0].decode() == finding.text


@pytest.mark.parametrize("counts, found", [
    ({0: 50, 1: 40, 255: 10}, []),
    ({0: 1, 1: 1, 255: 198}, []),
    ({255: 9}, ["unlabelled"]),
    ({0: 9}, ["one_class"]),
    ({1: 9, 255: 9}, ["one_class"]),
    ({0: 1, 1: 1, 255: 199}, ["sparse"]),
    ({0: 1, 255: 999}, ["sparse", "one_class"]),
    ({}, []),  # no label could be read: said elsewhere
    ({26: 9}, []),  # raw IDs: said elsewhere
])  # fmt: skip
def test_labels_that_teach_nothing(counts: dict[int, int], found: list[str]) -> None:
    findings = label_findings([counts.get(value, 0) for value in range(256)], NAMES)
    assert [finding.name for finding in findings] == found
    assert all("\n" not in finding.text and "convert_train_ids.py" in finding.text for finding in findings)


def test_a_label_set_of_one_class_has_one_class() -> None:
    assert label_findings([9, *[0] * 255], ["road"]) == []
