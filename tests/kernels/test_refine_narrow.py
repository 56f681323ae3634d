"""``refine``'s forward in bfloat16 on the CPU: int16 arithmetic and matrix tiles, where rounding and edges may go wrong."""

from __future__ import annotations

import pytest
import torch
from refine_cases import BFLOAT16, check_forward, forward, make, over

native = over(lambda i: i.name == "native")


@native
@pytest.mark.parametrize("weight", ["small", "zero"])
@pytest.mark.parametrize("of", ["channels", "a map"])
@pytest.mark.parametrize("large", [1e3, 1e6, 1e30])
def test_large_samples_under_small_weights_cost_the_others_nothing(large, of, weight, implementation):
    """As trained features have them; integers that share a power of two would lose the small samples beside them."""
    case = make(batch=4, joints=21, sizes=((6, 7, 130), (9, 8, 64)), hidden=64)
    channels = slice(3, 130, 40) if of == "channels" else slice(0, 130)
    case.maps[0][..., channels] *= large
    case.weights[0][..., channels] *= 1 / large if weight == "small" else 0
    check_forward(implementation.function, case.to("cpu", BFLOAT16))


@native
@pytest.mark.parametrize("joints", [16, 17, 33])
@pytest.mark.parametrize("hidden", [16, 17, 32, 33])
@pytest.mark.parametrize("channels", [31, 32, 33, 150])
@pytest.mark.parametrize("batch", [1, 40])  # many images: weights are copied into tiles first
def test_error_rule_where_tiles_end(batch, channels, hidden, joints, implementation):
    case = make(batch=batch, joints=joints, hidden=hidden, sizes=((5, 4, channels), (3, 6, channels)))
    check_forward(implementation.function, case.to("cpu", BFLOAT16))


@native
def test_each_channel_meets_its_own_weight(implementation):
    """A unit for each channel; gelu is the identity on values as large as these. bfloat16's last bit is 2^-8 of them."""
    sizes = (45, 22)  # channels: odd, and across the end of a block
    count = sum(sizes)
    values = 100 + torch.randperm(count, generator=torch.Generator().manual_seed(0)).float()
    maps = tuple(part.expand(1, 2, 2, -1).bfloat16() for part in values.split(sizes))
    w1 = torch.eye(count, count + 3)[None].bfloat16()
    zeros = torch.zeros(1, 1, count).bfloat16(), torch.zeros(1, 3).bfloat16()
    joint, camera = torch.tensor([[[0.0, 0.0, 1.0]]]), torch.tensor([[[100.0, 0, 112], [0, 100, 112], [0, 0, 1]]])
    for channel in range(count):
        w2 = torch.zeros(1, 3, count).bfloat16()
        w2[:, 0, channel] = 1
        with torch.no_grad():
            steps = implementation.function(joint, camera, maps, w1, zeros[0], w2, zeros[1], (224, 224), 1.0, True)
        assert abs(steps[0, 0, 0, 0] - values[channel]) <= 2**-10 * values[channel]


@native
def test_forward_alone_differs_by_no_more_than_a_rounding_of_the_samples(implementation):
    """What the docstring promises about no_grad: about one bfloat16 rounding, 2^-8, of the step's offset."""
    case = make(batch=8, joints=21, hidden=256, sizes=((8, 8, 256), (16, 16, 256)), steps=1).to("cpu", BFLOAT16)
    alone = forward(implementation.function, case)
    joints = case.joints.clone().requires_grad_()
    trained = implementation.function(
        joints, case.intrinsics, case.maps, *case.weights, (60, 64), 1.0, case.detach
    ).detach()
    offset = trained - case.joints[:, None]
    assert (alone - trained).norm() <= 2**-8 * offset.norm()
