"""DINOv2 (Oquab et al., 2023; the variant with registers) through transformers, attention through this package's op."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from amt.kernels import attention
from amt.model.backbone import Features
from amt.model.config import DINOV2_NAMES, DINOV2_PATCH, ConfigError, ModelConfig

_WIDTHS = {"dinov2-small": 384, "dinov2-base": 768, "dinov2-large": 1024}


class DinoV2Backbone(nn.Module):
    """Low, mid and high maps after a third, two thirds and all of the blocks; the last one's tokens.

    Where no weights are given or found, it is initialised at random, with a warning (an error under
    ``require_pretrained``). The first ``frozen_layers`` blocks and the embeddings run without a gradient.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        _register_attention()
        choice, depth = config.backbone, config.backbone.depth
        self.frozen_layers = choice.frozen_layers
        self.out_layers = (max(1, depth // 3), max(1, depth * 2 // 3), depth)
        self.model = _load(config)
        width = self.model.config.hidden_size
        self.project = nn.Linear(width, config.hidden) if width != config.hidden else nn.Identity()
        self.map_channels = (width, width, width)
        self.skip = 1 + self.model.config.num_register_tokens
        self.model.embeddings.mask_token.requires_grad_(False)  # for pre-training: no image here is masked
        if self.frozen_layers:
            self.model.embeddings.requires_grad_(False)
            for layer in self.model.encoder.layer[: self.frozen_layers]:
                layer.requires_grad_(False)

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
    from transformers import Dinov2WithRegistersBackbone, Dinov2WithRegistersConfig

    choice = config.backbone
    if choice.weights != "none":
        source = DINOV2_NAMES[choice.name] if choice.weights == "auto" else choice.weights
        try:
            if choice.weights != "auto" and not Path(source).is_dir():
                raise FileNotFoundError(f"no folder {source}")
            model = Dinov2WithRegistersBackbone.from_pretrained(source, attn_implementation="amt")
            if model.config.patch_size != DINOV2_PATCH or model.config.num_hidden_layers != choice.depth:
                raise ConfigError(
                    f"model.backbone.weights={choice.weights}: expected patches of {DINOV2_PATCH} px and {choice.depth} "
                    f"blocks, the file has {model.config.patch_size} px and {model.config.num_hidden_layers}"
                )
            return model
        except OSError as error:
            reason = str(error).splitlines()[0]
            problem = f"model.backbone.weights={choice.weights} could not be loaded ({reason})"
    else:
        problem = "model.backbone.weights=none"
    remedy = "set model.backbone.weights to a folder made by save_pretrained, or to auto to download the published ones"
    if choice.require_pretrained:
        raise ConfigError(f"{problem}, and model.backbone.require_pretrained is set: {remedy}")
    warnings.warn(f"{problem}: {choice.name} starts at random and will learn slowly; {remedy}", stacklevel=4)
    width = _WIDTHS[choice.name]
    fresh = Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=choice.depth,
        num_attention_heads=width // 64,
        patch_size=DINOV2_PATCH,
        image_size=518,
        attn_implementation="amt",
    )
    return Dinov2WithRegistersBackbone(fresh)


def _register_attention() -> None:
    """Makes ``attn_implementation="amt"`` known to transformers; doing it again changes nothing."""
    from transformers import AttentionInterface

    def amt_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        if attention_mask is not None:
            raise ValueError("DINOv2 attends to everything: no mask is taken")
        return attention(query, key, value, scale=scaling).transpose(1, 2).contiguous(), None

    AttentionInterface.register("amt", amt_attention)
