"""Terms that need no label: what no hand can do, and how deep the object lies in the hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amt.hand.batch import Inputs
from amt.hand.limits import JointLimits
from amt.hand.mano import ManoLayer
from amt.hand.mirror import choose, mirror_rotations
from amt.model.outputs import Prediction
from amt.train.losses.hand import Terms
from amt.train.losses.masks import mean_of_all, mean_where
from amt.train.losses.units import LENGTH_UNIT

THICKEST = 0.02  # m: a point farther than this from its nearest vertex is not inside a hand


class PhysicalTerms(nn.Module):
    """``joint_limits`` and ``penetration`` for the hand of a layer."""

    def __init__(self, layer: ManoLayer):
        super().__init__()
        self.limits = JointLimits(layer)
        self.register_buffer("incident", _incident_faces(layer.faces.cpu(), len(layer.v_template)), persistent=False)
        self.register_buffer("faces", layer.faces.cpu(), persistent=False)

    def forward(self, p: Prediction, inputs: Inputs) -> Terms:
        return {
            "joint_limits": lambda: self._limits(p, inputs.right),
            "penetration": lambda: self._penetration(p, inputs),
        }

    def _limits(self, p: Prediction, right: Tensor) -> Tensor:
        """The mean excess of a joint, rad: coarse and decoded."""
        fingers = torch.stack((p.coarse.pose, p.decoded.pose), dim=1)[:, :, 1:]
        return mean_of_all(self.limits(choose(~right, mirror_rotations(fingers), fingers)))

    def _penetration(self, p: Prediction, inputs: Inputs) -> Tensor:
        """The mean depth, over 0.1 m, of the object's points that lie inside the final hand.

        The signed distance of a point is that to the plane through its nearest vertex, across the vertex's normal. It sees
        the object's points only: a part of the hand that lies inside the object between two points goes unseen, and so does
        a deep overlap with a large face. A loss, not a measurement of penetration.
        """
        points = p.decoded.posed(inputs.object_points)
        nearest, near = _nearest_vertex(points, p.vertices)
        side = torch.where(inputs.right, 1.0, -1.0)[:, None, None]  # a mirror turns the faces inside out
        normals = self._normals(p.vertices.detach()) * side
        taken = nearest[..., None].expand(-1, -1, 3)
        signed = ((points - _Taken.apply(p.vertices, nearest)) * normals.gather(1, taken)).sum(dim=-1)
        depth = torch.where(near, torch.relu(-signed), 0.0)
        mean = depth.sum(dim=1) / (depth > 0).sum(dim=1).clamp(min=1)
        extent = (inputs.object_points.amax(dim=1) - inputs.object_points.amin(dim=1)).amax(dim=1)
        return mean_where(mean / LENGTH_UNIT, extent > 0)  # an unknown object is one point

    def _normals(self, vertices: Tensor) -> Tensor:
        """Outward unit normals [B, V, 3] of right hands [B, V, 3], faces weighed by their areas."""
        a, b, c = (vertices.index_select(1, self.faces[:, corner]) for corner in range(3))
        faces = torch.linalg.cross(b - a, c - a)
        faces = torch.cat(
            (faces, torch.zeros_like(faces[:, :1])), dim=1
        )  # what fills the rows of vertices with few faces
        summed = faces.index_select(1, self.incident.flatten()).unflatten(1, self.incident.shape).sum(dim=2)
        return torch.nn.functional.normalize(summed, dim=-1)


class _Taken(torch.autograd.Function):
    """Vertices [B, V, 3] at indices [B, P]. Many points may take one vertex, and CUDA would add their gradients by atomics, in
    any order: here a product adds them."""

    @staticmethod
    def forward(ctx, vertices: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.num_vertices = vertices.shape[1]
        return vertices.gather(1, indices[..., None].expand(-1, -1, 3))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        vertices = torch.arange(ctx.num_vertices, device=indices.device)
        return (vertices[:, None] == indices[:, None, :]).to(grad.dtype) @ grad, None


@torch.no_grad()
def _nearest_vertex(points: Tensor, vertices: Tensor) -> tuple[Tensor, Tensor]:
    """The vertex nearest to each point, int64 [B, P], and whether it is as near as a hand is thick, bool [B, P]."""
    distance, nearest = torch.cdist(points, vertices, compute_mode="donot_use_mm_for_euclid_dist").min(dim=2)
    return nearest, distance < THICKEST


def _incident_faces(faces: Tensor, num_vertices: int) -> Tensor:
    """The faces around each vertex, int64 [V, most], filled up with the number of faces. A fixed order of addition."""
    around: list[list[int]] = [[] for _ in range(num_vertices)]
    for number, face in enumerate(faces.tolist()):
        for vertex in face:
            around[vertex].append(number)
    most = max(len(row) for row in around)
    return torch.tensor([row + [len(faces)] * (most - len(row)) for row in around])
