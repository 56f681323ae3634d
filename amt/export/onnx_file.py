"""ONNX: the traced program as one file, for ONNX Runtime and others."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import torch

from amt.export.formats import ExportError
from amt.export.program import output_names

LARGEST = 2_000_000_000  # bytes that one ONNX file can hold


def write_onnx(program: torch.export.ExportedProgram, path: Path, opset: int) -> None:
    """Writes the program as one ONNX file, weights included.

    Raises:
        ExportError: the opset lacks an op, or the weights do not fit into one file.
    """
    import onnx

    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    if size > LARGEST:
        raise ExportError(
            f"--to onnx: the weights take {size / 1e9:.1f} GB, one file holds 2 GB; take --to openvino or aoti"
        )
    # its progress goes to stdout, its advice to warnings
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(
            program, (), None, dynamo=True, opset_version=opset, output_names=output_names(program), external_data=False,
            verbose=False,
        )  # fmt: skip
        model = exported.model_proto
    found = {entry.domain: entry.version for entry in model.opset_import}
    if found.get("", 0) != opset:
        raise ExportError(f"--opset {opset}: the network comes out as opset {found.get('')}; give that number")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
