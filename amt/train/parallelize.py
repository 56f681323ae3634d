"""How the transformer blocks are computed: recomputed in the backward pass, compiled. The model knows nothing of it.

The order is checkpointing, then compilation: a compiled block holds its own recomputation. No parameter changes its name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from amt.kernels._torch_private import attention_ops
from amt.model import AMT
from amt.model.layers import Block
from amt.train.config import TrainConfig

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def transformer_blocks(model: AMT) -> list[nn.Module]:
    """This package's blocks and DINOv2's."""
    dinov2 = getattr(model.backbone, "model", None)
    return [
        *(m for m in model.modules() if isinstance(m, Block)),
        *(dinov2.encoder.layer if dinov2 is not None else ()),
    ]


def apply_checkpointing(model: AMT, train: TrainConfig) -> None:
    """Makes every block forget its activations and compute them again in the backward pass, as ``train.checkpointing`` says.

    "full" keeps a block's input alone. "selective" keeps the outputs of attention and of square products too; norms, GELU and the
    MLP's wide product are computed again. Gradients are the same bits where the kernels are deterministic.
    """
    if train.checkpointing == "none":
        return
    contexts = {}
    if train.checkpointing == "selective":
        contexts["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
    _replace_forwards(model, lambda forward: _recomputed(forward, contexts))


def apply_compile(model: AMT, train: TrainConfig) -> None:
    """Compiles every block by itself where ``train.compile`` is on: blocks of one shape share what is compiled."""
    if train.compile:
        _replace_forwards(model, torch.compile)


def _replace_forwards(model: AMT, change: Callable[[Callable], Callable]) -> None:
    for block in transformer_blocks(model):
        for name in ("forward", "read"):
            if hasattr(block, name):
                setattr(block, name, change(getattr(block, name)))


def _recomputed(forward: Callable, contexts: dict) -> Callable:
    @functools.wraps(forward)
    def run(*arguments, **options):
        if not torch.is_grad_enabled():
            return forward(*arguments, **options)
        return checkpoint(forward, *arguments, use_reentrant=False, **contexts, **options)

    return run


def _policy(_, op, *arguments, **__) -> CheckpointPolicy:
    """Keeps what costs most for its size. A square product costs as much as any for each output, and fills less memory.

    The MLP's first product, four times as wide as the block, would fill as much as all that is kept. Its second is not needed.
    """
    if op in attention_ops:
        return CheckpointPolicy.MUST_SAVE
    if op in PRODUCTS and arguments[-1].shape[0] == arguments[-1].shape[1]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
