"""OpenVINO: the ONNX file as its own two files, and int8 by NNCF."""

from __future__ import annotations

from pathlib import Path

from amt.export.crops import Arrays, rows

SCOPES = "pkg.torch.onnx.name_scopes"  # what the exporter notes at each node: the modules that it comes from
# Modules whose products are int8. What they give are features; all that is metres, angles or logits stays float32.
QUANTISED = ("model.backbone.", "model.neck.", "model.fusion.")


def write_openvino(onnx_path: Path, path: Path, calibration: Arrays | None = None, batch: int = 1) -> int:
    """Writes ``path`` (.xml, and .bin beside it) from an ONNX file.

    Args:
        calibration: crops from which NNCF takes the ranges of int8 activations; None leaves the network in float32.
        batch: images at once, of the ONNX file.

    Returns:
        How many products are int8.
    """
    import openvino

    model, count = openvino.convert_model(str(onnx_path)), 0
    if calibration is not None:
        nodes = quantised_nodes(onnx_path)
        model, count = _quantised(model, nodes, calibration, batch), len(nodes)
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return count


def _quantised(model, nodes: list[str], crops: Arrays, batch: int):
    import logging

    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    others = [op.get_friendly_name() for op in model.get_ops() if op.get_type_name() in ("MatMul", "Convolution")]
    kept = [name for name in others if name not in nodes]
    count = len(crops["right"]) // batch * batch
    batches = [rows(crops, slice(i, i + batch)) for i in range(0, count, batch)]
    return nncf.quantize(
        model,
        nncf.Dataset(batches),
        subset_size=len(batches),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
    )


def quantised_nodes(path: Path) -> list[str]:
    """The names of the convolutions and matrix products of :data:`QUANTISED` modules in an ONNX file."""
    import onnx

    chosen = []
    for node in onnx.load(path, load_external_data=False).graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
        if node.op_type in ("Conv", "MatMul", "Gemm") and any(f"'{name}" in scopes for name in QUANTISED):
            chosen.append(node.name)
    return chosen
