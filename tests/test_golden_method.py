"""The method's functions against the published method's numbers (c01-c04)."""

import pytest
import torch
from golden_data import Golden

from models import consistency

PRIOR, PSEUDO, LOSS, FUSION = (
    Golden(n) for n in ("c01_running_conf", "c02_pseudo_labels", "c03_focal_loss", "c04_refine")
)
LOSS_NAMES = {"focal_ce": "focal_ce", "focal_ce_conf": "focal_ce_conf_batch"}  # published name: ours


def cases(golden: Golden, needs: str) -> list[str]:
    """The cases whose inputs are here: the stored set leaves some indices out."""
    found = [c for c in golden.json["cases"] if f"{c.split('/')[0]}/{needs}" in golden]
    assert found
    return found


def close(ours: torch.Tensor, theirs: torch.Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(ours, theirs.to(ours.dtype), atol=atol, rtol=rtol)


@pytest.mark.parametrize("case", cases(PRIOR, "probs"))
def test_class_prior_over_updates(case):
    chi = PRIOR[f"{case}/init"]
    gamma = PRIOR.json["cases"][case]["STAT_MOMENTUM"]
    for m, average, expected in zip(
        PRIOR[f"{case}/probs"], PRIOR[f"{case}/probs_avg"], PRIOR[f"{case}/running_conf"], strict=True
    ):
        now = consistency.class_prior(m)
        close(now, average, 1e-7)
        chi = consistency.update_prior(chi, now, gamma, PRIOR.json["threshold_beta"])
        close(chi, expected, 1e-7)


@pytest.mark.parametrize("case", cases(PSEUDO, "probs"))
def test_discount_thresholds_and_pseudo_labels(case):
    inputs, setting = case.split("/")[0], PSEUDO.json["cases"][case]
    best, label = consistency.confidence(PSEUDO[f"{inputs}/probs"])
    close(best, PSEUDO[f"{inputs}/max_conf"][:, 0], 0)
    chi = PSEUDO[f"{inputs}/running_conf"]
    d = consistency.discount(chi, setting["THRESHOLD_BETA"])
    if setting["discount"]:
        close(d, PSEUDO[f"{case}/threshold_discount"], 1e-6)
    else:
        d = torch.ones_like(d)
    theta = consistency.thresholds(best, label, d, setting["RUN_CONF_UPPER"], setting["RUN_CONF_LOWER"])
    labels = consistency.pseudo_labels(best, label, theta, PSEUDO[f"{inputs}/ignore"])
    close(labels, PSEUDO[f"{case}/labels"], 0)
    assert (labels != 255).float().mean().item() == pytest.approx(setting["kept_fraction"], abs=1e-6)


@pytest.mark.parametrize("case", cases(LOSS, "logits"))
def test_losses_and_their_gradients(case):
    inputs, name, power = case.split("/")
    logits = LOSS[f"{inputs}/logits"].clone().requires_grad_()
    weight = consistency.pixel_weight(LOSS[f"{inputs}/teacher_conf"][:, 0], LOSS_NAMES[name])
    label, chi = LOSS[f"{inputs}/labels"].long(), LOSS[f"{inputs}/running_conf"]
    loss = consistency.focal_loss(logits, label, chi, int(power[1:]), weight)
    loss.backward()
    close(loss.detach(), LOSS[f"{case}/loss"].reshape(()), 2e-6)
    close(logits.grad, LOSS[f"{case}/grad"], 1e-8)


@pytest.mark.parametrize("case", [c for c in cases(LOSS, "logits") if "focal_ce_conf/" in c])
def test_the_papers_own_confidence_weight(case):
    inputs, _, power = case.split("/")
    weight = consistency.pixel_weight(LOSS[f"{inputs}/teacher_conf"][:, 0], "focal_ce_conf")
    label, chi = LOSS[f"{inputs}/labels"].long(), LOSS[f"{inputs}/running_conf"]
    loss = consistency.focal_loss(LOSS[f"{inputs}/logits"], label, chi, int(power[1:]), weight)
    assert loss.item() == pytest.approx(LOSS.json["cases"][case]["loss_if_conf_were_squeezed"], abs=2e-6)


def fused(case: str, pool: str) -> tuple[torch.Tensor, dict, torch.Tensor]:
    """m̄ of all groups, the setting, and m before fusion."""
    setting = FUSION.json["cases"][case]
    m = consistency.upsample(FUSION[f"{case}/logits"], tuple(setting["crop"])).softmax(1)
    padding = FUSION[f"{case}/ignore"].bool()
    a, a_inv = FUSION[f"{case}/affine"], FUSION[f"{case}/affine_inv"]
    groups = [slice(i, i + setting["T"]) for i in range(0, len(m), setting["T"])]
    result = torch.cat([consistency.fuse_views(m[g].clone(), padding[g], a[g], a_inv[g], pool) for g in groups])
    return result, setting, m


@pytest.mark.parametrize("pool", consistency.POOLS)
@pytest.mark.parametrize("case", cases(FUSION, "logits"))
def test_fusion(case, pool):
    result, setting, m = fused(case, pool)
    if f"{case}/{pool}/refined" in FUSION:
        close(result, FUSION[f"{case}/{pool}/refined"], 5e-6)
    else:
        close(result[:, :, 1::3, 1::3], FUSION[f"{case}/{pool}/refined_sub"], 5e-6)
    sums = FUSION[f"{case}/{pool}/refined_sum_per_frame_class"]
    close(result.double().sum((2, 3)), sums, 1e-4, 1e-5)
    before, after = FUSION[f"{case}/running_conf_before"], FUSION[f"{case}/running_conf_after"]
    close(consistency.update_prior(before, consistency.class_prior(m), 0.99, 1e-3), after, 1e-6)


@pytest.mark.parametrize("pool", consistency.POOLS)
@pytest.mark.parametrize("case", cases(FUSION, "logits"))
def test_pseudo_labels_after_fusion(case, pool):
    result, _, _ = fused(case, pool)
    best, label = consistency.confidence(result)
    d = consistency.discount(FUSION[f"{case}/running_conf_after"], 1e-3)
    theta = consistency.thresholds(best, label, d, 0.75, 0.2)
    ours = consistency.pseudo_labels(best, label, theta, FUSION[f"{case}/ignore"].bool())
    differ = (ours != FUSION[f"{case}/{pool}/labels"]).float().mean().item()
    assert differ <= 2e-4
