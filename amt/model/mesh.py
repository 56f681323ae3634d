"""Fixed relations between a hand's vertices, its 21 joints and its 22 frames, taken from the hand model at rest."""

from __future__ import annotations

import torch
from torch import Tensor

from amt.hand.mano import ManoLayer
from amt.hand.skeleton import MANO_FINGER_JOINTS, MANO_TO_SKELETON, NUM_JOINTS, TIPS
from amt.kernels import hand_frames

PALM_FALLOFF = 0.02  # m: scale of distance at which a palm vertex stops following a joint


def rest_hand(mano: ManoLayer) -> tuple[Tensor, Tensor]:
    """Vertices [V, 3] and joints [21, 3] of the mean hand with flat fingers, m."""
    pose = torch.eye(3, device=mano.v_template.device).expand(1, 16, 3, 3)
    with torch.no_grad():
        mesh = mano(pose, pose.new_zeros(1, 10), pose.new_zeros(1, 3))
    return mesh.vertices[0], mesh.joints[0]


def vertex_frames(mano: ManoLayer) -> Tensor:
    """The frame, 0 to 21, whose origin is nearest to each vertex: int64 [V]."""
    vertices, joints = rest_hand(mano)
    origins, _ = hand_frames(joints[None])
    return torch.cdist(vertices, origins[0]).argmin(dim=1)


def follow_weights(mano: ManoLayer) -> Tensor:
    """How much each vertex follows each joint's displacement: [V, 21], rows sum to 1.

    A vertex skinned to a finger's bone divides its weight between the bone's ends, by its position along the bone. One
    skinned to the palm follows the wrist and the finger bases, by distance. A fingertip's vertex follows its tip.
    """
    vertices, joints = rest_hand(mano)
    weights = vertices.new_zeros(len(vertices), NUM_JOINTS)
    skinning = mano.weights
    to_skeleton = {mano_joint: joint for joint, mano_joint in enumerate(MANO_TO_SKELETON)}
    palm = [0] + [to_skeleton[chain[0]] for chain in MANO_FINGER_JOINTS.values()]
    near = torch.softmax(-torch.cdist(vertices, joints[palm]) / PALM_FALLOFF, dim=1)
    weights[:, palm] += skinning[:, :1] * near
    for chain in MANO_FINGER_JOINTS.values():
        for mano_joint in chain:
            start = to_skeleton[mano_joint]
            bone = joints[start + 1] - joints[start]
            along = ((vertices - joints[start]) @ bone / bone.square().sum()).clamp(0, 1)
            weights[:, start] += skinning[:, mano_joint] * (1 - along)
            weights[:, start + 1] += skinning[:, mano_joint] * along
    for tip, vertex in zip(TIPS, mano.tip_vertices.tolist()):
        weights[vertex] = 0
        weights[vertex, tip] = 1
    return weights
