"""Which weights are trained by what."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from amt.model import AMT
from amt.model.layers import Block
from amt.train.config import TrainConfig
from amt.train.muon import Muon

MATRICES = ("w1", "w2", "beside_and_trust")  # of FramePointNet and Refinement, of KeypointHead
PIXELS = 3  # channels of the image: the first convolution's kernels are filters, not a map between features


def make_optimizers(
    model: AMT, train: TrainConfig, loss_parameters: Iterable[nn.Parameter] = ()
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of :func:`hidden_weights` and AdamW for the rest.

    Weight decay is for the weights of :func:`decayed_weights` only.

    Args:
        loss_parameters: of the loss, trained without decay.
    """
    hidden = hidden_weights(model) if train.optimizer == "muon" else []
    chosen = {id(p) for p in hidden}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    decayed = {id(p) for p in decayed_weights(model)}
    groups = [
        {"params": [p for p in others if id(p) in decayed], "weight_decay": train.weight_decay},
        {"params": [*(p for p in others if id(p) not in decayed), *loss_parameters], "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=train.lr, betas=(0.9, 0.98), fused=True)]
    if hidden:
        optimizers.append(Muon(hidden, lr=train.muon_lr, weight_decay=train.weight_decay))
    return optimizers


def decayed_weights(model: nn.Module) -> list[nn.Parameter]:
    """What multiplies features: weights of linear layers and convolutions, and the matrices that ops take as they are.

    Never biases (some have two dimensions: one a joint or a frame), norms, embeddings, queries and special tokens: their size
    says nothing about how smooth the model is, and their mean need not be 0.
    """

    def multiplies(module: nn.Module, name: str) -> bool:
        return name == "weight" if isinstance(module, (nn.Linear, nn.Conv2d)) else name in MATRICES

    return [p for m in model.modules() for name, p in m.named_parameters(recurse=False) if multiplies(m, name)]


def hidden_weights(model: AMT) -> list[nn.Parameter]:
    """The weights between features that start from nothing: of convolutions and of this package's transformer blocks.

    Heads, embeddings and small networks over coordinates stay with AdamW, and so does a pretrained DINOv2.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.in_channels > PIXELS]
    blocks = [m for m in model.modules() if isinstance(m, Block)]
    layers += [m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)]
    return [layer.weight for layer in layers if layer.weight.requires_grad]
