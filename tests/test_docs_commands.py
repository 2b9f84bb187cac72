"""docs/reproduction.md, followed to the letter: every command as printed, in its order. See also test_own_data.py.

What is not as in the docs: settings that make a training small are appended to each command that takes some, the
authors' files are stand-ins of the stub's, and a reader's own paths take the place of the docs' examples.
"""

import re
from pathlib import Path

import pytest
import torch
from shell import ROOT, Shell
from test_adapt import SMALL, in_process
from test_domains import render

from core import checkpoint
from tools import adapt, download
from tools.pipeline import estimates

# Of these, the ones with --set, and the one whose KEY VALUE pairs come last.
CONFIGURED = ("train.py", "infer_val.py", "tools/check_data.py", "tools/show_views.py", "tools/estimate_memory.py")
TRAINED = [*SMALL, "LOG.ITER_VAL", "1", "TRAIN.PRECISION", "float32"]


def blocks(page: str) -> list[str]:
    """The page's bash blocks."""
    return re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.DOTALL | re.MULTILINE)


def small(words: list[str]) -> list[str]:
    """A command with what makes it small, and fast: no processes of loaders, one estimate in place of eight."""
    if words[0] == "tools/adapt.py":
        return [*words, *SMALL]
    first = {"train.py": ("--workers", "0"), "tools/estimate_memory.py": ("--micro-batches", "1")}.get(words[0], ())
    words = [words[0], *first, *words[1:]]
    if words[0] in CONFIGURED:
        return [*words, *([] if "--set" in words else ["--set"]), *TRAINED]
    return words


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr(adapt, "ROOT", tmp_path)
    monkeypatch.setattr(adapt, "execute", in_process)
    monkeypatch.setattr(download, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, lambda words: in_process(small(words)))


def test_reproduction(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(download, "fetch", lambda url, target, *rest: (
        fetched.append(url), target.parent.mkdir(parents=True, exist_ok=True), target.write_bytes(b"weights")))
    monkeypatch.setattr(estimates, "WARM_UP", 1)  # iterations
    monkeypatch.setattr(estimates, "MEASURED", 2)
    for name in ("gta", "synthia", "cityscapes"):
        render(shell.place / "data", name)
    baseline = shell.place / "snapshots/cityscapes/v1/01_abn_gta_resnet101"
    for block in blocks("reproduction.md"):
        if "epoch098_score0.412.pth" in block:  # "Use the path from step 4"
            (best,) = baseline.glob("epoch003_score*.pth")
            block = block.replace("epoch098_score0.412.pth", best.name)
        if "final_e" in block:
            write_published(shell.place, block)
        shell(block)
    assert [Path(url).name for url in fetched] == ["resnet101-5d3b4d8f.pth", "vgg16_bn-6c64b313.pth"]
    check_reproduction(shell)


def write_published(place: Path, block: str) -> None:
    """Stand-ins for the authors' files: the stub's weights, with the four entries that theirs have."""
    named = set(re.findall(r"SNAPSHOT=(\S+)", block))
    assert len(named) == 12 and len({Path(name).parent for name in named}) == 6
    state = torch.load(place / "snapshots/cityscapes/v1/01_gta_resnet101/last.pth", weights_only=True)
    for name in named:
        (place / name).parent.mkdir(exist_ok=True)
        checkpoint.save(place / name, {key: state[key] for key in ("model", "opt", "epoch", "score")})


def check_reproduction(shell: Shell) -> None:
    place = shell.place
    assert {path.name for path in (place / "logs/cityscapes/v1").iterdir()} >= {
        "01_abn_gta_resnet101", "01_gta_resnet101"}
    assert (place / "results/report/index.html").is_file() and (place / "submission.zip").is_file()
    evaluated = [words for words in shell.ran if words[0] == "tools/evaluate.py"]
    assert len(evaluated) == 13
    for words in evaluated:
        assert ("--ignore" in words) == ("synthia" in words[2]), words
    folders = {Path(words[2]).parent for words in evaluated}
    assert len(folders) == 13 and all(len([*(place / folder).glob("val_cityscapes/*.png")]) == 2 for folder in folders)
    sac = next(words for words in shell.ran if words[0] == "train.py" and "--run=01_gta_resnet101" in words)
    assert "data/cs_weights_resnet101_gta.data" in sac


def test_a_wrong_option_or_file_is_found(shell: Shell) -> None:
    for wrong in ("python tools/make_lists.py --rot data", "python tools/nothing.py", "bash launch/nothing.sh",
                  "python train.py --cfg configs/none.yaml --exp e --run r", "bash launch/train.sh gta resnet50 base"):
        with pytest.raises((AssertionError, ModuleNotFoundError), match="exit status|nothing"):
            shell(wrong)
