"""An export, opened with the runtime of its format: NumPy arrays in, NumPy arrays out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from amt.export.formats import FORMATS, OPENVINO_HINTS, RECORD, ExportError

Arrays = dict[str, np.ndarray]


class Export:
    """What ``python -m amt.export`` wrote, on the CPU. ``export(crops)`` gives the outputs by name.

    Args:
        folder: holds export.json and the files that it names.
        threads: CPU threads of the runtime; 0 leaves its choice.

    Raises:
        ExportError: the folder holds no export, a file is missing, or the runtime is not installed.
    """

    def __init__(self, folder: str | Path, threads: int = 0):
        self.folder = Path(folder)
        self.record = read_record(self.folder)
        self.batch: int | None = self.record["batch"]  # images at once; None: any number
        form = FORMATS[self.record["format"]]
        for name in form.files:
            if not (self.folder / name).is_file():
                raise ExportError(f"{self.folder / name} is missing; export the checkpoint again")
        try:
            self._run: Callable[[Arrays], Arrays] = _RUNNERS[form.name](self.folder, threads)
        except ModuleNotFoundError as error:
            raise ExportError(
                f"{self.folder}: the package {error.name} is not installed; pip install amt[export]"
            ) from error

    def __call__(self, crops: Arrays) -> Arrays:
        """The outputs for one crop or more; the last batch of a file of fixed size is filled with its last crop.

        Raises:
            ExportError: an input is missing, or has another shape or dtype than export.json says.
        """
        names = [entry["name"] for entry in self.record["inputs"]]
        missing = [name for name in names if name not in crops]
        if missing:
            raise ExportError(f"{missing[0]}: missing among the inputs; there must be {', '.join(names)}")
        count = len(crops[names[0]])
        for entry in self.record["inputs"]:
            _check_input(entry, crops[entry["name"]], count)
        size = self.batch or count
        parts = []
        for start in range(0, count, size):
            chosen = np.arange(start, start + size).clip(max=count - 1)
            parts.append(self._run({name: np.ascontiguousarray(crops[name][chosen]) for name in names}))
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def _check_input(entry: dict[str, Any], array: np.ndarray, count: int) -> None:
    rest = entry["shape"][1:]
    if str(array.dtype) != entry["dtype"] or list(array.shape) != [count, *rest] or not count:
        wanted = ", ".join(str(size) for size in (count or "1 or more", *rest))
        raise ExportError(
            f"{entry['name']}: expected {entry['dtype']} [{wanted}], got {array.dtype} {list(array.shape)}; {RECORD} says how "
            "crops are made"
        )


def open_export(folder: str | Path, threads: int = 0) -> Export:
    """The export in a folder, ready to run; see :class:`Export`."""
    return Export(folder, threads)


def read_record(folder: Path) -> dict[str, Any]:
    """export.json's content. Raises ExportError where it is none."""
    try:
        record = json.loads((folder / RECORD).read_text())
    except OSError as error:
        raise ExportError(f"{folder}: holds no {RECORD} ({error.strerror}); python -m amt.export writes one") from error
    except ValueError as error:
        raise ExportError(f"{folder / RECORD} is not JSON ({error}); export the checkpoint again") from error
    if not isinstance(record, dict) or record.get("format") not in FORMATS or "inputs" not in record:
        raise ExportError(f"{folder / RECORD} describes no export of this version; export the checkpoint again")
    return record


def _torch_runner(load: Callable[[Path], Callable]) -> Callable[[Path, int], Callable[[Arrays], Arrays]]:
    def open_it(folder: Path, threads: int) -> Callable[[Arrays], Arrays]:
        import torch

        if threads:
            torch.set_num_threads(threads)
        forward = load(folder)

        def run(crops: Arrays) -> Arrays:
            with torch.inference_mode():
                found = forward(**{name: torch.from_numpy(array) for name, array in crops.items()})
            return {name: value.numpy() for name, value in found.items()}

        return run

    return open_it


def _safetensors(folder: Path) -> Callable:
    from amt.export.program import Flat
    from amt.model.loading import load_checkpoint

    return Flat(load_checkpoint(folder)[0])


def _torch_export(folder: Path) -> Callable:
    import torch

    return torch.export.load(folder / "model.pt2").module()


def _aoti(folder: Path) -> Callable:
    from amt.kernels._torch_private import aoti_load_package

    return aoti_load_package(str(folder / "model.pt2"))


def _onnx(folder: Path, threads: int) -> Callable[[Arrays], Arrays]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )  # fmt: skip
    names = [output.name for output in session.get_outputs()]
    return lambda crops: dict(zip(names, session.run(names, crops)))


def _openvino(folder: Path, threads: int) -> Callable[[Arrays], Arrays]:
    import openvino

    hints = {**OPENVINO_HINTS, "PERFORMANCE_HINT": "LATENCY", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
    compiled = openvino.Core().compile_model(str(folder / "model.xml"), "CPU", hints)
    names = [output.any_name for output in compiled.outputs]
    request = compiled.create_infer_request()
    return lambda crops: {
        name: value.copy() for name, value in zip(names, request.infer(crops, share_inputs=True).values())
    }


_RUNNERS: dict[str, Callable[[Path, int], Callable[[Arrays], Arrays]]] = {
    "safetensors": _torch_runner(_safetensors),
    "torch-export": _torch_runner(_torch_export),
    "aoti": _torch_runner(_aoti),
    "onnx": _onnx,
    "openvino": _openvino,
}
