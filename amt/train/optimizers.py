"""Which weights are trained by what, and how fast."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from amt.model import AMT
from amt.model.layers import Block
from amt.model.lean import bfloat16_is_slow
from amt.train.config import TrainConfig
from amt.train.muon import Muon
from amt.train.sharding import rows_of

MATRICES = (
    "w1",
    "w2",
    "beside_and_trust",
    "beside_and_scale",
)  # of FramePointNet and Refinement, Keypoint- and OutlineHead
PIXELS = 3  # channels of the image: the first convolution's kernels are filters, not a map between features
HEADS = (  # what turns features into answers, by the beginning of its parameters' names
    "keypoints.",
    "outline.",
    "coarse_decoder.classify.",
    "coarse_decoder.hand_head.",
    "coarse_decoder.object_head.",
    "coarse_decoder.wrist_head.",
    "hand_decoder.head.",
    "hand_decoder.joint_head.",
    "joint_states.",
    "object_decoder.head.",
    "contact_decoder.point.",
    "contact_decoder.vertex_",
    "refinement.w2",
    "refinement.b2",
)


class Optimizers:
    """All optimizers of a run as one. What the configuration says of rates and decay holds after a state is loaded, too."""

    def __init__(self, model: AMT, train: TrainConfig, loss_parameters: Iterable[nn.Parameter] = ()):
        self.peak = train.lr
        self.each = make_optimizers(model, train, loss_parameters)
        self._settings = [
            [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
            for optimizer in self.each
        ]

    def set_rate(self, rate: float) -> None:
        """Brings every group to the same share of its own peak as ``rate`` has of ``train.lr``."""
        for optimizer, settings in zip(self.each, self._settings):
            for group, own in zip(optimizer.param_groups, settings):
                group["lr"] = rate * own["lr"] / self.peak

    def step(self, found_inf: Tensor) -> None:
        """One step of all; nothing where ``found_inf`` (a number on the device) is not 0."""
        for optimizer in self.each:
            optimizer.found_inf = found_inf
            optimizer.step()

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters by what trains them: "muon", or AdamW's groups "new", "heads", "pretrained" and "loss"."""
        found = defaultdict(list)
        for optimizer in self.each:
            for group in optimizer.param_groups:
                found[group.get("name", "muon").partition(" ")[0]] += group["params"]
        return dict(found)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self.each]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Raises ValueError or KeyError where the states are of other groups."""
        for optimizer, state, settings in zip(self.each, states, self._settings, strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            own = {
                number: {name: rows_of(value, parameters[number]) for name, value in values.items()}
                for number, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": own})
            for group, own in zip(optimizer.param_groups, settings):
                group.update(own)


def make_optimizers(
    model: AMT, train: TrainConfig, loss_parameters: Iterable[nn.Parameter] = ()
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of :func:`hidden_weights` and AdamW for the rest.

    AdamW's groups are named by :func:`rate_of`, with and without weight decay: it is for :func:`decayed_weights` only.

    Args:
        loss_parameters: of the loss, trained without decay.
    """
    hidden = hidden_weights(model) if train.optimizer == "muon" else []
    chosen = {id(p) for p in hidden}
    decayed = {id(p) for p in decayed_weights(model)}
    groups: dict[tuple, list[nn.Parameter]] = defaultdict(list)
    for name, p in model.named_parameters():
        if p.requires_grad and id(p) not in chosen:
            groups[*rate_of(name, model, train), id(p) in decayed].append(p)
    if loss_parameters := list(loss_parameters):
        groups["loss", train.lr, False] = loss_parameters
    adamw = torch.optim.AdamW(
        [
            {"params": group, "name": name, "lr": lr, "weight_decay": train.weight_decay if decays else 0.0}
            for (name, lr, decays), group in groups.items()
        ],
        lr=train.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    if not hidden:
        return [adamw]
    bfloat16 = train.precision != "float32" and not bfloat16_is_slow(torch.device("cpu"))
    return [adamw, Muon(hidden, lr=train.muon_lr, weight_decay=train.weight_decay, bfloat16=bfloat16)]


def rate_of(name: str, model: AMT, train: TrainConfig) -> tuple[str, float]:
    """The group of the parameter of that name and AdamW's peak rate there.

    "pretrained N": N blocks below the last one of a backbone with loaded weights, ``pretrained_lr * layer_decay ** N`` (as
    Bao et al., "BEiT", 2022); its embeddings lie below its first block. "heads": ``head_lr``. "new": all others, ``lr``.
    """
    if name.startswith("backbone.model.") and model.backbone.pretrained:
        part, _, rest = name.removeprefix("backbone.model.").partition(".")
        depth = len(model.backbone.model.encoder.layer)
        if part == "embeddings":
            below = depth
        else:  # "encoder" with "layer.N.…", or the final norm
            below = depth - 1 - int(rest.split(".")[1]) if part == "encoder" else 0
        return f"pretrained {below}", train.pretrained_lr * train.layer_decay**below
    if name.startswith(HEADS):
        return "heads", train.lr if train.head_lr is None else train.head_lr
    return "new", train.lr


def head_weights(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of :data:`HEADS`. They start near zero, so adaptive clipping would hold them there."""
    return [p for name, p in model.named_parameters() if name.startswith(HEADS)]


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
