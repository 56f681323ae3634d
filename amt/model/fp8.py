"""FP8 products in the model: in which layers, and by whom.

Layers: Q, K, V and the MLPs of every transformer block. Patch embedding, norms, the residual stream, the attentions' output
layers, heads and keypoint maps stay as they are. By whom: this package (``fp8``), Transformer Engine (``te``) or torchao.
"""

from __future__ import annotations

import importlib
import re
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.kernels.fp8_linear import MULTIPLE, convert
from amt.model.config import ConfigError

# Names in this package's blocks, and in transformers' DINOv2 (q_proj)
_CHOSEN = re.compile(r"(^|\.)(blocks|layer)\.\d+\.(.+\.)?((attention|cross)\.(q|k|v|[qkv]_proj)|mlp\.(fc1|fc2))$")


def use_precision(model: nn.Module, key: str, precision: str, training: bool) -> str | None:
    """Gives the blocks' QKV, fc1 and fc2 the products that ``precision`` says, in place; names in state dicts do not change.

    Args:
        key: what the user set, such as train.precision, for messages.
        precision: fp8, te or torchao; anything else changes nothing.
        training: whether gradients are needed.

    Returns:
        A line that says which layers these are, with ``*`` for a block's number; None where nothing changes.

    Raises:
        ConfigError: the package is not installed or does not import, or cannot run on the model's device.
    """
    if precision == "fp8":
        return use_fp8(model)
    if precision == "te":
        return _use_transformer_engine(model, key)
    if precision == "torchao":
        return _use_torchao(model, key, training)
    return None


def use_fp8(model: nn.Module) -> str:
    """This package's FP8 layers, in place; parameters and state dicts do not change."""
    return _said("FP8 products", convert(model, lambda name, layer: is_chosen(name)))


def is_chosen(name: str) -> bool:
    """Whether the linear layer of that name gets FP8 products."""
    return _CHOSEN.search(name) is not None


def _said(what: str, names: list[str]) -> str:
    kinds = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in names})
    return f"{what} in {len(names)} linear layers: {', '.join(kinds) or 'none has sizes that are multiples of 16'}"


def _chosen(model: nn.Module) -> list[str]:
    return [
        name
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear
        and is_chosen(name)
        and layer.in_features % MULTIPLE == layer.out_features % MULTIPLE == 0
    ]


def _use_torchao(model: nn.Module, key: str, training: bool) -> str:
    """torchao's layers with a scale for each row. In training weights stay the parameters that they are."""
    names = set(_chosen(model))
    if training:
        float8 = _imported("torchao.float8", "torchao", key)
        config = float8.Float8LinearConfig.from_recipe_name("rowwise")
        float8.convert_to_float8_training(model, config=config, module_filter_fn=lambda layer, name: name in names)
        return _said("torchao's float8 training", sorted(names))
    quantization = _imported("torchao.quantization", "torchao", key)
    config = quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    try:
        for name in sorted(names):
            layer = model.get_submodule(name).to(torch.bfloat16)  # it takes row scales of bf16 weights alone
            quantization.quantize_(layer, config)
    except AssertionError as error:
        raise ConfigError(f"{key}=torchao: {str(error).strip()} Take {key}=fp8, which runs anywhere") from error
    return _said("torchao's float8 weights", sorted(names))


class TransformerEngineLinear(nn.Linear):
    """``nn.Linear`` whose product Transformer Engine computes in FP8. The parameters and their names stay what they were."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        missing = -len(rows) % MULTIPLE  # its products take multiples of 16
        te, layer = self.__dict__["engine"]
        with te.autocast(enabled=True):
            out = layer(F.pad(rows, (0, 0, 0, missing)) if missing else rows)
        return out[: len(rows)].reshape(*x.shape[:-1], self.out_features)


def _use_transformer_engine(model: nn.Module, key: str) -> str:
    te = _imported("transformer_engine.pytorch", "transformer-engine", key)
    names = _chosen(model)
    for name in names:
        own = model.get_submodule(name)
        layer = te.Linear(own.in_features, own.out_features, bias=own.bias is not None, params_dtype=own.weight.dtype)
        layer.weight, layer.bias = own.weight, own.bias
        own.__class__ = TransformerEngineLinear
        own.__dict__["engine"] = te, layer  # no submodule: it would add states of its own to checkpoints
    return _said("Transformer Engine's FP8 products", names)


def _imported(module: str, package: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # Transformer Engine raises what it likes where there is no GPU
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        precision = "te" if package == "transformer-engine" else package
        raise ConfigError(
            f"{key}={precision} needs {package}, which does not import ({reason}): `pip install {package}`, or take {key}=fp8"
        ) from error
