"""tools/benchmark.py runs every part and says what it found; how fast anything is, is not tested."""

import json
import sys

import pytest
import small_tree
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.cli import UserError
from core.compute import Compute
from tools import benchmark
from tools.benchmarks import gpu, training
from tools.benchmarks.material import Settings, published
from tools.benchmarks.measure import Row, in_turns, line

COMPARED = ["step_float32"] * torch.cpu._is_avx512_bf16_supported()  # only where the CPU computes in bfloat16
ROWS = [
    "decode", "source", "source_baseline", "target", "step", *COMPARED, "refine", "refine_all", "infer", "weights",
    "evaluate", "confusion", "convert", "convert_cs", "convert_gta", "convert_synthia", "growth_100", "growth",
]  # fmt: skip


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the command in this process, on one thread and without a GPU; gives the lines that it prints."""

    def call(*words: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["tools/benchmark.py", *map(str, words)])
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        benchmark.main()
        return capsys.readouterr().out.splitlines()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield call
    torch.set_num_threads(threads)


def test_every_part(call, tmp_path):
    heading, *lines = call("all", "--quick", "--json", tmp_path / "rows.json")
    assert heading.split() == ["part", "time", "floor", "ratio", "at", "most", "what"]
    assert [text.split()[0] for text in lines] == [*ROWS, "gpu"]
    assert "needs a GPU" in lines[-1]
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert list(rows) == ROWS and {*benchmark.PARTS} <= {*rows, "gpu"}
    for row in rows.values():
        assert row["seconds"] > 0 and row["floor_seconds"] > 0
        assert "; floor: " in row["what"] or "; compared with: " in row["what"]
        assert row["ratio"] == pytest.approx(row["seconds"] / row["floor_seconds"])
    goals = {name: row["goal"] for name, row in rows.items() if row["goal"]}
    assert goals == {
        "source": 1.4, "source_baseline": 1.4, "target": 2.0, "step": 1.15, **dict.fromkeys(COMPARED, 1 / 2.3),
        "infer": 1.1, "weights": 1.5, "evaluate": 1.5, "confusion": 1.5, "convert": 1.3,
        "convert_cs": 1.3, "convert_gta": 1.3, "convert_synthia": 1.3,
    }  # fmt: skip
    assert {"MB", "weights_s", "draw_us_epoch_0", "draw_us_epoch_1000"} <= set(rows["growth"])


def test_images_of_ones_own(call, tmp_path):
    small_tree.make(tmp_path)
    _, *lines = call("decode", "target", "source", "weights", "evaluate", "--quick", "--data", tmp_path)
    assert [text.split()[0] for text in lines] == [
        "decode", "target", "source", "source_baseline", "weights", "evaluate", "confusion"]
    with pytest.raises(UserError, match="there are no raw labels below"):
        call("convert", "--quick", "--data", tmp_path)


@pytest.mark.parametrize("words, told", [
    (["nothing"], "invalid choice: 'nothing'"),
    (["decode", "--runs", "0"], "--runs 0: expected 1 or more"),
    (["gpu"], "gpu needs a GPU"),
    (["decode", "--data", "nowhere"], "no list 'train_game_9K'"),
])
def test_mistakes_are_told(call, words, told):
    with pytest.raises(UserError, match=told) as refused:
        call(*words)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("micro_batch", [0, 1])
def test_the_floor_of_a_step_is_what_its_networks_do(micro_batch):
    cfg = published(Settings(True, 1, 2), "TRAIN.BATCH_SIZE", "2", "TRAIN.NUM_GROUPS", "1", "TRAIN.GROUP_SIZE", "2")
    step = training.sac_step(cfg, Compute(training.CPU, False, micro_batch))
    source, views = training.batch(cfg, training.CPU)
    network, calls = step.network, []
    for module in (network.backbone, network.slow_net):
        module.register_forward_pre_hook(lambda module, args: calls.append((
            module is network.backbone, module.training, args[0].shape, args[0].stride(), torch.is_grad_enabled())))

    def work(function):
        calls.clear()
        with FlopCounterMode(display=False) as counter:
            function()
        return calls.copy(), counter.get_total_flops()

    whole, alone = work(lambda: step(source, views, 1)), work(lambda: training.networks_alone(step, source, views))
    assert whole == alone and len(alone[0]) == (6 if micro_batch else 3)


def test_arithmetic_of_an_iteration():
    """Student forward and backward on 16 images, teacher forward on 8, but no gradient of the images themselves."""
    settings = Settings(True, 1, 2)
    cfg = published(settings)
    step = training.sac_step(cfg, Compute(training.CPU, False))
    with FlopCounterMode(display=False) as counter:
        training.networks_alone(step, *training.batch(cfg, training.CPU))
    assert gpu.arithmetic(settings) == counter.get_total_flops()


def test_medians_are_of_rounds():
    calls = []
    times = in_turns(lambda: calls.append("a"), lambda: calls.append("b"), runs=3)
    assert calls == ["a", "b"] * 4 and len(times) == 2  # the first round does not count
    row = Row("name", "what", 0.5, 0.25, 2.0, {"images": 3})
    assert line(row).split()[:6] == ["name", "500.00", "ms", "250.00", "ms", "2.00"]
    assert line(row).endswith("; images 3")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tools/benchmark.py", "gpu", "--quick"])
    benchmark.main()
    printed = capsys.readouterr().out
    assert "gpu_step_compiled" in printed and "gpu_loader_8" in printed
