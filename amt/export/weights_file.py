"""A checkpoint with matrices in FP8, for ``amt.load``: as many as a limit in millimetres allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from amt.export.crops import Arrays, tensors
from amt.export.differences import differences
from amt.export.program import Flat
from amt.model import AMT
from amt.model.checkpoint import CONFIG, WEIGHTS
from amt.model.fp8 import is_chosen
from amt.model.fp8_weights import pack, unpack

MOST_MM = 0.25  # mean movement of the joints on the crops that choose; 0.3 mm are allowed on others


def block_matrices(model: AMT) -> list[str]:
    """The names of the matrices that may be FP8: Q, K, V and MLPs of the transformer blocks."""
    return [n for n in model.state_dict() if n.endswith(".weight") and is_chosen(n.removesuffix(".weight"))]


def choose(model: AMT, names: Sequence[str], crops: Arrays, most_mm: float = MOST_MM) -> list[str]:
    """The matrices of ``names`` that together move the joints by at most ``most_mm`` on average over ``crops``.

    They are tried in the order of what each moves by itself over its size; one that exceeds the limit is left out. The model is
    as it was afterwards.
    """
    state = {name: value.clone() for name, value in model.state_dict().items()}
    given = tensors(crops)

    def answers() -> Arrays:
        with torch.inference_mode():
            return {name: value.numpy() for name, value in Flat(model)(**given).items()}

    def movement(chosen: Sequence[str]) -> float:
        model.load_state_dict(unpack(pack(state, chosen)))
        return differences(exact, answers())["joints_mm"]

    exact, chosen = answers(), []
    try:
        alone = {name: movement([name]) / state[name].numel() for name in names}
        for name in sorted(names, key=alone.__getitem__):
            if movement([*chosen, name]) <= most_mm:
                chosen.append(name)
    finally:
        model.load_state_dict(state)
    return chosen


def pack_folder(folder: Path, names: Sequence[str]) -> None:
    """Stores the matrices of these names in a checkpoint folder in FP8, in place."""
    from safetensors.torch import load_file, save_file

    state = pack(load_file(folder / WEIGHTS), names)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / WEIGHTS)
    record = json.loads((folder / CONFIG).read_text())
    record["weights"] = {"fp8": list(names)}
    (folder / CONFIG).write_text(json.dumps(record, indent=2) + "\n")
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors makes it readable for its owner only
