"""A set that is rendered with every effect of the camera on, read back: labels and pictures agree with the posed meshes."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from amt.data.backgrounds import read_backgrounds
from amt.data.dexycb import DexYCB
from amt.data.distortion import distorted, pinhole_maps, undistorted
from amt.data.errors import DataError
from amt.data.layout import HAND_SEGMENT, SERIALS
from amt.data.meshes import read_mesh
from amt.data.objects import mesh_file
from amt.data.synthetic import lens, scene
from amt.data.synthetic.__main__ import main
from amt.data.synthetic.cameras import CameraConfig
from amt.data.synthetic.config import SetConfig, sequence_folder
from amt.data.synthetic.objects import load_shapes
from amt.data.synthetic.sequence import Sequence
from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand
from tests.data.conftest import SPOILED

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")


def stored(root):
    """(spec, camera, frame, labels, depth in m, K, coefficients) of every second picture, straight from the files."""
    import yaml

    for spec in SPOILED.specs():
        folder = sequence_folder(root, spec)
        for camera in range(spec.subject, 8, 2):
            frame = camera // 2 % 2
            content = yaml.safe_load(
                (root / "calibration" / "intrinsics" / f"{SERIALS[camera]}_640x480.yml").read_text()
            )["color"]
            k = np.array([[content["fx"], 0, content["ppx"]], [0, content["fy"], content["ppy"]], [0, 0, 1]])
            here = folder / SERIALS[camera]
            with np.load(here / f"labels_{frame:06d}.npz") as archive:
                labels = dict(archive)
            depth = cv2.imread(str(here / f"aligned_depth_to_color_{frame:06d}.png"), cv2.IMREAD_UNCHANGED) / 1000
            yield spec, camera, frame, labels, depth, k, np.array(content["coeffs"])


def scene_of(root, spec, labels, camera, frame):
    """Meshes in the camera's frame by label: hand and objects from the files, what carries no label from the sequence."""
    betas = scene.person(spec.seed, spec.subject).betas.astype(np.float32)
    side = scene.sequence_side(spec.seed, spec.subject, spec.sequence)
    layer = ManoLayer(shipped_hand(side))
    pose_m = torch.from_numpy(labels["pose_m"])
    pose = torch.cat([pose_m[:, :3], layer.pca_to_pose(pose_m[:, 3:48])], 1)
    hand = layer(pose, torch.from_numpy(betas)[None], pose_m[:, 48:])
    meshes = [(HAND_SEGMENT, hand.vertices[0].double().numpy(), layer.faces.numpy())]
    models = DexYCB(root, "s0", "train").objects
    rig = scene.rig(spec.seed, spec.subject, SPOILED.camera)
    sequence = Sequence(spec, load_shapes(()), SPOILED.hand(side), rig, effects=SPOILED.camera)
    for class_id, placed in zip(sequence.class_ids, labels["pose_y"].astype(float), strict=True):
        vertices, faces = read_mesh(mesh_file(models.folder / models.names[class_id]))
        meshes.append((class_id, vertices @ placed[:, :3].T + placed[:, 3], faces))
    _, forearm, sleeve, _ = sequence.moving(frame)
    for body in filter(None, (forearm, sleeve, sequence.occluders[camera])):
        vertices = body.vertices @ rig[camera].rotation.T + rig[camera].translation
        meshes.append((0, vertices, body.faces))
    return meshes, hand.joints[0].double().numpy(), sequence.occluders[camera] is not None


def seen_by_rays(meshes, k, coefficients):
    """Depth, m, and label of the nearest mesh at every pixel of the distorted picture; OpenCV undoes the lens."""
    grid = np.stack(np.meshgrid(np.arange(640), np.arange(480)), -1).reshape(-1, 1, 2).astype(np.float64)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-12)
    plane = cv2.undistortPoints(grid, k, coefficients, criteria=stop)[:, 0]
    rays = np.concatenate([plane, np.ones((len(plane), 1))], 1)
    depth, label = np.full(len(rays), np.inf), np.zeros(len(rays), np.uint8)
    for name, vertices, faces in meshes:
        # only the rays that can meet it
        low, high = (f(vertices[:, :2] / np.maximum(vertices[:, 2:], 1e-3), axis=0) for f in (np.min, np.max))
        near = (
            np.flatnonzero(((plane >= low) & (plane <= high)).all(1))
            if vertices[:, 2].min() > 0.01
            else np.arange(len(rays))
        )
        solid = trimesh.Trimesh(vertices, faces, process=False)
        found, which, _ = solid.ray.intersects_location(np.zeros((len(near), 3)), rays[near], multiple_hits=False)
        at = near[which]
        nearer = found[:, 2] < depth[at]
        depth[at[nearer]], label[at[nearer]] = found[nearer, 2], name
    return depth.reshape(480, 640), label.reshape(480, 640)


def test_depth_segmentation_and_joints_agree_with_the_meshes(spoiled_set):
    """<= 1 mm where the label says hand or object, IoU >= 0.98, joints to 0.01 px, behind a distorting lens and an occluder."""
    compared, hidden = 0, 0
    for spec, camera, frame, labels, depth, k, coefficients in stored(spoiled_set):
        meshes, joints, occluded = scene_of(spoiled_set, spec, labels, camera, frame)
        hidden += occluded
        np.testing.assert_allclose(joints, labels["joint_3d"][0], atol=2e-6)
        pixels, _ = cv2.projectPoints(labels["joint_3d"][0].astype(float), np.zeros(3), np.zeros(3), k, coefficients)
        assert np.abs(pixels[:, 0] - labels["joint_2d"][0]).max() <= 0.01
        expected_depth, expected = seen_by_rays(meshes, k, coefficients)
        for label in (HAND_SEGMENT, *set(np.unique(labels["seg"])) - {0, HAND_SEGMENT}):
            found, wanted = labels["seg"] == label, expected == label
            if wanted.sum() < 150:
                continue
            assert (found & wanted).sum() / (found | wanted).sum() >= 0.98
            both = found & wanted
            assert np.abs(depth[both] - expected_depth[both]).max() <= 0.001
            compared += 1
    assert compared >= 12
    assert hidden >= 4


def test_a_reader_of_distorted_pictures_gets_a_pinhole_camera_s(spoiled_set):
    reader = DexYCB(spoiled_set, "s0", "train")
    for index in range(0, len(reader), 5):
        frame = reader[index]
        assert len(frame.distortion) == 5
        seen = frame.joints.astype(float) @ frame.intrinsics.astype(float).T
        np.testing.assert_allclose(frame.joints_2d, seen[:, :2] / seen[:, 2:], atol=0.01)
        layer = reader.layer(frame.sequence.side)
        mesh = layer(*(torch.from_numpy(a)[None] for a in (frame.pose, frame.betas, frame.translation)))
        solid = trimesh.Trimesh(mesh.vertices[0].numpy(), layer.faces.numpy(), process=False)
        y, x = np.nonzero(cv2.erode((frame.segment() == HAND_SEGMENT).astype(np.uint8), np.ones((5, 5))))
        if len(x) < 100:
            continue
        rays = np.stack([x, y, np.ones(len(x))], 1) @ np.linalg.inv(frame.intrinsics.astype(float)).T
        found, which, _ = solid.ray.intersects_location(np.zeros((len(rays), 3)), rays, multiple_hits=False)
        assert len(which) == len(rays)
        error = np.abs(found[:, 2] - frame.depth()[y, x][which])
        assert np.quantile(error, 0.95) < 0.003  # the nearest stored pixel is up to 0.7 px away
        assert frame.image().shape == (480, 640, 3)


def test_the_lens_and_its_inverse_are_opencv_s():
    rng = np.random.default_rng(0)
    points = rng.uniform([-0.6, -0.45], [0.6, 0.45], (500, 2))
    for coefficients in ((-0.2, 0.06, 0.004, -0.003, 0.0), (0.1, -0.03, -0.002, 0.001, 0.02)):
        solid = np.concatenate([points, np.ones((500, 1))], 1)
        expected, _ = cv2.projectPoints(solid, np.zeros(3), np.zeros(3), np.eye(3), np.array(coefficients))
        np.testing.assert_allclose(distorted(points, coefficients), expected[:, 0], atol=1e-12)
        np.testing.assert_allclose(undistorted(distorted(points, coefficients), coefficients), points, atol=1e-9)
    k = np.array([[600.0, 0, 320], [0, 610, 236], [0, 0, 1]])
    maps, _ = cv2.initUndistortRectifyMap(k, np.array(coefficients), np.eye(3), k, (640, 480), cv2.CV_32FC2)
    np.testing.assert_allclose(pinhole_maps(k.tobytes(), coefficients, 480, 640), maps, atol=1e-3)
    assert distorted(points, ()) is points


def shot(**values):
    flat = {name: (0.0, 0.0) for name in ("exposure_time", "aperture", "softness", "shot_noise", "read_noise")}
    flat |= {"exposure": (0.0, 0.0), "white_balance": (0.0, 0.0)} | {k: (float(v),) * 2 for k, v in values.items()}
    return lens.draw_shot(CameraConfig(**flat), 0.7, np.random.default_rng(0))


def test_noise_has_the_variance_that_the_fields_say():
    levels = np.repeat(np.uint8([20, 120, 220]), 160)[:, None, None]
    image = np.broadcast_to(levels, (480, 640, 3)).copy()
    spoiled = lens.expose(image, shot(shot_noise=9, read_noise=2), np.random.default_rng(1)).astype(float) - image
    for row, level in ((slice(0, 160), 20), (slice(160, 320), 120), (slice(320, 480), 220)):
        expected = np.sqrt(2**2 + 9**2 * level / 255 + 1 / 12)
        np.testing.assert_allclose(spoiled[row].std(), expected, rtol=0.03)
        assert abs(spoiled[row].mean()) < 0.05
    assert (lens.expose(image, shot(), np.random.default_rng(1)) == image).all()


def test_exposure_and_white_balance_act_on_linear_light():
    grey = np.full((4, 4, 3), 100, np.uint8)
    brighter = lens.expose(grey, shot(exposure=1), np.random.default_rng(0))
    assert abs(int(brighter[0, 0, 1]) - 100 * 2 ** (1 / 2.2)) <= 1
    warm = lens.expose(grey, shot(white_balance=0.2), np.random.default_rng(0))[0, 0].astype(float)
    np.testing.assert_allclose(warm, 100 * np.array([1.2, 1, 0.8]) ** (1 / 2.2), atol=1)


def test_motion_s_line_has_its_length_and_direction_and_stays_centred():
    for motion in ((12.0, 0.0), (-5.0, 9.0), (0.0, 0.1)):
        kernel = lens.line(np.array(motion))
        half = len(kernel) // 2
        y, x = np.mgrid[-half : half + 1, -half : half + 1]
        assert kernel.sum() == pytest.approx(1, abs=1e-5)
        assert abs((kernel * x).sum()) < 1e-4
        assert abs((kernel * y).sum()) < 1e-4
        # a line's second moment is its length squared / 12
        got = np.array([(kernel * x * x).sum(), (kernel * x * y).sum(), (kernel * y * y).sum()])
        wanted = np.array([motion[0] ** 2, motion[0] * motion[1], motion[1] ** 2]) / 12
        np.testing.assert_allclose(got, wanted, atol=0.3)


def test_defocus_grows_with_the_distance_from_what_is_sharp():
    focused = shot(aperture=4)
    assert focused.radius(0.7, 600.0) == 0
    assert focused.radius(np.inf, 600.0) == pytest.approx(0.5 * 0.004 * 600 / 0.7)
    edge = np.zeros((60, 200, 3), np.uint8)
    edge[:, 100:] = 255

    def width(radius):
        row = lens.defocus(edge, np.full((60, 200), radius, np.float32))[30, :, 0].astype(float)
        return ((row > 20) & (row < 235)).sum()

    assert width(0.0) == 0
    assert 0 < width(1.2) < width(2.4) < width(5.0) <= 12


def test_hand_and_picture_blur_along_the_motion_and_labels_do_not_change():
    """The same frame with a short and a long exposure: fewer edges across the motion, the same depth and segmentation."""
    spec = replace(SPOILED.specs()[0], frames=2)
    side = scene.sequence_side(spec.seed, spec.subject, spec.sequence)
    camera = scene.rig(spec.seed, spec.subject)[:1]
    pictures = []
    for time in (0.0, 60.0):
        quiet = {"shot_noise": (0.0, 0.0), "read_noise": (0.0, 0.0), "occluded": 0.0}
        effects = CameraConfig(exposure_time=(time, time), **quiet)
        sequence = Sequence(spec, load_shapes(()), SPOILED.hand(side), camera, (0,), effects)
        sequence.velocities = np.broadcast_to(np.array([0.0, 0.0, 0.5]), sequence.joints.shape)
        pictures.append(next(iter(sequence.render()))[2])
    still, moved = pictures
    np.testing.assert_array_equal(still.depth, moved.depth)
    np.testing.assert_array_equal(still.segment, moved.segment)
    hand = still.segment == HAND_SEGMENT
    steep = [np.abs(np.diff(p.image[..., 1].astype(float), axis=0))[hand[1:]].mean() for p in pictures]
    assert steep[1] < 0.8 * steep[0]


def test_a_users_pictures_stand_behind_the_table_and_others_are_refused(tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert main([str(tmp_path / "a"), "--backgrounds", str(folder)]) != 0
    assert "holds no picture" in capsys.readouterr().err
    cv2.imwrite(str(folder / "red.png"), np.full((300, 400, 3), (0, 0, 255), np.uint8))
    command = [str(tmp_path / "b"), "--independent", "2", "--seed", "2", "--workers", "1", "--quiet"]
    assert main([*command, "--backgrounds", str(folder), "--camera", "occluded=0", "jpeg_quality=95"]) == 0
    images = [f.image().astype(int) for f in DexYCB(tmp_path / "b", "s0", "train")]
    assert any(((i[..., 0] > 2 * i[..., 1]) & (i[..., 0] > 2 * i[..., 2])).mean() > 0.05 for i in images)
    cv2.imwrite(str(folder / "red.png"), np.full((300, 400, 3), (0, 255, 0), np.uint8))
    assert main([*command, "--backgrounds", str(folder)]) != 0
    message = capsys.readouterr().err
    assert "pictures_digest" in message
    assert "camera.occluded" in message


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("blur=3", "knows focal"),
        ("aperture=x", "LOW,HIGH"),
        ("aperture=3,1", "within 0,30 mm"),
        ("occluded=2", "within 0,1"),
    ],
)
def test_wrong_words_for_the_camera_are_named(word, said):
    with pytest.raises(DataError, match=said):
        CameraConfig().changed([word])
    assert CameraConfig().changed(["aperture=1,3", "occluded=0"]).aperture == (1.0, 3.0)


def test_training_takes_the_same_word_for_photographs_as_the_renderer():
    pictures = read_backgrounds("photographs", 48)
    assert pictures.shape == (5, 48, 48, 3)
    assert len({p.numpy().tobytes() for p in pictures}) == 5
    behind, upon = SetConfig().pictures()
    assert len(behind) == len(upon) == 5
    assert all(path.is_file() for path in behind + upon)
    assert SetConfig(backgrounds="made").pictures() == ((), ())
