"""What the writer leaves on disk is DexYCB's layout, and its numbers agree with each other and with the pictures."""

import cv2
import numpy as np
import pytest
import torch
import yaml
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from amt.data.dexycb import DexYCB
from amt.data.layout import CLASS_NAMES, SERIALS, SUBJECTS
from amt.data.meshes import sample_surface
from amt.data.synthetic.arm import Clothes, PosedHand, hand_bodies
from amt.data.synthetic.distance import SignedDistance
from amt.data.synthetic.objects import built_in
from amt.data.synthetic.person_hand import Hand
from amt.data.synthetic.piercing import piercing_depths
from amt.data.synthetic.skin import make_skin
from amt.hand.camera import project, unproject
from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand

NUM_VERTICES = shipped_hand().num_vertices


def sequences(root):
    return sorted(p.parent for p in root.glob("*/*/meta.yml"))


def meta(folder):
    return yaml.safe_load((folder / "meta.yml").read_text())


def lens(root, serial):
    k = yaml.safe_load((root / "calibration" / "intrinsics" / f"{serial}_640x480.yml").read_text())["color"]
    return np.array([[k["fx"], 0, k["ppx"]], [0, k["fy"], k["ppy"]], [0, 0, 1]])


def labels(folder, serial, frame):
    with np.load(folder / serial / f"labels_{frame:06d}.npz") as archive:
        return dict(archive)


def betas(root, folder):
    return yaml.safe_load((root / "calibration" / f"mano_{meta(folder)['mano_calib'][0]}" / "mano.yml").read_text())[
        "betas"
    ]


def over_the_faces(vertices, faces, steps=7):
    """Points all over a mesh's triangles."""
    weights = np.array([(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]) / steps
    return np.einsum("wk,fkc->fwc", weights, vertices[faces]).reshape(-1, 3)


def test_files_and_dtypes(tiny_set):
    assert [p.name for p in sorted(tiny_set.glob("2020*"))] == list(SUBJECTS[:2])
    assert len(sequences(tiny_set)) == 4
    for folder in sequences(tiny_set):
        m = meta(folder)
        assert sorted(m) == sorted(
            ["serials", "num_frames", "extrinsics", "ycb_ids", "ycb_grasp_ind", "mano_sides", "mano_calib"]
        )
        assert m["serials"] == list(SERIALS)
        assert m["ycb_ids"] == sorted(m["ycb_ids"])
        assert 19 not in m["ycb_ids"]
        objects = len(m["ycb_ids"])
        for serial in SERIALS:
            assert len(list((folder / serial).iterdir())) == 3 * m["num_frames"]
            for frame in range(m["num_frames"]):
                found = labels(folder, serial, frame)
                shapes = {k: (v.dtype.name, v.shape) for k, v in found.items()}
                assert shapes == {
                    "seg": ("uint8", (480, 640)),
                    "pose_y": ("float32", (objects, 3, 4)),
                    "pose_m": ("float32", (1, 51)),
                    "joint_3d": ("float32", (1, 21, 3)),
                    "joint_2d": ("float32", (1, 21, 2)),
                    "joint_visible": ("bool", (1, 21)),
                    "vertex_visible": ("bool", (1, NUM_VERTICES)),
                }
                assert set(np.unique(found["seg"])) <= {0, 255, *m["ycb_ids"]}
        image = cv2.imread(str(folder / SERIALS[0] / "color_000000.jpg"), cv2.IMREAD_UNCHANGED)
        depth = cv2.imread(str(folder / SERIALS[0] / "aligned_depth_to_color_000000.png"), cv2.IMREAD_UNCHANGED)
        assert (image.dtype, image.shape) == (np.uint8, (480, 640, 3))
        assert (depth.dtype, depth.shape) == (np.uint16, (480, 640))
        with np.load(folder / "pose.npz") as pose:
            assert (pose["pose_y"].dtype.name, pose["pose_y"].shape) == ("float32", (4, objects, 7))
            assert (pose["pose_m"].dtype.name, pose["pose_m"].shape) == ("float32", (4, 1, 51))
    for class_id, name in CLASS_NAMES.items():
        assert (tiny_set / "models" / name / "textured_simple.obj").is_file(), class_id
        assert (tiny_set / "models" / name / "points.xyz").is_file(), class_id


def test_joints_follow_from_pose_and_projection(tiny_set):
    for folder in sequences(tiny_set):
        layer = ManoLayer(shipped_hand(meta(folder)["mano_sides"][0]))
        shape = torch.tensor([betas(tiny_set, folder)])
        for serial in SERIALS[::3]:
            found = labels(folder, serial, 2)
            pose_m, joints = torch.from_numpy(found["pose_m"]), found["joint_3d"][0]
            pose = torch.cat([pose_m[:, :3], layer.pca_to_pose(pose_m[:, 3:48])], 1)
            mesh = layer(pose, shape, pose_m[:, 48:])
            np.testing.assert_allclose(mesh.joints[0].numpy(), joints, atol=2e-6)
            wrist = layer.rest_joints(shape)[0, 0].numpy() + found["pose_m"][0, 48:]
            np.testing.assert_allclose(joints[0], wrist, atol=1e-6)
            seen = project(joints.astype(np.float64), lens(tiny_set, serial))
            np.testing.assert_allclose(seen.numpy(), found["joint_2d"][0], atol=1e-3)
            assert joints[:, 2].min() > 0.3
            assert joints[:, 2].max() < 1.4


def test_depth_and_segmentation_show_the_posed_meshes(tiny_set):
    """Every pixel of the object lies on its surface where the label puts it; hand pixels lie on the hand."""
    checked = 0
    for folder in sequences(tiny_set):
        m = meta(folder)
        held = m["ycb_ids"][m["ycb_grasp_ind"]]
        distance = SignedDistance.of(built_in(held))
        layer = ManoLayer(shipped_hand(m["mano_sides"][0]))
        for serial in SERIALS[::2]:
            found, k = labels(folder, serial, 3), lens(tiny_set, serial)
            path = folder / serial / "aligned_depth_to_color_000003.png"
            depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) / 1000.0
            for label in (held, 255):
                y, x = np.nonzero(found["seg"] == label)
                if len(x) < 100:
                    continue
                points = unproject(np.stack([x, y], 1).astype(float), depth[y, x], k).numpy()
                if label == held:
                    pose = found["pose_y"][m["ycb_grasp_ind"]].astype(float)
                    gap = np.abs(distance((points - pose[:, 3]) @ pose[:, :3]))
                    assert np.quantile(gap, 0.9) < 0.0015
                    assert gap.max() < 0.006
                else:
                    pose_m = torch.from_numpy(found["pose_m"])
                    pose = torch.cat([pose_m[:, :3], layer.pca_to_pose(pose_m[:, 3:48])], 1)
                    mesh = layer(pose, torch.tensor([betas(tiny_set, folder)]), pose_m[:, 48:]).vertices[0].numpy()
                    gap, _ = cKDTree(over_the_faces(mesh, layer.faces.numpy())).query(points)
                    assert gap.max() < 0.0025
                checked += 1
    assert checked >= 20


def test_extrinsics_take_the_world_poses_to_each_camera(tiny_set):
    for folder in sequences(tiny_set):
        m = meta(folder)
        path = tiny_set / "calibration" / f"extrinsics_{m['extrinsics']}" / "extrinsics.yml"
        content = yaml.safe_load(path.read_text())
        with np.load(folder / "pose.npz") as pose:
            world_y, world_m = pose["pose_y"].astype(float), pose["pose_m"].astype(float)
        np.testing.assert_allclose(
            np.array(content["extrinsics"][content["master"]]).reshape(3, 4), np.eye(3, 4), atol=1e-12
        )
        for serial in SERIALS:
            to_world = np.array(content["extrinsics"][serial]).reshape(3, 4)
            to_world_rotation, place = to_world[:, :3], to_world[:, 3]
            for frame in (0, 3):
                found = labels(folder, serial, frame)
                for k in range(len(m["ycb_ids"])):
                    rotation = Rotation.from_quat(world_y[frame, k, :4]).as_matrix()
                    np.testing.assert_allclose(to_world_rotation @ found["pose_y"][k, :, :3], rotation, atol=1e-5)
                    np.testing.assert_allclose(
                        to_world_rotation @ found["pose_y"][k, :, 3] + place, world_y[frame, k, 4:], atol=1e-5
                    )
                mine = Rotation.from_rotvec(found["pose_m"][0, :3]).as_matrix()
                theirs = Rotation.from_rotvec(world_m[frame, 0, :3]).as_matrix()
                np.testing.assert_allclose(to_world_rotation @ mine, theirs, atol=1e-5)
                np.testing.assert_allclose(found["pose_m"][0, 3:48], world_m[frame, 0, 3:48], atol=1e-6)


def test_contacts_and_distances_are_those_of_the_meshes(tiny_set):
    """Both ways, against dense samples of the other surface: within 0.5 mm where near, with the sign of inside and outside."""
    for folder in sequences(tiny_set):
        m = meta(folder)
        shape = built_in(m["ycb_ids"][m["ycb_grasp_ind"]])
        layer = ManoLayer(shipped_hand(m["mano_sides"][0]))
        with np.load(folder / "contact.npz") as contact:
            contact = dict(contact)
        for name, count in (("hand", NUM_VERTICES), ("object", 2048)):
            assert (contact[name].dtype, contact[name].shape) == (bool, (4, count))
            np.testing.assert_array_equal(contact[name], contact[f"{name}_distance"] < 0.005)
        found = labels(folder, SERIALS[0], 3)
        pose_m = torch.from_numpy(found["pose_m"])
        pose = torch.cat([pose_m[:, :3], layer.pca_to_pose(pose_m[:, 3:48])], 1)
        mesh = layer(pose, torch.tensor([betas(tiny_set, folder)]), pose_m[:, 48:]).vertices[0].numpy()
        placed = found["pose_y"][m["ycb_grasp_ind"]].astype(float)
        mesh = (mesh - placed[:, 3]) @ placed[:, :3]
        own = contact["hand_distance"][3]
        length, _ = cKDTree(shape.surface_points(400_000, seed=9)[0]).query(mesh)
        near = length < 0.007
        np.testing.assert_allclose(np.abs(own[near]), length[near], atol=5e-4)
        np.testing.assert_array_equal(own[near & (length > 6e-4)] < 0, shape.inside(mesh[near & (length > 6e-4)]))
        assert own.min() > -0.005
        reader = DexYCB(tiny_set, "s0", "train")
        frame = next(f for f in reader if f.sequence.folder == folder and f.number == 3)
        for read, written in zip(reader.contact_distances(frame), (own, contact["object_distance"][3]), strict=True):
            np.testing.assert_array_equal(read, written)
        back = contact["object_distance"][3]
        points = reader.objects.cloud(shape.class_id)
        length, _ = cKDTree(sample_surface(mesh, layer.faces.numpy(), 400_000)).query(points)
        near = length < 0.015
        np.testing.assert_allclose(np.abs(back[near]), length[near], atol=5e-4)
        np.testing.assert_allclose(np.abs(back), length, atol=3e-3)
        assert contact["hand"][3].sum() >= 15
        assert contact["object"][3].sum() >= 10


@pytest.mark.parametrize("class_id", CLASS_NAMES)
def test_shapes_are_watertight_and_of_ycb_size(class_id):
    trimesh = pytest.importorskip("trimesh")
    shape = built_in(class_id)
    for part in shape.parts:
        mesh = trimesh.Trimesh(part.vertices, part.faces, process=False)
        assert mesh.is_watertight
        assert mesh.volume > 0
    assert 0.03 < shape.extent.max() < 0.27
    points, normals = shape.surface_points(300)
    distance = SignedDistance.of(shape)
    assert np.quantile(np.abs(distance(points)), 0.95) < 0.0015
    assert (distance(points + 0.008 * normals) > 0).mean() > 0.9


def test_hands_stay_inside_the_joints_limits(tiny_set):
    from amt.hand.limits import JointLimits
    from amt.hand.mirror import mirror_rotations
    from amt.hand.rotations import axis_angle_to_matrix

    measure, excess = JointLimits(ManoLayer(shipped_hand("right"))), []
    for frame in map(DexYCB(tiny_set, "s0", "train").__getitem__, range(0, 64, 8)):
        pose = axis_angle_to_matrix(torch.from_numpy(frame.pose[3:]).unflatten(-1, (15, 3)))
        excess.append(measure(pose if frame.sequence.side == "right" else mirror_rotations(pose)))
    assert torch.stack(excess).max() < np.radians(1)


def test_grasping_hands_pierce_themselves_by_two_millimetres_at_most(tiny_set):
    reader = DexYCB(tiny_set, "s0", "train")
    depths = []
    for frame in map(reader.__getitem__, range(0, len(reader), 8)):
        layer = reader.layer(frame.sequence.side)
        arguments = (torch.from_numpy(a)[None] for a in (frame.pose, frame.betas, frame.translation))
        vertices = layer(*arguments).vertices[0].double().numpy()
        depths.append(piercing_depths(vertices, layer.faces.numpy()).max(initial=0))
    assert len(depths) >= 8
    assert max(depths) < 2.1e-3  # stored in float32, in the camera's frame


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("bare", [0.0, 0.1, 0.2, 0.4])
def test_a_sleeve_begins_on_the_forearm_however_far_it_is_rolled_up(side, bare):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        hand = Hand(shipped_hand(side), rng.normal(0, 1, 10))
        posed = PosedHand(hand.template, hand.rest, np.eye(3))
        clothes = Clothes(np.float32([0.2, 0.3, 0.4]), bare, rng.normal(0, 0.5, 3))
        _, forearm, sleeve = hand_bodies(hand, posed, make_skin(hand.model, 0.5, 0.0), clothes)
        assert all(np.isfinite(body.vertices).all() and len(body.faces) for body in (forearm, sleeve))
        gap, _ = cKDTree(forearm.vertices).query(sleeve.vertices)
        assert gap.min() < 0.03
