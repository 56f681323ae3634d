"""Linear layers with FP8 products, in one sitting: quantise, multiply, scale.

A linear layer has three products. With x [M, K], w [N, K] and the gradient g [M, N] of the result:

    y      = x w^T      e4m3 x e4m3, one scale for each row of x and of w
    grad_x = g w        e4m3 x e4m3, one scale for each row of g and for each column of w
    grad_w = g^T x      16 bits: it sums over thousands of tokens, where e4m3 loses what the optimizer needs

A scale is the largest magnitude / 448, taken from the numbers themselves at every call: nothing is remembered between steps. On a
card with FP8 products (compute capability 8.9 and later) PyTorch's ``_scaled_mm`` multiplies, with the scales applied to float32
sums; elsewhere the e4m3 numbers are multiplied in float32, which gives the same up to the order of the sums, at no gain in speed.

x may come in e4m3 from the kernel before (LayerNorm or GELU, see :mod:`amt.kernels.block`); weights are quantised once where no
gradient is needed. A card's table can leave products in 16 bits by their shape, see :mod:`amt.kernels.block.choice`. Where
CUTLASS is built in, bias, GELU and e4m3 can be in a product's epilogue: :mod:`amt.kernels.fp8_linear.epilogue`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from amt.kernels._autocast import no_autocast, product_dtype
from amt.kernels._prepared import prepared
from amt.kernels._torch_private import scaled_mm, transforms_active
from amt.kernels.attention.fp8 import quantize
from amt.kernels.block import Operand, choice
from amt.kernels.fp8_linear.epilogue import MULTIPLE

Quantized = tuple[Tensor, Tensor]  # e4m3 values [M, K] and float32 scales [M, 1]


def multiply(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:  # [M, K], [N, K] -> [M, N]
    """a b^T with e4m3 operands, one scale for each row of both."""
    return product(quantize(a.float(), dim=1), quantize(b.float(), dim=1), dtype)


def product(a: Quantized, b: Quantized, dtype: torch.dtype) -> Tensor:
    (a8, a_scale), (b8, b_scale) = a, b
    if _in_hardware(a8):
        out = scaled_mm(
            a8, b8.t(), scale_a=a_scale, scale_b=b_scale.t(), out_dtype=torch.bfloat16, use_fast_accum=False
        )
        return out.to(dtype)
    # the weights' scales first: a row of x near float32's largest would overflow before they make it smaller
    return ((a8.float() @ b8.float().t()) * b_scale.t() * a_scale).to(dtype)


def _in_hardware(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda" and torch.cuda.get_device_capability(tensor.device) >= (8, 9)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, dtype: torch.dtype, quantized: Quantized | None, quantized_weight: Quantized
    ) -> Tensor:  # [M, K], [N, K] -> [M, N]
        ctx.save_for_backward(x, weight)
        with no_autocast(x.device.type):
            return product(quantize(x.float(), dim=1) if quantized is None else quantized, quantized_weight, dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        with no_autocast(x.device.type):
            if ctx.needs_input_grad[0]:
                grad_x = multiply(grad, weight.t(), x.dtype)
            if ctx.needs_input_grad[1]:
                grad_weight = (grad.t() @ x.to(grad.dtype)).to(weight.dtype)
        return grad_x, grad_weight, None, None, None


def _transformed(
    x: Tensor, weight: Tensor, dtype: torch.dtype, quantized: Quantized | None, quantized_weight: Quantized
) -> Tensor:
    """As :class:`_Linear` under torch.func and in forward-mode AD, where derivatives are those of the exact product."""
    with no_autocast(x.device.type):
        pair = quantize(x.detach().float(), dim=1) if quantized is None else quantized
        out = product(*(tuple(t.detach() for t in each) for each in (pair, quantized_weight)), dtype)
        if x.shape[:1] != out.shape[:1]:  # x has no numbers: no gradient is needed
            return out
        exact = (x.to(weight.dtype) @ weight.t()).to(dtype)
        return out + (exact - exact.detach())


def linear(x: Operand, weight: Tensor, quantized_weight: Quantized, dtype: torch.dtype) -> Tensor:
    """x w^T in ``dtype``, without a bias: [..., K], [N, K] -> [..., N].

    ``x.plain`` is not read where ``x.values`` are there and no gradient is needed.
    """
    shape = (x.plain if x.values is None else x.values).shape
    quantized = None if x.values is None else (x.values.reshape(-1, shape[-1]), x.scales.reshape(-1, 1))
    plain = x.plain.reshape(-1, shape[-1]) if x.plain.shape == shape else x.plain
    run = _transformed if transforms_active() else _Linear.apply
    out = run(plain, weight, dtype, quantized, quantized_weight)
    return out.reshape(*shape[:-1], weight.shape[0])


def quantized_weight(weight: Tensor) -> Quantized:
    with torch.no_grad():
        return quantize(weight.float(), dim=1)


class Fp8Linear(nn.Linear):
    """``nn.Linear`` with FP8 products. Its weights stay what they were: state dicts and checkpoints do not change."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return super().forward(x)  # PyTorch's own error
        dtype = product_dtype(x)
        if choice.product(x.device, x.shape, self.out_features, dtype) == "bf16":
            return super().forward(x)
        out = linear(Operand(x), self.weight, self.quantized(), dtype)
        return out if self.bias is None else out + self.bias.to(dtype)

    def quantized(self) -> Quantized:
        """The weights in e4m3; kept between calls where no gradient is needed."""
        return prepared(self, "weight", (self.weight,), quantized_weight)


def convert(model: nn.Module, chosen: Callable[[str, nn.Linear], bool]) -> list[str]:
    """Makes the linear layers that ``chosen(name, layer)`` picks FP8 layers, in place; the parameters stay the same objects.

    Returns:
        The names of the layers that are converted. Layers whose sizes are no multiples of 16 stay as they are.
    """
    converted = []
    for name, layer in model.named_modules():
        fits = type(layer) is nn.Linear and layer.in_features % MULTIPLE == layer.out_features % MULTIPLE == 0
        if fits and chosen(name, layer):
            layer.__class__ = Fp8Linear
            converted.append(name)
    return converted
