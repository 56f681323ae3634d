"""The mirror that makes left hands right ones, and the contact labels."""

import pytest
import torch

from amt.hand.batch import Inputs, Targets
from amt.hand.camera import project
from amt.hand.contact import contact_labels
from amt.hand.mano import ManoLayer
from amt.hand.mirror import mirror_inputs, mirror_pixels, mirror_points, mirror_pose, mirror_rotations, mirror_targets
from amt.hand.rotations import axis_angle_to_matrix
from amt.hand.shipped import shipped_hand

SIZE, WIDTH = 56, 640


@pytest.fixture
def scene():
    """Two left hands with an object, all fields set and consistent with each other."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.rand(*shape, generator=generator)

    pose, betas = random(2, 48) - 0.5, random(2, 10)
    translation = random(2, 3) * 0.1 + torch.tensor((0.0, 0.0, 0.6))
    mesh = ManoLayer(shipped_hand("left"))(pose, betas, translation)
    frame = torch.tensor(((613.0, 0.5, 313.0), (0.0, 612.0, 245.0), (0.0, 0.0, 1.0))).repeat(2, 1, 1)
    crop = torch.tensor(((300.0, 0.0, 30.0), (0.0, 299.0, 25.0), (0.0, 0.0, 1.0))).repeat(2, 1, 1)
    inputs = Inputs(
        image=(random(2, 3, SIZE, SIZE) * 255).to(torch.uint8),
        intrinsics=crop,
        box=random(2, 3) * 100 + 100,
        frame_intrinsics=frame,
        frame_size=torch.tensor(((480.0, WIDTH), (480.0, WIDTH))),
        right=torch.tensor((False, False)),
        object_class=torch.tensor((1, 2)),
        object_points=random(2, 30, 3) * 0.1,
    )
    targets = Targets(
        joints=mesh.joints,
        pose=pose,
        betas=betas,
        translation=translation,
        vertices=mesh.vertices,
        object_rotation=axis_angle_to_matrix(random(2, 3) * 3),
        object_translation=random(2, 3),
        hand_contact=random(2, 50) > 0.5,
        object_contact=random(2, 30) > 0.5,
        hand_valid=torch.tensor((True, True)),
        object_valid=torch.tensor((True, False)),
        contact_valid=torch.tensor((True, False)),
    )
    return inputs, targets


def test_mirrored_joints_project_onto_mirrored_pixels(scene):
    inputs, targets = scene
    both = torch.tensor((True, True))
    after, seen = mirror_inputs(inputs, both), mirror_targets(targets, both)
    for intrinsics, width in (("intrinsics", SIZE), ("frame_intrinsics", WIDTH)):
        before = project(targets.joints, getattr(inputs, intrinsics))
        torch.testing.assert_close(
            project(seen.joints, getattr(after, intrinsics)), mirror_pixels(before, width), atol=1e-3, rtol=0
        )
    assert torch.equal(after.image[..., 3], inputs.image[..., SIZE - 1 - 3])
    assert after.right.all()


def test_mirrored_object_points_lie_where_the_mirror_shows_them(scene):
    inputs, targets = scene
    both = torch.tensor((True, True))

    def placed(inputs, targets):
        return inputs.object_points @ targets.object_rotation.mT + targets.object_translation[:, None]

    after, seen = mirror_inputs(inputs, both), mirror_targets(targets, both)
    torch.testing.assert_close(placed(after, seen), mirror_points(placed(inputs, targets)))
    torch.testing.assert_close(torch.linalg.det(seen.object_rotation), torch.ones(2))


def test_a_mirrored_left_hand_is_what_the_right_layer_makes(scene):
    _, targets = scene
    seen = mirror_targets(targets, torch.tensor((True, True)))
    mesh = ManoLayer(shipped_hand("right"))(seen.pose, seen.betas, seen.translation)
    torch.testing.assert_close(mesh.joints, seen.joints, atol=1e-6, rtol=0)


def test_only_the_chosen_samples_change_and_twice_is_once(scene):
    for value, mirror in zip(scene, (mirror_inputs, mirror_targets), strict=True):
        once = mirror(value, torch.tensor((False, True)))
        twice = mirror(once, torch.tensor((False, True)))
        changed = set()
        for (name, before), (_, after), (_, back) in zip(
            *(x.named_tensors() for x in (value, once, twice)), strict=True
        ):
            assert torch.equal(after[0], before[0]), name
            torch.testing.assert_close(back, before, msg=name)
            assert after.dtype == before.dtype
            if not torch.equal(after[1], before[1]):
                changed.add(name)
        expected = {"image", "intrinsics", "box", "frame_intrinsics", "right", "object_points"}
        if mirror is mirror_targets:
            expected = {"joints", "pose", "translation", "vertices", "object_rotation", "object_translation"}
        assert changed == expected


def test_pose_and_matrices_mirror_alike():
    pose = torch.randn(4, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        axis_angle_to_matrix(mirror_pose(pose).unflatten(-1, (16, 3))),
        mirror_rotations(axis_angle_to_matrix(pose.unflatten(-1, (16, 3)))),
    )


def test_contact_by_hand():
    vertices = torch.tensor((((0.0, 0.0, 0.5), (0.1, 0.0, 0.5), (float("nan"), 0.0, 0.5)),))
    points = torch.tensor((((0.004, 0.0, 0.5), (0.106, 0.0, 0.5)),))
    hand, thing = contact_labels(vertices, points)
    assert hand.tolist() == [[True, False, False]]
    assert thing.tolist() == [[True, False]]
    hand, thing = contact_labels(vertices, points, threshold=0.007)
    assert hand.tolist() == [[True, True, False]]
    assert thing.tolist() == [[True, True]]


def test_contact_is_exact_far_from_the_origin():
    """The expanded form of the squared distance would be off by more than the step here."""
    vertices = torch.tensor(((0.0, 0.0, 4.0),))
    points = torch.tensor(((0.00499, 0.0, 4.0), (0.00501, 0.0, 4.0))).repeat(40, 1)
    _, thing = contact_labels(vertices, points)
    assert thing.tolist() == [True, False] * 40


def test_no_points_no_contact():
    hand, thing = contact_labels(torch.zeros(2, 778, 3), torch.zeros(2, 0, 3))
    assert not hand.any()
    assert thing.shape == (2, 0)


@pytest.mark.parametrize("threshold", [0.0, -1.0, 5.0])
def test_a_threshold_in_millimetres_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold: expected metres"):
        contact_labels(torch.zeros(778, 3), torch.zeros(5, 3), threshold=threshold)
