"""From image to result: cameras agree, sides mirror, batches do not matter, the square comes to rest, mistakes are named."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import amt
from amt.data.crops import centred_square, square_around
from amt.draw.pictures import overlay
from amt.hand.camera import crop_camera, project
from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand
from amt.infer.locate import ROUNDS, windows
from amt.infer.objects import resolve_object
from amt.infer.predictor import Predictor, Request
from amt.infer.track import Tracker
from amt.locate.squares import SETTLED, moved, next_box
from amt.model.checkpoint import CheckpointError

NUM_VERTICES = shipped_hand().num_vertices

HEIGHT, WIDTH = 240, 320
K = np.array([[310.0, 0, 158.0], [0, 305.0, 121.0], [0, 0, 1]])
BOX = (180.0, 110.0, 120.0)


@pytest.fixture(scope="module")
def seen(predictor, photo, points):
    return predictor(photo, K, BOX, object=points)


def test_amt_load_gives_a_predictor(unsure_checkpoint, photo, seen, points):
    again = amt.load(unsure_checkpoint, device="cpu")(photo, K, BOX, object=points)
    np.testing.assert_array_equal(again.joints, seen.joints)


def test_a_result_is_whole(seen, predictor):
    shapes = {
        "joints": (21, 3), "joints_2d": (21, 2), "vertices": (NUM_VERTICES, 3), "pose": (48,), "betas": (10,),
        "translation": (3,),
        "mano_joints": (21, 3), "mano_vertices": (NUM_VERTICES, 3),
        "steps": (predictor.model.config.refine_steps, 21, 3), "coarse_joints": (21, 3), "box": (3,),
        "object_points": (64, 3), "object_rotation": (3, 3), "object_translation": (3,), "hand_contact": (NUM_VERTICES,),
        "object_contact": (64,), "intrinsics": (3, 3),
    }  # fmt: skip
    for name, shape in shapes.items():
        array = getattr(seen, name)
        assert (array.shape, array.dtype) == (shape, np.float32), name
        assert np.isfinite(array).all(), name
    np.testing.assert_array_equal(seen.steps[-1], seen.joints)
    assert ((seen.hand_contact >= 0) & (seen.hand_contact <= 1)).all()
    np.testing.assert_allclose(seen.object_rotation @ seen.object_rotation.T, np.eye(3), atol=1e-5)
    assert (seen.box_source, seen.box_settled) == ("given", True)
    np.testing.assert_allclose(seen.box, BOX)
    assert 0.05 < seen.joints[0, 2] < 5  # metres


def test_crop_and_frame_agree_on_every_pixel(seen, predictor, photo, points):
    """Joints projected with the crop's K lie where the warp takes their frame pixels."""
    known = resolve_object(points, predictor.num_points)
    inputs, _ = predictor._inputs([(Request(photo, K, BOX, object=known), np.array(BOX))])
    in_crop = project(seen.joints, inputs.intrinsics[0].numpy()).numpy()
    _, warp = crop_camera(K, BOX, predictor.model.config.crop_size)
    moved_there = seen.joints_2d @ warp.numpy()[:, :2].T + warp.numpy()[:, 2]
    assert np.abs(in_crop - moved_there).max() <= 0.01
    homogeneous = seen.joints.astype(np.float64) @ K.T
    assert np.abs(homogeneous[:, :2] / homogeneous[:, 2:] - seen.joints_2d).max() <= 0.01


def test_the_crop_shows_what_lies_at_its_pixels(predictor, photo, points):
    known = resolve_object(None, predictor.num_points)
    size = predictor.model.config.crop_size
    inputs, _ = predictor._inputs([(Request(photo, K, object=known), np.array((100, 90, size), float))])
    left, top = 100 - size // 2, 90 - size // 2  # side = size, even: pixel centres fall half a pixel between two others
    crop = inputs.image[0].permute(1, 2, 0).numpy().astype(float)
    around = [
        photo[top + dy : top + dy + size, left + dx : left + dx + size].astype(float) for dx in (0, 1) for dy in (0, 1)
    ]
    assert np.abs(crop - np.mean(around, axis=0)).max() <= 2


def test_a_mirrored_left_hand_is_the_right_hand_mirrored(predictor, photo, points, seen):
    mirrored_k = K.copy()
    mirrored_k[0, 2] = WIDTH - 1 - K[0, 2]
    flip = np.array((-1, 1, 1), np.float32)
    box = (WIDTH - 1 - BOX[0], *BOX[1:])
    left = predictor(np.ascontiguousarray(photo[:, ::-1]), mirrored_k, box, side="left", object=points * flip)
    np.testing.assert_allclose(left.joints, seen.joints * flip, atol=2e-5)
    np.testing.assert_allclose(left.vertices, seen.vertices * flip, atol=2e-5)
    np.testing.assert_allclose(left.object_translation, seen.object_translation * flip, atol=2e-5)
    np.testing.assert_allclose(left.joints_2d[:, 0], WIDTH - 1 - seen.joints_2d[:, 0], atol=0.01)

    # Outward normals: the mesh is not inside out.
    for result in (left, seen):
        a, b, c = (result.vertices[result.faces[:, k]].astype(float) for k in range(3))
        assert (a * np.cross(b, c)).sum() > 0


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_parameters_give_the_hand_that_is_named_after_them(predictor, photo, points, side):
    """And not the answer, whose joints have moved by themselves since."""
    seen = predictor(photo, K, BOX, side=side, object=points)
    layer = ManoLayer(shipped_hand(side))
    for result in (seen, SimpleNamespace(**rounded(seen.record()))):
        mesh = layer(*(torch.from_numpy(a)[None] for a in (result.pose, result.betas, result.translation)))
        assert np.abs(mesh.joints[0].numpy() - result.mano_joints).max() <= 1e-5  # m
    assert np.abs(mesh.vertices[0].numpy() - seen.mano_vertices).max() <= 1e-5
    assert np.abs(seen.mano_joints - seen.joints).max() > 1e-4
    assert seen.record()["mano_model"] == ("right" if side == "right" else "mirrored right")


def rounded(record: dict) -> dict[str, np.ndarray]:
    """The arrays of a record, by their names in a result."""
    names = {
        "pose": "mano_pose_rad", "betas": "mano_betas", "translation": "mano_translation_m", "mano_joints": "mano_joints_m",
    }  # fmt: skip
    return {name: np.array(record[key], np.float32) for name, key in names.items()}


def test_a_batch_gives_what_single_calls_give(predictor, photo, points, seen):
    other = Request(np.ascontiguousarray(photo[:200, :300]), K, (90, 100, 80), side="left", object=3)
    small = Predictor(predictor.model, predictor.record, "cpu", batch_size=2)
    many = small.predict_many([Request(photo, K, BOX, object=points), other, other])
    assert len(many) == 3
    np.testing.assert_allclose(many[0].joints, seen.joints, atol=2e-5)
    alone = predictor.predict_many([other])[0]
    for result in many[1:]:
        np.testing.assert_allclose(result.joints, alone.joints, atol=2e-5)
        assert (result.side, result.object_class) == ("left", 3)
    assert predictor.predict_many([]) == []


def test_without_an_object_none_is_reported(predictor, photo):
    result = predictor(photo, K, BOX)
    assert not result.has_object
    assert result.object_translation is None
    assert result.record()["object"] is None


def spread_over(cells: int, shape) -> torch.Tensor:
    """Log probabilities [N, H, W] of maps that cover so many cells evenly."""
    maps = torch.full((shape[0], shape[1] * shape[2]), -1e4)
    maps[:, :cells] = -float(np.log(cells))
    return maps.view(*shape)


class Seer(torch.nn.Module):
    """In a model's place: ``sees(box)`` says the joints [21, 3] it sees in a crop, and whether it is sure of them."""

    def __init__(self, predictor, sees):
        super().__init__()
        self.real, self.sees, self.boxes = predictor.model, sees, []
        self.config, self.mano = predictor.model.config, predictor.model.mano
        self.covered = 1  # cells of a map that is sure

    def forward(self, inputs):
        found = self.real(inputs)
        self.boxes += list(inputs.box.numpy())
        joints, sure = zip(*(self.sees(box) for box in inputs.box.numpy()))
        maps = found.keypoints.log_maps
        maps = torch.full_like(maps, 1 / maps[0, 0].numel()).log()
        maps[torch.tensor(sure)] = spread_over(self.covered, maps.shape[1:])
        joints = torch.from_numpy(np.stack(joints).astype(np.float32))
        refined, keypoints = replace(found.refined, joints=joints), replace(found.keypoints, log_maps=maps)
        return replace(found, refined=refined, keypoints=keypoints)


def searching(predictor, sees):
    model = Seer(predictor, sees)
    return Predictor(model, predictor.record, "cpu"), model


def test_a_search_finds_what_only_some_windows_show(predictor, photo, result):
    """A hand in a corner: the model knows it where at least half of it is in view, and elsewhere sees ghosts, in doubt."""
    joints = result.joints + np.array((0.14, -0.1, 0.25), np.float32)
    truth = square_around(project(joints, K.astype(np.float32)).numpy())

    def sees(box):
        near = np.abs(box[:2] - truth[:2]).max() < box[2] / 2 and 0.5 < box[2] / truth[2] < 2
        return (joints if near else result.joints - np.array((0.1, 0.05, 0), np.float32)), near

    search, model = searching(predictor, sees)
    found = search(photo, K)
    np.testing.assert_allclose(found.box, truth, atol=0.01)
    assert (found.box_source, found.box_settled) == ("found", True)
    assert found.doubt == pytest.approx(0, abs=1e-3)
    assert found.hand_found
    np.testing.assert_allclose(found.joints, joints)
    covered = np.zeros((HEIGHT, WIDTH), bool)
    for cx, cy, side in windows(HEIGHT, WIDTH)[:-1]:
        assert min(cx - side / 2, cy - side / 2) >= -0.5 - 1e-9
        assert cx + side / 2 <= WIDTH - 0.5 + 1e-9
        assert cy + side / 2 <= HEIGHT - 0.5 + 1e-9
        covered[int(cy - side / 2 + 1) : int(cy + side / 2), int(cx - side / 2 + 1) : int(cx + side / 2)] = True
    assert covered[2:-2, 2:-2].all()

    before = len(model.boxes)
    tracked = search.predict_many([Request(photo, K, near=found.box)])[0]
    assert (tracked.box_source, len(model.boxes) - before) == ("tracked", 1)
    np.testing.assert_allclose(tracked.box, truth, atol=0.01)


def test_a_hand_is_found_where_the_maps_are_narrow(predictor, photo, result):
    """A search, which takes the surest of many crops, has to be surer than a look at a given square."""

    def sees(box):
        return result.joints, True

    search, model = searching(predictor, sees)
    cells = 28 * 28
    for share, in_a_box, in_a_search in (
        (0.05, True, True),
        (0.07, True, False),
        (0.09, False, False),
        (1, False, False),
    ):
        model.covered = round(share * cells)
        assert search(photo, K, BOX).hand_found == in_a_box
        assert search(photo, K).hand_found == in_a_search
        assert search(photo, K, BOX).spread == pytest.approx(share, abs=2e-3)


def test_a_video_that_begins_empty_is_searched_less_and_less(predictor, photo, result):
    """And the hand is found when it comes, by a search at the latest 16 frames later."""
    hand = {"there": False}
    search, model = searching(predictor, lambda box: (result.joints, hand["there"]))
    tracker, looks = Tracker(search), []
    for _ in range(40):
        before = len(model.boxes)
        assert not tracker.next(Request(photo, K)).hand_found
        looks.append(len(model.boxes) - before)
    searched = [frame for frame, count in enumerate(looks) if count > ROUNDS]
    assert searched == [0, 2, 6, 14, 30]
    assert max(count for frame, count in enumerate(looks) if frame not in searched) <= ROUNDS
    hand["there"] = True
    found = [tracker.next(Request(photo, K)) for _ in range(3)]
    assert [f.hand_found for f in found] == [True] * 3
    assert found[-1].box_source == "tracked"


def test_a_picture_without_a_hand_is_drawn_without_one(predictor, photo):
    """An untrained model is in doubt everywhere."""
    green = np.full((HEIGHT, WIDTH, 3), (40, 160, 60), np.uint8)
    for image in (green, np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)):
        empty = Predictor(predictor.model, predictor.record, "cpu")(image, K)
        assert not empty.hand_found
        record = empty.record()
        assert record["hand_found"] is False
        assert record["joints_m"] is record["object"] is record["mano_betas"] is None
        np.testing.assert_array_equal(overlay(image, empty), image)


def test_a_square_that_never_rests_is_told(predictor, photo, result):
    calls = iter(range(10**6))
    search, model = searching(
        predictor, lambda box: (result.joints + np.array((0.1 * (-1) ** next(calls), 0, 0)), False)
    )
    found = search.predict_many([Request(photo, K, near=np.array(BOX))])[0]
    assert len(model.boxes) == ROUNDS
    assert not found.box_settled


def test_a_given_box_is_looked_at_once(predictor, photo, result):
    search, model = searching(predictor, lambda box: (result.joints, False))
    found = search(photo, K, BOX)
    np.testing.assert_allclose(model.boxes, [BOX])
    np.testing.assert_allclose(found.box, BOX)


def test_joints_that_are_not_finite_lead_back_to_the_middle(predictor, photo):
    search, _ = searching(predictor, lambda box: (np.full((21, 3), np.nan), False))
    found = search(photo, K)
    np.testing.assert_allclose(found.box, centred_square(HEIGHT, WIDTH))
    assert not found.hand_found
    assert found.record()["joints_m"] is None  # JSON knows no NaN


@pytest.mark.parametrize(
    "pixels", [np.full((21, 2), 9e6), np.full((21, 2), -50.0), np.linspace([-1e5, 0], [1e5, 0], 21)]
)
def test_the_next_square_stays_usable(pixels):
    cx, cy, side = next_box(pixels, HEIGHT, WIDTH)
    assert 0 <= cx < WIDTH
    assert 0 <= cy < HEIGHT
    assert 24 <= side <= 1.5 * WIDTH


def test_moved_counts_place_and_size():
    assert moved(np.array((10, 10, 100.0)), np.array((15, 10, 100.0))) == pytest.approx(0.05)
    assert moved(np.array((10, 10, 100.0)), np.array((10, 10, 80.0))) == pytest.approx(0.2)
    assert 0 < SETTLED < 0.2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((4, 4), np.uint8)}, r"image: expected at least 8 x 8 pixels, got \[4, 4, 3\]"),
        ({"image": np.zeros((9, 9, 2))}, r"image: expected uint8 or floats in 0-1.*got float64 \[9, 9, 2\]"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, r"image: expected at least 8 x 8 pixels, got \[0, 4, 3\]"),
        ({"image": "hand.jpg"}, "image: .*got str"),
        ({"intrinsics": np.diag((0.0, 300, 1))}, "intrinsics: focal lengths must be above 0"),
        ({"intrinsics": np.diag((300.0, -1, 1))}, "intrinsics: focal lengths must be above 0"),
        ({"intrinsics": np.diag((np.nan, 300, 1))}, "intrinsics: expected finite"),
        ({"intrinsics": np.eye(4)}, r"intrinsics: expected \[3, 3\]"),
        ({"intrinsics": K.T}, "intrinsics: .*K may be transposed"),
        ({"intrinsics": "K"}, "K: cannot be read .*give an OpenCV or ROS calibration"),
        ({"intrinsics": [["a"]]}, "intrinsics: expected numbers"),
        ({"intrinsics": K / (320, 240, 1)}, r"intrinsics: .*a field of view of 17\d.\d degrees.*normalised"),
        ({"box": (1, 2)}, "box: expected"),
        ({"box": (1, 2, 0)}, "box: .*side above 0"),
        ({"box": (100, 100, 0.5)}, "box: a side of 0.5 px shows no hand"),
        ({"box": (100, 100, 1e6)}, "box: a side of 1e.06 px is too large"),
        ({"box": (900, 100, 50)}, "box: .*lies outside the picture of 320 x 240 px"),
        ({"box": (100, np.nan, 50)}, "box: expected"),
        ({"box": "auto"}, "box: expected"),
        ({"side": "both"}, "side: expected 'right' or 'left', got 'both'"),
        ({"object": 22}, "object: class 22 is unknown"),
        ({"object": "no_such_thing"}, "object: 'no_such_thing' is neither a mesh file nor a YCB object"),
        ({"object": np.zeros((5, 2))}, r"object: expected points \[N, 3\]"),
        ({"object": 14.0}, "object: expected a class id"),
        ({"object": True}, "object: expected a class id"),
        ({"object": {"a": 1}}, "object: expected a class id"),
        ({"object": [[0, 1], [0]]}, "object: expected a class id"),
        ({"object": [0.1, 0.1, np.nan]}, "object: expected three sides"),
        ({"object": np.random.default_rng(0).uniform(0, 120, (50, 3))}, "object: .*metres"),
    ],
)
def test_what_cannot_be_is_named(predictor, photo, change, message):
    given = {"image": photo, "intrinsics": K, "box": BOX} | change
    with pytest.raises(ValueError, match=message):
        predictor(**given)


def test_objects_by_name_class_mesh_and_models_folder(tmp_path):
    by_name, by_class = resolve_object("mug", 64), resolve_object("14", 64)
    np.testing.assert_array_equal(by_name.points, by_class.points)
    assert (by_name.class_id, by_name.name) == (14, "025_mug")
    assert 0.05 < np.ptp(by_name.points, axis=0).max() < 0.2

    mesh = tmp_path / "wedge.obj"
    mesh.write_text("v 0 0 0\nv 0.1 0 0\nv 0 0.1 0\nv 0 0 0.1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n")
    wedge = resolve_object(str(mesh), 64)
    assert (wedge.class_id, wedge.name, wedge.known) == (0, "wedge", True)
    assert wedge.points.min() >= 0
    assert wedge.points.sum(1).max() <= 0.1 + 1e-6
    mesh.write_text("v 0 0 0\n")
    with pytest.raises(ValueError, match=r"wedge\.obj: cannot be read \(no triangles\)"):
        resolve_object(str(mesh), 64)

    folder = tmp_path / "models" / "025_mug"
    folder.mkdir(parents=True)
    np.savetxt(folder / "points.xyz", np.random.default_rng(0).uniform(0, 0.1, (200, 3)))
    listed = resolve_object("mug", 64, tmp_path / "models")
    assert not np.array_equal(listed.points, by_name.points)
    np.testing.assert_array_equal(resolve_object("mug", 64, tmp_path).points, listed.points)  # a set's folder
    folder.parent.rename(tmp_path / "ycb")
    np.testing.assert_array_equal(resolve_object("mug", 64, tmp_path / "ycb").points, listed.points)
    with pytest.raises(ValueError, match="003_cracker_box"):
        resolve_object("cracker_box", 64, tmp_path / "ycb")


@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor, str])
def test_a_class_id_may_be_of_any_kind(kind):
    np.testing.assert_array_equal(resolve_object(kind(14), 32).points, resolve_object("mug", 32).points)


@pytest.mark.parametrize(
    "kind", [np.asarray, np.ndarray.tolist, torch.from_numpy, lambda a: tuple(map(tuple, a.tolist()))]
)
def test_points_may_be_of_any_kind(kind, points):
    np.testing.assert_array_equal(resolve_object(kind(points), 32).points, resolve_object(points, 32).points)


@pytest.mark.parametrize(
    "given",
    [
        "box:0.1x0.05x0.2",
        (0.1, 0.05, 0.2),
        [0.1, 0.05, 0.2],
        np.array([0.1, 0.05, 0.2]),
        torch.tensor([0.1, 0.05, 0.2]).double(),
    ],
)
def test_an_object_without_a_mesh_can_be_its_box(given):
    box = resolve_object(given, 200)
    assert (box.class_id, box.name, box.known) == (0, "box 0.1x0.05x0.2", True)
    half = np.array([0.05, 0.025, 0.1])
    depth = half - np.abs(box.points)  # of each point below each pair of sides
    assert depth.min() > -1e-6
    assert depth.min(1).max() < 1e-6  # every point lies on one
    for axis in range(3):
        for sign in (-1, 1):
            on_side = np.abs(box.points[:, axis] - sign * half[axis]) < 1e-6
            assert on_side.sum() > 10  # all six are covered


@pytest.mark.parametrize(
    "given",
    ["box:0.1x0.2", "box:", "box:axbxc", "box:0.1x0.1x0", "box:100x50x20", "box:1e-9x1e-9x1e-9", (0.1, 0.2, -1)],
)
def test_a_box_that_cannot_be_is_named(given):
    with pytest.raises(ValueError, match=r"object: expected three sides of 0\.001 to 1 m, as box:0\.1x0\.05x0\.2"):
        resolve_object(given, 64)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "folder"])
def test_a_checkpoint_without_a_part_is_named(tmp_path, checkpoint, missing):
    import shutil

    folder = tmp_path / "ck"
    if missing != "folder":
        shutil.copytree(checkpoint, folder)
        (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=rf"ck.*({missing} is missing|no such checkpoint folder)"):
        amt.load(folder)


def test_the_crop_settings_of_the_training_are_taken(predictor):
    assert predictor.num_points == 64
    record = {"data": {"crop": {"num_points": 32, "box_scale": 2.0}}}
    other = Predictor(predictor.model, record, "cpu")
    assert (other.num_points, other.box_scale) == (32, 2.0)
    with pytest.raises(ValueError, match="batch_size"):
        Predictor(SimpleNamespace(), batch_size=0)
