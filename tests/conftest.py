"""Batches without a data set: posed hands that hold a ball in front of a plausible camera; the image is noise."""

from __future__ import annotations

import signal

import pytest
import torch

from amt.hand.batch import Batch, Inputs, Targets
from amt.hand.camera import crop_camera, project
from amt.hand.contact import contact_labels
from amt.hand.mano import ManoLayer
from amt.hand.mirror import mirror_inputs, mirror_targets
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.shipped import shipped_hand

FRAME = (480.0, 640.0)  # px: height, width

# A shell starts background jobs so that they ignore Ctrl-C; tests that interrupt need Python's own answer.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def make_batch():
    """``make_batch(size, crop=112, points=64, seed=0, left=False)``: right hands, or every second one a left hand."""
    layer = ManoLayer(shipped_hand("right"))

    def make(batch: int, crop: int = 112, points: int = 64, seed: int = 0, left: bool = False) -> Batch:
        g = torch.Generator().manual_seed(seed)

        def uniform(low, high, *shape):
            return low + (high - low) * torch.rand(*shape, generator=g)

        pose = torch.cat((uniform(-1.5, 1.5, batch, 3), layer.hands_mean + uniform(-0.3, 0.3, batch, 45)), dim=1)
        betas = uniform(-1, 1, batch, 10)
        place = torch.stack((uniform(-0.2, 0.2, batch), uniform(-0.1, 0.1, batch), uniform(0.5, 1.0, batch)), dim=1)
        translation = place - layer.rest_joints(betas)[:, 0]
        mesh = layer(pose, betas, translation)
        frame = torch.tensor([[600.0, 0, 320], [0, 605, 240], [0, 0, 1]]).expand(batch, 3, 3).clone()
        pixels = project(mesh.joints, frame)
        low, high = pixels.amin(dim=1), pixels.amax(dim=1)
        box = torch.cat(((low + high) / 2, (high - low).amax(dim=1, keepdim=True) * 1.5), dim=1)
        ball = torch.nn.functional.normalize(torch.randn(batch, points, 3, generator=g), dim=-1) * 0.03
        rotation = axis_angle_to_matrix(uniform(-1, 1, batch, 3))
        centre = mesh.joints[:, [5, 9, 13, 17]].mean(dim=1)
        hand, touched = contact_labels(mesh.vertices, ball @ rotation.mT + centre[:, None], 0.01)
        colours = torch.rand(batch, points, 3, generator=torch.Generator().manual_seed(seed))
        yes = torch.ones(batch, dtype=torch.bool)
        inputs = Inputs(
            image=torch.randint(0, 256, (batch, 3, crop, crop), dtype=torch.uint8, generator=g),
            intrinsics=crop_camera(frame, box, crop)[0],
            box=box,
            frame_intrinsics=frame,
            frame_size=torch.tensor(FRAME).expand(batch, 2).clone(),
            right=yes.clone(),
            object_class=torch.randint(0, 22, (batch,), generator=g),
            object_points=ball,
            object_look=torch.cat((ball / 0.03, colours, torch.ones(batch, points, 1)), dim=2),
        )
        targets = Targets(
            joints=mesh.joints,
            pose=pose,
            betas=betas,
            translation=translation,
            vertices=mesh.vertices,
            object_rotation=rotation,
            object_translation=centre,
            hand_contact=hand,
            object_contact=touched,
            hand_valid=yes.clone(),
            object_valid=yes.clone(),
            contact_valid=yes.clone(),
        )
        which = torch.arange(batch) % 2 == 1 if left else torch.zeros(batch, dtype=torch.bool)
        return Batch(mirror_inputs(inputs, which), mirror_targets(targets, which), torch.arange(batch))

    return make
