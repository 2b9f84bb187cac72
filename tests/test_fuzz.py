"""Random and mutated files: every reader ends in a value or in a UserError, and says nothing of its own."""

import copy
import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import Stub

from core import checkpoint, config, resume
from core.alarms import Alarms
from core.cli import UserError
from core.files import read_yaml
from core.optim import build_optimiser
from core.run_folder import Run
from datasets import lists
from datasets.images import SIGNATURE, read_image, read_label
from datasets.sampling import load_weights, save_weights
from models.sac import SAC

CLASSES = 3
EXPECTED = {"arch": "stub", "num_epochs": 9, "seed": 0, "baseline": False, "per_epoch": 4,
            "lists": {"source": "a", "target": "b"}, "config": "MODEL: {LR: 1}"}
bounded = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def harmed(content: bytes, rng: random.Random) -> bytes:
    """A file as a disk, a broken download or an editor leaves it."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(result) + 1)
        match rng.randrange(5):
            case 0:
                del result[at:]
            case 1:
                result[at : at + rng.randrange(1, 9)] = rng.randbytes(rng.randrange(9))
            case 2 if at < len(result):
                result[at] ^= 1 << rng.randrange(8)
            case 3:
                result[at:at] = result[: rng.randrange(64)]
            case _:
                result[at : at + 64] = bytes(len(result[at : at + 64]))
    return bytes(result)


def outcomes(read: Callable[[Path], Any], content: bytes, path: Path, number: int) -> dict[str, int]:
    """How often reading a harmed file gave a value, and how often a UserError of one line; anything else raises."""
    count = {"read": 0, "refused": 0}
    for seed in range(number):
        path.write_bytes(harmed(content, random.Random(seed)))
        try:
            read(path)
            count["read"] += 1
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            count["refused"] += 1
    return count


def student() -> tuple[SAC, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = Stub(CLASSES)
    return SAC(network, Stub(CLASSES), CLASSES), build_optimiser(network, "SGD", 1e-3, 0.9, False, 5e-4)


@cache
def snapshot() -> dict:
    """A snapshot of SAC after an iteration."""
    sac, optimiser = student()
    sac.slow_init.fill_(1)
    sac.backbone(torch.zeros(1, 3, 16, 16)).sum().backward()
    optimiser.step()
    names = [f"class {c}" for c in range(CLASSES)]
    own = {**EXPECTED, "classes": names, "origin": {"torch": "2"}, "alarms": Alarms(names).memory,
           "kept": [[0.5, 1, "epoch001_score0.500.pth"]], "log": {"metrics.jsonl": 1}, "skipped": {"source": ["a"]}}
    return resume.snapshot(resume.Progress(step=1, iteration=1), sac, optimiser, 0.5, own)




def begin(path: Path) -> None:
    resume.begin(resume.Origin(False, str(path), ""), Run("e", "r"), *student(), EXPECTED)


def go_on(path: Path) -> None:
    folder = Run("e", "r", snapshot_dir=str(path.parents[3]))
    resume.begin(resume.Origin(True, "", ""), folder, *student(), EXPECTED)


@pytest.mark.parametrize("read", [begin, go_on])
@pytest.mark.parametrize("zipped", [True, False])
def test_harmed_snapshots(tmp_path: Path, zipped: bool, read: Callable[[Path], None]) -> None:
    buffer = io.BytesIO()
    torch.save(snapshot(), buffer, _use_new_zipfile_serialization=zipped)
    path = tmp_path / "cityscapes" / "e" / "r" / "last.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(buffer.getvalue())
    read(path)
    count = outcomes(read, buffer.getvalue(), path, 150)
    assert count["refused"] > 50, count


odd = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=3), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["state", "params", "0"]), st.integers(), max_size=2),
    st.sampled_from([torch.zeros(0), torch.ones(2, 3), torch.zeros(2, dtype=torch.int64), torch.tensor(float("nan"))]),
)  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Where a snapshot has something that may be replaced or left out."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [p for key, part in inner for p in places(part, (*path, key))]


@bounded
@given(data=st.data())
@pytest.mark.parametrize("read", [begin, go_on])
def test_snapshots_of_odd_content(tmp_path: Path, read: Callable[[Path], None], data: st.DataObject) -> None:
    state = copy.deepcopy(snapshot())
    for _ in range(data.draw(st.integers(1, 3))):
        *way, last = data.draw(st.sampled_from(places(state)))
        holder = state
        for key in way:
            holder = holder[key]
        if data.draw(st.booleans()):
            holder[last] = data.draw(odd)
        else:
            del holder[last]
    path = tmp_path / "cityscapes" / "e" / "r" / "last.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    try:
        read(path)
    except UserError as error:
        assert str(path) in str(error)


@bounded
@given(content=st.binary(max_size=300))
def test_random_bytes_are_no_file_of_any_kind(content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    for read in (checkpoint.load, load_weights, read_image, read_label):
        with pytest.raises(UserError) as refused:
            read(path)
        assert str(path) in str(refused.value)
    for read in (read_yaml, lambda p: lists.read(str(p), "."), lambda p: config.load(str(p))):
        try:
            read(path)
        except UserError:
            pass
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "tif", "webp"])
def test_harmed_images(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    content = cv2.imencode(f".{kind}", pixels)[1].tobytes()
    for read in (read_image, read_label):
        count = outcomes(read, content, tmp_path / f"image.{kind}", 150)
        assert count["refused"] > 40, count
    assert kind == "jpg" or capfd.readouterr() == ("", "")  # libjpeg, which a user's own images may need, says more


def test_a_header_that_promises_gigabytes(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """A PNG of a few bytes, whole by its checksums, of 100,000 x 100,000 pixels."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"\0" * 10)), chunk(b"IEND", b""))
    (tmp_path / "huge.png").write_bytes(SIGNATURE + b"".join(parts))
    with pytest.raises(UserError, match=r"huge.png: "):
        read_image(tmp_path / "huge.png")
    assert capfd.readouterr() == ("", "")


def test_harmed_weights(tmp_path: Path) -> None:
    path = tmp_path / "weights.data"
    save_weights({"a.png": {0: 0.25, 18: 1.0}, "b.png": {0: 0.75}}, path)
    count = outcomes(load_weights, path.read_bytes(), path, 200)
    assert count["refused"] > 50, count


def test_harmed_configurations(tmp_path: Path) -> None:
    content = Path("configs/deeplabv2_resnet101_train.yaml").read_bytes()
    count = outcomes(lambda path: config.load(str(path)), content, tmp_path / "cfg.yaml", 200)
    assert count["refused"] > 50, count


def test_harmed_lists(tmp_path: Path) -> None:
    content = "\n".join(f"images/{i}.png labels/{i}.png" for i in range(30)).encode()
    count = outcomes(lambda path: lists.read(str(path), "."), content, tmp_path / "list.txt", 200)
    assert count["refused"] > 20 and count["read"] > 20, count
