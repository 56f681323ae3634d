"""What compute-sanitizer watches is every op; here each runs once on the CPU."""

import pytest
import torch
from helpers import interpreted

from amt.kernels import _backend
from benchmarks import sanitize


def test_no_op_is_left_out():
    assert set(sanitize.OPS) == set(_backend.registered())


def test_every_native_op_runs(capsys):
    assert sanitize.main(["--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for op in sanitize.OPS:
        for name, reason in _backend.explain(op, torch.device("cpu"), torch.float32):
            if name == "native" and reason is None:
                assert f"{op} native torch.float32: ran" in said
    assert "runs on cpu" in said


@interpreted
@pytest.mark.parametrize(
    "op", [op for op in sanitize.OPS if op not in ("fp8_linear", "normalize")]
)  # they have no Triton
def test_triton_runs_what_the_sanitizer_watches(op):
    device, ran = torch.device("cpu"), 0
    for dtype in (torch.float32, torch.bfloat16):
        if dict(_backend.explain(op, device, dtype))["triton"] is None:
            with _backend.use("triton"):
                sanitize.OPS[op](device, dtype).float().sum().backward()
            ran += 1
    assert ran
