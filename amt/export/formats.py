"""The formats that a checkpoint is exported to: their files, precisions and packages. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from amt.errors import UserError

FLOAT32, FP8, INT8 = "float32", "fp8", "int8"
PRECISIONS = (FLOAT32, FP8, INT8)
RECORD = "export.json"  # what every export holds beside its model
# By itself a CPU may take bfloat16, in which a metre has steps of 4 to 8 mm. Its compiler of elementwise chains, the snippets,
# gives wrong numbers for this network in OpenVINO 2026.4 (docs/log.md).
OPENVINO_HINTS = {"INFERENCE_PRECISION_HINT": "f32", "SNIPPETS_MODE": "DISABLE"}
MOST_IMAGES = 1024  # at once
OPSET = 18  # of ONNX: the first with the minimum of scattered values, which the contact encoder needs


class ExportError(UserError, RuntimeError):
    """An export that cannot be made or opened; the message names it and the remedy."""


@dataclass(frozen=True)
class Format:
    """One form of the exported network."""

    name: str
    files: tuple[str, ...]
    precisions: tuple[str, ...]
    packages: tuple[str, ...] = ()  # of the extra ``export``, needed to write it in float32
    int8_packages: tuple[str, ...] = ()  # needed besides for int8
    runs_with: str = "PyTorch"

    def check(self, precision: str) -> None:
        """Raises ExportError where the format has no such precision, or a package is not installed."""
        if precision not in self.precisions:
            able = [f.name for f in FORMATS.values() if precision in f.precisions]
            raise ExportError(
                f"--precision {precision}: --to {self.name} has {', '.join(self.precisions)}; {precision} is written by "
                f"--to {' or '.join(able)}"
            )
        needed = (*self.packages, *(self.int8_packages if precision == INT8 else ()))
        missing = [name for name in needed if find_spec(name) is None]
        if missing:
            raise ExportError(
                f"--to {self.name}: the package {missing[0]} is not installed; pip install amt[export] brings it"
            )


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS = {
    f.name: f
    for f in (
        Format("safetensors", ("model.safetensors", "config.json"), (FLOAT32, FP8), runs_with="amt.load"),
        Format("torch-export", ("model.pt2",), (FLOAT32,), runs_with="torch.export.load"),
        Format("aoti", ("model.pt2",), (FLOAT32,), runs_with="torch._inductor.aoti_load_package, or C++"),
        Format("onnx", ("model.onnx",), (FLOAT32,), _ONNX, runs_with="ONNX Runtime"),
        Format(
            "openvino",
            ("model.xml", "model.bin"),
            (FLOAT32, INT8),
            ("onnx", "onnxscript", "openvino"),
            ("nncf",),
            runs_with="OpenVINO",
        ),
    )
}
