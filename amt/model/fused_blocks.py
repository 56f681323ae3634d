"""Transformer blocks in fewer kernels: this package's and DINOv2's, with the parameters that they have.

Q, K and V come of one product. Residual, LayerScale and LayerNorm are one kernel, which writes what the next product reads: 16
bits, or e4m3 where that product is FP8. GELU is in the epilogue of fc1's product, where the form says so. Results are those of
the blocks' own modules up to rounding. Without a gradient to follow, weights are brought into the products' dtype once and kept.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.kernels import attention
from amt.kernels._prepared import prepared
from amt.kernels._torch_private import addmm_activation
from amt.kernels.block import Operand, add_norm, choice, gelu_quantize, linear_gelu
from amt.kernels.fp8_linear import Fp8Linear, linear, quantized_weight
from amt.model.config import BLOCKS, HEAD_DIM, ConfigError
from amt.model.dinov2 import DinoV2Backbone
from amt.model.layers import Attention, Block


def use_blocks(model: nn.Module, form: str) -> str:
    """Computes the model's transformer blocks as ``form`` says, in place; parameters and state dicts do not change.

    Args:
        form: "stock": by their own modules. "fused", "fused_gelu", "fused_tanh": see :mod:`amt.kernels.block.choice`. "auto":
            what the card's table says for each shape; the blocks' own modules without a table, and on a CPU.

    Returns:
        A line that says what was chosen.

    Raises:
        ConfigError: ``form`` is none of these.
    """
    if form not in BLOCKS:
        raise ConfigError(f"blocks must be one of {', '.join(BLOCKS)}; got {form!r}")
    device = next(model.parameters()).device
    if form == "auto":
        if device.type != "cuda":
            return "blocks by their own modules: fused ones are for CUDA"
        if not choice.table_of(device):
            return f"blocks by their own modules: this card has no table; `{choice.TUNE}` measures one"
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    layers = [
        layer
        for module in model.modules()
        if isinstance(module, DinoV2Backbone) and _is_usual(module.model.config)
        for layer in module.model.encoder.layer
    ]
    for block in (*blocks, *layers):
        if not isinstance(block, _Fused):
            block.__class__ = FusedBlock if isinstance(block, Block) else _fused_layer(type(block))
        block.form = form
    return f"{len(blocks) + len(layers)} transformer blocks, {form}"


def _is_usual(config) -> bool:
    return config.hidden_act == "gelu" and config.qkv_bias and not config.use_swiglu_ffn


class _Fused(nn.Module):
    """What both kinds of blocks share. ``form`` is one of :data:`BLOCKS`."""

    form = "auto"

    def form_for(self, x: Tensor) -> str:
        return choice.form(x, _product_dtype(x)) if self.form == "auto" else self.form


class FusedBlock(_Fused, Block):
    """A :class:`Block` with its own parameters."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        form = self.form_for(x)
        if form == "stock":
            return Block.forward(self, x, context)
        _, y = _norm(self.norm1, x, None, None, self.attention)
        branch = self.drop_path(_attend(self.attention, y))
        if self.cross is not None:
            x, y = _norm(self.norm_cross, x, branch, None, self.cross)
            branch = self.drop_path(_attend(self.cross, y, Operand(context)))
        x, y = _norm(self.norm2, x, branch, None, self.mlp)
        return x + self.drop_path(_mlp(self.mlp, y, form))

    def read(self, x: Tensor, tokens: Tensor) -> Tensor:
        form = self.form_for(tokens)
        if form == "stock":
            return Block.read(self, x, tokens)
        (_, y), (_, context) = (_norm(self.norm1, source, None, None, self.attention) for source in (x, tokens))
        x, y = _norm(self.norm2, x, self.drop_path(_attend(self.attention, y, context)), None, self.mlp)
        return x + self.drop_path(_mlp(self.mlp, y, form))


class _FusedLayer(_Fused):
    """The forward of transformers' DINOv2 layer, with registers or without."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options) -> Tensor:
        form = self.form_for(hidden_states)
        if form == "stock" or attention_mask is not None:
            return super().forward(hidden_states, attention_mask, **options)
        _, y = _norm(self.norm1, hidden_states, None, None, self.attention)
        branch = self.drop_path(_attend(self.attention, y))
        x, y = _norm(self.norm2, hidden_states, branch, self.layer_scale1.lambda1, self.mlp)
        return torch.addcmul(x, self.drop_path(_mlp(self.mlp, y, form)), self.layer_scale2.lambda1)


@functools.cache
def _fused_layer(own: type) -> type:
    return type(f"Fused{own.__name__}", (_FusedLayer, own), {})


class _Projections(NamedTuple):
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear
    heads: int
    scale: float


def _projections(module: nn.Module) -> _Projections:
    if isinstance(module, Attention):
        return _Projections(module.q, module.k, module.v, module.out, module.heads, HEAD_DIM**-0.5)
    linears = (module.q_proj, module.k_proj, module.v_proj, module.o_proj)
    return _Projections(*linears, module.num_attention_heads, module.scaling)


def _product_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _norm(
    norm: nn.LayerNorm, x: Tensor, branch: Tensor | None, scale: Tensor | None, reader: nn.Module
) -> tuple[Tensor, Operand]:
    """x + scale * branch, and its norm as the first product of ``reader``, an attention or an MLP, takes it."""
    first = reader.fc1 if hasattr(reader, "fc1") else _projections(reader).q
    fp8 = _in_fp8(first, x)
    return add_norm(x, branch, scale, norm.weight, norm.bias, eps=norm.eps, dtype=_product_dtype(x), fp8=fp8)


def _in_fp8(layer: nn.Linear, x: Tensor) -> bool:
    return isinstance(layer, Fp8Linear) and choice.fp8_pays(x, layer.out_features)


def _attend(module: nn.Module, x: Operand, context: Operand | None = None) -> Tensor:  # -> [B, N, D]
    p = _projections(module)
    if context is None:
        q, k, v = _heads(_project(module, "qkv", x, p.q, p.k, p.v), 3, p.heads)
    else:
        (q,) = _heads(_project(module, "q", x, p.q), 1, p.heads)
        k, v = _heads(_project(module, "kv", context, p.k, p.v), 2, p.heads)
    attended = attention(q, k, v, scale=p.scale).transpose(1, 2).flatten(2)
    return _project(module, "out", Operand(attended), p.out)


def _heads(packed: Tensor, count: int, heads: int) -> tuple[Tensor, ...]:
    """[B, N, count * D] to views [B, H, N, D / H]."""
    return tuple(each.unflatten(2, (heads, -1)).transpose(1, 2) for each in packed.chunk(count, dim=2))


def _mlp(module: nn.Module, x: Operand, form: str) -> Tensor:
    fc1, fc2, dtype = module.fc1, module.fc2, _product_dtype(x.plain)
    if x.values is not None:
        weight, bias, e4m3 = prepared(module, "fc1", (fc1.weight, fc1.bias), _pack_fp8, dtype)
        product = linear(x, weight, e4m3, dtype)
        active = gelu_quantize(product, bias) if _in_fp8(fc2, product) else Operand(F.gelu(product + bias))
    elif form == "fused_gelu":
        active = Operand(linear_gelu(x.plain, *prepared(module, "fc1", (fc1.weight, fc1.bias), _pack, dtype)))
    elif form == "fused_tanh" and not torch.is_grad_enabled():  # it has no derivative
        weight, bias = prepared(module, "fc1", (fc1.weight, fc1.bias), _pack, dtype)
        rows = addmm_activation(bias, x.plain.flatten(0, -2), weight.t(), use_gelu=True)
        active = Operand(rows.unflatten(0, x.plain.shape[:-1]))
    else:
        active = Operand(F.gelu(_project(module, "fc1", x, fc1)))
    return _project(module, "fc2", active, fc2)


def _project(module: nn.Module, name: str, x: Operand, *layers: nn.Linear) -> Tensor:
    """The linear layers' results side by side, by one product."""
    parameters = (*(layer.weight for layer in layers), *(layer.bias for layer in layers))
    dtype = _product_dtype(x.plain)
    if x.values is not None or _in_fp8(layers[0], x.plain):
        weight, bias, e4m3 = prepared(module, name, parameters, _pack_fp8, dtype)
        return linear(x, weight, e4m3, dtype) + bias
    return F.linear(x.plain.to(dtype), *prepared(module, name, parameters, _pack, dtype))


def _pack(*arguments) -> tuple[Tensor, Tensor]:
    """Weights [N_i, K], then biases [N_i], then a dtype: all weights as one, and all biases, in that dtype."""
    *parameters, dtype = arguments
    half = len(parameters) // 2
    weight, bias = (
        part[0].to(dtype) if half == 1 else torch.cat([p.to(dtype) for p in part])
        for part in (parameters[:half], parameters[half:])
    )
    return weight, bias


def _pack_fp8(*arguments) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """The same with the weights in e4m3, too. In their own dtype they are there for a gradient alone."""
    *parameters, dtype = arguments
    weight, bias = _pack(*parameters, parameters[0].dtype)
    e4m3 = quantized_weight(weight)
    return weight if torch.is_grad_enabled() else e4m3[0], bias.to(dtype), e4m3
