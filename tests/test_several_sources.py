"""TRAIN.TASK with several lists: exact shares, colours and ignored classes of each, the same run whatever happens."""

import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_tree
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import Run, kill_at, same, wrap
from torch.utils.data import default_collate

import datasets
from core import build, config
from core.cli import UserError
from core.trainer import Trainer
from datasets import lists
from datasets.images import read_label
from datasets.iterations import Mixture, order, turns
from datasets.source import SourceBatch
from datasets.transforms import normalise, renormalised
from tools import check_data, join_lists
from tools.pipeline import estimates, plan, tasks
from tools.pipeline.record import Record

TASK = "[train_game_9K,val_game_1K]"  # 16 and 2 images
MIXED = f"TRAIN.TASK {TASK} TRAIN.TASK_SHARES 2,1 TRAIN.TASK_IGNORE [[],[0,5]] VAL.LISTS [val2_cityscapes] ".split()
MIXED += "DATASET.SOURCE_MEAN .5,.5,.5,.3,.2,.1 DATASET.SOURCE_STD .2,.2,.2,.3,.2,.1 TRAIN.BATCH_SIZE 4".split()
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tree"
    small_tree.make(root)
    return root


# Which image comes next


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_every_list_has_its_share_at_any_time(shares: list[int]) -> None:
    found, total = turns(shares), sum(shares)
    assert total % len(found) == 0
    for k in range(1, len(found) + 1):
        for number, share in enumerate(shares):
            count = found[:k].count(number)
            assert k * share // total <= count <= -(-k * share // total)  # all of its k/total, rounded down or up


def test_shares_that_a_batch_cannot_hold_are_carried_on() -> None:
    """2:1 of 8 images: 5.33 and 2.67 in an iteration, 16 and 8 in three."""
    mixture = Mixture([50, 50], [2, 1], [50, 50], seed=0)
    batches = [[mixture(n)[2] < 50 for n in range(8 * i, 8 * i + 8)] for i in range(6)]
    counts = [sum(batch) for batch in batches]
    assert set(counts) == {5, 6} and sum(counts[:3]) == sum(counts[3:]) == 16


@given(st.data())
def test_every_list_is_gone_through_pass_by_pass(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
    shares = data.draw(st.lists(st.integers(1, 5), min_size=len(lengths), max_size=len(lengths)))
    mixture = Mixture(lengths, shares, lengths, seed=3)
    images = [mixture(n) for n in range(100)]
    assert images == [mixture(n) for n in reversed(range(100))][::-1]  # a function of n alone
    assert len({image[1:] for image in images}) == 100  # no augmentation comes twice
    for indices in mixture.lists:
        own = [index for its, _, index in images if its == indices]
        for first in range(0, len(own) - len(indices) + 1, len(indices)):
            assert sorted(own[first : first + len(indices)]) == list(indices)


def test_one_list_is_visited_as_ever() -> None:
    """A new order in each epoch, whose last images are dropped."""
    mixture = Mixture([11], [7], [2 * 4], seed=5)
    expected = [(epoch, i) for epoch in range(3) for i in order(5, epoch, 11)[:8].tolist()]
    assert [mixture(n)[1:] for n in range(24)] == expected
    assert not np.array_equal(order(5, 0, 11), order(5, 0, 11, 1))  # of a second list of the same length


# What an image goes through


def data_of(tree: Path, folder: Path, *pairs: str, share: tuple[int, int] = (0, 1)) -> datasets.Data:
    return datasets.Data(Run(folder, tree, *MIXED, *pairs).configuration(), 0, share)


def test_an_epoch_is_as_long_as_all_lists_together(tree: Path, tmp_path: Path) -> None:
    data = data_of(tree, tmp_path)
    assert data.iterations.per_epoch == 18 // 4 and data.iterations.images == {"source": 18, "target": 4}
    indices = torch.cat([data.iterations[divmod(n, 4)].source.index for n in range(12)])
    assert [(indices < 16).sum(), (indices >= 16).sum()] == [32, 16]


def test_processes_share_the_same_batch(tree: Path, tmp_path: Path) -> None:
    whole = data_of(tree, tmp_path).iterations
    parts = [data_of(tree, tmp_path, share=(rank, 3)).iterations for rank in range(3)]
    for place in ((0, 0), (1, 2)):
        batches = [part[place].source for part in parts]
        for ours, theirs in zip(whole[place].source, map(torch.cat, zip(*batches, strict=True)), strict=True):
            assert torch.equal(ours, theirs)


def test_each_list_has_its_ignored_classes(tree: Path, tmp_path: Path) -> None:
    ours, plain = (data_of(tree, tmp_path, *pairs).iterations.source for pairs in ((), ("TRAIN.TASK_IGNORE", "[]")))
    for index in (3, 16, 17):
        item, whole = ours[2, index], plain[2, index]
        expected = whole.label.clone()
        if index >= 16:
            expected[(whole.label == 0) | (whole.label == 5)] = 255
            assert not torch.equal(expected, whole.label)
        assert torch.equal(item.label, expected) and torch.equal(item.image, whole.image) and item.index == index
    assert not torch.equal(ours[2, 16].image, ours[2, 17].image)
    for index, name in ((3, "train_game_9K_3"), (17, "val_game_1K_1")):
        assert ours.samples[index].image == f"{name}.png"


@pytest.mark.parametrize("renormalise", ["True", "False"])
def test_each_list_has_its_colours(renormalise: str, tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree, *MIXED, "DATASET.RENORM_SOURCE", renormalise)
    cfg, data = run.configuration(), datasets.Data(run.configuration())
    batch = default_collate([data.iterations.source[0, i] for i in (17, 3, 16, 4)])
    assert isinstance(batch, SourceBatch)
    inputs = build.inputs(cfg, CPU, 0, [0, 16])
    source, _ = inputs(data.iterations[0, 0]._replace(source=batch), 0, 0)
    plain, d = (cfg.DATASET.MEAN, cfg.DATASET.STD), cfg.DATASET
    given = {False: (d.SOURCE_MEAN[:3], d.SOURCE_STD[:3]), True: (d.SOURCE_MEAN[3:], d.SOURCE_STD[3:])}
    for i, index in enumerate(batch.index.tolist()):
        own = renormalised(*plain, *given[index >= 16], d.TARGET_MEAN, d.TARGET_STD)
        own = own if renormalise == "True" else plain
        assert torch.equal(source.image[i], normalise(batch.image[i : i + 1], batch.padding[i : i + 1], *own)[0])


def test_an_unusable_image_is_replaced_from_its_own_list(tmp_path: Path) -> None:
    small_tree.make(tmp_path / "tree")
    (tmp_path / "tree/val_game_1K_1.png").write_bytes(b"")
    data = data_of(tmp_path / "tree", tmp_path, "DATASET.ON_ERROR", "skip")
    batches = [data.iterations[0, i] for i in range(4)]
    assert {entry.file for batch in batches for entry in batch.skipped} == {str(tmp_path / "tree/val_game_1K_1.png")}
    indices = torch.cat([batch.source.index for batch in batches])
    assert (indices == 16).sum() == 5 and not (indices == 17).any()  # of 16 images


# Whole runs


def kill(number: int) -> None:
    wrap(Trainer, "train_on", after=kill_at(number))


def test_killed_and_continued_it_is_the_same_run(tree: Path, tmp_path: Path) -> None:
    undisturbed, run = Run(tmp_path / "a", tree, *MIXED), Run(tmp_path / "b", tree, *MIXED)
    process = undisturbed.start()
    for number, workers in ((5, 0), (3, 2)):
        assert run.start(workers=workers, before=partial(kill, number)).wait() == -signal.SIGKILL
    refused = run.start(also=("TRAIN.TASK_SHARES", "1,1"))
    assert refused.wait() == 2 and "or their shares, have changed" in refused.said
    assert run.start(workers=1).wait() == 0 and process.wait() == 0
    same(run, undisturbed)
    assert "plan: 4 source images (2:1 of train_game_9K, val_game_1K) and 2 target images" in process.said
    assert len(run.metrics("step")) == 8


def test_one_list_by_name_or_as_a_list_is_the_same(tree: Path, tmp_path: Path) -> None:
    plain, listed = (Run(tmp_path, tree, "TRAIN.TASK", given) for given in ("train_game_9K", "[train_game_9K]"))
    assert plain.configuration() == listed.configuration()
    assert plain.configuration().TRAIN.TASK == ["train_game_9K"]


# What a user can get wrong


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ("TRAIN.TASK_SHARES 1,0", "TRAIN.TASK_SHARES = 1,0 in --set: expected whole numbers from 1 to 1000"),
        ("TRAIN.TASK_SHARES 1,2,3", "TRAIN.TASK_SHARES = [1, 2, 3]: expected 2, one for each list of TRAIN.TASK"),
        ("TRAIN.TASK_IGNORE [[1]]", "TRAIN.TASK_IGNORE = [[1]]: expected 2, one for each list of TRAIN.TASK"),
        ("TRAIN.TASK_IGNORE 1,2", "TRAIN.TASK_IGNORE = 1,2 in --set: expected a list, each item a list of"),
        ("TRAIN.TASK_IGNORE [[],[255]]", "TRAIN.TASK_IGNORE = [[],[255]] in --set: expected lists of class numbers"),
        ("TRAIN.TASK [a,b,a]", "TRAIN.TASK = ['a', 'b', 'a']: a list is named twice"),
        ("TRAIN.TASK []", "TRAIN.TASK = [] in --set: expected names of lists"),
        ("DATASET.SOURCE_MEAN .1,.2,.3", "DATASET.SOURCE_MEAN has 3 numbers: expected 6, 3 for each list of"),
        ("DATASET.SOURCE_STD .1,.2,.3,.4", "DATASET.SOURCE_STD = .1,.2,.3,.4 in --set: expected 3 numbers"),
        ("TRAIN.TASK [train_game_9K,nothing] TRAIN.TASK_IGNORE []", "no list 'nothing'"),
        ("TRAIN.TASK_IGNORE [[19],[]]", "TRAIN.TASK_IGNORE = [19]: the label set has the classes 0 to 18"),
    ],
)
def test_mistakes_are_one_line(pairs: str, said: str, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        cfg = Run(tmp_path, tree, *MIXED, *pairs.split()).configuration()
        datasets.Data(cfg)
        config.check_classes(cfg, 19)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_batch_larger_than_all_lists(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"list train_game_9K \+ val_game_1K has 18 images, fewer than one batch"):
        data_of(tree, tmp_path, "TRAIN.BATCH_SIZE", "19")


# Tools


def check(tree: Path, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture, *pairs: str) -> str:
    run = Run(folder, tree, *MIXED, *pairs)
    arguments = ["--cfg", folder / "cfg.yaml", "--set", *run.changes]
    patch.setattr(sys, "argv", ["check_data.py", *map(str, arguments)])
    try:
        check_data.main()
    except SystemExit:
        pass
    return capture.readouterr().out


def test_the_doctor_looks_at_all_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    small_tree.make(tmp_path / "tree")
    call = partial(check, tmp_path / "tree", tmp_path, monkeypatch, capsys)
    first = call("VAL.LISTS", "[]")
    assert "0 errors" in first and "no pixel of" not in first
    assert "list val_game_1K shares" not in first  # it is trained on, and not what is measured on
    classes = {name: set(np.unique([read_label(tmp_path / "tree" / s.label) for s in lists.read(name, str(
        tmp_path / "tree"))])) for name in ("train_game_9K", "val_game_1K")}
    only = sorted(set(range(19)) - classes["val_game_1K"])[:1] or [0]  # taken from the other list, it is nowhere
    rest = [c for c in range(19) if c not in (0, *only)]
    assert "no pixel of" in call("TRAIN.TASK_IGNORE", f"[{only},{only}]".replace(" ", ""))
    lonely = call("TRAIN.TASK_IGNORE", f"[[],{[*rest, *only]}]".replace(" ", ""))
    assert "0 errors" in lonely and "warning: list val_game_1K: all labelled pixels are road" in lonely
    for path in (tmp_path / "tree").glob("val_game_1K_*_label.png"):
        path.write_bytes((tmp_path / "tree/train_game_9K_0_label.png").read_bytes()[:40])
    assert "error: " in call()


def task_of(folder: Path, tree: Path, *pairs: str) -> plan.Task:
    run = Run(folder, tree, *MIXED, *pairs)
    runs = {row: f"01{plan.INFIX[row]}_own" for row in plan.ROWS}
    file = str(folder / "cfg.yaml")
    return plan.Task(file, file, ("MODEL.BASELINE", "True"), tuple(run.changes), "val_cityscapes",
                     home=str(folder / "home"), exp="v1", runs=runs)


def test_adapt_s_plan(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(tmp_path, tree)
    found = {stage.name: stage for stage in plan.stages(task, plan.ROWS)}
    assert found["source_only"].after == ("sources",) and found["sources"].after == ("check",)
    ((tool, *arguments),) = found["sources"].commands
    assert tool == "tools/join_lists.py"
    monkeypatch.setattr(sys, "argv", [tool, *arguments])
    join_lists.main()
    cfg = config.load(*task.configuration("source"))[0]
    data = datasets.Data(cfg)
    assert data.iterations.target.samples == data.iterations.source.samples and not cfg.DATASET.RENORM_SOURCE
    oracle = config.load(*task.configuration("oracle"))[0]
    assert (oracle.TRAIN.TASK, oracle.TRAIN.TASK_SHARES, oracle.TRAIN.TASK_IGNORE) == (["train_cityscapes"], [], [])
    assert datasets.Data(oracle).iterations.images == {"source": 4, "target": 4}
    assert estimates.iterations("abn", cfg, cfg) == cfg.TRAIN.NUM_EPOCHS * 4
    one = plan.stages(task_of(tmp_path, tree, "TRAIN.TASK", "train_game_9K", "TRAIN.TASK_SHARES", "[]",
                              "TRAIN.TASK_IGNORE", "[]", "DATASET.RENORM_SOURCE", "False"), ("source",))
    assert "sources" not in [stage.name for stage in one]


def test_published_data_of_all_sources_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    what = ["gta", "resnet101", "DATASET.ROOT", str(tmp_path), "DATASET.RENORM_SOURCE", "False", "TRAIN.TASK"]
    for names, expected in (("train_game_9K", "gta cs"), ("[train_synthia_9K,train_game_9K]", "gta synthia cs")):
        task = tasks.make([*what, names], 0, Record(tmp_path / "01_gta_resnet101"))
        convert = next(stage for stage in task.prepare if stage.name == "convert")
        assert [command[2] for command in convert.commands] == expected.split()


def test_published_lists_validate_and_choose(tree: Path, tmp_path: Path) -> None:
    pairs = "TRAIN.TASK [train_synthia_9K,train_game_9K] DATASET.RENORM_SOURCE False VAL.LISTS []".split()
    cfg = Run(tmp_path, tree, *pairs).configuration()
    found, missing, select = datasets.validation_lists(cfg)
    assert found == ["val_game_1K", "val_cityscapes", "val2_cityscapes"] and missing == ["val_synthia"]
    assert select == "val2_cityscapes"
    assert plan.source_list_that_selects(cfg) == ("VAL.SELECT", "val_synthia")


def test_joined_lists_hold_each_image_once(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "joined.txt"
    names = ["val2_cityscapes", "train_cityscapes", "val_cityscapes"]
    monkeypatch.setattr(sys, "argv", ["join_lists.py", *names, "--root", str(tree), "--out", str(out)])
    join_lists.main()
    assert lists.read(str(out), str(tree)) == [s for name in names[1:] for s in lists.read(name, str(tree))]
    assert "7 images from 3 lists" in capsys.readouterr().out
    with pytest.raises(UserError, match="already exists"):
        join_lists.main()
