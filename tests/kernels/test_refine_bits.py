"""``refine``: the same bits always, whatever the run, the threads, the order of the images, the strides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from refine_cases import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    IMAGE_SIZE,
    compiled,
    forward,
    gradient_of,
    make,
    over,
    run,
)

from amt.kernels._triton import INTERPRETED

native = over(lambda i: i.name == "native")
# 30 images are more than the threads share: each thread takes chunks of its own
BATCHES = {"few": 2, "many": 30}


@pytest.fixture(autouse=True)
def rows_alike(monkeypatch):
    """In the interpreter a product is NumPy's, whose BLAS may round a row differently by its place in the tile."""
    if INTERPRETED:
        from triton.runtime import interpreter

        def matmul(a, b, dtype):
            return np.einsum("...ij,...jk->...ik", a, b, dtype=dtype)

        monkeypatch.setattr(interpreter.np, "matmul", matmul)


@over(compiled, dtypes=(FLOAT32, BFLOAT16, FLOAT16))
def test_two_runs_give_the_same_bits(implementation, dtype):
    case = make(batch=4, joints=3, detach=False, sizes=((4, 5, 30), (7, 6, 4))).to(implementation.device, dtype)
    once, twice = ([forward(f, case), *run(f, case)] for f in (implementation.function,) * 2)
    assert all(torch.equal(x, y) for x, y in zip(once, twice))


@over(compiled, dtypes=(FLOAT32, BFLOAT16))
@pytest.mark.parametrize("batch", [*BATCHES.values(), 4], ids=[*BATCHES, "three and one"])
def test_permuted_images_give_permuted_bits(batch, implementation, dtype):
    """Four images of 21 joints: on the CPU one of them stands alone, and its rows fill less than a packed tile."""
    if INTERPRETED and batch == BATCHES["many"]:
        batch = 5  # slow there
    case = make(batch=batch, joints=21 if not INTERPRETED else 3).to(implementation.device, dtype)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(3)).to(implementation.device)
    gradient = gradient_of(torch.empty(batch, 2, case.joints.shape[1], 3, device=implementation.device))

    def results(case, gradient):
        own = [x.detach().requires_grad_() for x in (case.joints, case.intrinsics, *case.maps)]
        steps = implementation.function(own[0], own[1], own[2:], *case.weights, IMAGE_SIZE, 1.0, case.detach)
        return [forward(implementation.function, case), steps.detach(), *torch.autograd.grad(steps, own, gradient)]

    permuted = replace(
        case, joints=case.joints[order], intrinsics=case.intrinsics[order], maps=tuple(m[order] for m in case.maps)
    )
    for x, y in zip(results(case, gradient), results(permuted, gradient[order])):
        assert torch.equal(x[order], y)


@over(lambda i: i.device == "cuda" and compiled(i), dtypes=(FLOAT32, BFLOAT16))
def test_two_runs_and_any_order_of_many_images_give_the_same_bits(implementation, dtype):
    case = make(batch=32, joints=21, hidden=256, sizes=((16, 16, 64), (8, 8, 64)), detach=False).to("cuda", dtype)
    once, twice = run(implementation.function, case), run(implementation.function, case)
    assert all(torch.equal(x, y) for x, y in zip(once, twice))
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0)).cuda()
    permuted = replace(
        case, joints=case.joints[order], intrinsics=case.intrinsics[order], maps=tuple(m[order] for m in case.maps)
    )
    assert torch.equal(run(implementation.function, permuted)[0], once[0][order])


@over(lambda i: i.name == "native", dtypes=(FLOAT32, BFLOAT16))
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_same_bits_for_any_number_of_threads(batch, implementation, dtype):
    """Enough units that a single image is worth several threads, and maps that begin and end within a thread's share."""
    case = make(batch=batch, joints=21, hidden=700, sizes=((9, 8, 40), (5, 5, 150)), detach=False).to("cpu", dtype)
    threads = torch.get_num_threads()
    results = []
    try:
        for n in sorted({1, 2, 3, threads}):
            torch.set_num_threads(n)
            results.append([forward(implementation.function, case), *run(implementation.function, case)])
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


@over(compiled, dtypes=(FLOAT32, BFLOAT16, FLOAT16, FLOAT64))
@pytest.mark.parametrize("shared", ["steps", "units", None])
def test_views_of_w1_give_the_same_bits(shared, implementation, dtype):
    case = make(batch=3, joints=21, sizes=((4, 5, 30), (7, 6, 18))).to(implementation.device, dtype)
    w1 = case.weights[0]
    wide = torch.full((3, 2 * w1.shape[1], w1.shape[2] + 5), float("nan"), dtype=w1.dtype, device=w1.device)
    wide[:2, ::2, 2:-3] = w1
    view = wide[:2, ::2, 2:-3]
    if shared == "steps":
        view = view[:1].expand_as(w1)
    if shared == "units":
        view = view[:, :1].expand_as(w1)
    ours, expected = (
        forward(implementation.function, replace(case, weights=(w, *case.weights[1:])))
        for w in (view, view.contiguous())
    )
    assert torch.equal(ours, expected)


@over(compiled)
def test_every_output_is_written(implementation):
    """Deterministic mode fills fresh memory with NaN."""
    case = make(batch=3, joints=21 if not INTERPRETED else 3, detach=False).to(implementation.device)
    expected = run(implementation.function, case)
    torch.use_deterministic_algorithms(True)
    try:
        filled = run(implementation.function, case)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(expected, filled))
