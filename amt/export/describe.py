"""What stands beside an exported model: export.json, the model card and the licence."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import amt
from amt.data.config import CropConfig
from amt.export.formats import FORMATS, OPENVINO_HINTS, RECORD
from amt.export.opened import Arrays
from amt.export.signature import INPUTS, OUTPUTS, Entry
from amt.hand.skeleton import JOINT_NAMES, SHIPPED_HAND
from amt.model.backbone import IMAGE_MEAN, IMAGE_STD
from amt.model.card import ROWS, model_card
from amt.model.checkpoint import CARD, weights_digest
from amt.model.config import ModelConfig

LICENCES = ("LICENSE", "NOTICE")
RUNTIMES = {
    "torch-export": ("torch",),
    "aoti": ("torch",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "nncf"),
}
USE = {  # FOLDER stands for the export's
    "safetensors": 'amt.load("FOLDER")',
    "torch-export": 'torch.export.load("FOLDER/model.pt2").module()',
    "aoti": 'torch._inductor.aoti_load_package("FOLDER/model.pt2")',
    "onnx": 'onnxruntime.InferenceSession("FOLDER/model.onnx")',
    "openvino": f'openvino.Core().compile_model("FOLDER/model.xml", "CPU", {json.dumps(OPENVINO_HINTS)})',
}


def describe(
    checkpoint: Path,
    config: ModelConfig,
    record: dict[str, Any],
    metrics: dict[str, Any] | None,
    form: str,
    precision: str,
    batch: int | None,
    examples: tuple[Arrays, Arrays],
    checked: dict[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """export.json's content.

    Args:
        checkpoint: the folder that was exported.
        record: its config.json; ``metrics``: its metrics.json.
        batch: images at once; None: any number.
        examples: inputs and outputs, which tell the shapes.
        checked: how far the file's answers are from the checkpoint's, and on what.
        more: further entries, such as the opset.
    """
    crop = (record.get("data") or {}).get("crop") or {}
    scale = crop.get("box_scale", CropConfig.box_scale)
    size = config.crop_size
    return {
        "format": form,
        "precision": precision,
        "batch": batch,
        "files": list(FORMATS[form].files),
        "runs_with": FORMATS[form].runs_with,
        "amt": amt.__version__,
        "versions": {name: importlib.metadata.version(name) for name in RUNTIMES.get(form, ()) if _installed(name)},
        "checkpoint": {"name": checkpoint.resolve().name, "sha256": weights_digest(checkpoint), "size": config.size},
        "licence": _licence(config, form),
        **({"hints": OPENVINO_HINTS} if form == "openvino" else {}),
        **more,
        "inputs": _listed(INPUTS, examples[0], batch),
        "outputs": _listed(OUTPUTS, examples[1], batch),
        "preprocessing": {
            "box": f"a square (cx, cy, side; px) whose centre is that of the tight box around the hand's 21 joints in the "
            f"picture, {scale:g} times as wide as the longer side of that box",
            "crop": f"{size} x {size} px: x' = (x - cx) * {size} / side + {(size - 1) / 2:g}, y' alike; pixel centres are whole "
            f"numbers; bilinear, zeros outside; where side > {size / 0.375:.0f} px, the picture is first averaged down by "
            f"floor(0.75 * side / {size})",
            "intrinsics": f"K of the crop: fx' = fx * {size} / side, fy' alike; cx' = (K_cx - cx) * {size} / side + "
            f"{(size - 1) / 2:g}, cy' alike",
            "colour": "RGB, 8 bits a channel",
            "normalisation": {"where": "inside the network", "mean": list(IMAGE_MEAN), "std": list(IMAGE_STD)},
            "left_hands": "mirrored inside the network, and mirrored back",
        },
        "joint_names": list(JOINT_NAMES),
        "frame": "metres, the camera's frame: x right, y down, z forward; cropping does not change it",
        "metrics": None if metrics is None else _figures(metrics),
        "checked": checked,
    }


def write_beside(
    part: Path, title: str, content: dict[str, Any], record: dict[str, Any], metrics: dict[str, Any] | None
) -> None:
    """Writes export.json, the model card and the licence into a folder."""
    (part / RECORD).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    use = f"```python\n{USE[content['format']].replace('FOLDER', title)}\n```\n\n{RECORD} says what goes in and what comes out."
    (part / CARD).write_text(model_card(title, record, metrics, use))
    for name in LICENCES:
        (part / name).write_text(_licence_text(name))


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    names = ("data", "split", "subset", "protocol", "box", "frames", *(key for _, key in ROWS))
    return {name: metrics[name] for name in names if name in metrics}


def _listed(entries: tuple[Entry, ...], arrays: Arrays, batch: int | None) -> list[dict[str, Any]]:
    return [
        {
            "name": entry.name,
            "dtype": entry.dtype,
            "shape": ["B" if batch is None else batch, *arrays[entry.name].shape[1:]],
            "unit": entry.unit,
            "meaning": entry.meaning,
        }
        for entry in entries
        if entry.name in arrays
    ]


def _licence(config: ModelConfig, form: str) -> str:
    data = "weights also stand under the terms of what they were trained on"
    if config.hand == SHIPPED_HAND or form == "safetensors":  # which holds no hand
        return f"Apache-2.0, see LICENSE and NOTICE; {data}"
    return f"Apache-2.0 but for MANO's arrays, which are inside: MANO's licence forbids to pass this file on; {data}"


def _licence_text(name: str) -> str:
    """A licence file, of the installed package or of the checkout."""
    beside = Path(amt.__file__).parent.parent / name
    if beside.is_file():
        return beside.read_text()
    found = [f for f in importlib.metadata.files("amt") or () if f.name == name]
    return found[0].read_text()


def _installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False
