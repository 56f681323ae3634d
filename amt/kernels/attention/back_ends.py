"""Every library that computes bf16 attention on a CUDA card: whether it can run here, and one call for each.

Each is found when it is asked for, never at import: some do not import without a GPU, or compile for seconds. All take and return
[B, H, N, D]; the adapters move the heads where a library wants [B, N, H, D].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from amt.kernels import _triton
from amt.kernels.attention import rivals, sdpa

_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class BackEnd:
    """One way to compute attention.

    Args:
        name: what ``attention(backend=...)`` and the tables call it.
        reason: ``reason(q, k)`` says why it cannot run for such tensors, or returns ``None``.
        load: imports it and returns ``run(q, k, v, scale)``.
    """

    name: str
    reason: Callable[[Tensor, Tensor], str | None]
    load: Callable[[], Callable]


def _half_on_cuda(q: Tensor) -> str | None:
    if q.device.type != "cuda":
        return f"it runs on CUDA tensors only, got {q.device.type}"
    if q.dtype not in _HALF:
        return f"it computes in float16 or bfloat16, got {q.dtype}"
    return None


def _only(kernel: SDPBackend) -> Callable:
    def run(q, k, v, scale):
        with sdpa_kernel(kernel):
            return sdpa.attention(q, k, v, scale)

    return run


def _sdpa(name: str, kernel: SDPBackend, half: bool = True) -> BackEnd:
    def reason(q, k):
        if half:
            return _half_on_cuda(q)
        return None if q.device.type == "cuda" else f"it runs on CUDA tensors only, got {q.device.type}"

    return BackEnd(name, reason, lambda: _only(kernel))


def _installed(distribution: str) -> Callable[[Tensor, Tensor], str | None]:
    def reason(q, k):
        if _version(distribution) is None:
            return f"{distribution} is not installed"
        return _half_on_cuda(q)

    return reason


@functools.cache
def _version(distribution: str) -> str | None:
    return next(library.version for library in rivals.installed() if library.name == distribution)


def _token_major(function: str, scale: str) -> Callable[[], Callable]:
    """A function ``module:name`` of [B, N, H, D] whose argument ``scale`` is the factor of the scores."""

    def load() -> Callable:
        module, name = function.split(":")
        found = getattr(import_module(module), name)

        def run(q, k, v, factor):
            out = found(*(x.transpose(1, 2) for x in (q, k, v)), **{scale: factor})
            return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)  # some return the logarithms as well

        return run

    return load


def _load_flex() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v, scale: compiled(q, k, v, scale=scale)


def _no_flex(q, k):
    return _half_on_cuda(q) or (None if _triton.INSTALLED else "Triton is not installed: `pip install triton`")


def _load_transformer_engine() -> Callable:
    module = import_module("transformer_engine.pytorch")

    @functools.lru_cache
    def built(heads: int, size: int, scale: float):
        return module.DotProductAttention(
            heads, size, qkv_format="bshd", attn_mask_type="no_mask", attention_dropout=0.0, softmax_scale=scale
        )

    def run(q, k, v, scale):
        out = built(q.shape[1], q.shape[3], scale)(*(x.transpose(1, 2).contiguous() for x in (q, k, v)))
        return out.unflatten(-1, (q.shape[1], q.shape[3])).transpose(1, 2)

    return run


def _load_ours() -> Callable:
    from amt.kernels.attention.triton import attention

    return attention


def _no_triton(q, k):
    missing = _triton.missing(q.device)
    if missing is not None:
        return missing
    from amt.kernels.attention.triton import reason

    return reason(q, k)


BACK_ENDS = {
    back_end.name: back_end
    for back_end in (
        BackEnd("sdpa", lambda q, k: None, lambda: sdpa.attention),  # PyTorch's own choice
        _sdpa("sdpa_cudnn", SDPBackend.CUDNN_ATTENTION),
        _sdpa("sdpa_flash", SDPBackend.FLASH_ATTENTION),
        _sdpa("sdpa_efficient", SDPBackend.EFFICIENT_ATTENTION, half=False),
        BackEnd("triton", _no_triton, _load_ours),
        BackEnd("flex", _no_flex, _load_flex),
        BackEnd(
            "fa2",
            _installed("flash-attn"),
            _token_major("flash_attn.flash_attn_interface:flash_attn_func", "softmax_scale"),
        ),
        BackEnd(
            "fa3", _installed("flash-attn-3"), _token_major("flash_attn_interface:flash_attn_func", "softmax_scale")
        ),
        BackEnd("fa4", _installed("flash-attn-4"), _token_major("flash_attn.cute:flash_attn_func", "softmax_scale")),
        BackEnd("xformers", _installed("xformers"), _token_major("xformers.ops:memory_efficient_attention", "scale")),
        BackEnd("te", _installed("transformer-engine"), _load_transformer_engine),
    )
}
