"""``refine``: what it promises, whatever implementation runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refine_cases import IMAGE_SIZE, Case, composed, make, run

from amt.kernels import RefineWeights, _native, refine, use
from amt.kernels.refine import reference

IMPLEMENTATIONS = ["reference"] + ["native"] * (_native.missing("refine", "cpu") is None)
every = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def call(case: Case, **options) -> torch.Tensor:
    return refine(
        case.joints, case.intrinsics, case.maps, RefineWeights(*case.weights), image_size=IMAGE_SIZE, **options
    )


@every
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
    weights = RefineWeights(w1, torch.zeros(1, 3, 3), torch.eye(3)[None], torch.zeros(1, 3))
    with use(implementation):
        moved = refine(joints, intrinsics, maps, weights, image_size=(height, width))[:, 0] - joints
    seen = torch.nn.functional.gelu(torch.ones(()))
    torch.testing.assert_close(moved[0], seen * torch.eye(3), atol=1e-5, rtol=0)


@every
def test_steps_halve(implementation):
    case = make(steps=3)
    zero = [torch.zeros_like(w) for w in case.weights[:3]]
    with use(implementation):
        steps = call(replace(case, weights=(*zero, torch.ones(3, 3))), step_size=0.2)
    walked = steps - case.joints[:, None]
    torch.testing.assert_close(walked, torch.tensor([0.2, 0.3, 0.35])[:, None, None].expand_as(walked))


@every
@pytest.mark.parametrize("detach", [True, False])
def test_detached_steps_answer_for_themselves(implementation, detach):
    """The last step's gradient reaches the joints that came in only where the steps are not cut."""
    case = make(steps=2)
    joints = case.joints.requires_grad_()
    with use(implementation):
        call(case, detach=detach)[:, 1].sum().backward()
    assert (joints.grad is None or not joints.grad.any()) == detach


@every
def test_nan_stays_in_its_joint_and_hand(implementation):
    case = make(batch=4, joints=5)
    bad = replace(case, joints=case.joints.clone(), maps=tuple(m.clone() for m in case.maps))
    bad.joints[1, 2] = float("nan")
    bad.joints[2, 0] = float("inf")
    bad.maps[0][3] = float("nan")
    with use(implementation):
        clean, spoiled = (run(lambda *a: refine_positional(*a), c) for c in (case, bad))
    steps, d_joints, d_intrinsics, *rest = zip(clean, spoiled)
    d_maps = rest[: len(case.maps)]
    assert torch.equal(*(x[0] for x in steps))
    others = [0, 1, 3, 4]
    assert torch.equal(*(x[1, :, others] for x in steps))
    assert torch.isnan(steps[1][1, :, 2]).all()
    assert torch.isfinite(steps[1][2, :, 1:]).all()
    for of_clean, of_spoiled in (d_joints, d_intrinsics, *d_maps):
        assert torch.equal(of_clean[0], of_spoiled[0])
        assert torch.isfinite(of_spoiled[:3]).all()


def refine_positional(joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach):
    return refine(
        joints,
        intrinsics,
        maps,
        RefineWeights(w1, b1, w2, b2),
        image_size=image_size,
        step_size=step_size,
        detach=detach,
    )


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


def test_definition_and_composed_agree():
    case = make().to("cpu", torch.float64)
    for a, b in zip(run(reference.refine, case), run(composed, case)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_wrong_arguments_are_named():
    case = make()

    def with_(**changes):
        return lambda: call(replace(case, **changes))

    w1, b1, w2, b2 = case.weights
    first, second = case.maps
    for match, error, make_call in [
        (r"joints must have the shape \[B, J, 3\], got \[2, 5, 2\]", ValueError, with_(joints=case.joints[..., :2])),
        (
            "joints must be torch.float32 or torch.float64, got torch.float16",
            TypeError,
            with_(joints=case.joints.half()),
        ),
        (r"intrinsics must have the shape \[2, 3, 3\]", ValueError, with_(intrinsics=case.intrinsics[:1])),
        ("intrinsics must be torch.float32", TypeError, with_(intrinsics=case.intrinsics.double())),
        ("1 to 4 maps, got 0", ValueError, with_(maps=())),
        (r"maps\[1\] must be torch.float32 as maps\[0\] is", TypeError, with_(maps=(first, second.bfloat16()))),
        (r"maps\[0\] must be channels last in memory", ValueError, with_(maps=(first.mT.contiguous().mT, second))),
        (r"maps\[1\] must have the shape \[2, H, W, C\]", ValueError, with_(maps=(first, second[0]))),
        (r"weights.w1 must have the shape \[S, D, 50\]", ValueError, with_(weights=(w1[..., 1:], b1, w2, b2))),
        ("weights.w1 must be torch.float32", TypeError, with_(weights=(w1.bfloat16(), b1, w2, b2))),
        ("weights.w1 must be on cpu", ValueError, with_(weights=(w1.to("meta"), b1, w2, b2))),
        (r"weights.b1 must have the shape \[2, 5, 40\]", ValueError, with_(weights=(w1, b1[:, :1], w2, b2))),
        (r"weights.w2 must have the shape \[2, 3, 40\]", ValueError, with_(weights=(w1, b1, w2[:1], b2))),
        (r"weights.b2 must have the shape \[2, 3\]", ValueError, with_(weights=(w1, b1, w2, b2[:, :2]))),
        ("at least one step", ValueError, with_(weights=tuple(w[:0] for w in case.weights))),
    ]:
        with pytest.raises(error, match=match):
            make_call()
    with pytest.raises(ValueError, match="image_size must be a positive"):
        refine(case.joints, case.intrinsics, case.maps, RefineWeights(*case.weights), image_size=(0, 4))
