"""Transformer blocks in fewer kernels: this package's and DINOv2's, with the parameters that they have.

Q, K and V come of one product. Residual, LayerScale and LayerNorm are one kernel, which writes what the next product reads: 16
bits, or e4m3 where that product is FP8. GELU is in the epilogue of fc1's product, where the form says so. Where CUTLASS
multiplies, biases, GELU and fc2's e4m3 operand are in the epilogues of the FP8 products. Results are those of the blocks'
own modules up to rounding. Without a gradient to follow, weights are brought into the products' dtype once and kept.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.kernels import attention
from amt.kernels._autocast import product_dtype
from amt.kernels._prepared import prepared
from amt.kernels._torch_private import addmm_activation
from amt.kernels.attention.fp8 import LARGEST, quantize
from amt.kernels.block import Operand, add_norm, choice, gelu_quantize, linear_gelu
from amt.kernels.fp8_linear import Fp8Linear, epilogue, linear, quantized_weight
from amt.model.config import BLOCKS, HEAD_DIM, ConfigError
from amt.model.dinov2 import DinoV2Backbone
from amt.model.layers import Attention, Block


def use_blocks(model: nn.Module, form: str) -> str:
    """Computes the model's transformer blocks as ``form`` says, in place; parameters and state dicts do not change.

    Args:
        form: "stock": by their own modules. "fused", "fused_gelu", "fused_tanh", "fused_cutlass": see
            :mod:`amt.kernels.block.choice`. "auto": what the card's table says for each shape; the blocks' own modules without a
            table, and on a CPU.

    Returns:
        A line that says what was chosen.

    Raises:
        ConfigError: ``form`` is none of these; or it is "fused_cutlass", and CUTLASS is not built in, or no layer is FP8.
    """
    if form not in BLOCKS:
        raise ConfigError(f"blocks must be one of {', '.join(BLOCKS)}; got {form!r}")
    device = next(model.parameters()).device
    if form == choice.CUTLASS:
        _need_cutlass(model, device)
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


def _need_cutlass(model: nn.Module, device: torch.device) -> None:
    missing = epilogue.reason(device)
    if missing is not None:
        raise ConfigError(f"blocks={choice.CUTLASS} cannot run on {device.type}: {missing}")
    if not any(isinstance(module, Fp8Linear) for module in model.modules()):
        raise ConfigError(
            f"blocks={choice.CUTLASS} computes FP8 products, and no layer has them: take precision=fp8 as well"
        )


def _is_usual(config) -> bool:
    return config.hidden_act == "gelu" and config.qkv_bias and not config.use_swiglu_ffn


class _Fused(nn.Module):
    """What both kinds of blocks share. ``form`` is one of :data:`BLOCKS`."""

    form = "auto"

    def form_for(self, x: Tensor) -> str:
        return choice.form(x, product_dtype(x)) if self.form == "auto" else self.form


class FusedBlock(_Fused, Block):
    """A :class:`Block` with its own parameters."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        form = self.form_for(x)
        if form == "stock":
            return Block.forward(self, x, context)
        _, y = _norm(self.norm1, x, None, None, self.attention)
        branch = self.drop_path(_attend(self.attention, y, form))
        if self.cross is not None:
            x, y = _norm(self.norm_cross, x, branch, None, self.cross)
            branch = self.drop_path(_attend(self.cross, y, form, Operand(context)))
        x, y = _norm(self.norm2, x, branch, None, self.mlp)
        return x + self.drop_path(_mlp(self.mlp, y, form, self.norm2))

    def read(self, x: Tensor, tokens: Tensor) -> Tensor:
        form = self.form_for(tokens)
        if form == "stock":
            return Block.read(self, x, tokens)
        (_, y), (_, context) = (_norm(self.norm1, source, None, None, self.attention) for source in (x, tokens))
        x, y = _norm(self.norm2, x, self.drop_path(_attend(self.attention, y, form, context)), None, self.mlp)
        return x + self.drop_path(_mlp(self.mlp, y, form, self.norm2))


class _FusedLayer(_Fused):
    """The forward of transformers' DINOv2 layer, with registers or without."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options) -> Tensor:
        form = self.form_for(hidden_states)
        if form == "stock" or attention_mask is not None:
            return super().forward(hidden_states, attention_mask, **options)
        _, y = _norm(self.norm1, hidden_states, None, None, self.attention)
        branch = self.drop_path(_attend(self.attention, y, form))
        x, y = _norm(self.norm2, hidden_states, branch, self.layer_scale1.lambda1, self.mlp)
        return torch.addcmul(x, self.drop_path(_mlp(self.mlp, y, form, self.norm2)), self.layer_scale2.lambda1)


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


def _norm(
    norm: nn.LayerNorm, x: Tensor, branch: Tensor | None, scale: Tensor | None, reader: nn.Module
) -> tuple[Tensor, Operand]:
    """x + scale * branch, and its norm as the first product of ``reader``, an attention or an MLP, takes it."""
    first = reader.fc1 if hasattr(reader, "fc1") else _projections(reader).q
    fp8 = _in_fp8(first, x)
    return add_norm(x, branch, scale, norm.weight, norm.bias, eps=norm.eps, dtype=product_dtype(x), fp8=fp8)


def _in_fp8(layer: nn.Linear, x: Tensor) -> bool:
    return isinstance(layer, Fp8Linear) and _product(layer, x.device, x.shape, product_dtype(x)) != "bf16"


def _product(layer: nn.Linear, device: torch.device, shape: torch.Size, dtype: torch.dtype) -> str:
    return choice.product(device, shape, layer.out_features, dtype)


def _by_cutlass(layer: nn.Linear, device: torch.device, shape: torch.Size, dtype: torch.dtype, form: str) -> bool:
    """Whether CUTLASS multiplies what has this shape: by the form's name, or by the card's table."""
    if torch.is_grad_enabled() or not isinstance(layer, Fp8Linear):
        return False
    fastest = _product(layer, device, shape, dtype)
    if form == choice.CUTLASS:
        return fastest != "bf16"
    return fastest == "cutlass" and epilogue.reason(device) is None


def _attend(module: nn.Module, x: Operand, form: str, context: Operand | None = None) -> Tensor:  # -> [B, N, D]
    p = _projections(module)
    if context is None:
        q, k, v = _heads(_project(module, "qkv", x, form, p.q, p.k, p.v), 3, p.heads)
    else:
        (q,) = _heads(_project(module, "q", x, form, p.q), 1, p.heads)
        k, v = _heads(_project(module, "kv", context, form, p.k, p.v), 2, p.heads)
    attended = attention(q, k, v, scale=p.scale).transpose(1, 2).flatten(2)
    return _project(module, "out", Operand(attended), form, p.out)


def _heads(packed: Tensor, count: int, heads: int) -> tuple[Tensor, ...]:
    """[B, N, count * D] to views [B, H, N, D / H]."""
    return tuple(each.unflatten(2, (heads, -1)).transpose(1, 2) for each in packed.chunk(count, dim=2))


def _mlp(module: nn.Module, x: Operand, form: str, norm: nn.LayerNorm) -> Tensor:
    """``norm``: whose result ``x`` is."""
    fc1, fc2, dtype = module.fc1, module.fc2, product_dtype(x.plain)
    if x.values is not None and _by_cutlass(fc1, x.values.device, x.values.shape, dtype, form):
        active = _fc1_by_cutlass(module, x, form, norm, dtype)
    elif x.values is not None:
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
        active = Operand(F.gelu(_project(module, "fc1", x, form, fc1)))
    return _project(module, "fc2", active, form, fc2)


def _fc1_by_cutlass(module: nn.Module, x: Operand, form: str, norm: nn.LayerNorm, dtype: torch.dtype) -> Operand:
    """GELU of fc1, in e4m3 with one scale for all rows where CUTLASS multiplies in fc2 as well."""
    parameters = (module.fc1.weight, module.fc1.bias, norm.weight, norm.bias)
    weight, bias, scale, factor = prepared(module, "fc1 by CUTLASS", parameters, _pack_fc1)
    shape = torch.Size((*x.values.shape[:-1], module.fc1.out_features))
    fp8 = _by_cutlass(module.fc2, x.values.device, shape, dtype, form)
    out = epilogue.fused(_rows(x), weight, bias, gelu=True, factor=factor if fp8 else None).view(shape)
    return Operand(out.new_empty(0, dtype=dtype), out, scale) if fp8 else Operand(out.to(dtype))


def _pack_fc1(weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor):
    scale = (epilogue.bound(weight, bias, norm_weight, norm_bias) / LARGEST).view(1, 1)
    return quantized_weight(weight), bias.float(), scale, scale.reciprocal()


def _rows(x: Operand) -> tuple[Tensor, Tensor]:
    """e4m3 [M, K] and scales [M, 1], or [1, 1] for all rows."""
    values, scales = quantize(x.plain.float(), dim=-1) if x.values is None else (x.values, x.scales)
    return values.flatten(0, -2), scales.reshape(-1, 1)


def _project(module: nn.Module, name: str, x: Operand, form: str, *layers: nn.Linear) -> Tensor:
    """The linear layers' results side by side, by one product."""
    parameters = (*(layer.weight for layer in layers), *(layer.bias for layer in layers))
    dtype, given = product_dtype(x.plain), x.plain if x.values is None else x.values
    if _by_cutlass(layers[0], given.device, given.shape, dtype, form):
        _, bias, e4m3 = prepared(module, f"{name} by CUTLASS", parameters, _pack_fp8, torch.float32)
        return epilogue.fused(_rows(x), e4m3, bias).to(dtype).unflatten(0, given.shape[:-1])
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
