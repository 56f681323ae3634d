"""The rotation of a known shape from the positions of its points: a closed form instead of a regressed guess.

A short training learns the joints' pixels and depths long before it learns rotations. From the points of a known shape and
their positions, the rotation is Procrustes' (Horn, "Closed-form solution of absolute orientation using unit quaternions",
1987). The decoder's guess is the prior. Its weight is learned.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amt.hand.rotations import matrix_to_six_d, six_d_to_matrix
from amt.model.precision import coordinates

LENGTH_UNIT = 0.1  # m
SQUARINGS = 8  # of Horn's matrix: its 256th power is the leading eigenvector's projector but for one part in thousands
# A tenth of the weight of one fully trusted point at one length unit. Early in training, keypoints are far better than the
# guessed rotation: a prior of weight 1 made the rotation 23 degrees worse.
FIRST_PRIOR = 0.1


class OrientationSolver(nn.Module):
    """The rotation R that maximises  sum_j w_j t_j . R r_j + p trace(R)  for points r_j and their seen positions t_j.

    No SVD and no eigenvalue routine: their gradients are singular where two singular values meet, and on a GPU they wait for
    the host. Products of 4 x 4 matrices suffice.
    """

    def __init__(self):
        super().__init__()
        self.log_prior = nn.Parameter(torch.tensor(math.log(FIRST_PRIOR)))
        self.register_buffer("quaternion_form", _quaternion_form(), persistent=False)  # [9, 16]

    def forward(self, shape: Tensor, seen: Tensor, trust: Tensor) -> Tensor:
        """Rotations [B, 3, 3] from the shape [B, N, 3] (m) to its seen positions [B, N, 3] (m), with trust [B, N] (0 to 1).

        Both are relative to the centre of rotation. The identity where all trust or all positions are 0.
        """
        return _solve(shape, seen, trust, self.log_prior.exp(), self.quaternion_form)


@coordinates
def _solve(shape: Tensor, seen: Tensor, trust: Tensor, prior: Tensor, form: Tensor) -> Tensor:
    correlation = (seen * trust[..., None]).mT @ shape / LENGTH_UNIT**2
    correlation = correlation + prior * torch.eye(3, dtype=shape.dtype, device=shape.device)
    # q' N q = sum over ab of R(q)_ab correlation_ab
    matrix = (correlation.flatten(1) @ form).unflatten(1, (4, 4))
    # eigenvalues moved to 0 and above, so that the largest is the leading one
    power = matrix + matrix.norm(dim=(1, 2), keepdim=True) * torch.eye(4, dtype=shape.dtype, device=shape.device)
    for _ in range(SQUARINGS):
        power = power / power.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
        power = power @ power
    projector = power / power.diagonal(dim1=1, dim2=2).sum(dim=1)[:, None, None]
    rotation = (projector.flatten(1) @ form.mT).unflatten(1, (3, 3))
    return six_d_to_matrix(matrix_to_six_d(rotation))


def _quaternion_form() -> Tensor:
    """[9, 16]: entry ab of the rotation of a unit quaternion q = (w, x, y, z) is q' F_ab q, with F_ab symmetric."""
    form = torch.zeros(3, 3, 4, 4)
    signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]])
    for a in range(3):
        form[a, a] = signs[a].diag()
        b, c = (a + 1) % 3, (a + 2) % 3
        # R_ab = 2 (q_a q_b - w q_c), R_ba = 2 (q_a q_b + w q_c)
        for row, column, sign in ((a, b, -1.0), (b, a, 1.0)):
            form[row, column, 1 + a, 1 + b] = form[row, column, 1 + b, 1 + a] = 1.0
            form[row, column, 0, 1 + c] = form[row, column, 1 + c, 0] = sign
    return form.flatten(2).flatten(0, 1)
