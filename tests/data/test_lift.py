"""Sequences in which a hand comes, grasps and lifts: smooth, true to contact, above the table, and read in windows."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from amt.data.config import CropConfig, DataConfig
from amt.data.dexycb import DexYCB
from amt.data.errors import DataError
from amt.data.loader import make_loader
from amt.data.synthetic import scene
from amt.data.synthetic.__main__ import main
from amt.data.synthetic.config import SetConfig
from amt.data.synthetic.lift import block, phases
from amt.data.synthetic.objects import built_in, load_shapes
from amt.data.synthetic.rests import SUNK, rests
from amt.data.synthetic.sequence import Sequence

pytest.importorskip("embreex")
LIFT = SetConfig(independent=9, frames=36, lift=True, seed=5)


@pytest.fixture(scope="module", params=[0, 1, 8])
def sequence(request):
    spec = LIFT.specs()[request.param]
    side = scene.sequence_side(spec.seed, spec.subject, spec.sequence)
    camera = scene.rig(spec.seed, spec.person)[:1]
    return Sequence(spec, load_shapes(), LIFT.hand(side), camera, (0,))


def held_vertices(sequence):
    """float64 [F, V, 3], m: of the object in the hand, in the table's frame."""
    vertices = sequence.shapes[sequence.class_ids[sequence.held]].mesh()[0]
    return vertices @ sequence.motion.rotations.transpose(0, 2, 1) + sequence.motion.translations[:, None]


def test_a_hand_comes_grasps_holds_and_lifts(sequence):
    at = phases(LIFT.frames)
    near = sequence.hand_distance.min(1)
    assert near[0] > 0.02, "it comes from outside"
    assert not sequence.hand_contact[: at["close"] // 2].any()
    assert not sequence.object_contact[: at["close"] // 2].any()
    assert near.min() > -0.005, "at most soft skin's depth in the object, on the way in as well"
    held = sequence.hand_contact[at["hold"] :]
    assert held[0].sum() >= 15
    assert (held == held[0]).mean() > 0.999, "the object moves with the hand"
    assert (sequence.object_contact[at["hold"] :].sum(1) >= 10).all()
    np.testing.assert_array_equal(sequence.object_contact, sequence.object_distance < 0.005)
    opened = np.linalg.norm(sequence.joints[:, 4] - sequence.joints[:, 12], axis=1)  # thumb to middle finger
    assert opened[: at["close"]].max() > opened[-1] + 0.01


def test_the_object_rests_until_it_is_lifted_and_nothing_goes_below_the_table(sequence):
    start = phases(LIFT.frames)["lift"]
    low = held_vertices(sequence)[..., 2].min(1)
    poses = sequence.object_poses[:, sequence.held]
    np.testing.assert_allclose(poses[:start], np.broadcast_to(poses[0], poses[:start].shape), atol=1e-12)
    under = sequence.still[-1] if len(sequence.still) > len(sequence.clutter) else None
    top = 0.0 if under is None else under.vertices[:, 2].max()
    np.testing.assert_allclose(low[:start], top, atol=1e-6)
    assert low.min() > -1e-6
    assert low[-1] > top + 0.05
    assert sequence.vertices[..., 2].min() > -3 * SUNK


def test_nothing_jumps(sequence):
    """Between frames, at 15 a second: at most 5 cm, and no velocity that changes by more than 3 cm a frame."""
    for path in (sequence.vertices, held_vertices(sequence)):
        steps = np.diff(path, axis=0)
        assert np.linalg.norm(steps, axis=-1).max() < 0.05
        assert np.linalg.norm(np.diff(steps, axis=0), axis=-1).max() < 0.03


def test_a_thing_rests_where_its_centre_of_mass_lies_above_its_side():
    box = rests(built_in(3))
    assert {tuple(np.abs(np.round(up, 6))) for up in box.up} == {(1, 0, 0), (0, 1, 0), (0, 0, 1)}
    np.testing.assert_allclose(box.height, -np.abs(box.up @ built_in(3).extent) / 2, atol=1e-9)
    assert any(up[2] > 0.99 for up in rests(built_in(5)).up), "a bottle stands"
    assert not any(up[2] < -0.99 for up in rests(built_in(5)).up), "not on its cap"
    for class_id in (10, 14, 17):
        vertices = built_in(class_id).mesh()[0]
        for up, height in zip(rests(built_in(class_id)).up, rests(built_in(class_id)).height, strict=True):
            assert (vertices @ up).min() == pytest.approx(height, abs=1e-9)


def test_a_block_stands_under_what_no_table_leaves_room_for():
    bottom = np.array([[x, y, z] for x in (-0.05, 0, 0.05) for y in (-0.01, 0.01) for z in (0.04, 0.06)])
    hand = np.array([[0.01, 0, 0.02], [0.05, 0, 0.03], [0, 0, 0.2]])
    part = block(bottom, hand)
    assert part.vertices[:, 2].max() == pytest.approx(0.04)
    low, high = part.vertices.min(0), part.vertices.max(0)
    assert not ((hand > low) & (hand < high)).all(1).any()
    assert block(bottom - [0, 0, 0.04], hand) is None


def test_lifts_are_written_read_and_taken_in_windows(tmp_path, capsys):
    root = tmp_path / "set"
    words = ["--lift", "--independent", "1", "--frames", "36", "--seed", "5", "--workers", "1", "--quiet"]
    assert main([str(root), *words]) == 0
    assert "36 frames, 1 grasps, 1 people" in capsys.readouterr().out
    reader = DexYCB(root, "s0", "train")
    assert len(reader) == 36
    frame, last = reader[0], reader[35]
    folder = frame.sequence.folder
    assert json.loads((folder / "grasp.json").read_text())["first_frame"] == phases(36)
    hand, back = reader.contact_distances(last)
    assert hand.min() < 0.005 < reader.contact_distances(frame)[0].min()
    assert back.shape == (2048,)
    with np.load(folder / "pose.npz") as poses:
        world, codes = poses["pose_y"][:, frame.sequence.grasp], poses["pose_m"][:, 0]
    assert (len(world), len(codes)) == (36, 36)
    placed = reader.extrinsics(last.sequence, last.camera) @ np.vstack(
        (np.c_[last.object_rotation, last.object_translation], (0, 0, 0, 1))
    )
    np.testing.assert_allclose(placed[:, 3], world[35, 4:], atol=1e-5)
    np.testing.assert_allclose(placed[:, :3], Rotation.from_quat(world[35, :4]).as_matrix(), atol=1e-5)
    crop = CropConfig(size=32, num_points=16)
    config = DataConfig(root=str(root), split="s0", cache=str(tmp_path / "cache"), crop=crop, window=4, stride=2)
    loader = make_loader(config, "train", 8, progress=False)
    batch = next(iter(loader))
    assert batch.window.tolist() == [0] * 4 + [1] * 4
    assert (np.diff(batch.index.reshape(2, 4), axis=1) == 2).all()
    wrists = batch.targets.joints[:, 0].reshape(2, 4, 3)
    assert 0 < np.linalg.norm(np.diff(wrists, axis=1), axis=-1).max() < 0.1, "m, over two frames"


@pytest.mark.parametrize("frames", ["8", "35"])
def test_too_few_frames_for_a_lift_are_told(tmp_path, capsys, frames):
    assert main([str(tmp_path / "set"), "--lift", "--frames", frames]) == 2
    assert f"lift needs frames of at least 36 a sequence; got {frames}" in capsys.readouterr().err
    with pytest.raises(DataError, match="lift needs frames"):
        SetConfig(lift=True)
