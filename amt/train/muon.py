"""Muon: steepest descent for matrices, each update made orthogonal.

AdamW scales every weight by itself. Muon takes the momentum of a whole matrix and replaces it by the nearest orthogonal one, so
that rare directions are learned as fast as frequent ones (Jordan et al., "Muon: An optimizer for hidden layers in neural
networks", 2024). `torch.optim.Muon` takes matrices only, one by one and always in bfloat16; here kernels of convolutions count
as matrices too, those of one shape go through the products together, and a CPU keeps float32 unless it is told otherwise. Of
sharded matrices each rank keeps the momentum of its own rows; updates are gathered, and every rank makes them orthogonal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from amt.train.sharding import gathered_rows, is_sharded, local, own_rows

# x -> a x + b x^3 + c x^5 on singular values: steep at 0, and within 0.7 to 1.2 after five rounds (Jordan et al.)
QUINTIC = (3.4445, -4.7750, 2.0315)
ROUNDS = 5
MOMENTUM = 0.95
MUCH_WIDER = 3  # times as wide as high, as a 3 x 3 kernel: from there on rounds on a matrix's square are cheaper
UPDATE_RMS = 0.2  # about AdamW's (Liu et al., "Muon is scalable for LLM training", 2025)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum made orthogonal, with decoupled weight decay.

    Args:
        params: weights of two dimensions or more, or groups of them; those beyond the first are taken together, as a
            convolution's kernel [out, in, 3, 3] acts on a patch.
        lr: as for AdamW.
        weight_decay: as for AdamW.
        bfloat16: on a CPU, too, the products are in bfloat16; a CPU with instructions for it takes half the time.

    Raises:
        ValueError: a parameter of fewer dimensions.
    """

    def __init__(self, params: Iterable, lr: float, weight_decay: float = 0.0, bfloat16: bool = False):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.bfloat16 = bfloat16
        for group in self.param_groups:
            for p in group["params"]:
                if p.dim() < 2:
                    raise ValueError(f"Muon takes matrices and kernels, got a parameter of shape {list(p.shape)}")

    @torch.no_grad()
    def step(self) -> None:
        """One step, from the gradients of the parameters that have one.

        Where the attribute ``found_inf`` is set (a number on the device, as gradient scalers and PyTorch's fused optimizers have
        it) and not 0, weights and momentum stay as they are; the host does not wait to know.
        """
        found_inf = getattr(self, "found_inf", None)
        for group in self.param_groups:
            alike: dict[tuple[int, int, bool], list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                grad, before = local(p.grad), local(state["momentum"])
                momentum = before.lerp(grad, 1 - MOMENTUM)
                update = grad.lerp(momentum, MOMENTUM).flatten(1)
                _assign(before, momentum, found_inf)
                alike[len(p), update.shape[1], is_sharded(p)].append((p, update))
            for (rows, columns, sharded), members in alike.items():
                updates = torch.stack([update for _, update in members])
                updates = orthogonalized(gathered_rows(updates, rows) if sharded else updates, self.bfloat16)
                updates = own_rows(updates) if sharded else updates
                rate = group["lr"] * UPDATE_RMS * max(rows, columns) ** 0.5
                for (p, _), update in zip(members, updates):
                    own = local(p)
                    moved = (own * (1 - group["lr"] * group["weight_decay"])).add_(update.view(own.shape), alpha=-rate)
                    _assign(own, moved, found_inf)


def _assign(target: Tensor, value: Tensor, found_inf: Tensor | None) -> None:
    target.copy_(value if found_inf is None else torch.where(found_inf > 0, target, value))


def orthogonalized(matrices: Tensor, bfloat16: bool = False) -> Tensor:
    """Matrices [N, m, n] with their singular values brought to about 1, by Newton–Schulz rounds; zeros stay zeros.

    The products are in bfloat16 on a GPU, and where ``bfloat16`` asks for it: what they lose is small beside what the rounds
    leave of 1.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalized(matrices.mT, bfloat16).mT.contiguous()
    a, b, c = QUINTIC
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(matrices.dtype).tiny)
    x = x.to(torch.bfloat16) if x.is_cuda or bfloat16 else x
    wide = x.shape[2] >= MUCH_WIDER * x.shape[1]
    gram, product = x @ x.mT, None
    for left in reversed(range(ROUNDS)):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # of the round x <- (a + b x x' + c (x x')^2) x
        factor.diagonal(dim1=1, dim2=2).add_(a)
        if wide:  # all polynomials of x x' commute: rounds on it alone, and its long side enters two products only
            product = factor if product is None else factor @ product
            gram = factor @ gram @ factor if left else gram
        else:
            x = factor @ x
            gram = x @ x.mT if left else gram
    return (product @ x if wide else x).to(matrices.dtype)
