"""What goes wrong on machines with GPUs, simulated on one without: one line each, and nothing waits forever."""

import ctypes
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import small_tree
import torch
from runs import Run
from torch import distributed as dist
from torch.utils.data import Dataset

import datasets
from core import build, config, distributed
from core.cli import Lost, UserError
from core.compute import Compute
from core.distributed import AT_ONCE
from core.trainer import Trainer

ROOT = Path(__file__).parents[1]
QUICK = "LOG.ITER_VAL 100 LOG.ITER_TARGET 100 TRAIN.NUM_EPOCHS 100".split()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "tree"
    small_tree.make(root)
    return root


def at_iteration(number: int, action: Callable[[], None]) -> None:
    """Let something happen before an iteration, counted from 1."""
    original = Trainer.train_on

    def train_on(self: Trainer, batch: object) -> None:
        if self.progress.step + 1 == number:
            action()
        original(self, batch)

    Trainer.train_on = train_on


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")


@pytest.mark.parametrize(
    "iteration, micro_batch, said",
    [
        (1, 0, "with 4 images per forward pass: use TRAIN.MICRO_BATCH 2; no snapshot has been written yet"),
        (5, 3, "with 3 images per forward pass: use TRAIN.MICRO_BATCH 1; the same command resumes from"),
        (5, 1, "(TRAIN.MICRO_BATCH is 1): use a smaller DATASET.CROP_SIZE"),
    ],
)
def test_out_of_memory_is_one_line(iteration: int, micro_batch: int, said: str, tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree, *QUICK, "TRAIN.MICRO_BATCH", str(micro_batch))
    process = run.start(before=partial(at_iteration, iteration, run_out_of_memory))
    assert process.wait() == 2
    errors = [line for line in process.said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and said in errors[0]
    assert "Traceback" not in process.said
    assert (run.snapshots / "last.pth").exists() == (iteration > 3)


Usage = namedtuple("Usage", "total used free")


def published(*pairs: str) -> config.CfgNode:
    return config.load(str(ROOT / "configs" / "deeplabv2_resnet101_train.yaml"), pairs)[0]


def test_little_shared_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, said in ((64e6, "use --workers 0"), (500e6, "use --workers 3, or --workers 0 for none")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: Usage(free, 0, free))
        with pytest.raises(UserError, match=f"{free / 1e6:.0f} MB: .* --shm-size=.* or --ipc=host, or {said}"):
            build.workers(published(), 8)
        assert build.workers(published(), 0) == 0
    # 8 source images and 2 x 4 views, clean and noisy, of 512x1024 with 5 bytes each, twice for each worker
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 2 * 24 * 5 * 2**19))
    assert build.workers(published(), 1) == 1
    with pytest.raises(UserError):
        build.workers(published("DATASET.CROP_SIZE", "512,1025"), 1)


def test_a_container_s_shared_memory(tmp_path: Path) -> None:
    """64 MB, as containers have by default, where this system lets one mount them."""
    inside = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", inside]).returncode:
        pytest.skip("no mounts in a namespace of one's own here")
    arguments = [sys.executable, ROOT / "train.py", "--cfg", ROOT / "configs/deeplabv2_resnet101_train.yaml", "--exp",
                 "e", "--run", "r", "--workers", "4", "--set", "TRAIN.DEVICE", "cpu"]
    command = ["unshare", "-rm", "sh", "-c", inside + ' && exec "$@"', "sh", *map(str, arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    said = ("/dev/shm has 67 MB", "--shm-size=", "--ipc=host", "--workers 0")
    assert all(words in done.stderr for words in said), done.stderr
    assert not list(tmp_path.iterdir())


def test_workers_follow_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1e12, 0, 1e12))
    for cores, processes, expected in ((1, 1, 1), (8, 1, 8), (64, 1, 16), (64, 8, 8), (4, 8, 1)):
        monkeypatch.setattr(build, "cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert build.workers(published(), None) == expected


class Unsendable:
    def __reduce__(self) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device")


class Items(Dataset):
    """An item that its worker cannot hand on, after one that it can."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> object:
        return Unsendable() if index else 0


def test_an_item_that_a_worker_cannot_hand_on_ends_the_run(
    tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    data = datasets.Data(Run(tmp_path, tree).configuration(), workers=1)
    batches, start = datasets.batches(data._loader(Items())), time.monotonic()
    assert next(batches) == 0
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(batches)
    assert time.monotonic() - start < 20
    assert "No space left on device" in capfd.readouterr().err


def hang() -> None:
    """Wait in compiled code, which no signal ends: a thread locks its own lock again."""
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(lock)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_run_that_hangs(number: int, tree: Path, tmp_path: Path) -> None:
    run = Run(tmp_path, tree, *QUICK, "TRAIN.SNAPSHOT_ITER", "1")
    process = run.start(before=partial(at_iteration, 2, hang))
    end = time.monotonic() + 60
    while not (run.snapshots / "last.pth").exists() and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send(number)
    process.send(number)  # at once: the same one, by another way
    time.sleep(AT_ONCE + 0.5)
    assert process.process.is_alive()
    process.send(number)
    assert process.wait(10) == 128 + number


def test_an_old_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1080 Ti")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_86", "sm_90a", "compute_120"])
    for capability, fits in (((6, 1), False), ((7, 0), False), ((7, 5), True), ((8, 9), True), ((12, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        if fits:
            assert distributed.start("auto") == torch.device("cuda", 0)
        else:
            with pytest.raises(UserError, match=r"GTX 1080 Ti has compute capability .*needs 7.5 or newer"):
                distributed.start("auto")


@pytest.mark.parametrize(
    "precision, device, allowed, said",
    [
        ("float32", "cuda", False, "float32"), ("tf32", "cuda", True, "TF32"), ("bfloat16", "cuda", False, "bfloat16"),
        ("tf32", "cpu", None, "float32"),
    ],
)
def test_tf32_only_where_it_is_asked_for(
    precision: str, device: str, allowed: bool | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = not allowed
        compute = Compute.of(precision, torch.device(device))
        assert torch.backends.cudnn.allow_tf32 == (not allowed if allowed is None else allowed)
        assert not torch.backends.cuda.matmul.allow_tf32 and compute.precision == said
        cfg = published("TRAIN.PRECISION", precision)
        assert f", {said} networks, " in build.plan(cfg, compute, 0, 0)
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.Store:
    """What three processes share; a quarter of a second is all their patience."""
    store = dist.HashStore()
    monkeypatch.setattr(dist.distributed_c10d, "_get_default_store", lambda: store)
    monkeypatch.setattr(distributed, "size", lambda: 3)
    monkeypatch.setenv("SAC_TIMEOUT_MINUTES", str(0.25 / 60))
    return store


def test_work_may_take_longer_than_the_timeout(store: dist.Store) -> None:
    def work() -> None:
        for done in range(8):
            time.sleep(0.1)
            store.set("told/2", f"{done + 1} {done == 7:d}")

    store.set("told/1", "4 1")
    thread, start = threading.Thread(target=work), time.monotonic()
    thread.start()
    assert distributed.wait_for_all(5) == 5 + 4 + 8
    assert time.monotonic() - start > 0.7
    thread.join()


def test_a_process_that_does_nothing_any_more_is_waited_for_no_longer(store: dist.Store) -> None:
    store.set("told/1", "4 1")
    store.set("told/2", "3 0")
    with pytest.raises(Lost, match="no progress from process 2 for 0.00416667 minutes"):
        distributed.wait_for_all(5)


@pytest.mark.parametrize("given, seconds", [("30", 1800), ("0.5", 30), ("0", None), ("-1", None), ("x", None)])
def test_the_timeout(given: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAC_TIMEOUT_MINUTES", given)
    if seconds is None:
        with pytest.raises(UserError, match=f"SAC_TIMEOUT_MINUTES={given}: expected a number above 0"):
            distributed.patience()
    else:
        assert distributed.patience() == seconds
