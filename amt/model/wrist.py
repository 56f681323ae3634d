"""The wrist's position from the size and place of the posed hand in the crop: metric geometry instead of a regressed guess.

A hand of known pose and size fits its keypoints at one distance only. The fit is linear in the wrist's position, so it has a
closed form. The coarse decoder's guess is the prior. The weights of keypoints and prior are learned.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt.hand.camera import MIN_DEPTH

JOINT, DIRECTION, DEPTH, CORNER = range(4)
# rad of a joint, rad of the guessed direction, relative error of the guessed depth, rad of a corner of the object's box
FIRST_SIGMAS = (0.03, 0.03, 0.1, 0.06)


class WristSolver(nn.Module):
    """The wrist's position t that minimises, over the joints j at r_j from it, seen along the rays u_j with trust w_j,

        sum_j w_j |(r_j + t)_xy - u_j (r_j + t)_z|^2 / s_k^2 + |t_xy - u_0 t_z|^2 / s_u^2 + (t_z - z_0)^2 / s_z^2,

    with lengths in units of the guessed depth z_0. Corners of the object's box, where they are given, add to t_z alone: the
    apparent size of an object of known size gives its depth, wherever the hand holds it.
    """

    def __init__(self):
        super().__init__()
        self.log_sigmas = nn.Parameter(torch.tensor([math.log(s) for s in FIRST_SIGMAS]))

    def forward(self, guess: Tensor, joints: Seen, corners: Seen | None = None) -> Tensor:
        """The wrist [B, 3] (m) from a guess [B, 3] (m), the hand's joints and the object's corners."""
        unit = guess[:, 2:].detach().clamp(min=MIN_DEPTH)
        precision = self.log_sigmas.exp() ** -2
        # the guessed direction is one more ray, to the wrist itself
        direction = guess[:, :2] / guess[:, 2:].clamp(min=MIN_DEPTH)
        u = torch.cat((joints.rays, direction[:, None]), dim=1)
        r = torch.cat((joints.points, torch.zeros_like(joints.points[:, :1])), dim=1)
        weights = torch.cat((joints.trust * precision[JOINT], precision[DIRECTION].expand(u.shape[0], 1)), dim=1)
        u_mean, wanted_mean, spread, product = _regression(r / unit[:, None], u, weights)
        if corners is not None:
            corner_fit = _regression(corners.points / unit[:, None], corners.rays, corners.trust * precision[CORNER])
            spread, product = spread + corner_fit[2], product + corner_fit[3]
        z = (precision[DEPTH] * guess[:, 2] / unit[:, 0] - product) / (spread + precision[DEPTH])
        return torch.cat((wanted_mean + u_mean * z[:, None], z[:, None]), dim=1) * unit


class Seen(NamedTuple):
    """Points and the rays on which they are seen."""

    points: Tensor  # [B, N, 3], m, from the wrist
    rays: Tensor  # [B, N, 2]: x/z, y/z
    trust: Tensor  # [B, N], 0 to 1


def _regression(points: Tensor, rays: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of t_xy - u t_z = u r_z - r_xy: means of u and of the right side [B, 2], u's spread and its product with the right [B]."""
    wanted = rays * points[..., 2:] - points[..., :2]
    weights = weights[..., None]
    share = weights / weights.sum(dim=1, keepdim=True)
    mean, wanted_mean = (share * rays).sum(dim=1), (share * wanted).sum(dim=1)
    aside = rays - mean[:, None]
    return mean, wanted_mean, (weights * aside.square()).sum(dim=(1, 2)), (weights * aside * wanted).sum(dim=(1, 2))
