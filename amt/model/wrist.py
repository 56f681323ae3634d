"""Where the wrist is, from how large and where the posed hand shows: metric geometry instead of a regressed guess.

A hand of known pose and size fits its keypoints at one distance only. The fit is linear in the wrist's position, so it is
solved in closed form, together with the coarse decoder's own guess as a prior; how far each is trusted is learned.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from amt.hand.camera import MIN_DEPTH

KEYPOINT, DIRECTION, DEPTH = range(3)
FIRST_SIGMAS = (0.03, 0.03, 0.1)  # rad of a keypoint, rad of the guessed direction, relative error of the guessed depth


class WristSolver(nn.Module):
    """The wrist's position t that minimises, over the joints j at r_j from it, seen along the rays u_j with trust w_j,

        sum_j w_j |(r_j + t)_xy - u_j (r_j + t)_z|^2 / s_k^2 + |t_xy - u_0 t_z|^2 / s_u^2 + (t_z - z_0)^2 / s_z^2,

    with lengths in units of the guessed depth z_0.
    """

    def __init__(self):
        super().__init__()
        self.log_sigmas = nn.Parameter(torch.tensor([math.log(s) for s in FIRST_SIGMAS]))

    def forward(self, guess: Tensor, relative: Tensor, rays: Tensor, trust: Tensor) -> Tensor:
        """The wrist [B, 3] (m) from a guess [B, 3] (m), joints from the wrist [B, 21, 3] (m), rays x/z, y/z [B, 21, 2] and
        how far each is trusted [B, 21]."""
        unit = guess[:, 2:].detach().clamp(min=MIN_DEPTH)
        relative = relative / unit[:, None]
        sigmas = self.log_sigmas.exp()
        # the guessed direction is one more ray, to the wrist itself
        u = torch.cat((rays, (guess[:, :2] / guess[:, 2:].clamp(min=MIN_DEPTH))[:, None]), dim=1)
        r = torch.cat((relative, torch.zeros_like(relative[:, :1])), dim=1)
        sureness = sigmas**-2
        weights = torch.cat((trust * sureness[KEYPOINT], sureness[DIRECTION].expand(len(u), 1)), dim=1)[..., None]
        wanted = u * r[..., 2:] - r[..., :2]  # t_xy - u t_z has to be this

        # a regression of `wanted` on u: slope -t_z, with a prior, and intercept t_xy
        share = weights / weights.sum(dim=1, keepdim=True)
        u_mean, wanted_mean = (share * u).sum(dim=1), (share * wanted).sum(dim=1)
        aside = u - u_mean[:, None]
        spread = (weights * aside.square()).sum(dim=(1, 2))
        z = sureness[DEPTH] * guess[:, 2] / unit[:, 0] - (weights * aside * wanted).sum(dim=(1, 2))
        z = z / (spread + sureness[DEPTH])
        return torch.cat((wanted_mean + u_mean * z[:, None], z[:, None]), dim=1) * unit
