"""The state of the method: student φ, teacher ψ and class prior χ, under the published state-dict names."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models import consistency


class SAC(nn.Module):
    """Student `backbone`, momentum teacher `slow_net`, class prior `running_conf` and `slow_init` (0 = no teacher yet).

    Args:
        backbone: the student φ.
        slow_net: a network of the same architecture, the teacher ψ; always in evaluation mode, never with gradient.
        num_classes: C.
    """

    def __init__(self, backbone: nn.Module, slow_net: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.slow_net = slow_net.eval().requires_grad_(False)
        self.register_buffer("running_conf", torch.zeros(num_classes))  # χ [C]
        self.register_buffer("slow_init", torch.zeros(1))

    def train(self, mode: bool = True) -> "SAC":
        """Training mode only affects the student, except for its BatchNorm, whose statistics are frozen (4.1)."""
        super().train(mode)
        self.slow_net.eval()
        freeze_batchnorm(self.backbone)
        return self

    @torch.no_grad()
    def update_teacher(self, momentum: float, beta: float) -> Tensor:
        """Section 4.4: the first time ψ <- φ and χ <- β; later ψ <- γ_ψ ψ + (1-γ_ψ) φ.

        Over all weights, biases, running means and running variances; `num_batches_tracked` is not averaged.

        Args:
            momentum: γ_ψ in [0, 1].
            beta: β, where the class prior starts.

        Returns:
            Σ ‖ψ-φ‖₂ over those tensors, after the update (a scalar).
        """
        if self.slow_init.item() == 0:
            self.slow_net.load_state_dict(self.backbone.state_dict())
            self.running_conf.fill_(beta)
            self.slow_init.fill_(1)
        else:
            for slow, fast in self.averaged():
                slow.mul_(momentum).add_(fast, alpha=1 - momentum)
        return torch.stack([(slow - fast).norm() for slow, fast in self.averaged()]).sum()

    @torch.no_grad()
    def update_prior(self, chi_now: Tensor, gamma: float, beta: float) -> None:
        """Section 4.6: move χ towards χ' [C], the prior of all views of all processes."""
        self.running_conf.copy_(consistency.update_prior(self.running_conf, chi_now, gamma, beta))

    def averaged(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs (teacher's tensor, student's tensor) of all tensors that the teacher averages."""
        student = self.backbone.state_dict()
        for name, slow in self.slow_net.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                yield slow, student[name]


def freeze_batchnorm(network: nn.Module) -> None:
    """Put every BatchNorm layer into evaluation mode; its weight and bias remain trainable."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # SyncBatchNorm too
            module.eval()
