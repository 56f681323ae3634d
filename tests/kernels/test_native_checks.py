"""The native ops, called directly, refuse what they cannot read safely: the public functions are not in between."""

import pytest
import torch

from amt.kernels import _native, frame_pointnet, hand_frames
from amt.kernels.refine import reference

pytestmark = pytest.mark.skipif(_native.missing("refine", "cpu") is not None, reason="the native library is not built")
BATCH, JOINTS, STEPS, HIDDEN, CHANNELS = 2, 5, 2, 8, 6


@pytest.fixture
def call():
    """refine's arguments as the raw op takes them, and what its backward gets beside them."""
    hand_frames(torch.zeros(1, 21, 3))  # loads the library
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    tensors = [
        draw(BATCH, JOINTS, 3) * 0.1 + torch.tensor([0.0, 0.0, 0.6]),
        torch.tensor([[50.0, 0, 8], [0, 50, 8], [0, 0, 1]]).expand(BATCH, 3, 3).contiguous(),
        [draw(BATCH, 4, 4, CHANNELS)],
        draw(STEPS, HIDDEN, CHANNELS + 3),
        draw(STEPS, JOINTS, HIDDEN),
        draw(STEPS, 3, HIDDEN),
        draw(STEPS, 3),
    ]
    steps, saved = torch.ops.amt.refine(*tensors, 16, 16, 0.01, True, True)
    return tensors, torch.randn_like(steps), steps, saved


def backward(tensors, grad_steps, steps, saved):
    return torch.ops.amt.refine_backward(grad_steps, steps, saved, *tensors, 16, 16, 0.01, True, 7)


def test_backward_takes_what_the_forward_gave(call):
    assert all(torch.isfinite(g).all() for g in backward(*call)[0:2])


@pytest.mark.parametrize("which", [1, 2, 3])
@pytest.mark.parametrize(
    ("corrupt", "message"),
    [
        (lambda x: x.double(), "contiguous and of the joints' dtype"),
        (lambda x: x.half(), "contiguous and of the joints' dtype"),
        (lambda x: x.flatten()[:-1].clone(), r"must have the shape|expected .* elements"),
        (lambda x: x.repeat_interleave(2, dim=-1)[..., ::2], "contiguous"),
    ],
    ids=["float64", "float16", "short", "strided"],
)
def test_backward_refuses_saved_tensors_and_gradients_that_it_would_misread(call, which, corrupt, message):
    arguments = list(call)
    arguments[which] = corrupt(arguments[which])
    with pytest.raises(RuntimeError, match=message):
        backward(*arguments)


@pytest.mark.parametrize("winner", [-2, 7, 2**31 - 1])
def test_frame_pointnet_backward_refuses_winners_that_are_no_points(winner):
    points, joints = torch.randn(1, 7, 3) * 0.05, torch.randn(1, 21, 3)
    origins, rotations = hand_frames(joints)
    weights = [torch.randn(s) for s in ((8, 3), (22, 8), (16, 8), (16,))]
    frame_pointnet(points, origins, rotations, *weights)
    features, winners = torch.ops.amt.frame_pointnet(points, origins, rotations, *weights, None)
    arguments = (points, origins, rotations, *weights)
    torch.ops.amt.frame_pointnet_backward(torch.ones_like(features), winners, *arguments)
    winners[0, 3, 2] = winner
    with pytest.raises(RuntimeError, match="winners must be -1 or a point's number, below 7"):
        torch.ops.amt.frame_pointnet_backward(torch.ones_like(features), winners, *arguments)


def test_hand_frames_backward_refuses_gradients_of_another_dtype():
    joints = torch.randn(2, 21, 3)
    origins, rotations = hand_frames(joints)
    with pytest.raises(RuntimeError, match="gradients must have the dtype of the joints"):
        torch.ops.amt.hand_frames_backward(origins.double(), rotations, joints)


def test_step_seventy_is_as_small_as_the_reference_makes_it(call):
    """The step's length is halved seventy times: an integer shift by 64 and more is undefined."""
    joints, camera, maps = call[0][0].double(), call[0][1].double(), [m.double() for m in call[0][2]]
    many, first = 70, 60
    weights = [
        torch.zeros(s, dtype=torch.float64)
        for s in ((many, HIDDEN, CHANNELS + 3), (many, JOINTS, HIDDEN), (many, 3, HIDDEN))
    ]
    b2 = torch.zeros(many, 3, dtype=torch.float64)
    b2[first:] = 1  # the steps before do not move
    arguments = (joints, camera, maps, *weights, b2)
    ours, _ = torch.ops.amt.refine(*arguments, 16, 16, 2.0**first, True, False)
    assert torch.equal(ours, reference.refine(*arguments, (16, 16), 2.0**first, True))
    moved = ours[:, first:] - torch.cat((joints[:, None], ours[:, first:-1]), dim=1)
    halves = 0.5 ** torch.arange(many - first, dtype=torch.float64)
    torch.testing.assert_close(moved, halves[None, :, None, None].expand_as(moved), rtol=0, atol=1e-12)
