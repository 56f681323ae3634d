"""The transformer's parts. Attention goes through this package's own op, so that its kernels serve every layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from amt.kernels import attention
from amt.model.config import HEAD_DIM
from amt.model.draws import kept


class Attention(nn.Module):
    """Multi-head attention of ``x`` to ``context`` (to itself where none is given), heads of 64."""

    def __init__(self, dim: int):
        super().__init__()
        self.heads = dim // HEAD_DIM
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:  # [B, N, dim], [B, M, dim] -> [B, N, dim]
        context = x if context is None else context
        q, k, v = (
            linear(source).unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2)
            for linear, source in ((self.q, x), (self.k, context), (self.v, context))
        )
        return self.out(attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, dim: int, hidden: int, out: int | None = None):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block; with ``cross`` the tokens also read a context.

    In training each of its branches is left out for a share ``drop_path`` of the samples (:class:`DropPath`).
    """

    def __init__(self, dim: int, mlp_ratio: int, cross: bool = False, drop_path: float = 0.0):
        super().__init__()
        self.drop_path = DropPath(drop_path)
        self.norm1, self.attention = nn.LayerNorm(dim), Attention(dim)
        self.norm_cross, self.cross = (nn.LayerNorm(dim), Attention(dim)) if cross else (None, None)
        self.norm2, self.mlp = nn.LayerNorm(dim), Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        if self.cross is not None:
            x = x + self.drop_path(self.cross(self.norm_cross(x), context))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def read(self, x: Tensor, tokens: Tensor) -> Tensor:
        """The block for some tokens only: x [B, N, dim], a part of ``tokens`` [B, M, dim], attends to all of them."""
        x = x + self.drop_path(self.attention(self.norm1(x), self.norm1(tokens)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class DropPath(nn.Module):
    """Leaves a residual branch [B, ...] out for some samples in training, and scales it for the others so that its mean stays.

    Huang et al., "Deep Networks with Stochastic Depth" (2016), by sample.

    Args:
        share: of the samples that skip the branch, at least 0 and below 1.
    """

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, branch: Tensor) -> Tensor:
        if not (self.training and self.share):
            return branch
        return branch * kept(branch, self.share)


def rising(most: float, depth: int) -> list[float]:
    """Shares for the blocks of one transformer, rising evenly from 0 in the first to ``most`` in the last."""
    return [most * (i / (depth - 1) if depth > 1 else 1.0) for i in range(depth)]


def small_output(linear: nn.Linear, std: float = 0.01) -> nn.Linear:
    """Initialises a head so that it starts near zero: what it predicts is an offset from something sensible."""
    nn.init.normal_(linear.weight, std=std)
    nn.init.zeros_(linear.bias)
    return linear
