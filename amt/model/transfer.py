"""A model that begins with the weights of another: what fits is taken over, and what is not is said, part by part."""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor

from amt.hand.mano import NUM_BETAS, NUM_MANO_JOINTS
from amt.model.amt import AMT
from amt.model.checkpoint import HAND, WEIGHTS, CheckpointError, own_weights, read_record
from amt.model.config import ModelConfig
from amt.model.hub import local_folder

log = logging.getLogger(__name__)
SHAPES = slice(NUM_MANO_JOINTS * 6, NUM_MANO_JOINTS * 6 + NUM_BETAS)  # rows of the heads that answer with betas
SHAPE_HEADS = tuple(
    f"{head}.2.{kind}" for head in ("coarse_decoder.hand_head", "hand_decoder.head") for kind in ("weight", "bias")
)


def begin_from(config: ModelConfig, source: str | Path) -> AMT:
    """A new model of ``config`` on the CPU, with the weights of the checkpoint ``source`` wherever they fit.

    A tensor fits where name and shape are the same. With another hand model, the rows of betas stay new: the ten numbers belong
    to that hand's own space of shapes. Each part of the model is reported by one line of the log.

    Args:
        source: a checkpoint's folder, or a name on the Hugging Face Hub.

    Raises:
        CheckpointError: it cannot be read, or nothing of it fits.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = local_folder(source)
    record = read_record(folder)
    try:
        saved = own_weights(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS} cannot be loaded: {error}; copy the folder again") from error
    config = deepcopy(config)
    config.backbone.weights, config.backbone.require_pretrained = "none", False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*starts at random")  # not for long
        model = AMT(config)
    reasons = take_over(model, saved, same_hand=record.get(HAND) == model.mano.digest)
    lines = describe(model, reasons)
    if len(reasons) == len(model.state_dict()):
        raise CheckpointError(f"{folder}: nothing of it fits this model; take its own settings (leave model=… out)")
    log.info("beginning with the weights of %s\n%s", source, "\n".join(f"  {line}" for line in lines))
    if not any(name.startswith("backbone.") for name in reasons):
        model.backbone.pretrained = True
    return model


@torch.no_grad()
def take_over(model: AMT, saved: dict[str, Tensor], same_hand: bool) -> dict[str, str]:
    """Copies the saved tensors that fit. Returns why each of the others stays new, by name."""
    reasons = {}
    for name, own in model.state_dict().items():
        value = saved.get(name)
        if value is None:
            reasons[name] = "not in the checkpoint"
        elif value.shape != own.shape:
            reasons[name] = f"{list(value.shape)} there, {list(own.shape)} here"
        elif name in SHAPE_HEADS and not same_hand:
            before = own[SHAPES].clone()
            own.copy_(value)
            own[SHAPES] = before
            reasons[name] = "the rows of betas stay new: another hand"
        else:
            own.copy_(value)
    return reasons


def describe(model: AMT, reasons: dict[str, str]) -> list[str]:
    """One line a part: how many of its tensors were taken over, and why not the others."""
    parts: dict[str, list[str]] = defaultdict(list)
    for name in model.state_dict():
        parts[name.partition(".")[0]].append(name)
    lines = []
    for part, names in parts.items():
        new = [name for name in names if name in reasons]
        line = f"{part}: {len(names) - len(new)} of {len(names)} tensors"
        why: dict[str, list[str]] = defaultdict(list)
        for name in new:
            why[reasons[name]].append(name.partition(".")[2] or name)
        some = [f"{_named(group)} ({reason})" for reason, group in why.items()]
        lines.append(line + (f"; new: {', '.join(some)}" if some else ""))
    return lines


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
