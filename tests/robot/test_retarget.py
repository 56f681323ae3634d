"""A robot's hand follows a person's: fingertips, limits, smoothness, sides, the fixed frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hands_made import grasping, write_hand

from amt.hand.skeleton import TIPS
from amt.robot import Retargeter, RobotError, figures, load_hand, retarget

pytest.importorskip("mujoco")
pytest.importorskip("mink")
RATE = 30.0


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return load_hand(str(write_hand(tmp_path_factory.mktemp("hand") / "made.xml")))


@pytest.fixture(scope="module")
def joints() -> np.ndarray:
    return grasping(45)


@pytest.fixture(scope="module")
def motions(made, joints):
    return retarget(made, joints)


def test_a_file_gives_the_fingers_and_leaves_the_wrist_and_the_table(made):
    assert made.name == "made"
    assert made.fingers == ("thumb", "index", "middle", "ring", "little")
    assert len(made.joint_names) == 21
    assert "WRJ0" not in made.joint_names
    assert made.model.nv == 22  # the wrist is there and stays
    assert [made.places[k][2] for k in made.tips] == list(TIPS)
    assert made.palm_joints == (0, 5, 9, 13, 17)


def test_fingertips_follow_within_limits(made, motions):
    found = figures(made, motions, RATE)
    assert found.frames == 45
    assert found.tip_mean_mm < 15
    assert found.violations == 0
    closed, opened = motions[22].angles, motions[0].angles
    flexion = [made.joint_names.index(f"{name}J2") for name in ("ff", "mf", "rf", "lf")]
    assert (closed[flexion] > opened[flexion] + 0.3).all()


def test_the_robots_tips_lie_where_the_model_puts_them(made, motions, joints):
    """Forward kinematics of the angles, through the palm's pose, gives the tips that are told."""
    import mujoco

    data = mujoco.MjData(made.model)
    data.qpos[made.addresses] = motions[20].angles
    mujoco.mj_kinematics(made.model, data)
    turned = data.xmat.reshape(-1, 3, 3)
    for row, tip in zip(made.tips, motions[20].tips):
        body, point, _ = made.places[row]
        in_palm = (turned[body] @ point + data.xpos[body] - data.xpos[made.palm]) @ turned[made.palm]
        palm = motions[20].palm
        assert np.allclose(palm[:3, :3] @ in_palm + palm[:3, 3], tip, atol=1e-9)
    wrist, scale = joints[20][0], motions[20].scale
    aims = wrist + scale * (joints[20][list(TIPS)] - wrist)
    assert np.allclose(1000 * np.linalg.norm(aims - motions[20].tips, axis=1), motions[20].tip_error_mm, atol=1e-3)


def test_a_left_hand_is_the_mirror_image(made, motions, joints):
    mirrored = retarget(made, joints[:3] * (-1, 1, 1), "left")
    for left, right in zip(mirrored, motions):
        assert np.allclose(left.angles, right.angles, atol=1e-6)
        assert np.allclose(left.tips, right.tips * (-1, 1, 1), atol=1e-6)
        assert np.linalg.det(left.palm[:3, :3]) == pytest.approx(1)


def test_the_palm_is_told_in_the_fixed_frame(made, motions, joints):
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = ((0, -1, 0), (1, 0, 0), (0, 0, 1)), (1, 2, 3)
    (moved,) = retarget(made, joints[:1], world=world)
    assert np.allclose(moved.palm, world @ motions[0].palm)
    assert np.allclose(moved.palm_camera, motions[0].palm)
    assert np.array_equal(moved.angles, motions[0].angles)


def test_size_and_place_of_the_person_do_not_matter(made, motions, joints):
    small = (joints[:5] - joints[:5, :1]) * 0.8 + (0.1, 0.1, 0.9)
    for other, motion in zip(retarget(made, small), motions):
        assert np.allclose(other.angles, motion.angles, atol=1e-4)


def test_noise_is_smoothed(made, joints, monkeypatch):
    """A still hand with noise of 2 mm: what ties a frame to the one before makes the angles quieter."""
    noisy = joints[:1] + np.random.default_rng(0).normal(0, 0.002, (20, 21, 3))

    def unrest() -> float:
        return float(np.abs(np.diff([m.angles for m in retarget(made, noisy)][5:], axis=0)).mean())

    smooth = unrest()
    monkeypatch.setattr("amt.robot.solve.SMOOTH", 1e-5)
    assert smooth < 0.8 * unrest()


def test_what_cannot_be_followed_is_told(made, tmp_path):
    with pytest.raises(ValueError, match=r"joints: expected finite numbers \[21, 3\]"):
        Retargeter(made).next(np.full((21, 3), np.nan))
    with pytest.raises(RobotError, match=r"--retarget nothing\.xml: no such file; expected shadow, adroit or the path"):
        load_hand("nothing.xml")
    (tmp_path / "broken.xml").write_text("<mujoco><worldbody>")
    with pytest.raises(RobotError, match=r"--retarget .*broken\.xml: MuJoCo cannot read"):
        load_hand(str(tmp_path / "broken.xml"))
    (tmp_path / "box.xml").write_text(
        '<mujoco><worldbody><body name="box"><geom size="1"/></body></worldbody></mujoco>'
    )
    with pytest.raises(
        RobotError, match=r"expected a thumb and two or more fingers by the names of their bodies.*found none"
    ):
        load_hand(str(tmp_path / "box.xml"))


def test_a_violated_limit_is_counted(made, motions):
    wrong = replace(motions[0], angles=motions[0].angles + 2)
    assert figures(made, [wrong], RATE).violations > 0


@pytest.mark.parametrize("name", ["shadow", "adroit"])
def test_gymnasium_robotics_hands_follow(name, joints):
    pytest.importorskip("gymnasium_robotics")
    hand = load_hand(name)
    assert len(hand.joint_names) == 22
    found = figures(hand, retarget(hand, joints), RATE)
    assert found.tip_mean_mm < 15
    assert found.violations == 0


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("amt.robot.models.find_spec", lambda name: None)
    with pytest.raises(RobotError, match="the package gymnasium-robotics, which holds this hand, is not installed"):
        load_hand("shadow")
    monkeypatch.setattr("amt.robot.extra.find_spec", lambda name: None)
    with pytest.raises(RobotError, match=r"the package mujoco is not installed; pip install amt\[robot\]"):
        load_hand("shadow")


def test_the_mesh_is_closed_and_lies_where_the_hand_is(made, motions):
    from amt.robot.mesh import RobotMesh

    points, faces = RobotMesh(made).posed(motions[20])
    assert np.linalg.norm(points.mean(0) - motions[20].palm[:3, 3]) < 0.12
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    a, b, c = (points[faces[:, k]] for k in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() > 0  # counter-clockwise from outside
