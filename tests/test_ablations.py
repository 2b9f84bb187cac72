"""docs/ablations.md: each of its commands takes two iterations, and switches off what its heading says."""

import json
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import small_tree
import torch

from core import checkpoint, config
from core.run_folder import Run
from core.trainer import Trainer
from datasets import sampling
from models import build, consistency

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "ablations.md").read_text()
# Random weights are sure of nothing: without a lowest threshold they give pseudo labels all the same.
SMALL = (
    "TRAIN.BATCH_SIZE 2 TRAIN.NUM_GROUPS 1 TRAIN.MAX_ITER 2 TRAIN.DEVICE cpu DATASET.CROP_SIZE 32,64 "
    "DATASET.GAME_SIZE [] MODEL.ARCH stub MODEL.RUN_CONF_LOWER 0 LOG.ITER_VAL 9 MODEL.INIT_MODEL"
).split() + [""]


def commands() -> dict[str, list[str]]:
    """The page's training commands as the shell would split them, by the name of the run."""
    blocks = "\n".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    words = [shlex.split(line) for line in blocks.splitlines() if line.startswith("python train.py ")]
    return {line[line.index("--run") + 1]: line for line in words}


COMMANDS = commands()


def pairs(name: str) -> list[str]:
    line = COMMANDS[name]
    return line[line.index("--set") + 1 :]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of a few random images, a baseline's snapshot, importance weights."""
    root = tmp_path_factory.mktemp("tree")
    small_tree.make(root)
    shares = np.random.default_rng(0).dirichlet(np.ones(4), 19)  # [C,M]
    sampling.save_weights(
        {f"train_cityscapes_{i}.png": dict(enumerate(shares[:, i])) for i in range(4)}, root / "weights.data")
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"backbone": build("stub", 19)}).state_dict()
    model = {f"module.{name}": value for name, value in network.items()}
    checkpoint.save(root / "baseline.pth", {"model": model, "opt": {}, "epoch": 0, "score": 0.0})
    return root


@pytest.fixture(scope="module", autouse=True)
def signals() -> Iterator[None]:
    """A run takes SIGTERM and SIGINT for itself; give them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def trainer(name: str, tree: Path, folder: Path) -> Trainer:
    files = {"$BASELINE": str(tree / "baseline.pth"), "$WEIGHTS": str(tree / "weights.data")}
    line = COMMANDS[name]
    value = {option: files.get(line[line.index(option) + 1], line[line.index(option) + 1]) for option in line
             if option in ("--cfg", "--exp", "--resume")}
    changes = [files.get(word, word) for word in pairs(name)]
    cfg, notes = config.load(str(ROOT / value["--cfg"]), [*SMALL, "DATASET.ROOT", str(tree), *changes])
    place = Run(value["--exp"], name, snapshot_dir=str(folder / "snapshots"), log_dir=str(folder / "logs"))
    return Trainer(cfg, place, value["--resume"], workers=0, notes=notes)


class Seen:
    """A run's step that remembers the views that it was given."""

    def __init__(self, run: Trainer) -> None:
        self.step, self.views = run.step, []
        self.constants = self.step.constants

    def __call__(self, source: object, views: object, *place: int) -> dict:
        self.views.append(views)
        return self.step(source, views, *place)

    def __getattr__(self, name: str) -> object:
        return getattr(self.step, name)


def mirrored(seen: Seen) -> bool:
    return any((views.A[:, 0, 0] < 0).any() for views in seen.views)


def zoomed(seen: Seen) -> bool:
    return any((views.A[:, 1, 1] != 1).any() for views in seen.views)


def noisy(seen: Seen) -> bool:
    return any(not torch.equal(views.noisy, views.clean) for views in seen.views)


def uniform_threshold(run: Trainer, seen: Seen) -> bool:
    c = seen.constants
    best = torch.rand(3, 8, 8)
    d = consistency.discount(seen.class_prior, c.beta)
    theta = consistency.thresholds(best, torch.randint(0, 19, best.shape), d, c.upper, c.lower)
    return bool((theta == c.upper).all())


# What is to be seen of each part in the first two iterations: (in the full method, with the command).
Check = Callable[[Trainer, Seen], object]
CHECKS: dict[str, list[tuple[Check, object, object]]] = {
    "no_flip": [(lambda run, seen: mirrored(seen), True, False)],
    "no_zoom": [(lambda run, seen: zoomed(seen), True, False)],
    "no_noise": [(lambda run, seen: noisy(seen), True, False)],
    "no_fusion": [(lambda run, seen: seen.constants.fusion, "avg_pool", "")],
    "min_entropy": [(lambda run, seen: seen.constants.fusion, "avg_pool", "minentropy_pool")],
    "no_confidence": [(lambda run, seen: seen.constants.loss, "focal_ce_conf_batch", "focal_ce")],
    "no_focal": [(lambda run, seen: seen.constants.focal_p, 3.0, 0.0)],
    "no_class_threshold": [(uniform_threshold, False, True)],
    "no_teacher": [(lambda run, seen: teacher_moves(run), [0.0], [0.0, 0.0])],
    "no_sampling": [(lambda run, seen: uniform_sampling(run), False, True)],
}
CHECKS["no_consistency"] = CHECKS["no_flip"] + CHECKS["no_zoom"] + CHECKS["no_noise"] + CHECKS["no_fusion"]


def steps(run: Trainer) -> list[dict]:
    lines = (run.folder.logs / "metrics.jsonl").read_text().splitlines()
    return [entry for line in lines if (entry := json.loads(line))["kind"] == "step"]


def teacher_moves(run: Trainer) -> list[float]:
    """The distance of teacher and student in those iterations where the teacher moved."""
    return [entry["teacher_diff"] for entry in steps(run) if "teacher_diff" in entry]


def uniform_sampling(run: Trainer) -> bool:
    return bool(np.allclose(run.data.iterations.target.tables, [0.25, 0.5, 0.75, 1]))


def two_steps(name: str, tree: Path, folder: Path) -> tuple[Trainer, Seen]:
    run = trainer(name, tree, folder)
    run.step = seen = Seen(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", lambda *_: None)  # not what is tested here
        run.fit()
    return run, seen


@pytest.fixture(scope="module")
def full(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Seen]:
    return two_steps("full", tree, tmp_path_factory.mktemp("full"))


def test_the_page_has_every_ablation() -> None:
    assert set(COMMANDS) == {"full", *CHECKS}
    assert len(CHECKS) == 11


@pytest.mark.parametrize("name", CHECKS)
def test_two_iterations(name: str, tree: Path, tmp_path: Path, full: tuple[Trainer, Seen]) -> None:
    run, seen = two_steps(name, tree, tmp_path)
    assert [entry["iter"] for entry in steps(run)] == [1, 2]
    for entry in steps(run):
        assert np.isfinite([entry["loss_ce"], entry["self_ce"]]).all()
        assert (entry["kept"] == 0) == (entry["self_ce"] == 0) == (name == "no_class_threshold")
    for check, usual, without in CHECKS[name]:
        assert check(*full) == usual
        assert check(run, seen) == without
