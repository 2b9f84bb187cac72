"""What is computed a few rows at a time, or not at all, equals the plain definition of the whole."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from core.compute import Compute
from core.steps import Method, SACStep, Views, classes_in
from models import consistency as method
from models import upsampling, warping
from models.sac import SAC

# Sides that are no multiple of a block's, the networks' own, sides as small as can be, nothing to upsample.
SIZES = [((9, 17), (64, 128)), ((65, 5), (512, 33)), ((3, 20), (17, 150)), ((1, 1), (5, 3)), ((13, 11), (13, 11))]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(torch.get_default_device())


@pytest.fixture(params=["one thread", "two threads", "cuda"], autouse=True)
def place(request):
    """Where the tensors are, and on how many threads."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = torch.get_num_threads()
    torch.set_num_threads(2 if request.param == "two threads" else 1)
    with torch.device("cuda" if request.param == "cuda" else "cpu"):
        yield
    upsampling._matrix.cache_clear()  # it may hold tensors without content
    torch.set_num_threads(before)


@pytest.mark.parametrize("small, large", SIZES)
def test_probabilities_and_classes(small, large):
    logits = 5 * random(2, 7, *small)
    expected = F.interpolate(logits, size=large, mode="bilinear", align_corners=True).softmax(1)
    for one, theirs in zip(logits, expected, strict=True):
        ours = upsampling.probabilities(one, large, torch.empty(7, *large))
        torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=0)
    ours = upsampling.classes(logits, large)
    assert ours.dtype == torch.uint8 and (ours != expected.argmax(1)).float().mean() < 1e-3


def test_logits_of_any_size_are_finite():
    logits = torch.tensor([-1e5, 0, 1e5]).view(3, 1, 1) * random(1, 4, 4).sign()
    m = upsampling.probabilities(logits, (20, 20), torch.empty(3, 20, 20))
    torch.testing.assert_close(m.sum(0), torch.ones(20, 20))
    loss = upsampling.cross_entropy(logits[None], torch.zeros(1, 20, 20, dtype=torch.uint8), torch.ones(3))
    assert 1e3 < loss.item() < 4e5


@pytest.mark.parametrize("pixel_weight", [None, 1, 2])
@pytest.mark.parametrize("small, large", SIZES)
def test_cross_entropy_and_its_gradient(small, large, pixel_weight):
    logits, theirs = ((3 * random(2, 7, *small)).requires_grad_() for _ in range(2))
    label = (2.5 * random(2, *large, seed=1)).abs().long()
    label[label > 6] = 255
    by_class = torch.rand(7)
    weight = torch.rand(pixel_weight, *large) if pixel_weight else None
    up = F.interpolate(theirs, size=large, mode="bilinear", align_corners=True)
    expected = F.cross_entropy(up, label, weight=by_class, ignore_index=255, reduction="none")
    expected = (expected if weight is None else expected * weight).mean()
    (2 * expected).backward()
    given = logits.to(memory_format=torch.channels_last)  # as the networks give them
    loss = upsampling.cross_entropy(given, label.to(torch.uint8), by_class, weight)
    (2 * loss).backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(logits.grad, theirs.grad, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("fusion", [*method.POOLS, ""])
def test_nothing_waits_for_a_gpu(fusion):
    """Tensors without content, said to be on a GPU: reading any of them, as `item` or an index does, is an error."""
    step = Method(views=4, lr_target=1.0, net_momentum=0.99, net_momentum_iter=100, stat_momentum=0.99, fusion=fusion,
                  upper=0.75, lower=0.2, beta=1e-3, discount=True, loss="focal_ce_conf_batch", focal_p=3.0)
    with FakeTensorMode(), torch.device("cuda"):
        logits, image, A = torch.empty(8, 7, 9, 17), torch.empty(8, 3, 64, 128), torch.empty(8, 2, 3)
        known = torch.nn.Conv2d(1, 1, 1)
        sac = SAC(known, known, 7)
        known.forward = lambda x, seeds=None: logits
        run = SACStep(sac, torch.optim.SGD(known.parameters()), Compute(torch.device("cuda"), False), step)
        padding = torch.empty(8, 64, 128, dtype=torch.bool)
        pseudo = run.label(Views(image, image, padding, A, A, torch.zeros(8)))
        weight = method.pixel_weight(pseudo.best, step.loss)
        loss = method.focal_loss(logits.requires_grad_(), pseudo.label, sac.running_conf, 3.0, weight)
        assert loss.is_cuda and loss.requires_grad and classes_in(pseudo.label, 7).shape == (7,)
        with pytest.raises(DataDependentOutputException):
            loss.item()


def test_the_first_of_equal_classes():
    x = torch.tensor([[1.0, 2, 0, 3], [1, 5, 0, 3], [0, 5, 0, 4]])
    best, label = upsampling.highest(x)
    assert best.tolist() == [1, 5, 0, 4] and label.tolist() == [0, 1, 0, 2]
    assert upsampling.highest(torch.full((3, 1), torch.nan))[1].item() < 3


def maps(*scales: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A and A⁻¹ of views: a negative scale flips; each after the first is shifted."""
    A = torch.zeros(len(scales), 2, 3)
    for i, s in enumerate(scales):
        A[i] = torch.tensor([[1 / s, 0, -0.11 * i / s], [0, 1 / abs(s), 0.07 * i / abs(s)]])
    inverse = torch.zeros_like(A)
    inverse[:, 0, 0], inverse[:, 1, 1] = 1 / A[:, 0, 0], 1 / A[:, 1, 1]
    inverse[:, 0, 2], inverse[:, 1, 2] = -A[:, 0, 2] / A[:, 0, 0], -A[:, 1, 2] / A[:, 1, 1]
    return A, inverse


SCALES = [(1.0, 0.6), (-1.0, 0.9), (1.0, -0.5), (-1.0, -1.3, 1.2)]


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("size", [(32, 64), (150, 37)])
def test_warping_agrees_with_torch(scales, size):
    for A in maps(*scales):
        x = random(len(A), 5, *size)
        grid = F.affine_grid(A, [len(A), 1, *size], align_corners=False)
        expected = F.grid_sample(x, grid, align_corners=False)
        torch.testing.assert_close(warping.warp(x, A), expected, atol=2e-4, rtol=0)
        ones = F.grid_sample(torch.ones(len(A), 1, *size), grid, align_corners=False)
        torch.testing.assert_close(method.visibility(A, size), ones, atol=2e-4, rtol=0)
        for one, a, theirs in zip(x, A, expected, strict=True):
            ours = torch.zeros_like(one)
            for part, y in warping.warped(one, a):
                ours[(slice(None), *part)] = y
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("smoothness", [1, 8])
@pytest.mark.parametrize("scales", SCALES)
def test_the_maximum_after_a_warp(scales, smoothness):
    x = random(5, 96 // smoothness, 128 // smoothness).repeat_interleave(smoothness, 1).repeat_interleave(smoothness, 2)
    x = x.softmax(0)
    for A in maps(*scales):
        warped = warping.warp(x.expand(len(A), *x.shape), A)
        best, label = warping.highest_warped(x, A)
        torch.testing.assert_close(best, warped.amax(1), atol=2e-4, rtol=0)
        # Where two classes are as good as equal either may come first.
        torch.testing.assert_close(warped.gather(1, label[:, None].long())[:, 0], best, atol=2e-4, rtol=0)


@pytest.mark.parametrize("pool", method.POOLS)
@pytest.mark.parametrize("scales", SCALES)
def test_views_may_come_one_after_the_other_in_one_place(scales, pool):
    A, A_inv = maps(*scales)
    m = random(len(A), 5, 96, 128).softmax(1)
    padding = random(len(A), 96, 128, seed=1) > 2
    memory = torch.empty(2, 5, 96, 128)
    merged, valid = method.fuse((memory[0].copy_(x) for x in m), padding, A, A_inv, pool, out=memory[1])
    whole, whole_valid = method.fuse(m.clone(), padding, A, A_inv, pool)
    assert torch.equal(merged, whole) and torch.equal(valid, whole_valid) and merged.data_ptr() == memory[1].data_ptr()
    expected = method.fuse_views(m.clone(), padding, A, A_inv, pool)
    best, label = method.confidence_in_views(merged, valid, A_inv)
    torch.testing.assert_close(best, method.confidence(expected)[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(expected.gather(1, label[:, None].long())[:, 0], best, atol=2e-4, rtol=0)
