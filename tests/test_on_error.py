"""DATASET.ON_ERROR: a training image that cannot be used stops the run, or the next item takes its place."""

import shutil
from functools import partial
from pathlib import Path

import pytest
import small_tree
import torch
from runs import Run, kill_at, same, wrap

import datasets
from core.cli import UserError
from core.trainer import Trainer
from datasets.images import DataError
from datasets.iterations import TRIES, Skipped, Usable, usable
from datasets.replacement import Tally

BAD = small_tree.DAMAGED


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with an image of each domain that is none."""
    root = tmp_path_factory.mktemp("data") / "tree"
    small_tree.make(root)
    small_tree.damage(root)
    return root


def kill_at_step(number: int) -> None:
    wrap(Trainer, "train_on", after=kill_at(number))


def test_skip_goes_on_and_says_so_whatever_interrupts_it(damaged: Path, tmp_path: Path) -> None:
    one, other = (Run(tmp_path / name, damaged, "DATASET.ON_ERROR", "skip") for name in ("one", "other"))
    process = one.start()
    assert process.wait() == 0 and "done: 2 epochs, 8 iterations" in process.said
    skipped = one.metrics("skipped")
    assert {entry["file"] for entry in skipped} == {str(damaged / name) for name in BAD}
    assert {entry["domain"] for entry in skipped} == {"source", "target"}
    assert all(entry["reason"] and entry["epoch"] in (1, 2) and 1 <= entry["iter"] <= 8 for entry in skipped)
    sources = [entry["iter"] for entry in skipped if entry["domain"] == "source"]
    assert len(sources) == 2 and sources[0] <= 4 < sources[1]  # the source's image is due once in each epoch
    log = (one.logs / "log.txt").read_text()
    for name, reason in zip(BAD, ("the file is empty; replace it", "not an image, or a damaged one"), strict=True):
        lines = [line for line in log.splitlines() if f"skipped {damaged / name}: {reason}" in line]
        assert len(lines) == 1 and "WARNING" in lines[0]
    assert one.last()["run"]["skipped"] == {"source": [str(damaged / BAD[0])], "target": [str(damaged / BAD[1])]}
    for workers, number in ((2, 2), (1, 3), (0, 1)):
        other.start(workers=workers, before=partial(kill_at_step, number)).wait()
    assert other.start(workers=2).wait() == 0
    same(other, one)


def test_more_than_one_percent_is_too_much(damaged: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(damaged, tree)
    bad = [tree / f"train_game_9K_{i}.png" for i in range(0, 16, 2)]
    content = {path: path.read_bytes() for path in bad}
    for path in bad:
        path.write_bytes(b"")
    run = Run(tmp_path / "run", tree, "DATASET.ON_ERROR", "skip")
    process = run.start()
    assert process.wait() == 2 and "Traceback" not in process.said
    (line,) = [line for line in process.said.splitlines() if line.startswith("error: ")]
    assert "of the source list's 16 images cannot be used, more than 1 %" in line and str(tree) in line
    assert run.last()["run"]["step"] == len(run.metrics("step"))  # nothing is lost
    for path in bad:
        path.write_bytes(content[path])
    assert run.start().wait() == 0


class Items(torch.utils.data.Dataset):
    """Items that are their own key; those of `bad` cannot be used."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad

    def __getitem__(self, key: tuple) -> tuple:
        if key[1] in self.bad:
            raise DataError(f"{key[1]}.png: it is empty: replace it")
        return key


def test_the_next_item_takes_the_place() -> None:
    assert usable(Items(), (7, 3, 0, 2), range(5), 0) == ((7, 3, 0, 2), [])
    item, errors = usable(Items(3, 4), (7, 3, 0, 2), range(5), TRIES)
    assert item == (7, 0, 0, 2)
    assert [(e.path, e.reason) for e in errors] == [(f"{i}.png", "it is empty: replace it") for i in (3, 4)]
    assert Usable(Items(3), range(5), TRIES)[1, 3] == (1, 4)
    with pytest.raises(DataError, match=r"3.png: it is empty"):
        usable(Items(3), (0, 3), range(5), 0)
    with pytest.raises(DataError, match=r"20.png: it is empty"):  # the disk is gone
        usable(Items(*range(100)), (0, 0), range(100), TRIES)


def test_one_in_a_hundred_may_be_skipped() -> None:
    tally = Tally({"source": 300, "target": 20})

    def found(domain: str, *numbers: int) -> list[Skipped]:
        return [Skipped(domain, f"{i}.png", "it is empty") for i in numbers]

    tally.refuse_many(found("source", 1, 2, 3, 3))
    assert tally.add(found("source", 1, 2, 2)) == found("source", 1, 2) and tally.add(found("source", 2)) == []
    tally.refuse_many(found("source", 1, 3))
    with pytest.raises(UserError, match=r"4 of the source list's 300 images .*: 4.png: it is empty$"):
        tally.refuse_many(found("source", 3, 4))
    tally.refuse_many(found("target", 1))  # one in a short list
    with pytest.raises(UserError, match=r"2 of the target list's 20 images"):
        tally.refuse_many(found("target", 1, 2))


def test_the_default_is_to_stop(damaged: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, damaged)
    process = run.start(workers=1)
    assert process.wait() == 2
    errors = [line for line in process.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and any(name in errors[0] for name in BAD) and "Traceback" not in process.said


def test_measuring_skips_too(damaged: Path, tmp_path: Path) -> None:
    cfg = Run(tmp_path, damaged, "DATASET.ON_ERROR", "skip").configuration()
    data = datasets.Data(cfg)
    assert data.target_labelled and len(list(data.target_views(1))) == 16
    with pytest.raises(UserError, match=BAD[1]):
        stops = Run(tmp_path, damaged).configuration()
        list(datasets.Data(stops).target_views(1))
