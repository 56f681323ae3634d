"""OpenVINO: the ONNX file as its own two files, and int8 by NNCF."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from unittest.mock import patch

from amt.export.crops import Arrays, rows
from amt.export.formats import OPENVINO_HINTS, ExportError

SCOPES = "pkg.torch.onnx.name_scopes"  # what the exporter notes at each node: the modules that it comes from
PRODUCTS = ("Convolution", "MatMul")
NOT_COMPUTED = ("Constant", "Parameter", "Result")


def write_openvino(
    onnx_path: Path, path: Path, calibration: Arrays | None = None, int8: Collection[str] = (), batch: int = 1
) -> int:
    """Writes ``path`` (.xml, and .bin beside it) from an ONNX file.

    Args:
        calibration: crops from which NNCF takes the ranges of int8 activations; None leaves the network in float32.
        int8: the modules whose products become int8.
        batch: images at once, of the ONNX file.

    Returns:
        How many products are int8.

    Raises:
        ExportError: a module's product is not int8 in the end.
    """
    import openvino

    model = openvino.convert_model(str(onnx_path))
    if calibration is not None and int8:
        nodes = nodes_of(onnx_path, int8)
        model = _quantised(model, nodes, calibration, batch)
        missing = nodes - _in_int8(model)
        if missing or not nodes:
            left = ", ".join(sorted(missing)) or "all"
            raise ExportError(f"--precision int8: NNCF left {left} in float32; take the versions of constraints.txt")
    openvino.save_model(model, str(path), compress_to_fp16=False)
    return len(_in_int8(model))


def _node(op) -> str:
    """The ONNX node that an operation of OpenVINO comes from: its name may have an ending."""
    return op.get_friendly_name().split("/")[0]


def _in_int8(model) -> set[str]:
    """The nodes whose products have a rounded input."""
    found = (op for op in model.get_ops() if op.get_type_name() in PRODUCTS)
    return {_node(op) for op in found if op.input_value(0).get_node().get_type_name() == "FakeQuantize"}


def _quantised(model, nodes: Collection[str], crops: Arrays, batch: int):
    import logging

    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    logging.getLogger("nncf").setLevel(logging.ERROR)
    # All others by name: NNCF would round what goes into sums, resizing and attention, too.
    computed = [op for op in model.get_ops() if op.get_type_name() not in NOT_COMPUTED]
    kept = [op.get_friendly_name() for op in computed if op.get_type_name() not in PRODUCTS or _node(op) not in nodes]
    count = len(crops["right"]) // batch * batch
    batches = [rows(crops, slice(i, i + batch)) for i in range(0, count, batch)]
    with patch.object(openvino, "Core", _core()):
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
            # The arithmetic by which amt.export.int8 chooses. The other ways were worse here (docs/log.md).
            advanced_parameters=AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.DISABLE,
                disable_bias_correction=True,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
                smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=-1),
            ),
        )


def _core() -> type:
    """OpenVINO's compiler with the hints without which activations are wrong; NNCF takes no hints for its calibration."""
    import openvino

    class Core(openvino.Core):
        def compile_model(self, model, device_name="CPU", config=None):
            return super().compile_model(model, device_name, OPENVINO_HINTS)

    return Core


def nodes_of(path: Path, modules: Collection[str]) -> set[str]:
    """The names of the convolutions and matrix products that come from these modules, in an ONNX file."""
    import onnx

    chosen = set()
    for node in onnx.load(path, load_external_data=False).graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "")
        inside = {name.removeprefix("model.") for name in re.findall(r"'([^']*)'", scopes)}
        if node.op_type in ("Conv", "MatMul", "Gemm") and inside & set(modules):
            chosen.add(node.name)
    return chosen
