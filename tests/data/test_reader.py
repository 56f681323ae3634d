"""Splits and sample order by the data set's rules; missing annotations, broken files and wrong folders."""

import json
import pickle
import shutil

import cv2
import numpy as np
import pytest
import yaml

from amt.data.dexycb import DexYCB
from amt.data.errors import BrokenFrame, DataError, EmptySubset, MissingHand
from amt.data.files import load_npz
from amt.data.layout import GRASPED_CLASSES, SERIALS, SUBJECTS, labels_name
from amt.data.objects import farthest_points
from amt.hand.shipped import shipped_hand

FRAMES = 7


@pytest.fixture(scope="module")
def full_index(tmp_path_factory):
    """10 subjects x 100 sequences x 8 cameras with nothing but meta.yml: all that an index may need."""
    root = tmp_path_factory.mktemp("full")
    record = {"hand": "amt", "hand_digest": shipped_hand("right").digest}
    (root / "synthetic.json").write_text(json.dumps(record))
    (root / "calibration").mkdir()
    for subject in SUBJECTS:
        for number in range(100):
            folder = root / subject / f"{subject[:8]}_{100000 + number}"
            folder.mkdir(parents=True)
            meta = {
                "serials": list(SERIALS),
                "num_frames": FRAMES,
                "extrinsics": "e",
                "ycb_ids": [GRASPED_CLASSES[number // 5]],
                "ycb_grasp_ind": 0,
                "mano_sides": ["right"],
                "mano_calib": ["m"],
            }
            (folder / "meta.yml").write_text(yaml.safe_dump(meta))
    return root


# Sequences x cameras of each subset, by dexycb.md's table: s0 train holds 80, 4 (2 x 20 = 40) and 16 (8 x 20) of 100 sequences.
EXPECTED = {
    ("s0", "train"): 10 * 80 * 8,
    ("s0", "val"): 2 * 20 * 8,
    ("s0", "test"): 8 * 20 * 8,
    ("s1", "train"): 7 * 100 * 8,
    ("s1", "val"): 1 * 100 * 8,
    ("s1", "test"): 2 * 100 * 8,
    ("s2", "train"): 1000 * 6,
    ("s2", "val"): 1000,
    ("s2", "test"): 1000,
    ("s3", "train"): 10 * 15 * 5 * 8,
    ("s3", "val"): 10 * 2 * 5 * 8,
    ("s3", "test"): 10 * 3 * 5 * 8,
}


def test_splits_of_a_full_set(full_index):
    for split in ("s0", "s1", "s2", "s3"):
        seen = []
        for subset in ("train", "val", "test"):
            reader = DexYCB(full_index, split, subset)
            assert len(reader) == EXPECTED[split, subset] * FRAMES, (split, subset)
            seen += [(s.folder, c) for s, c in ((reader.sequences[p], c) for p, c in reader._runs)]
        assert len(seen) == len(set(seen)) == 8000  # the three share nothing and leave nothing out


def test_sample_order_is_subject_sequence_camera_frame(full_index):
    reader = DexYCB(full_index, "s0", "test")
    place = [(i.subject, i.number, camera, frame) for i, camera, frame in map(reader.locate, range(0, len(reader), 3))]
    assert place == sorted(place)
    info, camera, frame = reader.locate(0)
    assert (info.subject, info.number, camera, frame) == (2, 4, 0, 0)
    info, camera, frame = reader.locate(FRAMES * 8 * 20 + FRAMES * 3 + 2)
    assert (info.subject, info.number, camera, frame) == (3, 4, 3, 2)
    info, camera, frame = reader.locate(len(reader) - 1)
    assert (info.subject, info.number, camera, frame) == (9, 99, 7, FRAMES - 1)
    for index in (-1, len(reader)):
        with pytest.raises(IndexError):
            reader.locate(index)


def test_missing_annotations_are_flags_not_numbers(own_set):
    reader = DexYCB(own_set, "s0", "train")
    frame = reader[5]
    assert frame.hand_valid
    assert frame.object_valid
    path = frame.folder / f"labels_{frame.number:06d}.npz"
    with np.load(path) as archive:
        found = dict(archive)
    found["joint_3d"][:] = -1
    found["joint_2d"][:] = -1
    found["pose_m"][:] = 0
    np.savez_compressed(path, **found)
    blind = reader[5]
    assert not blind.hand_valid
    assert blind.object_valid
    assert np.isfinite(blind.joints).all()
    assert (blind.joints != -1).all()
    found["pose_y"][:] = 0
    np.savez_compressed(path, **found)
    blind = reader[5]
    assert not blind.object_valid
    np.testing.assert_array_equal(blind.object_rotation, np.eye(3))


@pytest.mark.parametrize(
    "damage", ["missing", "cut jpg", "cut in its last bytes", "not a jpg", "cut labels", "no labels"]
)
def test_a_broken_frame_is_named_counted_and_replaced_by_the_next(own_set, caplog, damage):
    reader = DexYCB(own_set, "s0", "train")
    frame = reader[9]
    path = frame.image_path if "label" not in damage else frame.folder / f"labels_{frame.number:06d}.npz"
    data = path.read_bytes()
    if damage in ("missing", "no labels"):
        path.unlink()
    elif damage == "cut in its last bytes":
        path.write_bytes(data[:-200])
    elif damage == "not a jpg":
        path.write_bytes(b"hello" * 20 + b"\xff\xd9")
    else:
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BrokenFrame, match=path.name):
        reader[9].image()
    replaced, image = reader.readable(9)
    assert replaced.index == 10
    assert image.shape == (480, 640, 3)
    reader.readable(9)
    assert [list(files) for files in reader.broken.values()] == [[path]]
    assert [r.getMessage().count(str(path)) for r in caplog.records] == [1]
    assert reader.report().startswith("1 skipped: ")
    assert f"(the first: {path})" in reader.report()


def test_a_missing_camera_is_one_warning_and_one_count(own_set, caplog):
    reader = DexYCB(own_set, "s0", "train")
    for folder in own_set.glob(f"*/*/{SERIALS[2]}"):
        shutil.rmtree(folder)
    cut = reader[0].image_path
    cut.write_bytes(cut.read_bytes()[:5000])
    for index in range(len(reader)):
        reader.readable(index)
    assert len(caplog.records) == 2  # one a reason
    lost = sum(1 for index in range(len(reader)) if reader.locate(index)[1] == 2)
    assert f"{lost} skipped: is missing (the first: " in reader.report()
    assert "1 skipped: the picture breaks off" in reader.report()


def test_a_picture_of_another_size_than_the_calibrations_is_refused(own_set):
    reader = DexYCB(own_set, "s0", "train")
    path = reader[4].image_path
    cv2.imwrite(str(path), cv2.resize(cv2.imread(str(path)), (320, 240)))
    with pytest.raises(BrokenFrame, match="is 320 x 240 px, and its camera's calibration is for 640 x 480 px"):
        reader[4].image()
    for path in own_set.rglob("color_*.jpg"):
        path.write_bytes(reader[4].image_path.read_bytes())
    with pytest.raises(DataError, match=r"not one of .* can be used: .* skipped: is 320 x 240 px"):
        reader.readable(0)


@pytest.mark.parametrize("name", ["pose_m", "joint_3d", "joint_2d", "pose_y"])
def test_labels_of_a_wrong_shape_or_with_nan_are_no_labels(own_set, name):
    reader = DexYCB(own_set, "s0", "train")
    path = reader[5].folder / labels_name(reader[5].number)
    found = load_npz(path, ("pose_y", "pose_m", "joint_3d", "joint_2d"))
    np.savez_compressed(path, **found | {name: np.full_like(found[name], np.nan)})
    frame = reader[5]
    assert frame.object_valid if name != "pose_y" else frame.hand_valid
    assert not (frame.hand_valid and frame.object_valid)
    for array in (frame.joints, frame.joints_2d, frame.pose, frame.translation, frame.object_rotation):
        assert np.isfinite(array).all()
    np.savez_compressed(path, **found | {name: found[name].ravel()[:7]})
    with pytest.raises(BrokenFrame, match=f"{path.name}: {name} has a wrong shape or type"):
        reader[5]


@pytest.mark.parametrize("file", ["meta.yml", "intrinsics", "extrinsics.yml", "mano.yml"])
@pytest.mark.parametrize("content", ["latin-1", "utf-16", "no yaml", "a list", "empty", "wrong fields", "missing"])
def test_a_broken_yml_is_one_line_that_names_it(own_set, file, content):
    info = DexYCB(own_set).sequences[0]
    path = {
        "meta.yml": info.folder / "meta.yml",
        "intrinsics": own_set / "calibration" / "intrinsics" / f"{SERIALS[0]}_640x480.yml",
        "extrinsics.yml": own_set / "calibration" / f"extrinsics_{info.extrinsics}" / "extrinsics.yml",
        "mano.yml": own_set / "calibration" / f"mano_{info.mano_calib}" / "mano.yml",
    }[file]
    text = path.read_text()

    def read():
        reader = DexYCB(own_set)
        return reader[0], reader.extrinsics(reader.sequences[0], 0)

    if content == "missing":
        path.unlink()
    else:
        damaged = {
            "latin-1": ("# Kamera für Gr\u00f6\u00dfen\n" + text).encode("latin-1"),
            "utf-16": text.encode("utf-16"),
            "no yaml": b"{a: [1, 2",
            "a list": b"[1, 2]",
            "empty": b"",
            "wrong fields": b"color: 3\nextrinsics: [1]\nbetas: [a, b]\n",
        }
        path.write_bytes(damaged[content])
    if content == "utf-16":
        read()  # its byte order mark tells
        return
    with pytest.raises(DataError) as error:
        read()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"mano_sides": ["both"]},
        {"ycb_grasp_ind": 9},
        {"ycb_ids": [77]},
        {"num_frames": -1},
        {"num_frames": float("inf")},
        {"num_frames": 10**9},
        {"serials": 3},
        {"serials": ["836212060125", "83621206012"]},
        {"extrinsics": "../../elsewhere"},
        {"mano_calib": []},
    ],
)
def test_impossible_fields_of_a_sequence_are_named(own_set, change):
    path = DexYCB(own_set).sequences[0].folder / "meta.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(BrokenFrame, match=f"meta.yml: {next(iter(change))} is"):
        DexYCB(own_set)[0]


@pytest.mark.parametrize("damage", ["missing", "no yaml", "a folder"])
def test_a_broken_meta_yml_leaves_all_other_frames_and_their_numbers(own_set, damage):
    before = DexYCB(own_set)
    places = [before.locate(index) for index in range(len(before))]
    lost = before.sequences[1].folder
    path = lost / "meta.yml"
    path.unlink()
    if damage == "no yaml":
        path.write_text("{")
    elif damage == "a folder":
        path.mkdir()
    reader = DexYCB(own_set)
    assert len(reader) == len(before)
    for index, (info, camera, number) in enumerate(places):
        now = reader.locate(index)
        assert (now[0].folder, now[0].number, *now[1:]) == (info.folder, info.number, camera, number)
        if info.folder == lost:
            with pytest.raises(BrokenFrame, match=r"meta\.yml"):
                reader[index]
        else:
            assert reader[index].image_path == before[index].image_path
    assert list(reader.broken) == [reader.sequences[1].fault.reason]
    for info in before.sequences:
        shutil.rmtree(info.folder / "meta.yml", ignore_errors=True)
        (info.folder / "meta.yml").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"not one of 4 sequences can be read; the first: .*meta\.yml: No such file"):
        DexYCB(own_set)


def test_errors_survive_the_way_out_of_a_worker_process():
    error = BrokenFrame("a/b.jpg", "is missing")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.reason) == (BrokenFrame, str(error), "is missing")


def test_wrong_folders_and_splits_say_what_to_do(own_set, tmp_path):
    empty, other = tmp_path / "empty", tmp_path / "other"
    empty.mkdir()
    other.mkdir()
    (other / "holiday.jpg").write_text("")
    cases = [
        (tmp_path / "nowhere", "no such folder"),
        (empty, "is an empty folder"),
        (other, "holds no set, neither DexYCB's layout"),
    ]
    for folder, what in cases:
        with pytest.raises(DataError, match=what) as error:
            DexYCB(folder)
        assert str(folder) in str(error.value)
        assert "amt.data.synthetic" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="split must be one of s0, s1, s2, s3; got 's9'"):
        DexYCB(own_set, "s9")
    with pytest.raises(DataError, match="subset must be one of"):
        DexYCB(own_set, "s0", "training")
    with pytest.raises(EmptySubset, match="s1 test holds no frame"):
        DexYCB(own_set, "s1", "test")
    (own_set / "calibration").rename(own_set / "moved")
    with pytest.raises(DataError, match="calibration: is missing"):
        DexYCB(own_set)


def test_a_bad_focal_length_is_named(own_set):
    path = own_set / "calibration" / "intrinsics" / f"{SERIALS[0]}_640x480.yml"
    content = yaml.safe_load(path.read_text())
    content["color"]["fx"] = 0.0
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match=f"{path.name}: focal lengths must be positive"):
        DexYCB(own_set)[0]


@pytest.mark.parametrize("word", ["fx", "ppx", "coeffs", "betas"])
def test_calibration_that_float32_cannot_hold_is_named(own_set, word):
    info = DexYCB(own_set).sequences[0]
    if word == "betas":
        path = own_set / "calibration" / f"mano_{info.mano_calib}" / "mano.yml"
        path.write_text("betas: [1.0e+300, 0, 0, 0, 0, 0, 0, 0, 0, 0]")
    else:
        path = own_set / "calibration" / "intrinsics" / f"{SERIALS[0]}_640x480.yml"
        lens = yaml.safe_load(path.read_text())
        lens["color"][word] = [1e300, 0, 0, 0, 0] if word == "coeffs" else 1e300
        path.write_text(yaml.safe_dump(lens))
    with pytest.raises(DataError, match=f"{path.name}: (lacks|focal lengths must be positive and all numbers finite)"):
        DexYCB(own_set)[0]


def test_a_recorded_set_asks_for_mano(own_set):
    (own_set / "synthetic.json").unlink()
    with pytest.raises(MissingHand, match="mano"):
        DexYCB(own_set)


def test_another_hand_is_noticed(own_set):
    record = json.loads((own_set / "synthetic.json").read_text())
    (own_set / "synthetic.json").write_text(json.dumps(record | {"hand_digest": "0"}))
    with pytest.raises(DataError, match="another version of AMT's own hand"):
        DexYCB(own_set)


def test_object_points_come_from_the_mesh_where_no_list_is(own_set):
    reader = DexYCB(own_set)
    listed = reader.objects.points(4, 200)
    (own_set / "models" / "005_tomato_soup_can" / "points.xyz").unlink()
    sampled = DexYCB(own_set).objects.points(4, 200)
    assert listed.shape == sampled.shape == (200, 3)
    np.testing.assert_allclose(np.ptp(listed, axis=0), np.ptp(sampled, axis=0), atol=0.004)
    table = reader.objects.class_points(64)
    assert table.shape == (22, 64, 3)
    assert not table[0].any()
    assert table[1:].any((1, 2)).all()


def test_farthest_points_cover_the_whole():
    points = np.random.default_rng(0).random((500, 3))
    chosen = farthest_points(points, 50)
    assert len(set(chosen)) == 50
    gap = np.linalg.norm(points[:, None] - points[chosen], axis=2).min(1)
    assert gap.max() < 0.35
    assert len(farthest_points(points[:3], 10)) == 10
