"""DINOv2 (Oquab et al., 2023; with registers or without) through transformers, attention through this package's op."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from amt.kernels import attention
from amt.model.config import DINOV2_NAMES, DINOV2_PATCH, ConfigError, ModelConfig
from amt.model.features import Features
from amt.model.layers import DropPath, rising

_WIDTHS = {"dinov2-small": 384, "dinov2-base": 768, "dinov2-large": 1024}
# the published weights' position embeddings cover 37 x 37 patches; they are interpolated to the crop's
_POSITIONS_PX = 518
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class DinoV2Backbone(nn.Module):
    """Low, mid and high maps after a third, two thirds and all of the blocks; the last one's tokens.

    Where no weights are given or found, it is initialised at random, with a warning (an error under
    ``require_pretrained``). The first ``frozen_layers`` blocks and the embeddings run without a gradient.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        _register_attention()
        choice, depth = config.backbone, config.backbone.depth
        self.out_layers = (max(1, depth // 3), max(1, depth * 2 // 3), depth)
        self.model, self.pretrained = _load(config)
        for layer, share in zip(self.model.encoder.layer, rising(config.drop_path, depth)):
            layer.drop_path = DropPath(share)
        width = self.model.config.hidden_size
        self.project = nn.Linear(width, config.hidden) if width != config.hidden else nn.Identity()
        self.map_channels = (width, width, width)
        self.skip = 1 + choice.registers  # the class token and the registers come first
        if self.model.embeddings.mask_token is not None:
            self.model.embeddings.mask_token.requires_grad_(False)  # for pre-training: no image here is masked
        self.frozen_layers = 0
        if choice.frozen_layers:
            self.freeze(choice.frozen_layers)

    def freeze(self, layers: int) -> None:
        """Trains all but the embeddings and the first ``layers`` blocks from now on; 0 trains them, too."""
        if not 0 <= layers <= len(self.model.encoder.layer):
            raise ValueError(f"layers must be 0 to {len(self.model.encoder.layer)}; got {layers}")
        self.frozen_layers = layers
        for name, parameter in self.model.embeddings.named_parameters():
            parameter.requires_grad_(not layers and name != "mask_token")
        for i, layer in enumerate(self.model.encoder.layer):
            layer.requires_grad_(i >= layers)
        self.train(self.training)

    def train(self, mode: bool = True) -> DinoV2Backbone:
        """Frozen blocks stay in evaluation mode."""
        super().train(mode)
        if self.frozen_layers:
            self.model.embeddings.eval()
            for layer in self.model.encoder.layer[: self.frozen_layers]:
                layer.eval()
        return self

    def forward(self, image: Tensor) -> Features:  # [B, 3, S, S]
        grid = image.shape[-1] // DINOV2_PATCH
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_layers):
            tokens = self.model.embeddings(image)
        outputs = []
        for i, layer in enumerate(self.model.encoder.layer, start=1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and i > self.frozen_layers):
                tokens = layer(tokens)
                tokens = tokens[0] if isinstance(tokens, tuple) else tokens
            if i in self.out_layers:
                outputs += [tokens] * self.out_layers.count(i)
        normed = [self.model.layernorm(output) for output in outputs]
        maps = tuple(n[:, self.skip :].mT.unflatten(2, (grid, grid)) for n in normed)
        return Features(maps, self.project(normed[-1]))


def _load(config: ModelConfig):
    """The named weights' model and True, or one at random and False.

    ``config.backbone.registers`` is set to what it has.
    """
    from safetensors import SafetensorError

    choice = config.backbone
    model, problem = None, "model.backbone.weights=none"
    if choice.weights != "none":
        try:
            model = _pretrained(DINOV2_NAMES[choice.name] if choice.weights == "auto" else choice.weights)
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            problem = f"model.backbone.weights={choice.weights} could not be loaded ({reason})"
    if model is None:
        remedy = (
            "set model.backbone.weights to a folder made by save_pretrained, or to auto or a name on the Hugging Face Hub "
            "to download published ones"
        )
        if choice.require_pretrained:
            raise ConfigError(f"{problem}, and model.backbone.require_pretrained is set: {remedy}")
        warnings.warn(f"{problem}: {choice.name} starts at random and will learn slowly; {remedy}", stacklevel=4)
        return _fresh(config), False
    found = model.config
    # a checkpoint of this model builds its backbone from these figures, without the weights' own config.json
    figures = {
        "patches, px": (DINOV2_PATCH, found.patch_size),
        "blocks": (choice.depth, found.num_hidden_layers),
        "channels": (_WIDTHS[choice.name], found.hidden_size),
        "channels of an MLP": (4 * _WIDTHS[choice.name], found.mlp_ratio * found.hidden_size),
        "heads": (_WIDTHS[choice.name] // 64, found.num_attention_heads),
        "px that the positions cover": (_POSITIONS_PX, found.image_size),
        "gated MLP": (False, found.use_swiglu_ffn),
    }
    wrong = [f"{name}: {want} expected, {have} found" for name, (want, have) in figures.items() if want != have]
    if wrong:
        raise ConfigError(f"model.backbone.weights={choice.weights} is no {choice.name} ({'; '.join(wrong)})")
    choice.registers = getattr(found, "num_register_tokens", 0)
    return model, True


def _pretrained(source: str):
    """The model in a folder or on the hub, with or without registers as its config.json says.

    Not transformers' Backbone class, whose weights have the same names: the hooks that it puts on its layers break graphs.
    Raises OSError where it is not to be had, ValueError where it is something else or incomplete.
    """
    from transformers import AutoConfig, Dinov2Model, Dinov2WithRegistersModel

    if not Path(source).is_dir() and not _HUB_NAME.fullmatch(source):
        raise FileNotFoundError(f"no folder {source}")
    kinds = {"dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel}
    kind = AutoConfig.from_pretrained(source).model_type
    if kind not in kinds:
        raise ValueError(f"it is a {kind}, not one of {', '.join(kinds)}")
    model, info = kinds[kind].from_pretrained(source, attn_implementation="amt", output_loading_info=True)
    missing = sorted(set(info["missing_keys"]) - {"embeddings.mask_token"})
    if missing:
        raise ValueError(f"{len(missing)} weights are missing, the first is {missing[0]}")
    return model


def _fresh(config: ModelConfig):
    from transformers import (
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )

    width, registers = _WIDTHS[config.backbone.name], config.backbone.registers
    shared = dict(
        hidden_size=width,
        num_hidden_layers=config.backbone.depth,
        num_attention_heads=width // 64,
        patch_size=DINOV2_PATCH,
        image_size=_POSITIONS_PX,
        attn_implementation="amt",
    )
    if not registers:
        return Dinov2Model(Dinov2Config(**shared))
    return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(num_register_tokens=registers, **shared))


def _register_attention() -> None:
    """Makes ``attn_implementation="amt"`` known to transformers; doing it again changes nothing."""
    from transformers import AttentionInterface

    def amt_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        if attention_mask is not None:
            raise ValueError("DINOv2 attends to everything: no mask is taken")
        return attention(query, key, value, scale=scaling).transpose(1, 2).contiguous(), None

    AttentionInterface.register("amt", amt_attention)
