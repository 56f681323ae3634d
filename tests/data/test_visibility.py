"""Visibility of joints against the set's own geometry: what a ray from the camera meets first."""

import numpy as np
import pytest
import torch

from amt.data.config import CropConfig
from amt.data.crop_cache import build_cache
from amt.data.dexycb import DexYCB
from amt.data.layout import depth_name
from amt.data.loader import CropDataset
from amt.data.visibility import FINGER, PALM, WRIST, joint_visibility
from amt.hand.skeleton import TIPS

trimesh = pytest.importorskip("trimesh")


def first_hit(frame, layer, objects):
    """Depth (m) of the first surface along the ray through each joint, and whether it is the hand's; by another renderer."""
    mesh = layer(*(torch.from_numpy(a)[None] for a in (frame.pose, frame.betas, frame.translation)))
    hand = trimesh.Trimesh(mesh.vertices[0].numpy(), layer.faces.numpy(), process=False)
    scene = [(hand, True)]
    for class_id, pose in zip(frame.sequence.class_ids, frame.object_poses):
        vertices, faces = objects[class_id]
        scene.append((trimesh.Trimesh(vertices @ pose[:, :3].T + pose[:, 3], faces, process=False), False))
    directions = frame.joints / frame.joints[:, 2:]
    depth, on_hand = np.full(21, np.inf), np.zeros(21, bool)
    for solid, is_hand in scene:
        points, rays, _ = solid.ray.intersects_location(np.zeros((21, 3)), directions, multiple_hits=True)
        for point, ray in zip(points, rays):
            if point[2] < depth[ray]:
                depth[ray], on_hand[ray] = point[2], is_hand
    return depth, on_hand


def test_a_joint_is_visible_where_its_own_flesh_is_seen_first(tiny_set):
    """Against ray casting. Rays within a pixel of an edge, or a millimetre of a bound, may differ."""
    from amt.data.meshes import read_mesh
    from amt.data.objects import mesh_file

    reader = DexYCB(tiny_set, "s0", "train")
    objects = {c: read_mesh(mesh_file(reader.objects.folder / n)) for c, n in reader.objects.names.items()}
    flesh = np.full(21, FINGER)
    flesh[[2, *(tip - 3 for tip in TIPS)]], flesh[0] = PALM, WRIST
    agree, visible = [], []
    for index in range(0, len(reader), max(1, len(reader) // 16)):
        frame = reader[index]
        found, known = joint_visibility(frame)
        assert known
        depth, on_hand = first_hit(frame, reader.layer(frame.sequence.side), objects)
        expected = on_hand & (frame.joints[:, 2] - depth <= flesh)
        inside = ((frame.joints_2d > 1) & (frame.joints_2d < [638, 478])).all(axis=1)
        segment, at = frame.segment(), np.rint(frame.joints_2d).astype(int)
        for joint in np.flatnonzero(
            inside
        ):  # a fingertip lies on an outline, where a ray half a pixel away decides otherwise
            x, y = at[joint]
            inside[joint] = len(np.unique(segment[y - 1 : y + 2, x - 1 : x + 2])) == 1
        agree.append((found == expected)[inside])
        visible.append(found)
    assert np.concatenate(agree).mean() > 0.95
    assert 0.2 < np.concatenate(visible).mean() < 0.9


def test_frames_that_cannot_tell_are_not_labelled(own_set, tmp_path):
    reader = DexYCB(own_set, "s0", "train")
    frame = reader[3]
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
    reader.objects.names[1] = "my_bottle"
    assert reader.objects.symmetric(1)
