"""How a model is computed: blocks again in the backward pass, blocks compiled, on several GPUs. The model knows nothing of it.

The order is checkpointing, compilation, then FSDP2 or DDP: a compiled block holds its own recomputation, and is sharded as one.
No parameter changes its name.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from amt.hand.batch import Batch, Inputs
from amt.kernels._torch_private import attention_ops
from amt.kernels.ranges import stage
from amt.model import AMT
from amt.model.layers import Block
from amt.model.outputs import Prediction
from amt.train import ranks
from amt.train.batch_size import black_crops
from amt.train.config import TrainConfig
from amt.train.losses import Loss, TrainingLoss

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


def transformer_blocks(model: AMT) -> list[nn.Module]:
    """This package's blocks and DINOv2's."""
    dinov2 = getattr(model.backbone, "model", None)
    return [
        *(m for m in model.modules() if isinstance(m, Block)),
        *(dinov2.encoder.layer if dinov2 is not None else ()),
    ]


class ModelAndLoss(nn.Module):
    """Both as one module: it is from the loss that DDP learns which parameters have a gradient."""

    def __init__(self, model: AMT, losses: TrainingLoss, train: TrainConfig):
        super().__init__()
        self.model, self.losses, self.bf16 = model, losses, train.precision != "float32"

    def forward(self, batch: Batch, step: int) -> tuple[Loss, Prediction]:
        """The loss of a batch of this rank and of those of the others together, and this rank's prediction, detached."""
        with stage("forward"), torch.autocast(batch.index.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            prediction = self.model(at_least_one(batch.inputs))
            if not len(batch.index):
                prediction = prediction[:0]
        with stage("loss"):
            return self.losses(prediction, batch, step), prediction.detach()


def at_least_one(inputs: Inputs) -> Inputs:
    """The inputs, or a black crop where there are none: a rank without a frame takes part in what all of them compute."""
    if inputs.batch_size:
        return inputs
    black = black_crops(1, inputs.object_points.shape[1], inputs.image.shape[-1])
    return black.to(inputs.image.device)


def parallelize(model: AMT, losses: TrainingLoss, train: TrainConfig) -> nn.Module:
    """Model and loss as :class:`ModelAndLoss`, computed as ``train`` says. Parameters may be others after it: sharded ones.

    A backward pass of its loss leaves in each parameter the gradient of the loss of all ranks.
    """
    apply_checkpointing(model, train)
    apply_compile(model, train)
    whole = ModelAndLoss(model, losses, train)
    if train.parallel == "none":
        return whole
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.forward = functools.partial(_batch_norm_of_all_ranks, norm)
    if train.parallel == "fsdp":
        _shard(model)
        return whole
    # Unused parameters are searched for anew in each step, so that frozen blocks need nothing special, and the messages of a
    # run that was resumed are those of one that was not: DDP would otherwise order them anew after its first step.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its successor would send buffers once, which are alike
        return DistributedDataParallel(
            whole, broadcast_buffers=False, gradient_as_bucket_view=True, find_unused_parameters=True
        )


def messages(computed: nn.Module, last: bool) -> AbstractContextManager:
    """A block around a forward and a backward pass. DDP sends gradients after the last micro-batch; FSDP after each of them."""
    return computed.no_sync() if isinstance(computed, DistributedDataParallel) and not last else nullcontext()


def _shard(model: AMT) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.size(),))
    scalars = {p for p in model.parameters() if p.dim() == 0}  # FSDP2 divides none: every rank holds them
    for scalar in scalars:
        scalar.register_post_accumulate_grad_hook(_average_gradient)
    for block in transformer_blocks(model):
        fully_shard(block, mesh=mesh)
        if hasattr(block, "read"):
            register_fsdp_forward_method(block, "read")
    # a forward pass alone leaves the model sharded, too
    fully_shard(model, mesh=mesh, reshard_after_forward=True, ignored_params=scalars)


def _average_gradient(parameter: Tensor) -> None:
    parameter.grad = ranks.averaged(parameter.grad)


def _batch_norm_of_all_ranks(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Batch norm [B, C, H, W] with the statistics of all ranks' samples, as one process with the whole batch has them."""
    if not norm.training:
        return nn.BatchNorm2d.forward(norm, x)

    def mean_of_all(value: Tensor) -> Tensor:
        return ranks.summed_for_each(value.mean(dim=(0, 2, 3))) / ranks.size()

    wide = x.float()
    mean = mean_of_all(wide)
    centred = wide - mean[:, None, None]
    variance = mean_of_all(centred.square())
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        count = x.numel() / x.shape[1] * ranks.size()
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return (centred * scale[:, None, None] + norm.bias[:, None, None]).to(x.dtype)


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
