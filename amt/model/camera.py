"""The camera of a crop: what it tells the network, and how numbers of about unit size become metres and back.

A crop alone cannot say how far away a hand is, nor how it is rotated against the optical axis. Both follow from the crop's
intrinsics, which hold the angular size and the direction of its box. A frame scaled together with its K changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from amt.hand.camera import MIN_DEPTH, project, unproject

REFERENCE_LENGTH = 0.18  # m: what a crop typically spans
MAX_LOG_DEPTH = 2.0  # a placed point stays within a factor e^2 of the reference depth
NUM_CAMERA_FEATURES = 4


class CropCamera(NamedTuple):
    """The pinhole cameras of B square crops; :meth:`of` makes one from intrinsics.

    Positions in a crop are counted in half crops from its centre, x right, y down: the crop's edges are at -1 and 1.
    A placement is a position and the log of depth over the reference depth, at which the crop spans 0.18 m.
    """

    intrinsics: Tensor  # [B, 3, 3], px: K of the crop
    size: int  # px: the crop's side
    view: Tensor  # [B, 3, 3]: the shortest rotation from the optical axis to the ray through the crop's centre
    reference_depth: Tensor  # [B], m: at which the crop spans REFERENCE_LENGTH

    @classmethod
    def of(cls, intrinsics: Tensor, size: int) -> CropCamera:
        """The camera of crops of ``size`` px with K [B, 3, 3] (px).

        A hand looks the same wherever it is in the frame only when its rotation is told relative to the ray through the
        crop's centre. The network therefore sees rotations relative to ``view``.
        """
        z = torch.nn.functional.normalize(_centre_ray(intrinsics, size), dim=-1)
        x, y, c = z.unbind(-1)
        k = 1 / (1 + c)  # c > 0: the ray points forward
        view = torch.stack((1 - k * x * x, -k * x * y, x, -k * x * y, 1 - k * y * y, y, -x, -y, c), -1)
        return cls(intrinsics, size, view.unflatten(-1, (3, 3)), _focal(intrinsics) * (REFERENCE_LENGTH / size))

    def features(self) -> Tensor:
        """Direction of the crop's centre, its angular size and the ratio of the focal lengths, [B, 4]; about unit scale."""
        ray = _centre_ray(self.intrinsics, self.size)
        angular = torch.log(self.size / _focal(self.intrinsics)) + 1.0
        aspect = torch.log(self.intrinsics[:, 0, 0] / self.intrinsics[:, 1, 1])
        return torch.stack((ray[:, 0], ray[:, 1], angular, aspect), dim=-1)

    def reference_focal(self) -> Tensor:
        """The geometric mean of the focal lengths, [B], px."""
        return _focal(self.intrinsics)

    def project(self, points: Tensor) -> Tensor:
        """Positions [B, N, 2] (half crops) of points [B, N, 3] (m)."""
        return (project(points, self.intrinsics) - (self.size - 1) / 2) / (self.size / 2)

    def rays(self, positions: Tensor) -> Tensor:
        """The rays x/z, y/z [B, N, 2] through positions [B, N, 2] (half crops)."""
        pixels = (self.size - 1) / 2 + positions * (self.size / 2)
        return unproject(pixels, torch.ones_like(pixels[..., 0]), self.intrinsics)[..., :2]

    def unproject(self, placement: Tensor) -> Tensor:
        """The point [B, 3] (m) of a placement [B, 3]. Its log depth is limited to +-2."""
        pixels = (self.size - 1) / 2 + placement[:, None, :2] * (self.size / 2)
        log_depth = placement[:, 2:].clamp(-MAX_LOG_DEPTH, MAX_LOG_DEPTH)
        return unproject(pixels, log_depth.exp() * self.reference_depth[:, None], self.intrinsics)[:, 0]

    def placement(self, points: Tensor) -> Tensor:
        """The placement [B, 3] of points [B, 3] (m): the inverse of :meth:`unproject`."""
        log_depth = (points[:, 2].clamp(min=MIN_DEPTH) / self.reference_depth).log()
        return torch.cat((self.project(points[:, None])[:, 0], log_depth[:, None]), dim=-1)


def _centre_ray(intrinsics: Tensor, size: int) -> Tensor:
    """The point at depth 1 m behind the crop's centre, [B, 3]."""
    centre = intrinsics.new_full((intrinsics.shape[0], 1, 2), (size - 1) / 2)
    return unproject(centre, intrinsics.new_ones(intrinsics.shape[0], 1), intrinsics)[:, 0]


def _focal(intrinsics: Tensor) -> Tensor:
    """The geometric mean of the focal lengths, [B], px."""
    return (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt()
