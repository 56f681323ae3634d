"""Pictures of a data set: what the set brings, and that a broken part of it matters only where it is needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from amt.data.images import read_image
from amt.data.lookup import frame_of
from amt.hand.shipped import shipped_hand
from amt.infer.__main__ import main
from amt.infer.known import true_box, truth

NUM_VERTICES = shipped_hand().num_vertices


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_set_brings_camera_side_object_box_and_truth(checkpoint, small_set, tmp_path, capsys):
    folder = sorted(small_set.glob("2020*/*/836212060125"))[1]
    images = sorted(folder.glob("color_*.jpg"))
    out = tmp_path / "out"
    assert main([str(checkpoint), str(folder), "--out", str(out)]) == 0
    assert "a data set; what is not given" in capsys.readouterr().err
    records = lines(out / "predictions.jsonl")
    assert [r["image"] for r in records] == [str(p) for p in images]
    labels = np.load(images[1].with_name("labels_000001.npz"))
    joints, pixels = labels["joint_3d"][0], labels["joint_2d"][0]
    record = records[1]
    assert (record["box_source"], record["intrinsics_source"]) == ("data set", "data set")
    expected = np.linalg.norm(np.array(record["joints_m"]) - joints, axis=1).mean() * 1000
    assert record["errors"]["absolute_mm"] == pytest.approx(expected, abs=0.01)
    assert record["errors"]["object_adds_mm"] > 0
    low, high = pixels.min(0), pixels.max(0)
    np.testing.assert_allclose(record["box_px"], [*(low + high) / 2, 1.5 * (high - low).max()], atol=0.05)
    assert record["object"]["class_id"] > 0
    assert read_image(out / "color_000001.png")[0].shape == (480 + 44, 3 * 480 + 8, 3)
    assert read_image(out / "overview.png")[0].shape[0] == 2 * (480 + 44) + 16

    found = tmp_path / "found"
    assert main([str(checkpoint), str(images[1]), "--box", "auto", "--no-draw", "--out", str(found)]) == 0
    assert lines(found / "predictions.jsonl")[0]["box_source"] == "found"


def test_the_truth_of_a_set_is_the_annotated_hand(small_set):
    for image in sorted(small_set.glob("2020*/*/8*/color_000001.jpg"))[::3]:
        frame = frame_of(image)
        known = truth(frame, frame.intrinsics(), 64, tell=pytest.fail)
        labels = np.load(image.with_name("labels_000001.npz"))
        np.testing.assert_allclose(known.joints, labels["joint_3d"][0], atol=1e-6)
        gap = np.linalg.norm(known.vertices[:, None] - known.joints[None], axis=2).min(0)
        assert gap.max() < 0.03  # the mesh surrounds the joints
        assert known.side == frame.side
        assert known.hand_contact.shape == (NUM_VERTICES,)
        assert known.object_contact.shape == (64,)


@pytest.fixture
def recorded(small_set, tmp_path) -> Path:
    """A copy of the set that needs MANO's files, as a recorded one does."""
    root = tmp_path / "set"
    shutil.copytree(small_set, root)
    (root / "synthetic.json").unlink()
    return root


def a_picture(root: Path) -> Path:
    return sorted(root.glob("2020*-subject-01/*/836212060125/color_000001.jpg"))[0]


def test_a_recorded_set_without_mano_still_knows_its_joints(checkpoint, recorded, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(checkpoint), str(a_picture(recorded)), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "data.mano=FOLDER" in said
    assert "the truth is shown without the mesh" in said
    (record,) = lines(out / "predictions.jsonl")
    assert (record["box_source"], record["intrinsics_source"]) == ("data set", "data set")
    assert {"wrist_aligned_mm", "object_adds_mm"} <= set(record["errors"])


GIVEN = ["--intrinsics", "610,610,320,240", "--box", "300,250,200", "--side", "right", "--object", "mug"]


@pytest.mark.parametrize(
    "part", ["calibration/*/*", "2020*/*/meta.yml", "models/*/*", "2020*/*/*/labels_*.npz", "none"]
)
def test_what_is_given_is_enough_beside_a_broken_set(checkpoint, recorded, part, tmp_path):
    for path in recorded.glob(part):
        path.write_bytes(b"\xff\x00 broken") if path.is_file() else None
    out = tmp_path / "out"
    assert main([str(checkpoint), str(a_picture(recorded)), *GIVEN, "--out", str(out)]) == 0
    (record,) = lines(out / "predictions.jsonl")
    assert (record["box_source"], record["intrinsics_source"], record["side"]) == ("given", "given", "right")
    assert record["object"]["class_id"] == 14
    assert (record["errors"] is None) == ("labels" in part or "meta" in part)


@pytest.mark.parametrize(
    ("part", "option"),
    [("calibration/intrinsics/*", "--intrinsics"), ("2020*-01/*/meta.yml", "--side"), ("models/*/*", "--object")],
)
def test_a_part_that_is_needed_is_one_line_with_the_option(checkpoint, recorded, part, option, tmp_path, capsys):
    for path in recorded.glob(part):
        path.unlink()
    out = tmp_path / "out"
    assert main([str(checkpoint), str(a_picture(recorded)), "--out", str(out)]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("amt.infer")]
    assert len(said) == 1
    assert said[0].endswith(f", or give {option}")


def test_another_persons_broken_file_does_not_matter(checkpoint, small_set, recorded, tmp_path):
    shutil.copy(small_set / "synthetic.json", recorded)
    others = list(recorded.glob("2020*-subject-02/*/meta.yml"))
    assert others
    for path in others:
        path.write_text("[")
    out = tmp_path / "out"
    assert main([str(checkpoint), str(a_picture(recorded)), "--no-draw", "--out", str(out)]) == 0
    assert lines(out / "predictions.jsonl")[0]["errors"]


def test_a_set_without_listed_points_takes_them_from_its_meshes(checkpoint, small_set, recorded, tmp_path):
    shutil.copy(small_set / "synthetic.json", recorded)
    listed = list(recorded.glob("models/*/points.xyz"))
    assert listed
    for path in listed:
        path.unlink()
    out = tmp_path / "out"
    assert main([str(checkpoint), str(a_picture(recorded)), "--out", str(out)]) == 0
    (record,) = lines(out / "predictions.jsonl")
    assert record["object"]["class_id"] > 0
    assert "object_adds_mm" in record["errors"]


def test_a_picture_that_was_halved_needs_its_own_camera(checkpoint, small_set, recorded, tmp_path, capsys):
    shutil.copy(small_set / "synthetic.json", recorded)
    picture, out = a_picture(recorded), tmp_path / "out"
    box = true_box(frame_of(picture), (480, 640), None)
    k = frame_of(picture).intrinsics()
    cv2.imwrite(str(picture), cv2.resize(cv2.imread(str(picture)), (320, 240), interpolation=cv2.INTER_AREA))
    assert main([str(checkpoint), str(picture), "--out", str(out)]) == 2
    assert "is 320 x 240 px, and its camera's calibration is for 640 x 480 px" in capsys.readouterr().err
    lens = ",".join(f"{n:.4f}" for n in (k[0, 0] / 2, k[1, 1] / 2, k[0, 2] / 2 - 0.25, k[1, 2] / 2 - 0.25))
    assert main([str(checkpoint), str(picture), "--intrinsics", lens, "--no-draw", "--out", str(out)]) == 0
    (record,) = lines(out / "predictions.jsonl")
    np.testing.assert_allclose(record["box_px"], [box[0] / 2 - 0.25, box[1] / 2 - 0.25, box[2] / 2], atol=0.5)
    assert record["box_source"] == "data set"


def test_a_field_of_view_that_is_given_is_not_overruled(checkpoint, small_set, tmp_path):
    out = tmp_path / "out"
    assert main([str(checkpoint), str(a_picture(small_set)), "--fov", "60", "--no-draw", "--out", str(out)]) == 0
    assert lines(out / "predictions.jsonl")[0]["intrinsics_source"] == "fov"


def test_a_set_whose_lens_bends_brings_its_coefficients(checkpoint, small_set, tmp_path):
    shutil.copytree(small_set, tmp_path / "set")
    picture = sorted((tmp_path / "set").glob("2020*/*/836212060125/color_*.jpg"))[0]
    straight = frame_of(picture).labels.joints
    file = next((tmp_path / "set" / "calibration" / "intrinsics").glob("836212060125_*"))
    calibration = yaml.safe_load(file.read_text())
    calibration["color"]["coeffs"] = [0.1, -0.2, 0.001, 0.002, 0.05]
    file.write_text(yaml.safe_dump(calibration))
    out = tmp_path / "out"
    assert main([str(checkpoint), str(picture), "--out", str(out)]) == 0
    (record,) = lines(out / "predictions.jsonl")
    assert record["distortion"] == {"model": "brown", "coefficients": [0.1, -0.2, 0.001, 0.002, 0.05]}
    assert record["errors"]["absolute_mm"] > 0
    np.testing.assert_array_equal(frame_of(picture).labels.joints, straight)
    assert main([str(checkpoint), str(picture), "--distortion", "0.2,0,0,0", "--no-draw", "--out", str(out)]) == 0
    assert lines(out / "predictions.jsonl")[0]["distortion"]["coefficients"] == [0.2, 0, 0, 0]
