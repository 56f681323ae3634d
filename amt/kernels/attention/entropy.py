"""The entropy of attention's weights, which a fused kernel never holds: computed again, exactly and slowly, for who looks."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.kernels import _checks

SCORES = 1 << 24  # that are held at once, about 200 MB with what is made of them


@torch.no_grad()
def entropy(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
    """The entropy of softmax(q k^T scale) over the keys, for every query.

    Args:
        q: [B, H, N, D], any floating dtype.
        k: [B, H, M, D] in the dtype of ``q``, at least one key.
        scale: factor of the scores, D ** -0.5 by default.

    Returns:
        [B, H, N] in nats, 0 (one key has all the weight) to log M (all keys have the same), computed in float32, or in float64
        for such inputs. Autocast is off inside. NaN comes out only for queries of the head in which it came in.

    Raises:
        TypeError, ValueError: an argument of a wrong dtype, shape or device; the message names it.
    """
    _checks.tensor("entropy", "q", q, ("B", "H", "N", "D"), _checks.FLOATS)
    batch, heads, rows, size = q.shape
    _checks.tensor("entropy", "k", k, (batch, heads, "M", size), (q.dtype,), like=q)
    if k.shape[2] == 0:
        raise ValueError("entropy: k must hold at least one key, got 0")
    scale = size**-0.5 if scale is None else scale
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    found = q.new_empty(batch, heads, rows, dtype=dtype)
    block = max(1, SCORES // max(1, heads * k.shape[2]))
    with torch.autocast(q.device.type, enabled=False):
        for image in range(batch):
            keys = k[image].to(dtype).mT
            for begin in range(0, rows, block):
                scores = q[image, :, begin : begin + block].to(dtype) @ keys * scale
                found[image, :, begin : begin + block] = torch.special.entr(scores.softmax(dim=-1)).sum(dim=-1)
    return found
