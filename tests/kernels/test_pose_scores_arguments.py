"""pose_scores: what is refused, by the public function, by Triton's and by the native ops, and the message."""

from __future__ import annotations

import pytest
import torch
from helpers import interpreted
from test_pose_scores import SIZE, cast, make, native, ours

from amt.kernels import pose_scores, use

WRONG = {
    "colour must be a tensor, got list": (0, lambda x: [x], TypeError),
    r"colour must be torch\.float32 or torch\.float64, got torch\.bfloat16": (0, lambda x: x.bfloat16(), TypeError),
    r"colour must hold at least one cell, got \[2, 4, 3, 0\]": (0, lambda x: x[..., :0], ValueError),
    r"surface must have the shape \[2, 4, 3, 3\], got \[2, 3, 3, 3\]": (1, lambda x: x[:, :3], ValueError),
    r"points must be torch\.float32, got torch\.float64": (2, lambda x: x.double(), TypeError),
    r"points must have the shape \[2, 4, 3\], got \[2, 3, 3\]": (2, lambda x: x[:, 1:], ValueError),
    r"normals must have the shape \[2, 4, 3\], got \[1, 4, 3\]": (3, lambda x: x[:1], ValueError),
    r"rotation must have the shape \[2, K, 3, 3\], got \[2, 5, 2, 3\]": (4, lambda x: x[:, :, 1:], ValueError),
    r"translation must have the shape \[2, 5, 3\], got \[2, 4, 3\]": (5, lambda x: x[:, 1:], ValueError),
    "intrinsics must be on cpu as the first argument is, got meta": (6, lambda x: x.to("meta"), ValueError),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_named(message):
    arguments = cast(make((2, 4, 5, 3, 3)), torch.float32)
    which, change, error = WRONG[message]
    arguments[which] = change(arguments[which])
    with pytest.raises(error, match=f"pose_scores: {message}"):
        ours(*arguments)


def test_a_wrong_image_size_is_named():
    arguments = make((1, 2, 3, 4, 4))
    with pytest.raises(TypeError, match=r"pose_scores: image_size must be \(height, width\) in whole pixels, got 112"):
        pose_scores(*arguments, image_size=112)
    with pytest.raises(
        ValueError, match=r"pose_scores: image_size must be a positive \(height, width\), got \(0, 112\)"
    ):
        pose_scores(*arguments, image_size=(0, 112))


@interpreted
def test_more_cells_than_triton_takes_are_refused():
    colour, surface, *rest = cast(make((1, 1, 1, 1, 1)), torch.float32)
    with use("triton"), pytest.raises(ValueError, match="at most 16777216 cells, got 4097 x 4096; use"):
        ours(colour.expand(1, 1, 4097, 4096), surface.expand(1, 4, 4097, 4096), *rest)


@native
def test_the_native_ops_refuse_what_they_would_misread():
    arguments = cast(make((2, 4, 5, 3, 3)), torch.float32)
    ours(*arguments)  # loads the library
    forward, backward = torch.ops.amt.pose_scores, torch.ops.amt.pose_scores_backward
    with pytest.raises(RuntimeError, match=r"colour must have the shape \[2, 4, \*, \*\]"):
        forward(arguments[0][:, 1:], *arguments[1:], *SIZE)
    with pytest.raises(RuntimeError, match="of the points' dtype"):
        forward(arguments[0].double(), *arguments[1:], *SIZE)
    with pytest.raises(RuntimeError, match="the image's size must be positive"):
        forward(*arguments, 0, 112)
    with pytest.raises(RuntimeError, match=r"grad_scores must have the shape \[2, 5\]"):
        backward(torch.ones(2, 4), *arguments[2:], *SIZE, 3, 3)
    with pytest.raises(RuntimeError, match="the maps must hold 1 to"):
        backward(torch.ones(2, 5), *arguments[2:], *SIZE, 2**40, 3)
