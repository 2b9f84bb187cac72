"""The mathematics as pure functions: nothing changes its arguments, precision is the arguments', nothing waits."""

import inspect
from collections.abc import Callable
from functools import partial

import batches
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from core.compute import Compute, Views
from core.steps import Method, SACStep, classes_in
from models import consistency
from models.consistency import IGNORE, LOSSES, POOLS
from models.sac import SAC

T, C, SMALL, SIZE = 3, 5, (4, 7), (32, 56)


def material(seed: int, dtype: torch.dtype, label_type: torch.dtype) -> dict[str, Tensor]:
    """One of everything that the functions take, by the names of their parameters."""
    g = torch.Generator().manual_seed(seed)
    views = batches.views(1, T, SIZE, seed)
    logits = (3 * torch.randn(T, C, *SMALL, generator=g, dtype=torch.float64)).to(dtype)
    picture = consistency.upsample(logits, SIZE)
    label = picture.argmax(1)
    label[torch.rand(label.shape, generator=g) < 0.2] = IGNORE
    best, guess = consistency.confidence(picture.softmax(1))
    chi = torch.rand(C, generator=g, dtype=torch.float64).to(dtype)
    return {
        "logits": logits, "m": picture.softmax(1), "x": picture, "label": label.to(label_type), "chi": chi,
        "chi_now": chi.flip(0), "padding": views.padding, "A": views.A.to(dtype), "A_inv": views.A_inv.to(dtype),
        "best": best, "guess": guess.to(label_type), "d": consistency.discount(chi, 1e-3),
        "theta": torch.full((T, C), 0.4, dtype=dtype), "weight": best,
    }  # fmt: skip


# Every public function, bound to all but its tensors.
CALLS: dict[str, Callable[..., object]] = {
    "upsample": partial(consistency.upsample, size=SIZE),
    "classes": partial(consistency.classes, size=SIZE),
    "source_loss": consistency.source_loss,
    "class_prior": consistency.class_prior,
    "update_prior": partial(consistency.update_prior, gamma=0.9, beta=1e-3),
    "warp": consistency.warp,
    **{f"fuse_views/{pool}": partial(consistency.fuse_views, pool=pool) for pool in POOLS},
    "confidence": consistency.confidence,
    "discount": partial(consistency.discount, beta=1e-3),
    "thresholds": partial(consistency.thresholds, zeta=0.75, floor=0.2),
    "pseudo_labels": consistency.pseudo_labels,
    **{f"pixel_weight/{loss}": partial(consistency.pixel_weight, loss=loss) for loss in LOSSES},
    "focal_loss": partial(consistency.focal_loss, focal_p=3.0),
}
OF_GUESSES = ("thresholds", "pseudo_labels")  # their label is c*, which is never 255


def call(name: str, given: dict[str, Tensor]) -> object:
    parameters = inspect.signature(CALLS[name]).parameters
    given = given | {"label": given["guess"]} if name in OF_GUESSES else given
    return CALLS[name](**{key: given[key] for key in parameters if key in given})


def test_every_function_is_called() -> None:
    functions = inspect.getmembers(consistency, inspect.isfunction)
    public = {name for name, f in functions if f.__module__ == consistency.__name__}
    assert public == {name.partition("/")[0] for name in CALLS}


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    label_type=st.sampled_from([torch.uint8, torch.int16, torch.int32, torch.int64]),
)
def test_no_function_changes_its_arguments(
    name: str, seed: int, dtype: torch.dtype, label_type: torch.dtype
) -> None:
    arguments = material(seed, dtype, label_type)
    before = {key: value.clone() for key, value in arguments.items()}
    first, second = (call(name, arguments) for _ in range(2))
    assert all(torch.equal(before[key], value) for key, value in arguments.items())
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_float64_gives_what_float32_gives_within_its_rounding(name: str, seed: int) -> None:
    double = material(seed, torch.float64, torch.int64)
    single = {k: v.float() if v.dtype == torch.float64 else v for k, v in double.items()}
    ours, precise = call(name, single), call(name, double)
    for a, b in zip(ours if isinstance(ours, tuple) else [ours], precise if isinstance(precise, tuple) else [precise],
                    strict=True):  # fmt: skip
        if a is None or not a.is_floating_point():
            assert a is None or (a != b).float().mean() < 2e-3  # where two classes are as good as equal
        elif "minentropy" in name:  # two views may be as certain as each other
            assert ((a - b).abs() > 1e-3).float().mean() < 1e-2
        else:
            assert b.dtype == torch.float64
            # A position is rounded to some 1e-5 pixels, and neighbours differ by up to 10 (at the padding).
            rounding = 1e-3 if name.startswith(("warp", "fuse_views")) else 1e-5
            torch.testing.assert_close(a.double(), b, atol=rounding, rtol=rounding)


def test_half_precision_is_raised_to_float32() -> None:
    logits = torch.randn(1, C, *SMALL).bfloat16()
    assert consistency.upsample(logits, SIZE).dtype == torch.float32
    label = torch.zeros(1, *SIZE, dtype=torch.uint8)
    assert consistency.source_loss(logits, label).dtype == torch.float32


def test_logits_of_any_size_are_finite() -> None:
    logits = (torch.tensor([-1e5, 0, 1e5]).view(1, 3, 1, 1) * torch.randn(1, 1, 4, 4).sign()).requires_grad_()
    loss = consistency.source_loss(logits, torch.zeros(1, 20, 20, dtype=torch.uint8))
    loss.backward()
    assert 1e3 < loss.item() < 4e5 and logits.grad.isfinite().all()


def test_the_first_of_equal_classes_and_views() -> None:
    m = torch.tensor([[1.0, 2, 0, 3], [1, 5, 0, 3], [0, 5, 0, 4]]).view(1, 3, 2, 2)
    best, label = consistency.confidence(m)
    assert best.flatten().tolist() == [1, 5, 0, 4] and label.flatten().tolist() == [0, 1, 0, 2]
    views = torch.stack([torch.eye(2), torch.eye(2).flip(0)]).view(2, 2, 2, 1).expand(2, 2, 2, 3)  # equally certain
    A = torch.eye(2, 3).expand(2, 2, 3)
    fused = consistency.fuse_views(views, torch.zeros(2, 2, 3, dtype=torch.bool), A, A, "minentropy_pool")
    torch.testing.assert_close(fused, views[:1].expand(2, 2, 2, 3), atol=1e-5, rtol=0)


def test_equal_views_fuse_to_themselves() -> None:
    m = torch.rand(1, C, *SIZE).softmax(1).expand(T, C, *SIZE)
    A = torch.eye(2, 3).expand(T, 2, 3)
    for pool in POOLS:
        fused = consistency.fuse_views(m, torch.zeros(T, *SIZE, dtype=torch.bool), A, A, pool)
        torch.testing.assert_close(fused, m, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fusion", [*POOLS, ""])
def test_nothing_waits_for_a_gpu(fusion: str) -> None:
    """Tensors without content, said to be on a GPU: reading any of them, as `item` or an index does, is an error."""
    if torch.__version__ < "2.7" and not torch.cuda.is_available():
        pytest.skip("torch 2.6 does not pretend a GPU where there is none (test_device_rules.py has its own)")
    constants = Method(views=4, lr_target=1.0, net_momentum=0.99, net_momentum_iter=100, stat_momentum=0.99,
                       fusion=fusion, upper=0.75, lower=0.2, beta=1e-3, discount=True, loss="focal_ce_conf_batch",
                       focal_p=3.0)  # fmt: skip
    with FakeTensorMode(), torch.device("cuda"):
        logits, image, A = torch.empty(8, 7, 9, 17), torch.empty(8, 3, 64, 128), torch.empty(8, 2, 3)
        known = torch.nn.Conv2d(1, 1, 1)
        sac = SAC(known, known, 7)
        known.forward = lambda x, seeds=None: logits
        run = SACStep(sac, torch.optim.SGD(known.parameters()), Compute(torch.device("cuda"), False), constants)
        padding = torch.empty(8, 64, 128, dtype=torch.bool)
        pseudo = run.label(Views(image, image, padding, A, A, torch.zeros(8), 8))
        weight = consistency.pixel_weight(pseudo.confidence, constants.loss)
        loss = consistency.focal_loss(logits.requires_grad_(), pseudo.label, sac.running_conf, 3.0, weight)
        assert loss.is_cuda and loss.requires_grad and classes_in(pseudo.label, 7).shape == (7,)
        with pytest.raises(DataDependentOutputException):
            loss.item()
