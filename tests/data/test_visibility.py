"""Visibility of joints and vertices against rays that are cast here, and what pictures alone say of it."""

import numpy as np
import pytest

from amt.data.config import CropConfig
from amt.data.crop_cache import build_cache
from amt.data.dexycb import DexYCB
from amt.data.layout import SERIALS, depth_name, labels_name
from amt.data.loader import CropDataset
from amt.data.synthetic import scene
from amt.data.synthetic.objects import load_shapes
from amt.data.synthetic.sequence import Sequence
from amt.data.visibility import FINGER, PALM, WRIST, joint_visibility, seen_joints
from amt.hand.skeleton import TIPS
from tests.data.conftest import SPOILED, TINY

pytest.importorskip("embreex")


def first_crossing(eye, points, vertices, faces, vertex):
    """Share of the way from eye to each point where a triangle is met first, else 1: Moller and Trumbore (1997), float64."""
    a, b, c = vertices[faces].transpose(1, 0, 2)
    first, second, start = b - a, c - a, eye - a
    side = np.cross(start, first)
    shares = np.empty(len(points))
    for k, point in enumerate(points):
        ray = point - eye
        across = np.cross(ray, second)
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = 1 / (first * across).sum(1)
            u, v, t = (start * across).sum(1) * scale, side @ ray * scale, (second * side).sum(1) * scale
        own = (faces == vertex[k]).any(1)
        shares[k] = t[(u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < 1) & ~own].min(initial=1)
    return shares


def stored(root, spec, serial, frame):
    from amt.data.synthetic.config import sequence_folder

    with np.load(sequence_folder(root, spec) / serial / labels_name(frame)) as archive:
        return archive["joint_visible"][0], archive["vertex_visible"][0], archive["joint_2d"][0]


@pytest.mark.parametrize(
    ("name", "config", "number"),
    [("tiny_set", TINY, 0), ("tiny_set", TINY, 3), ("spoiled_set", SPOILED, 0), ("spoiled_set", SPOILED, 1)],
)
def test_visible_joints_and_vertices_are_those_that_rays_reach(request, name, config, number):
    """Every joint of two cameras and frames, every seventh vertex; the outline included, exactly."""
    flesh = np.full(21, FINGER)
    flesh[[2, *(tip - 3 for tip in TIPS)]], flesh[0] = PALM, WRIST
    root, spec = request.getfixturevalue(name), config.specs()[number]
    side = scene.sequence_side(spec.seed, spec.subject, spec.sequence)
    cameras = scene.rig(spec.seed, spec.subject, config.camera)
    sequence = Sequence(spec, load_shapes(()), config.hand(side), cameras, effects=config.camera)
    seen = 0
    for camera, frame in ((number, 0), (7 - number, config.frames - 1)):
        hand, *others = sequence.moving(frame)
        eye = cameras[camera].centre
        joints, vertices, joints_2d = stored(root, spec, SERIALS[camera], frame)
        chosen = np.arange(number, len(vertices), 7)
        points = np.concatenate([sequence.joints[frame], hand.vertices[chosen]])
        own = np.full(21, -1)
        own[4::4] = sequence.model.tip_vertices
        own = np.concatenate([own, chosen])
        on_hand = first_crossing(eye, points, hand.vertices, hand.faces, own)
        nobody = np.full(len(points), -1)
        elsewhere = [
            first_crossing(eye, points, np.asarray(b.vertices, float), b.faces, nobody)
            for b in (*others, *sequence.still, *filter(None, [sequence.occluders[camera]]))
        ]
        clear = on_hand <= np.min(elsewhere, 0)
        depth = (points @ cameras[camera].rotation.T + cameras[camera].translation)[:, 2]
        behind = depth * (1 - on_hand)
        inside = (np.rint(joints_2d) >= 0).all(1) & (np.rint(joints_2d) < (640, 480)).all(1)
        np.testing.assert_array_equal(joints, clear[:21] & (behind[:21] <= flesh) & inside)
        pixel = np.rint(cameras[camera].pixels(hand.vertices[chosen]))
        inside = (pixel >= 0).all(1) & (pixel < (640, 480)).all(1)
        np.testing.assert_array_equal(vertices[chosen], clear[21:] & (behind[21:] == 0) & inside)
        seen += vertices.sum()
    assert seen > 0, "not both behind their occluders"


def test_pictures_alone_tell_nearly_the_same(tiny_set):
    """Segmentation and depth, all that a recorded set has, beside the exact labels; pixels on an outline cannot tell."""
    reader = DexYCB(tiny_set, "s0", "train")
    agree, visible = [], []
    for index in range(0, len(reader), 4):
        frame = reader[index]
        exact, known = joint_visibility(frame)
        found, told = seen_joints(frame)
        assert known
        assert told
        inside = ((frame.joints_2d > 1) & (frame.joints_2d < [638, 478])).all(axis=1)
        segment, at = frame.segment(), np.rint(frame.joints_2d).astype(int)
        for joint in np.flatnonzero(inside):
            x, y = at[joint]
            inside[joint] = len(np.unique(segment[y - 1 : y + 2, x - 1 : x + 2])) == 1
        agree.append((found == exact)[inside])
        visible.append(exact)
    assert np.concatenate(agree).mean() > 0.95
    assert 0.2 < np.concatenate(visible).mean() < 0.9


def test_frames_that_cannot_tell_are_not_labelled(own_set, tmp_path):
    reader = DexYCB(own_set, "s0", "train")
    frame = reader[3]
    path = frame.folder / labels_name(frame.number)
    with np.load(path) as archive:
        kept = {name: archive[name] for name in archive if not name.endswith("_visible")}
    np.savez_compressed(path, **kept)  # as in a recorded set
    assert frame.joint_visible() is None
    assert joint_visibility(frame)[1]
    (frame.folder / depth_name(frame.number)).unlink()
    visible, known = joint_visibility(frame)
    assert not known
    assert not visible.any()
    config = CropConfig(size=32, num_points=16)
    cache = build_cache(reader, config, tmp_path / "crops", progress=False)
    targets = CropDataset(cache, config).batch(np.arange(8)).targets
    assert targets.visibility_valid.tolist() == [True] * 3 + [False] + [True] * 4
    assert targets.joint_visible.shape == (8, 21)
    assert targets.joint_visible[:3].any()
    assert reader.broken == {}  # depth is no part that a frame needs


def test_symmetry_is_that_of_ycb_s_objects_and_unknown_for_others(tiny_set):
    reader = DexYCB(tiny_set, "s0", "train")
    assert [reader.objects.symmetric(c) for c in (1, 13, 21)] == [False, True, True]
    reader = DexYCB(tiny_set, "s0", "train")  # the answer is kept: another reader
    reader.objects.names[1] = "my_bottle"
    assert reader.objects.symmetric(1)
