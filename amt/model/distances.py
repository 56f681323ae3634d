"""How near hand and object come, and how the network reads it. No gradient goes back through a distance."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.model.precision import coordinates

DISTANCE_SCALES = (0.005, 0.02, 0.08)  # m: contact, near, within reach
NUM_DISTANCE_FEATURES = len(DISTANCE_SCALES) + 1


class Distances(NamedTuple):
    """Between a hand's V vertices and an object's P points."""

    from_vertex: Tensor  # [B, V], m: to the nearest point
    from_point: Tensor  # [B, P], m: to the nearest vertex
    nearest_vertex: Tensor  # int64 [B, P]: which vertex that is


def distance_features(distance: Tensor) -> Tensor:
    """Distances [...] (m) as [..., 4] numbers in 0..1: one for each scale, and a clipped linear one."""
    return torch.stack((*(torch.exp(-distance / s) for s in DISTANCE_SCALES), F.hardtanh(distance / 0.2, 0, 1)), -1)


@torch.no_grad()
def nearest_distances(vertices: Tensor, points: Tensor) -> Distances:
    """Distances both ways between vertices [B, V, 3] and points [B, P, 3] (m)."""
    squared = _squared_distances(points, vertices)
    from_point, vertex = squared.min(dim=2)
    return Distances(_root(squared.amin(dim=1)), _root(from_point), vertex)


@torch.no_grad()
def vertex_distances(vertices: Tensor, points: Tensor) -> Tensor:
    """From each of the vertices [B, V, 3] to the nearest of the points [B, P, 3] (m): [B, V]."""
    return _root(_squared_distances(vertices, points).amin(dim=2))


@coordinates
def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    # coordinates relative to one centre: |a|^2 + |b|^2 - 2ab cancels badly half a metre from the camera
    centre = b.mean(dim=1, keepdim=True)
    a, b = a - centre, b - centre
    # one matrix product of [-2a, |a|^2, 1] and [b, 1, |b|^2] writes the large result once
    one = torch.ones_like(a[..., :1]), torch.ones_like(b[..., :1])
    left = torch.cat((-2 * a, a.square().sum(-1, keepdim=True), one[0]), dim=-1)
    return left @ torch.cat((b, one[1], b.square().sum(-1, keepdim=True)), dim=-1).mT


def _root(squared: Tensor) -> Tensor:
    return squared.clamp(min=0).sqrt()
