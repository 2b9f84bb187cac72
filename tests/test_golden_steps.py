"""Whole iterations against the published trainer's numbers (c06): losses, gradients, weights, teacher, class prior."""

import pytest
import torch
from golden_data import Golden
from torch import nn

from core.compute import Compute, Images, Source, Views
from core.optim import build_optimiser
from core.steps import BaselineStep, Method, SACStep
from models import consistency
from models.sac import SAC

SETTINGS = Golden("c06_sac_step").json["runs"]
RUNS = [name for name in SETTINGS if Golden(f"c06_sac_step_{name}").arrays]
LOSS_NAMES = {"focal_ce": "focal_ce", "focal_ce_conf": "focal_ce_conf_batch"}


class Stub(nn.Module):
    """The golden runs' network: stride 8, conv2 new."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 4, 1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, classes, 3, 2, 1)

    def forward(self, x: torch.Tensor, seeds: torch.Tensor | None = None) -> torch.Tensor:
        return self.conv2(self.bn1(self.conv1(x)).relu())

    def new_modules(self) -> list[nn.Module]:
        return [self.conv2]


def close(ours, theirs, atol, what=""):
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=atol, rtol=0, msg=lambda m: f"{what}: {m}")


def load(module: nn.Module, golden: Golden, prefix: str) -> None:
    module.load_state_dict({k.removeprefix(prefix): golden[k] for k in golden.arrays if k.startswith(prefix)})


def compare_state(module: nn.Module, golden: Golden, prefix: str, atol: float) -> None:
    for name, value in module.state_dict().items():
        close(value, golden[prefix + name], atol, prefix + name)


def source_of(golden: Golden, i: int) -> Source:
    image = golden[f"it{i}/src_image"]
    return Source(image, golden[f"it{i}/src_label"].long(), torch.zeros(len(image), dtype=torch.int64), len(image))


def views_of(golden: Golden, i: int) -> Views:
    noisy = golden[f"it{i}/frames1"]
    padding = golden[f"it{i}/frames_gt"] == -1
    seeds = torch.zeros(len(noisy), dtype=torch.int64)
    maps = golden[f"it{i}/affine"], golden[f"it{i}/affine_inv"]
    return Views(noisy, golden[f"it{i}/frames2"], padding, *maps, seeds, len(noisy))


def sac_step(setting: dict, golden: Golden, micro_batch: int = 0) -> SACStep:
    model = setting["cfg_model"]
    sac = SAC(Stub(setting["C"]), Stub(setting["C"]), setting["C"])
    load(sac, golden, "init/")
    optimiser = build_optimiser(sac.backbone, "SGD", model["LR"], 0.9, model["OPT_NESTEROV"], model["WEIGHT_DECAY"])
    constants = Method(
        views=setting["G"], lr_target=model["LR_TARGET"], net_momentum=model["NET_MOMENTUM"],
        net_momentum_iter=model["NET_MOMENTUM_ITER"], stat_momentum=model["STAT_MOMENTUM"],
        fusion=model["CONF_POOL"] if model["CONF_POOL_ON"] else "", upper=model["RUN_CONF_UPPER"],
        lower=model["RUN_CONF_LOWER"], beta=model["THRESHOLD_BETA"], discount=model["CONF_DISCOUNT"],
        loss=LOSS_NAMES[model["LOSS"]], focal_p=model["FOCAL_P"],
    )
    return SACStep(sac, optimiser, Compute(torch.device("cpu"), False, micro_batch), constants)


@pytest.mark.parametrize("micro_batch", [0, 3])
@pytest.mark.parametrize("name", [r for r in RUNS if not SETTINGS[r].get("baseline")])
def test_three_iterations_of_sac(name, micro_batch):
    setting, golden = SETTINGS[name], Golden(f"c06_sac_step_{name}")
    step = sac_step(setting, golden, micro_batch)
    log = setting["log"]
    target_only = setting.get("target_only", False)
    for i in range(3):
        values = step(None if target_only else source_of(golden, i), views_of(golden, i), i)
        if not target_only:
            assert values["loss_ce"].item() == pytest.approx(log["loss_ce_source"][i], abs=2e-5)
        assert values["self_ce"].item() == pytest.approx(log["loss_self_ce"][i], abs=2e-6)
        assert values["kept"].item() == pytest.approx(log["kept_fraction"][i], abs=2e-4)
        assert ("teacher_diff" in values) == bool(log["update_teacher"][i])
        if "teacher_diff" in values:
            assert values["teacher_diff"].item() == pytest.approx(log["loss_teacher_diff"][i], abs=2e-5)
        for parameter, value in step.network.backbone.named_parameters():
            close(value.grad, golden[f"it{i}/grad_total/backbone.{parameter}"], 1e-4, parameter)
        close(step.network.running_conf, golden[f"it{i}/running_conf"], 1e-6, "class prior")
        compare_state(step.network, golden, f"it{i}/after/", 2e-5)
    named = dict(step.network.backbone.named_parameters())
    for parameter, value in named.items():
        buffer = step.optimiser.state[value]["momentum_buffer"]
        close(buffer, golden[f"final/momentum_buffer/backbone.{parameter}"], 1e-4, parameter)


@pytest.mark.parametrize("name", [r for r in RUNS if not SETTINGS[r].get("baseline")])
def test_pseudo_labels_inside_the_step(name):
    setting, golden = SETTINGS[name], Golden(f"c06_sac_step_{name}")
    step = sac_step(setting, golden)
    step.network.update_teacher(step.constants.net_momentum, step.constants.beta)
    pseudo = step.label(views_of(golden, 0))
    assert (pseudo.label != golden["it0/pseudo_labels"].long()).float().mean() <= 2e-4
    close(pseudo.confidence[:, ::2, ::2], golden["it0/teacher_conf_sub"], 5e-6, "confidence")
    close(step.teach(views_of(golden, 0).noisy), golden["it0/student_logits"], 1e-5, "student's logits")


@pytest.mark.parametrize("name", [r for r in RUNS if SETTINGS[r].get("baseline")])
def test_three_iterations_of_the_baseline(name):
    setting, golden = SETTINGS[name], Golden(f"c06_sac_step_{name}")
    model = setting["cfg_model"]
    network = Stub(setting["C"])
    load(network, golden, "init/backbone.")
    optimiser = build_optimiser(network, "SGD", model["LR"], 0.9, model["OPT_NESTEROV"], model["WEIGHT_DECAY"])
    step = BaselineStep(network, optimiser, Compute(torch.device("cpu"), False))
    for i in range(3):
        target = golden[f"it{i}/tgt_image"]
        values = step(source_of(golden, i), Images(target, len(target)), i)
        assert values["loss_ce"].item() == pytest.approx(setting["log"]["loss_ce_source"][i], abs=2e-5)
        for parameter, value in network.named_parameters():
            close(value.grad, golden[f"it{i}/grad_total/backbone.{parameter}"], 1e-4, parameter)
            close(value, golden[f"it{i}/after/backbone.{parameter}"], 2e-5, parameter)
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            close(getattr(network.bn1, buffer), golden[f"it{i}/after_target_pass/backbone.bn1.{buffer}"], 2e-5, buffer)


MOMENTUM = Golden("c06_momentum_update")


@pytest.mark.parametrize("case", sorted({k.split("/")[0] for k in MOMENTUM.arrays}))
def test_momentum_update(case):
    classes = len(MOMENTUM[f"{case}/before/running_conf"])
    sac = SAC(Stub(classes), Stub(classes), classes)
    load(sac, MOMENTUM, f"{case}/before/")
    momentum = float(case[1:])
    assert sac.slow_init.item() == 1
    after = sac.update_teacher(momentum, 1e-3)
    close(after, MOMENTUM[f"{case}/diff_after"][0], 2e-5, "distance")
    for key in MOMENTUM.arrays:
        if key.startswith(f"{case}/after/"):
            close(sac.state_dict()[key.removeprefix(f"{case}/after/")], MOMENTUM[key], 1e-6, key)
    load(sac, MOMENTUM, f"{case}/before/")
    sac.slow_init.zero_()
    assert sac.update_teacher(momentum, 1e-3).item() == 0
    for key in MOMENTUM.arrays:
        if key.startswith(f"{case}/after_init/"):
            close(sac.state_dict()[key.removeprefix(f"{case}/after_init/")], MOMENTUM[key], 1e-6, key)


def test_teacher_is_not_trained_and_stays_in_evaluation_mode():
    sac = SAC(Stub(3), Stub(3), 3).train()
    assert not sac.slow_net.training and sac.backbone.training
    assert not any(p.requires_grad for p in sac.slow_net.parameters())
    assert consistency.IGNORE == 255
