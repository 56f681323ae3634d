"""``refine``: what it promises, whatever implementation runs. test_refine_bits.py has the same bits always, test_refine_torch.py
PyTorch's own checks, test_refine_arguments.py bad input and the choice, test_refine_compiled.py code for GPUs without a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refine_cases import (
    BEYOND_PLAIN,
    BFLOAT16,
    CASES,
    EMPTY,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    IMAGE_SIZE,
    IMPLEMENTATIONS,
    LARGE,
    check,
    check_forward,
    compiled,
    forward,
    gradient_of,
    make,
    over,
    plain,
    run,
)

from amt.kernels._triton import INTERPRETED
from amt.kernels.refine import reference
from amt.kernels.refine.choice import CUDA_MAX_JOINTS

ALL = (FLOAT32, BFLOAT16, FLOAT16, FLOAT64)


def case_for(name: str, implementation, dtype: torch.dtype = FLOAT32):
    if INTERPRETED and name in LARGE:
        pytest.skip("takes a minute in the interpreter")
    if implementation.chosen_by == "triton" and dtype == FLOAT16 and name == "huge":
        pytest.skip(
            "nothing to compare with: plain PyTorch overflows, and the definition does not round samples to float16"
        )
    case = (CASES | EMPTY)[name]()
    if implementation.chosen_by == "cuda" and case.joints.shape[1] > CUDA_MAX_JOINTS:
        pytest.skip("CUDA takes at most 128 joints: see test_more_joints_than_cuda_takes_are_refused")
    return case.to(implementation.device, dtype)


@over()
def test_impulse_is_seen_by_the_joint_over_it(implementation):
    """One bright cell of each map, one joint over each: intrinsics count the image's pixels, not a map's cells."""
    height, width = 48, 64
    maps, pixels = [], []
    for m, (rows, columns, y, x) in enumerate([(6, 8, 4, 6), (12, 16, 2, 9), (3, 4, 2, 0)]):
        feature_map = torch.zeros(1, rows, columns, 3)
        feature_map[0, y, x, m] = 1.0
        maps.append(feature_map)
        pixels.append([(x + 0.5) * width / columns - 0.5, (y + 0.5) * height / rows - 0.5])
    focal, centre, depth = 100.0, torch.tensor([30.0, 20.0]), 0.8
    xy = (torch.tensor(pixels) - centre) / focal * depth
    joints = torch.cat([xy, torch.full((3, 1), depth)], dim=1)[None]
    intrinsics = torch.tensor([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])[None]
    # the offset is gelu(channel m of map m) along axis m
    w1 = torch.zeros(1, 3, 9 + 3)
    w1[0, [0, 1, 2], [0, 4, 8]] = 1.0
    weights = (w1, torch.zeros(1, 3, 3), torch.eye(3)[None], torch.zeros(1, 3))
    joints, intrinsics, *rest = (x.to(implementation.device) for x in (joints, intrinsics, *maps, *weights))
    steps = implementation.function(joints, intrinsics, rest[:3], *rest[3:], (height, width), 1.0, True)
    seen = torch.nn.functional.gelu(torch.ones(()))
    torch.testing.assert_close((steps[0, 0] - joints[0]).cpu(), seen * torch.eye(3), atol=1e-5, rtol=0)


@over()
def test_steps_halve(implementation):
    case = make(steps=3).to(implementation.device)
    zero = [torch.zeros_like(w) for w in case.weights[:3]]
    ones = torch.ones(3, 3, device=implementation.device)
    steps = implementation.function(case.joints, case.intrinsics, case.maps, *zero, ones, IMAGE_SIZE, 0.2, True)
    walked = (steps - case.joints[:, None]).cpu()
    torch.testing.assert_close(walked, torch.tensor([0.2, 0.3, 0.35])[:, None, None].expand_as(walked))


@over()
@pytest.mark.parametrize("detach", [True, False])
def test_detached_steps_answer_for_themselves(implementation, detach):
    """The last step's gradient reaches the joints that came in only where the steps are not cut."""
    case = make(steps=2).to(implementation.device)
    joints = case.joints.requires_grad_()
    steps = implementation.function(joints, case.intrinsics, case.maps, *case.weights, IMAGE_SIZE, 1.0, detach)
    steps[:, 1].sum().backward()
    assert (joints.grad is None or not joints.grad.any()) == detach


@over(compiled, dtypes=ALL)
@pytest.mark.parametrize("name", CASES)
def test_error_rule(name, implementation, dtype):
    case = case_for(name, implementation, dtype)
    check(implementation.function, case, peer=reference.refine if name in BEYOND_PLAIN else plain)


@over(lambda i: i.name == "native", dtypes=ALL)
@pytest.mark.parametrize("name", CASES)
def test_error_rule_of_the_forward_alone(name, implementation, dtype):
    """Under no_grad the CPU may multiply bfloat16 in int16 or in matrix tiles: other numbers than above, the same rule."""
    case = case_for(name, implementation, dtype)
    check_forward(implementation.function, case, peer=reference.refine if name in BEYOND_PLAIN else plain)


@over(compiled, dtypes=(BFLOAT16, FLOAT16))
@pytest.mark.parametrize("name", ["detached", "through-the-steps", "views", "C71-257", "C64-D256"])
def test_float32_weights_over_narrow_maps_are_not_rounded(name, implementation, dtype):
    """What a model passes under autocast. No weight is exact in 16 bits: rounding one would break the rule a hundredfold."""
    case = CASES[name]()
    case = replace(case, maps=tuple(m.to(dtype) for m in case.maps)).to(implementation.device)
    assert all((w != w.to(dtype)).float().mean() > 0.9 for w in case.weights)
    check(implementation.function, case)
    check_forward(implementation.function, case)


@over(compiled, dtypes=(BFLOAT16, FLOAT16))
def test_weights_of_both_dtypes_mix(implementation, dtype):
    """Any of the four may be in the maps' dtype and the others in the joints'; PyTorch brings them to that of w1 first."""

    def peer(joints, intrinsics, maps, w1, b1, w2, b2, *rest):
        return plain(joints, intrinsics, maps, w1, *(w.to(w1.dtype) for w in (b1, w2, b2)), *rest)

    case = make(batch=3, joints=4, hidden=17)
    case = replace(case, maps=tuple(m.to(dtype) for m in case.maps)).to(implementation.device)
    for narrow in range(4):
        weights = tuple(w.to(dtype) if i == narrow else w for i, w in enumerate(case.weights))
        check(implementation.function, replace(case, weights=weights), peer)


@over(compiled, dtypes=(BFLOAT16, FLOAT16))
def test_narrow_maps_with_wide_weights(implementation, dtype):
    """Narrow maps are widened as they are read: the same bits as maps widened before, only the maps' gradient is rounded."""
    case = make(batch=3, joints=21 if not INTERPRETED else 3, detach=False).to(implementation.device)
    narrow = replace(case, maps=tuple(m.to(dtype) for m in case.maps))
    wide = replace(case, maps=tuple(m.float() for m in narrow.maps))
    ours, expected = run(implementation.function, narrow), run(implementation.function, wide)
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(ours, expected))
    assert ours[3].dtype == dtype


@over(lambda i: compiled(i) and not INTERPRETED)
def test_error_rule_where_the_gradient_of_a_map_is_large(implementation):
    """From 32 MB on, the map's gradient on the CPU is memory that only the touched pixels fill."""
    sizes = ((64, 64, 1040), (3, 3, 2))
    check(implementation.function, make(batch=2, sizes=sizes, hidden=8).to(implementation.device))


@over(lambda i: i.name == "native")
# The same examples every time: where a result hangs on a single element, luck alone breaks the rule.
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 9),
    joints=st.integers(1, 40),
    steps=st.integers(1, 3),
    hidden=st.integers(1, 50),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 70)), min_size=1, max_size=4),
    detach=st.booleans(),
    dtype=st.sampled_from([FLOAT32, BFLOAT16]),
    seed=st.integers(0, 2**16),
)
def test_error_rule_on_any_shape(implementation, batch, joints, steps, hidden, sizes, detach, dtype, seed):
    case = make(batch, joints, steps, hidden, tuple(sizes), detach, seed).to("cpu", dtype)
    check(implementation.function, case)
    check_forward(implementation.function, case)


@over(compiled)
def test_activation_far_out(implementation):
    """gelu and its slope are exact where nothing of them is left: no remainder for a large input to multiply."""
    x = torch.tensor([-1e30, -200.0, -20.0, -6.0, 6.0, 20.0, 200.0, 1e30])
    case = make(batch=1, joints=1, steps=1, hidden=8, sizes=((1, 1, 1),)).to(implementation.device)
    zeros = [torch.zeros_like(w) for w in case.weights]
    b1 = x[None, None].clone().to(implementation.device).requires_grad_()
    w2 = torch.zeros_like(zeros[2])
    joints = torch.zeros_like(case.joints)
    for unit in range(8):
        w2.zero_()[0, 0, unit] = 1
        steps = implementation.function(
            joints, case.intrinsics, case.maps, zeros[0], b1, w2, zeros[3], IMAGE_SIZE, 1.0, True
        )
        (slope,) = torch.autograd.grad(steps[..., 0].sum(), b1)
        expected = max(x[unit].item(), 0.0)
        # the exponential of an implementation may leave 2^-23 of the input where gelu is nearly 0
        assert abs(steps[0, 0, 0, 0].item() - expected) <= 1e-7 * expected + 1e-8
        assert abs(slope[0, 0, unit].item() - float(x[unit] > 0)) <= 1e-7
        assert not slope[0, 0, torch.arange(8) != unit].any()


@over()
def test_nan_stays_in_its_joint_and_hand(implementation):
    case = make(batch=4, joints=5).to(implementation.device)
    bad = replace(case, joints=case.joints.clone(), maps=tuple(m.clone() for m in case.maps))
    bad.joints[1, 2] = float("nan")
    bad.joints[2, 0] = float("inf")
    bad.maps[0][3] = float("nan")
    clean, mixed = (run(implementation.function, c) for c in (case, bad))
    steps, grad_joints, grad_intrinsics, *rest = zip(clean, mixed)
    grad_maps = rest[: len(case.maps)]
    assert torch.equal(*(x[0] for x in steps))
    others = [0, 1, 3, 4]
    assert torch.equal(*(x[1, :, others] for x in steps))
    assert torch.isnan(steps[1][1, :, 2]).all()
    assert torch.isfinite(steps[1][2, :, 1:]).all()
    for grad_clean, grad_mixed in (grad_joints, grad_intrinsics, *grad_maps):
        assert torch.equal(grad_clean[0], grad_mixed[0])
        assert torch.isfinite(grad_mixed[:3]).all()


@over(compiled)
def test_nan_of_a_gradient_stays_with_its_joint(implementation):
    case = make(batch=2).to(implementation.device)
    case.joints[0, 2] = torch.tensor([0.0, 0.0, 0.6])  # projects into the maps
    results = []
    for function in (implementation.function, reference.refine):
        maps = [m.clone().requires_grad_() for m in case.maps]
        steps = function(case.joints, case.intrinsics, maps, *case.weights, IMAGE_SIZE, 1.0, True)
        gradient = torch.ones_like(steps)
        gradient[0, 0, 2] = float("nan")
        results.append(torch.autograd.grad(steps, maps, gradient))
    for x, y in zip(*results):
        assert y.isnan().any()
        assert torch.equal(x.isnan(), y.isnan())


@over(compiled, dtypes=ALL)
@pytest.mark.parametrize("where", ["joint", "wrist", "map", "feature weight", "relative weight", "bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_nan_where_the_definition_has_it(value, where, implementation, dtype):
    case = make(batch=8, joints=21, steps=1).to(implementation.device, dtype)
    tensor, at = {
        "joint": (case.joints, (1, 2, 0)),
        "wrist": (case.joints, (1, 0, 1)),
        "map": (case.maps[0], (2, 1, 2, 3)),
        "feature weight": (case.weights[0], (0, 5, 4)),
        "relative weight": (case.weights[0], (0, 5, -2)),
        "bias": (case.weights[1], (0, 3, 7)),
    }[where]
    clean = forward(implementation.function, case)
    tensor[at] = value
    truth = forward(reference.refine, case.to(implementation.device, torch.float64))
    ours = forward(implementation.function, case)
    assert torch.equal(torch.isnan(ours), torch.isnan(truth))
    if where in ("joint", "wrist", "map"):
        assert torch.equal(ours[[0, 3, 4, 5, 6, 7]], clean[[0, 3, 4, 5, 6, 7]])


@over(lambda i: FLOAT64 in i.dtypes)
@pytest.mark.parametrize(("steps", "detach"), [(1, True), (2, False)])
def test_gradcheck(steps, detach, implementation):
    case = make(batch=2, joints=3, steps=steps, hidden=4, sizes=((3, 4, 2), (2, 2, 3)))
    inputs = [x.requires_grad_() for x in case.to(implementation.device, FLOAT64).inputs()]
    assert torch.autograd.gradcheck(
        lambda j, k, *rest: implementation.function(j, k, rest[:2], *rest[2:], IMAGE_SIZE, 1.0, detach), inputs
    )


@over(lambda i: FLOAT64 in i.dtypes and compiled(i))
@pytest.mark.parametrize("name", CASES)
def test_float64(name, implementation):
    case = case_for(name, implementation, FLOAT64)
    for x, y in zip(run(implementation.function, case), run(reference.refine, case)):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-11, equal_nan=True)


@over()
@pytest.mark.parametrize("name", EMPTY)
def test_empty(name, implementation):
    case = case_for(name, implementation)
    ours, expected = run(implementation.function, case), run(reference.refine, case)
    for x, y in zip(ours, expected, strict=True):
        assert x.shape == y.shape
        assert not x.any()


@over(compiled)
@pytest.mark.parametrize("wanted", range(8))
def test_a_part_of_the_gradients_is_the_same(wanted, implementation):
    case = make(batch=2, joints=4, hidden=9, detach=False).to(implementation.device)
    everything = run(implementation.function, case)[1:]
    inputs = case.inputs()
    inputs[wanted] = inputs[wanted].requires_grad_()
    steps = implementation.function(*inputs[:2], inputs[2:4], *inputs[4:], IMAGE_SIZE, 1.0, case.detach)
    (alone,) = torch.autograd.grad(steps, inputs[wanted], gradient_of(steps))
    assert torch.equal(alone, everything[wanted])


@pytest.mark.skipif("reference" not in map(str, IMPLEMENTATIONS), reason="the plain run compares the definition")
def test_definition_agrees_with_grid_sample():
    """The definition's own sampling against PyTorch's, at joints in front of the camera."""
    case = make().to("cpu", torch.float64)
    pixels, visible = reference.project(case.joints, case.intrinsics)
    assert visible.all()
    height, width = IMAGE_SIZE
    grid = (pixels + 0.5) * pixels.new_tensor([2 / width, 2 / height]) - 1
    for feature_map in case.maps:
        expected = torch.nn.functional.grid_sample(
            feature_map.permute(0, 3, 1, 2), grid[:, :, None], align_corners=False
        )
        ours = reference.sample(feature_map, pixels, visible, IMAGE_SIZE)
        torch.testing.assert_close(ours, expected[..., 0].mT, rtol=0, atol=1e-12)


@pytest.mark.skipif("reference" not in map(str, IMPLEMENTATIONS), reason="the plain run compares the definition")
@pytest.mark.parametrize("detach", [True, False])
def test_definition_and_plain_pytorch_agree(detach):
    case = make(detach=detach).to("cpu", torch.float64)
    for a, b in zip(run(reference.refine, case), run(plain, case)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
