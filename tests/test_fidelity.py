"""The released code's quirks that no other test shows, and that docs/fidelity.md has a row for each.

Letters and numbers are those of docs/fidelity.md.
"""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import small_tree
import torch
from runs import Stub
from torch import Tensor, nn

import datasets
from core import build, checkpoint, config, distributed
from core.compute import Compute, Views
from core.inference import Predictor, load_network
from core.optim import build_optimiser
from core.run_folder import Run
from core.steps import Method, SACStep
from core.trainer import Trainer
from datasets.iterations import Iteration, Iterations
from datasets.source import ImageBatch, SourceBatch, UnlabelledTraining
from datasets.transforms import renormalised
from datasets.views import affine, draw_shared, draw_views
from models import consistency
from models.sac import SAC

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text()
QUIRKS = [f"{letter}{n}" for letter, last in zip("ABCD", (14, 14, 12, 4), strict=True) for n in range(1, last + 1)]
CPU = torch.device("cpu")


def published(name: str, *pairs: str) -> "config.CfgNode":
    return config.load(str(ROOT / "configs" / name), pairs)[0]


@pytest.mark.parametrize("quirk", QUIRKS)
def test_every_quirk_has_one_row(quirk: str) -> None:
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith(f"| {quirk} |")]
    assert len(rows) == 1
    _, _, released, here, why, tests, _ = rows[0]
    assert here.strip() in ("kept", "departed", "both", "not there")
    assert released.strip() and (why.strip() or here.strip() == "kept")
    assert re.fullmatch(r"`test_\w+\.py::test_\w+`(, `test_\w+\.py::test_\w+`)*", tests.strip())


def test_a1_the_weight_is_the_mean_over_all_views() -> None:
    best = torch.rand(3, 4, 5)
    assert torch.equal(consistency.pixel_weight(best, "focal_ce_conf_batch"), best.mean(0, keepdim=True))
    assert consistency.pixel_weight(best, "focal_ce_conf") is best
    assert consistency.pixel_weight(best, "focal_ce") is None


def test_a2_the_validity_lies_in_the_view_s_frame() -> None:
    """s = 2: the view holds the image and as much padding around; in the reference frame all of it is seen."""
    size = (16, 16)
    A, A_inv = (torch.tensor([[[s, 0, 0], [0, s, 0]]]) for s in (0.5, 2.0))
    m = torch.ones(1, 1, *size)
    inside = consistency.fuse_views(m, torch.zeros(1, *size, dtype=torch.bool), A, A_inv)[0, 0]
    # As v lies in the view's frame, the outer half of the reference frame is lost, though the view shows all of it.
    assert inside[7:9, 7:9].min() > 0.99 and inside[:4].max() < 1e-3 and inside[:, -4:].max() < 1e-3


def test_a3_a_class_absent_at_first_grows_by_the_average_alone() -> None:
    chi = torch.full((2,), 1e-3)
    chi = consistency.update_prior(chi, torch.tensor([0.5, 0.0]), 0.99, 1e-3)
    assert chi.tolist() == pytest.approx([0.5, 0.99e-3])  # the first class jumped, the second one had nothing to
    chi = consistency.update_prior(chi, torch.tensor([0.5, 0.3]), 0.99, 1e-3)
    assert chi[1].item() == pytest.approx(0.99 * 0.99e-3 + 0.01 * 0.3)


def test_a7_the_floor_comes_after_the_discount_and_the_comparison_is_strict() -> None:
    best, label = torch.tensor([[[0.9, 0.45]]]), torch.tensor([[[0, 1]]])
    theta = consistency.thresholds(best, label, torch.tensor([1.0, 0.1]), 0.5, 0.2)
    assert theta.tolist() == [[pytest.approx(0.45), pytest.approx(0.2)]]
    equal = consistency.pseudo_labels(theta[None], label, theta, torch.zeros(1, 1, 2, dtype=torch.bool))
    assert equal.tolist() == [[[255, 255]]]


class Multiple(nn.Module):
    """A network that wants sides divisible by 32, as FCN-8s does."""

    multiple_of = 32

    def forward(self, x: Tensor, seeds: Tensor | None = None) -> Tensor:
        assert x.shape[2] % 32 == x.shape[3] % 32 == 0
        return x


def test_a14_inference_pads_to_multiples_of_32_and_crops_back() -> None:
    predict = Predictor(Multiple(), Compute(CPU, False), (0.5,) * 3, (0.25,) * 3)
    x = torch.rand(1, 3, 33, 50)
    assert torch.equal(predict.logits(x), x)


def test_b1_the_source_s_jitter_key_is_a_switch(tmp_path: Path) -> None:
    small_tree.make(tmp_path)
    for given, strength in (("0.1", 0.5), ("0.9", 0.5), ("0", 0.0)):
        cfg = published("deeplabv2_resnet101.yaml", "DATASET.ROOT", str(tmp_path), "TRAIN.NUM_GROUPS", "2",
                        "DATASET.SRC_RND_JITTER", given)
        assert datasets.Data(cfg).iterations.source.augmentation.jitter == strength


@pytest.mark.parametrize("task", ["train_game_9K", "train_synthia_9K"])
def test_b3_the_source_gets_gta_s_statistics_and_validation_imagenet_s(task: str) -> None:
    cfg = published("deeplabv2_resnet101.yaml", "TRAIN.TASK", task)
    image = torch.full((1, 2, 2, 3), 128, dtype=torch.uint8)
    nothing = torch.zeros(1, 2, 2)
    batch = SourceBatch(image, nothing, nothing.bool(), torch.zeros(1))
    data = cfg.DATASET
    mean, std = renormalised(data.MEAN, data.STD, (0.481, 0.479, 0.465), (0.243, 0.239, 0.237),
                             data.TARGET_MEAN, data.TARGET_STD)
    assert mean == pytest.approx([0.738, 0.628, 0.611], abs=1e-3)
    inputs = build.inputs(cfg, CPU, 0)
    source, _ = inputs(Iteration(batch, ImageBatch(image, nothing.bool(), torch.zeros(1)), []), 0, 0)
    source, plain = source.image, inputs.images(batch)
    for ours, (centre, spread) in ((source, (mean, std)), (plain, (data.MEAN, data.STD))):
        expected = [(128 / 255 - m) / s for m, s in zip(centre, spread, strict=True)]
        assert ours[0, :, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def padded(zoom: tuple[float, float], target_scale: tuple[float, float]) -> int:
    """How many of 200 images have padding in a view."""
    rng, size, count = np.random.default_rng(0), (64, 128), 0
    for _ in range(200):
        shared = draw_shared(rng, size, target_scale, True)
        views = draw_views(rng, 4, size, zoom, True)
        count += min(shared.window[:2]) < 0 or any(min(view.window(*size)[:2]) < 0 for view in views)
    return count


def test_b6_the_published_files_make_no_padding() -> None:
    cfg = published("deeplabv2_resnet101_train.yaml")
    assert padded(tuple(cfg.DATASET.RND_ZOOM), tuple(cfg.DATASET.TARGET_SCALE)) == 0
    assert padded((0.5, 1.2), (1.0, 1.1)) > 50 and padded((0.5, 1.0), (0.7, 1.0)) > 50


class Numbers(UnlabelledTraining):
    """Items that are their own index."""

    def __init__(self) -> None:
        pass

    def __getitem__(self, key: tuple[int, int]) -> Tensor:
        return torch.tensor(key[1])


def test_b13_incomplete_batches_are_dropped_and_both_loaders_see_one_order() -> None:
    data = Iterations(Numbers(), Numbers(), lengths=[11], batch=4, groups=3, seed=0)
    assert data.per_epoch == 2  # of the source; the target alone would have 3
    source, target, _ = zip(*(data[(0, i)] for i in range(2)), strict=True)
    order = torch.cat(source).tolist()
    assert len(set(order)) == 8 and torch.cat(target).tolist() == order[:3] + order[3:6]


RUN = (
    "TRAIN.BATCH_SIZE 8 TRAIN.NUM_GROUPS 2 TRAIN.GROUP_SIZE 1 TRAIN.DEVICE cpu DATASET.GAME_SIZE [] "
    "DATASET.CROP_SIZE 32,64 MODEL.ARCH stub LOG.ITER_TARGET 4 MODEL.INIT_MODEL"
).split() + [""]


class Files(NamedTuple):
    """What a run has left on the disk."""

    place: Run

    @property
    def last(self) -> dict:
        return checkpoint.load(self.place.last)

    @property
    def log(self) -> str:
        return (self.place.logs / "log.txt").read_text()

    def entries(self, kind: str, **wanted: object) -> list[dict]:
        lines = (self.place.logs / "metrics.jsonl").read_text().splitlines()
        return [e for line in lines if (e := json.loads(line))["kind"] == kind and wanted.items() <= e.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Files, Files]]:
    """A baseline of three epochs, and SAC from it until epoch five with another learning rate, of a stub."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    folder = tmp_path_factory.mktemp("runs")
    small_tree.make(folder / "data")

    def train(file: str, name: str, resume: str, *pairs: str) -> Files:
        cfg = published(file, *RUN, "DATASET.ROOT", str(folder / "data"), *pairs)
        place = Run("e", name, snapshot_dir=str(folder / "snapshots"), log_dir=str(folder / "logs"))
        Trainer(cfg, place, resume, workers=0).fit()
        return Files(place)

    baseline = train("deeplabv2_resnet101.yaml", "baseline", "", "TRAIN.NUM_EPOCHS", "3", "MODEL.LR", "1e-3")
    last = str(baseline.place.last)
    sac = train("deeplabv2_resnet101_train.yaml", "sac", last, "TRAIN.NUM_EPOCHS", "5", "MODEL.LR", "1e-4")
    yield baseline, sac
    for number, handler in before.items():
        signal.signal(number, handler)


Runs = tuple[Files, Files]


def test_a12_the_learning_rate_is_constant(runs: Runs) -> None:
    for run, lr in zip(runs, (1e-3, 1e-4), strict=True):
        rates = [group["lr"] for group in run.last["opt"]["param_groups"]]
        assert rates == pytest.approx([lr, 2 * lr, 10 * lr, 20 * lr], rel=1e-12)


def test_a9_the_distance_is_there_where_the_teacher_moved(runs: Runs) -> None:
    assert ["teacher_diff" in entry for entry in runs[1].entries("step")] == [True, False, True, False]


def test_c1_the_log_warns_of_images_that_train_and_choose(runs: Runs, tmp_path: Path) -> None:
    assert "2 images of val2_cityscapes are trained on too" in runs[0].log
    small_tree.make(tmp_path)
    cfg = published("deeplabv2_resnet101.yaml", "DATASET.ROOT", str(tmp_path))
    names = ("val2_cityscapes", "val_cityscapes", "val_game_1K")
    assert [datasets.Data(cfg).trained_on(name) for name in names] == [2, 0, 0]


def test_c4_the_score_is_the_student_s_on_the_selecting_list(runs: Runs) -> None:
    for run in runs:
        validated = run.entries("val", list="val2_cityscapes", layer="student")
        names = {f"epoch{e['epoch']:03d}_score{e['miou']:.3f}.pth" for e in validated}
        assert {path.name for path in run.place.snapshots.glob("epoch*")} == names and names
        assert run.last["score"] == max(e["miou"] for e in validated)
    assert {e["layer"] for e in runs[1].entries("val")} == {"student", "teacher", "fused", "pseudo"}


def test_c6_as_many_epochs_as_asked_for_and_the_last_one_is_validated(runs: Runs) -> None:
    steps = [sorted({e["epoch"] for e in run.entries("step")}) for run in runs]
    validated = [sorted({e["epoch"] for e in run.entries("val", layer="student")}) for run in runs]
    assert steps == [[1, 2, 3], [4, 5]]
    assert validated == [[2, 3], [4, 5]]  # every second one, and the last; none before the first
    assert [run.last["epoch"] for run in runs] == [3, 5]


def test_c7_the_best_three_are_kept(tmp_path: Path) -> None:
    best = checkpoint.Best(tmp_path)
    for epoch, score in enumerate((0.3, 0.5, 0.2, 0.4, 0.1, 0.5), 1):
        best.offer(score, epoch, {"model": {}})
        best.tidy()
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [
        "epoch002_score0.500.pth", "epoch004_score0.400.pth", "epoch006_score0.500.pth"]
    assert best.score == 0.5


def test_c8_what_a_baseline_s_snapshot_gives(runs: Runs) -> None:
    """Weights, momentum and epoch count, but not the learning rate or the best score."""
    baseline, sac = runs
    taken, left = (next(line for line in sac.log.splitlines() if word in line) for word in ("taken from", "not taken"))
    assert str(baseline.place.last) in taken
    assert all(word in taken for word in ("student", "momentum", "epoch count (3)"))
    assert all(word in left for word in ("teacher", "class prior", "learning rate", "best score"))


def test_c10_a_baseline_s_snapshot_serves_for_inference(runs: Runs) -> None:
    network = load_network("stub", 19, str(runs[0].place.last))
    own = checkpoint.part(runs[0].last["model"], checkpoint.STUDENT)
    assert not network.training and all(torch.equal(x, own[name]) for name, x in network.state_dict().items())


def test_c9_measuring_changes_no_state() -> None:
    """Pseudo labels for measuring, as core/validation.py asks for them, and those for training."""
    step = sac_step("avg_pool")
    before = {name: x.clone() for name, x in step.network.state_dict().items()}
    step.label(views(), learn=False)
    assert all(torch.equal(x, before[name]) for name, x in step.network.state_dict().items())
    step.label(views())
    changed = [name for name, x in step.network.state_dict().items() if not torch.equal(x, before[name])]
    assert changed == ["running_conf"]


def sac_step(fusion: str) -> SACStep:
    torch.manual_seed(1)
    sac = SAC(Stub(5), Stub(5), 5)
    sac.update_teacher(0.99, 1e-3)
    constants = Method(
        views=4, lr_target=1.0, net_momentum=0.99, net_momentum_iter=100, stat_momentum=0.9, fusion=fusion, upper=0.75,
        lower=0.0, beta=1e-3, discount=True, loss="focal_ce", focal_p=3.0,
    )
    return SACStep(sac, build_optimiser(sac.backbone, "SGD", 0.1, 0.9, False, 0.0), Compute(CPU, False), constants)


def views() -> Views:
    """Eight views, of two images."""
    rng = np.random.default_rng(0)
    drawn = [view for _ in range(2) for view in draw_views(rng, 4, (32, 64), (0.5, 1.2), True)]
    maps = [torch.from_numpy(np.stack(m)) for m in zip(*(affine(view, 32, 64) for view in drawn), strict=True)]
    clean = torch.randn(8, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    padding = torch.rand(8, 32, 64, generator=torch.Generator().manual_seed(1)) < 0.1
    return Views(clean, clean, padding, *maps, torch.zeros(8, dtype=torch.int64), 8)


@pytest.mark.parametrize("fusion", consistency.POOLS)
@pytest.mark.parametrize("processes", [3, 4, 5])
def test_d2_views_on_several_processes_are_fused(
    processes: int, fusion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two images of four views on several processes: the labels are those of one process."""
    whole, step = views(), sac_step(fusion)
    expected = step.label(whole)
    assert 0.05 < (expected.label != 255).float().mean() < 0.95
    everything = [step.teach(whole.clean), whole.padding, whole.A, whole.A_inv]
    monkeypatch.setattr(distributed, "size", lambda: processes)
    for rank in range(processes):
        own = distributed.split(8, rank, processes)

        def gathered(tensors: list[Tensor], count: int, own: slice = own) -> list[Tensor]:
            assert count == 8
            for x, complete in zip(tensors, everything, strict=True):
                torch.testing.assert_close(x, complete[own])
            return everything

        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "gather", gathered)
        pseudo = step.label(Views(*(x[own] for x in whole[:-1]), 8), learn=False)
        torch.testing.assert_close(pseudo.confidence, expected.confidence[own])
        assert torch.equal(pseudo.label, expected.label[own])


def test_d1_the_prior_is_the_mean_over_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process gives its views' share of the mean; their sum, which all take, is that of one process."""
    whole = views()
    expected = sac_step("avg_pool")
    sent: list[Tensor] = []
    monkeypatch.setattr(distributed, "total", lambda x: sent.append(x) or x)
    expected.label(whole)
    (together,) = sent
    parts = []
    monkeypatch.setattr(distributed, "size", lambda: 2)
    for rank, own in enumerate((slice(0, 4), slice(4, 8))):
        sent.clear()
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        sac_step("avg_pool").label(Views(*(x[own] for x in whole[:-1]), 8))
        parts += sent
    assert torch.allclose(torch.stack(parts).sum(0), together, atol=1e-6)
    assert not torch.allclose(2 * parts[0], together, atol=1e-4)
    monkeypatch.setattr(distributed, "total", lambda x: together)
    other = sac_step("avg_pool")
    other.label(Views(*(x[4:] for x in whole[:-1]), 8))
    assert torch.allclose(other.class_prior, expected.class_prior, atol=1e-7)
