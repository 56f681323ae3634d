"""Correct first: what is wrong gets no time; and the figures that are derived are the ones that were measured."""

import math
from dataclasses import replace

import pytest
import torch

from benchmarks import harness
from benchmarks.harness import Case, Incorrect, Rival, measure

CPU = torch.device("cpu")
CEILINGS = {"copy_gb_s": 10.0, "matrix_tflop_s": {"float32": 0.1}}


def square(x, weights):
    return (x * x) @ weights[0]


def case(**changes) -> Case:
    def inputs(generator):
        return torch.randn(8, 8, generator=generator), (torch.randn(8, 4, generator=generator),)

    start = Case("square", {"B": 8}, torch.float32, CPU, inputs, square, square, flops=1e6, bytes=1e3, compile=False)
    return replace(start, **changes)


def test_record_says_what_was_measured_and_derives_from_the_times():
    record = measure(
        case(samples=8, rivals={"twice": lambda x, w: (square(x, w) + square(x, w)) / 2}), CEILINGS, quick=True
    )
    assert (record["op"], record["pass"], record["dtype"], record["device"]) == ("square", "forward", "float32", "cpu")
    median = {name: spread["median"] for name, spread in record["times_ms"].items()}
    assert set(median) == {"ours", "eager", "twice"}
    assert record["ours_ms"] == median["ours"]
    assert record["ratio_eager"] == pytest.approx(median["eager"] / median["ours"], abs=1e-3)
    best = min(("eager", "twice"), key=median.get)
    assert (record["best_rival"], record["ratio_best"]) == (
        best,
        pytest.approx(median[best] / median["ours"], abs=1e-3),
    )
    assert record["tflop_s"] == pytest.approx(1e6 / median["ours"] * 1e3 / 1e12, rel=0.1, abs=1e-5)
    assert record["matrix_share"] == pytest.approx(record["tflop_s"] / 0.1, abs=1e-4)
    assert record["copy_share"] == pytest.approx(record["gb_s"] / 10, abs=1e-4)
    assert record["samples_s"] == pytest.approx(8e3 / median["ours"], rel=1e-2)
    assert set(record["peak_memory_mb"]) == {"ours", "eager", "twice"}
    assert record["launches"]["twice"] > record["launches"]["ours"]
    assert record["error"]["ours"] < 1e-6


def test_wrong_result_gets_no_time():
    with pytest.raises(Incorrect, match=r"square-B8-float32-forward: result 0 of ours is off by 0.001"):
        measure(case(ours=lambda x, w: square(x, w) * 1.001), CEILINGS, quick=True)


def test_nan_gets_no_time():
    with pytest.raises(Incorrect, match="off by nan"):
        measure(case(ours=lambda x, w: square(x, w) * math.nan), CEILINGS, quick=True)


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 1.01


def test_wrong_gradient_gets_no_time():
    wrong = case(ours=lambda x, w: square(_WrongGradient.apply(x), w), backward=True)
    with pytest.raises(Incorrect, match=r"result 1 of ours is off by 0\.01"):  # 0 is the output, 1 the gradient of x
        measure(wrong, CEILINGS, quick=True)
    assert measure(replace(wrong, backward=False), CEILINGS, quick=True)["pass"] == "forward"


def test_constants_need_no_gradient():
    record = measure(
        case(ours=lambda x, w: square(x, (w[0].detach(),)), eager=square, backward=True, constants=(1,)), {}, quick=True
    )
    assert record["pass"] == "forward+backward"
    with pytest.raises(Incorrect, match="result 2 of ours is off by inf"):
        measure(case(ours=lambda x, w: square(x, (w[0].detach(),)), backward=True), {}, quick=True)


def test_rival_that_is_wrong_or_fails_is_named_and_not_timed():
    def broken(x, w):
        raise RuntimeError("needs a newer card\nand more")

    record = measure(case(rivals={"off": lambda x, w: square(x, w) + 1, "broken": broken}), CEILINGS, quick=True)
    assert set(record["times_ms"]) == {"ours", "eager"}
    assert "result 0 of off is off by" in record["unavailable"]["off"]
    assert record["unavailable"]["broken"] == "RuntimeError: needs a newer card"


def test_rival_prepares_its_own_layout_outside_the_clock():
    prepared = []

    def prepare(x, w):
        prepared.append(1)
        return x.T.contiguous(), w

    rival = Rival(lambda x, w: square(x.T, w), prepare)
    record = measure(case(rivals={"transposed": rival}, backward=True), CEILINGS, quick=True)
    assert "transposed" in record["times_ms"]
    assert len(prepared) <= 1 + harness.MAX_SETS  # once for the check, once a set, never in a round


def test_bound_takes_the_place_of_the_error_rule():
    rough = case(ours=lambda x, w: square(x, w) * 1.03)
    assert measure(replace(rough, bound=0.05), {}, quick=True)["error"]["ours"] == pytest.approx(0.03, rel=1e-3)
    with pytest.raises(Incorrect, match=r"0.02 allowed"):
        measure(replace(rough, bound=0.02), {}, quick=True)


def test_variant_called_ours_counts_as_ours_and_another_does_not():
    def slow(x, w):
        for _ in range(200):
            out = square(x, w)
        return out

    record = measure(case(ours=slow, variants={"ours other": square, "triton": slow}), CEILINGS, quick=True)
    assert record["ours_ms"] == record["times_ms"]["ours other"]["median"]
    assert record["variants"] == ["ours other", "triton"]
    assert "triton" not in record["peak_memory_mb"]


def test_the_host_s_share_is_what_the_gpu_does_not_work_of_a_single_call():
    times, busy = {"ours": {"median": 4.0}, "eager": {"median": 8.0}}, {"ours": 1.0, "eager": 6.0}
    record = {"times_ms": times, "gpu_ms": busy, "dtype": "float32"}
    harness._derive(record, case(), {})
    assert record["host_share"] == 0.75
    assert "host_share" not in measure(case(), {}, quick=True)  # a CPU is its own host


def test_verify_takes_the_place_of_the_comparison():
    assert measure(case(verify=lambda: {"ours": 0.25}), {}, quick=True)["error"] == {"ours": 0.25}


def test_compiled_is_a_rival():
    record = measure(case(compile=True), CEILINGS, limit=0.0)
    assert record["compiled_ms"] == record["times_ms"]["compiled"]["median"]
    assert "compiled" not in measure(case(compile=True), CEILINGS, limit=0.0, compiled=False)["times_ms"]


@pytest.mark.parametrize(("size", "sets"), [(16, harness.MAX_SETS), (1 << 20, harness.MAX_SETS), (256 << 20, 2)])
def test_inputs_rotate_until_they_leave_the_cache(size, sets):
    inputs = (torch.empty(size, dtype=torch.uint8),)
    assert harness._num_sets(inputs, CPU, quick=False) == sets
    assert harness._num_sets(inputs, CPU, quick=True) == 2
