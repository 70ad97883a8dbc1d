"""Muon: steps of weights in which no direction outweighs another. Jordan et al., https://kellerjordan.github.io/posts/muon.

`torch.optim.Muon` takes matrices alone, one after the other, and computes in bf16, which most CPUs lack. Here kernels
are matrices too, those of one shape go together, and products have the precision of the weights.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

#: Of the polynomial a + b X + c X^2 of a Gram matrix X, whose products take singular values to about 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
#: Three suffice for small networks: Jordan, https://github.com/KellerJordan/cifar10-airbench.
ITERATIONS = 3
EPS = 1e-7


class Muon(torch.optim.SGD):
    """SGD with Nesterov's momentum, whose steps are made orthogonal in groups with `orthogonal`.

    There a step is lr * sqrt(max(1, rows / columns)) times about the nearest orthogonal matrix to the momentum, and
    decay is decoupled; a kernel (O, C, ...) is a matrix of O rows. Other groups are those of `torch.optim.SGD`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float) -> None:
        super().__init__(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take a step with the gradients that are there, which those of orthogonal steps lose; there is no closure."""
        for group in self.param_groups:
            if group["orthogonal"]:
                self._step(group)
                for parameter in group["params"]:
                    parameter.grad = None  # so that SGD leaves it alone
        return super().step(closure)

    def _step(self, group: dict[str, Any]) -> None:
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                matrix = self._moved(parameter, parameter.grad, group["momentum"]).flatten(1)
                alike.setdefault(matrix.shape, []).append((parameter, matrix))
        for (rows, columns), found in alike.items():
            steps = orthogonal(torch.stack([matrix for _, matrix in found]))
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            for (parameter, _), step in zip(found, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(step.reshape(parameter.shape), alpha=-rate)

    def _moved(self, parameter: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        """Return the gradient with Nesterov's momentum, and keep the momentum."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        kept = state["momentum_buffer"].mul_(momentum).add_(gradient)
        return gradient.add(kept, alpha=momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """Return about the nearest orthogonal matrix U Vt to each U S Vt, by steps of a Newton-Schulz iteration.

    Args:
        matrices: (B, rows, columns), of any scale.

    Returns:
        The same shape; singular values above a fiftieth of the norm become 0.68 to 1.21, smaller ones grow.
    """
    a, b, c = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
