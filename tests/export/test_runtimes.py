"""ONNX Runtime, OpenVINO and AOTInductor run what is written for them, here the whole command. Needs the extra ``export``.

Each export takes a minute and more: CI, which does not install the extra, checks the traced program, test_program.py.
"""

import json

import numpy as np
import pytest
from test_program import run_alone

from amt.export import open_export
from amt.export.__main__ import main
from amt.export.crops import rows
from amt.export.differences import TOLERANCE_MM, differences

pytestmark = pytest.mark.slow
onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def onnx_export(checkpoint, tmp_path_factory):
    """Of any number of images."""
    out = tmp_path_factory.mktemp("runtimes") / "onnx"
    assert main([str(checkpoint), "--to", "onnx", "--batch", "dynamic", "--out", str(out)]) == 0
    return out


def test_onnx_runtime_agrees_for_any_number_of_images(onnx_export, crops, expected):
    session = onnxruntime.InferenceSession(str(onnx_export / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for count in (1, 3, 5):
        found = dict(zip(names, session.run(names, rows(crops, slice(count)))))
        assert differences(rows(expected, slice(count)), found)["largest_mm"] < TOLERANCE_MM
    assert json.loads((onnx_export / "export.json").read_text())["checked"]["largest_mm"] < TOLERANCE_MM
    (opset,) = [entry.version for entry in onnx.load(onnx_export / "model.onnx").opset_import if entry.domain == ""]
    assert opset == 18


def test_openvino_agrees_and_int8_is_what_was_chosen(onnx_export, model, crops, expected, tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    from amt.export.formats import RECORD
    from amt.export.int8 import products, scopes
    from amt.export.openvino_file import write_openvino

    record = json.loads((onnx_export / RECORD).read_text()) | {"format": "openvino"}
    (tmp_path / RECORD).write_text(json.dumps(record))
    assert write_openvino(onnx_export / "model.onnx", tmp_path / "model.xml") == 0
    assert differences(expected, open_export(tmp_path)(crops))["largest_mm"] < TOLERANCE_MM
    size = (tmp_path / "model.bin").stat().st_size
    every = list(products(model))
    chosen = [name for name in every if name.startswith("fusion.") or name.endswith("convolution.0")]
    assert write_openvino(onnx_export / "model.onnx", tmp_path / "model.xml", crops, scopes(model, chosen)) == len(
        chosen
    )
    found = open_export(tmp_path)(crops)
    assert (tmp_path / "model.bin").stat().st_size < size
    assert 0 < differences(expected, found)["joints_mm"] < 20  # an untrained network, whose maps are flat
    assert np.isfinite(found["joints"]).all()
    assert write_openvino(onnx_export / "model.onnx", tmp_path / "model.xml", crops, scopes(model, every)) == len(every)


def test_the_compiled_library_runs_in_a_process_without_this_package(checkpoint, crops, expected, tmp_path):
    out = tmp_path / "aoti"
    assert main([str(checkpoint), "--to", "aoti", "--out", str(out)]) == 0
    found = run_alone("aoti", out, rows(crops, slice(1)))
    assert differences(rows(expected, slice(1)), found)["largest_mm"] < TOLERANCE_MM
