"""One export, from start to end: trace, write, run what was written, and say how far its answers are off."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from amt.data.config import CropConfig, DataConfig
from amt.export.crops import Arrays, made_crops, rows, set_crops, tensors
from amt.export.describe import describe, write_beside
from amt.export.differences import differences
from amt.export.formats import FP8, INT8, OPSET, RECORD, ExportError
from amt.export.int8 import choose as choose_int8
from amt.export.int8 import scopes
from amt.export.onnx_file import write_onnx
from amt.export.opened import open_export
from amt.export.openvino_file import write_openvino
from amt.export.program import Flat, trace
from amt.export.torch_files import write_package, write_program
from amt.export.weights_file import block_matrices, choose, pack_folder
from amt.files import new_folder
from amt.kernels import use
from amt.model import AMT

MADE = 4  # crops on which an export is checked where no set is given
CHOOSING = 32  # crops that choose what is FP8 or int8


@dataclass(frozen=True)
class Wish:
    """What is to be written."""

    form: str
    precision: str = "float32"
    batch: int | None = 1  # images at once; None: any number
    opset: int = OPSET
    crops: int = 300  # of a set: so many choose or calibrate, and as many others tell how far the answers are off
    device: str = "cpu"  # that the compiled library runs on


def export(
    checkpoint: Path, out: Path, wish: Wish, hand: str, data: DataConfig | None = None, kernels: str = "auto"
) -> dict[str, Any]:
    """Writes an export of a checkpoint folder into ``out``, and returns export.json's content.

    Args:
        out: appears whole; an export that is there is replaced.
        hand: path of MANO_RIGHT.pkl, or AMT's own hand.
        data: the set whose validation crops are taken; None: crops are made.
        kernels: the implementation of the ops that the checkpoint's own answers come from.

    Raises:
        ExportError: the folder holds something else, or the format cannot hold the network.
    """
    check_free(out)
    model = AMT.from_pretrained(checkpoint, hand=hand)
    record = {"model": model.config.as_dict(), **model.origin.record}
    calibration, crops = _crops(data, wish, record)
    with torch.inference_mode(), use(kernels):
        expected = {name: value.numpy() for name, value in Flat(model)(**tensors(crops)).items()}
    with new_folder(out) as part:
        more = _write(model, part, wish, rows(crops, slice(wish.batch or 2)), calibration)
        described = partial(
            describe, checkpoint, model.config, record, model.origin.metrics, wish.form, wish.precision, wish.batch,
            (crops, expected), **more,
        )  # fmt: skip
        (part / RECORD).write_text(json.dumps(described({})))  # which tells how to open it
        found = differences(expected, open_export(part)(crops)) if wish.device == "cpu" else {}
        where = "made" if data is None else "the validation set"
        content = described({"crops": len(crops["right"]), "of": where, **found})
        write_beside(part, out.resolve().name, content, record, model.origin.metrics)
    return content


def check_free(out: Path) -> None:
    """Raises ExportError where ``out`` cannot become an export without losing other files."""
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise ExportError(f"--out {out}: holds other files; name a new folder, or that of an earlier export")
    if out.exists() and not out.is_dir():
        raise ExportError(f"--out {out}: is a file; name a folder")


def _crops(data: DataConfig | None, wish: Wish, record: dict[str, Any]) -> tuple[Arrays, Arrays]:
    """Crops that calibrate, and others to compare answers on."""
    least, look = wish.batch or 2, record["model"].get("pose_search", False)
    if data is None:
        points = ((record.get("data") or {}).get("crop") or {}).get("num_points", CropConfig.num_points)
        if not isinstance(points, int) or points < 1:
            raise ExportError(
                f"config.json: data.crop.num_points must be 1 or more; got {points!r}; copy the checkpoint again"
            )
        made = made_crops(max(MADE, least), record["model"]["crop_size"], points, look)
        return made, made
    found = set_crops(data, "val", 2 * max(wish.crops, least), look)
    if len(found["right"]) < 2 * least:
        raise ExportError(
            f"--batch {least}: the validation set holds {len(found['right'])} crops and needs twice the batch; take a smaller one"
        )
    return rows(found, slice(0, None, 2)), rows(found, slice(1, None, 2))


def _write(model: AMT, part: Path, wish: Wish, example: Arrays, calibration: Arrays) -> dict[str, Any]:
    """Writes the files of the format; returns what export.json says of them besides."""
    if wish.form == "safetensors":
        model.save_pretrained(part)
        if wish.precision != FP8:
            return {}
        names = block_matrices(model)
        chosen = choose(model, names, rows(calibration, slice(CHOOSING)))
        pack_folder(part, chosen)
        return {"fp8": chosen, "left_float32": [name for name in names if name not in chosen]}
    chosen, left = choose_int8(model, rows(calibration, slice(CHOOSING))) if wish.precision == INT8 else ([], [])
    on_device = tensors(example, wish.device)
    program = trace(model.to(wish.device), on_device, dynamic=wish.batch is None)
    model.to("cpu")
    if wish.form == "torch-export":
        write_program(program, part / "model.pt2")
        return {}
    if wish.form == "aoti":
        write_package(program, part / "model.pt2")
        return {"device": wish.device}
    if wish.form == "onnx":
        write_onnx(program, part / "model.onnx", wish.opset)
        return {"opset": wish.opset}
    with TemporaryDirectory() as temporary:
        write_onnx(program, Path(temporary, "model.onnx"), wish.opset)
        ranges = calibration if wish.precision == INT8 else None
        modules = scopes(model, chosen)
        write_openvino(Path(temporary, "model.onnx"), part / "model.xml", ranges, modules, wish.batch or 1)
    return {"opset": wish.opset, **({"int8": chosen, "left_float32": left} if wish.precision == INT8 else {})}
