"""``--retarget FILE.xml`` with files of users: what is found in them, and what is wrong with them in one line."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hands_made import claw, grasping

from amt.robot import RobotError, figures, load_hand, retarget
from amt.robot.fingers import finger_of

pytest.importorskip("mujoco")
pytest.importorskip("mink")
INERTIA = '<inertial pos="0 0 0" mass="0.1" diaginertia="1e-4 1e-4 1e-4"/>'
CLAW = claw("th", "ff", "mf")


@pytest.fixture
def loaded(tmp_path):
    def load(text: str, **others: str):
        for name, content in others.items():
            (tmp_path / f"{name}.xml").write_text(content)
        (tmp_path / "claw.xml").write_text(text)
        return load_hand(str(tmp_path / "claw.xml"))

    return load


def wrapped(words: str) -> str:
    """A file that includes another, ``links.xml``, and says which bodies are its fingertips."""
    return f'<mujoco><include file="links.xml"/><custom><text name="amt_fingers" data="{words}"/></custom></mujoco>'


@pytest.mark.parametrize(
    ("names", "fingers"),
    [
        (("th", "ff", "mf"), ("thumb", "index", "middle")),
        (("th", "if", "mf", "rf"), ("thumb", "index", "middle", "ring")),
        (
            ("thumb", "index", "middle", "ring", "pinky", "finger6", "finger7", "finger8"),
            ("thumb", "index", "middle", "ring", "little"),
        ),
    ],
)
def test_three_fingers_and_more_follow(loaded, names, fingers):
    hand = loaded(claw(*names))
    assert hand.fingers == fingers
    assert len(hand.joint_names) == 4 * len(fingers)  # fingers without a person's stay at rest
    found = figures(hand, retarget(hand, grasping(12)), 30.0)
    assert found.tip_mean_mm < 15
    assert (found.violations, found.unlimited) == (0, 0)


def test_a_text_names_the_fingertips_of_a_file_with_other_names(loaded):
    links = claw("link_0", "link_1", "link_2")
    with pytest.raises(RobotError, match=r"claw\.xml: expected a thumb and two or more fingers .* amt_fingers, found"):
        loaded(links)
    words = "thumb=link_0_distal, index=link_1_distal middle=link_2_distal"
    hand = loaded(wrapped(words), links=links)
    by_names = loaded(CLAW)
    assert hand.fingers == by_names.fingers
    joints = grasping(3)
    for one, other in zip(retarget(hand, joints), retarget(by_names, joints)):
        assert np.allclose(one.angles, other.angles)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("thumb", "'thumb'; expected FINGER=BODY of thumb, index, middle, ring, little"),
        ("toe=link_0_distal", "'toe=link_0_distal'; expected FINGER=BODY"),
        ("thumb=link_9", "the body 'link_9', which the file does not have"),
        ("thumb=link_0_distal index=link_0_distal", "the same body or finger before; name each once"),
        ("thumb=link_0_distal index=link_1_distal", "found thumb, index"),
    ],
)
def test_a_text_that_cannot_be_is_one_line(loaded, words, message):
    with pytest.raises(RobotError, match=r"^--retarget .*claw\.xml: [^\n]*$") as error:
        loaded(wrapped(words), links=claw("link_0", "link_1", "link_2"))
    assert message in str(error.value)


def test_without_limits_names_or_shapes_the_hand_moves_all_the_same(loaded):
    bare = claw("th", "ff", "mf", limits="", shape=INERTIA, tip="end")
    hand = loaded(re.sub('joint name="[^"]*"', "joint", bare))
    assert hand.joint_names[:2] == ("joint0", "joint1")
    assert len(set(hand.joint_names)) == 12
    told = figures(hand, retarget(hand, grasping(5)), 30.0)
    assert "0 limits violated (12 joints have none)" in told.line()
    about = json.dumps(hand.about, allow_nan=False)  # JSON has no infinity
    assert json.loads(about)["joint_limits_rad"][0] == [None, None]


def test_what_lies_beside_the_hand_or_looks_at_it_is_left_out(loaded):
    beside = """<body name="r:forearm2"><joint/><geom size="0.1"/></body><body><freejoint/><geom size="0.1"/></body>
        <body name="table"><geom size="0.1"/></body><camera mode="targetbody" target="table"/></worldbody>"""
    hand = loaded(CLAW.replace("</worldbody>", beside))
    assert hand.model.nv == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "MuJoCo cannot read"),
        ("<html/>", "MuJoCo cannot read"),
        (claw("th", "ff", "mf", limits='type="ball"'), "joint th_0 is no hinge; only hands with hinges are followed"),
        (claw("th", "ff", "mf", limits='type="slide"'), "joint th_0 is no hinge"),
        (re.sub("<joint [^>]*>", "", CLAW), "its fingers have no joints"),
        (claw("th", "ff", "mf", prefix="lh_"), "those of a left hand; give the right one"),
        (claw("thumb", "index1", "index2", "middle"), "index1_distal and index2_distal are both called index"),
        (CLAW.replace("<worldbody>", '<asset><mesh file="a.stl"/></asset><worldbody>'), "Error opening file 'a.stl'"),
    ],
)
def test_a_file_that_cannot_be_followed_is_one_line(loaded, text, message):
    with pytest.raises(RobotError, match=r"^--retarget .*claw\.xml: [^\n]*$") as error:
        loaded(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("body", "finger"),
    [
        ("robot0:ffdistal", "index"), ("rh_thbase", "thumb"), ("right_hand_thumb_2_link", "thumb"), ("l_pinky_3", "little"),
        ("finger_index_0", "index"), ("rh_forearm", None), ("third_link", None), ("palm", None),
    ],
)  # fmt: skip
def test_names_of_known_hands_are_understood(body, finger):
    assert finger_of(body) == finger
