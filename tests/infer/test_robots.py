"""--retarget in a run: what is refused, what is written, what is drawn."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from infer_files import write_video

from amt.infer.__main__ import main
from amt.infer.checks import InputError
from amt.infer.robots import Robots, read_world

pytest.importorskip("mink")
sys.path.append(str(Path(__file__).parents[1] / "robot"))
from hands_made import grasping, write_hand


def test_one_command_from_a_video_to_joint_angles(checkpoint, photo, tmp_path, capsys):
    import cv2

    clip = write_video(tmp_path / "clip.mp4", [photo] * 4)
    hand = write_hand(tmp_path / "made.xml")
    np.savetxt(tmp_path / "world.txt", np.diag((-1, -1, 1, 1)))
    words = [str(checkpoint), str(clip), "--retarget", str(hand), "--world", str(tmp_path / "world.txt")]
    assert main([*words, "--box", "160,120,120", "--out", str(tmp_path / "out"), "--export", "npz"]) == 0
    assert "made 0: 4 frames, fingertips" in capsys.readouterr().out
    with np.load(tmp_path / "out" / "predictions.npz") as found:
        angles, palm, joints = found["robot_joints_rad"], found["robot_palm"], found["joints_m"]
        about = json.loads(str(found["about"]))["robot"]
    limits = np.array(about["joint_limits_rad"])
    assert angles.shape == (4, len(about["joint_names"]))
    assert (angles >= limits[:, 0] - 1e-6).all()
    assert (angles <= limits[:, 1] + 1e-6).all()
    assert np.linalg.norm(palm[:, :3, 3] - joints[:, 0] * (-1, -1, 1), axis=1).max() < 0.15  # in the world's frame
    shown = cv2.VideoCapture(str(tmp_path / "out" / "overlay.mp4")).read()[1]
    assert shown.shape == (240, 320 + 240 + 160, 3)
    assert shown[:, 560:].std() > 5


def test_the_state_of_a_data_set_is_the_robots(checkpoint, photo, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    clip = write_video(tmp_path / "clip.mp4", [photo] * 4)
    words = [
        str(checkpoint),
        str(clip),
        "--retarget",
        str(write_hand(tmp_path / "made.xml")),
        "--no-draw",
        "--every",
        "2",
    ]
    assert main([*words, "--box", "160,120,120", "--out", str(tmp_path / "out"), "--export", "lerobot"]) == 0
    root = tmp_path / "out" / "lerobot"
    info = json.loads((root / "meta" / "info.json").read_text())
    assert (info["robot_type"], info["fps"], info["total_frames"]) == ("made", 6, 2)
    names = info["features"]["observation.state"]["names"]
    assert (names[0], names[-1], len(names)) == ("ffJ3_rad", "palm_qw", 21 + 7)
    state = np.array(parquet.read_table(root / "data/chunk-000/file-000.parquet")["observation.state"].to_pylist())
    assert np.allclose(np.linalg.norm(state[:, -4:], axis=1), 1, atol=1e-5)


def test_a_hand_that_is_lost_keeps_its_robot(tmp_path, result):
    from dataclasses import replace

    from amt.robot import load_hand

    robots = Robots(load_hand(str(write_hand(tmp_path / "made.xml"))), None, 30.0)
    for k, points in enumerate(grasping(6)):
        seen = replace(result, joints=points, hand_found=k != 3)
        motions = robots.follow(k, (seen,), (7,))
        assert (motions[0] is None) == (k == 3)
    tally = robots.tallies[7]
    assert (tally.frames, len(tally.recent)) == (5, 2)  # jerk is not taken across the gap
    assert robots.meshes((None,)) == [None]
    assert robots.lines()[0].startswith("made 7: 5 frames")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "1 0 0\n0 1 0\n0 0 1", r"--world .*a\.txt: expected 4 x 4 finite numbers, got float64 \[3, 3\]"),
        ("b.json", "[[2,0,0,0],[0,2,0,0],[0,0,2,0],[0,0,0,1]]", "expected a rigid transform, row by row"),
        ("c.txt", "one two", r"--world .*c\.txt: expected 4 x 4 numbers"),
    ],
)
def test_a_world_that_is_no_transform_is_told(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_world(str(tmp_path / name))
    with pytest.raises(InputError, match=r"nothing\.npy: cannot be read"):
        read_world(str(tmp_path / "nothing.npy"))


def test_wrong_words_are_one_line(checkpoint, picture, capsys):
    assert main([str(checkpoint), str(picture), "--world", "w.txt"]) == 2
    assert "--world: goes with --retarget" in capsys.readouterr().err
    assert main([str(checkpoint), str(picture), "--retarget", "claw.xml"]) == 2
    assert "--retarget claw.xml: no such file; expected shadow, adroit or the path" in capsys.readouterr().err
