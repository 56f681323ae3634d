"""A picture's frame is found by its path alone, and one broken part of the set leaves the others usable."""

import shutil

import cv2
import numpy as np
import pytest

from amt.data.config import CropConfig
from amt.data.crop_cache import build_cache
from amt.data.dexycb import DexYCB
from amt.data.errors import BrokenFrame, DataError, MissingHand
from amt.data.layout import SERIALS
from amt.data.lookup import Lookup, frame_of


def test_the_lookup_says_what_reader_and_cache_say(tiny_set, tmp_path):
    lookup, config = Lookup(), CropConfig(size=32, num_points=64)
    for subset in ("train", "val"):
        try:
            reader = DexYCB(tiny_set, "s0", subset)
        except DataError:
            continue
        cached = build_cache(reader, config, tmp_path, progress=False)
        for index in range(0, len(reader), 7):
            frame = reader[index]
            found = lookup.frame_of(frame.image_path)
            assert (found.subject, found.camera, found.number) == (frame.sequence.subject, frame.camera, frame.number)
            assert (found.side, found.class_id) == (frame.sequence.side, frame.sequence.class_id)
            np.testing.assert_array_equal(found.intrinsics((480, 640)), frame.intrinsics)
            np.testing.assert_array_equal(found.labels.joints_2d, frame.joints_2d)
            np.testing.assert_array_equal(found.frame.pose, frame.pose)
            row = list(cached["index"]).index(index)
            np.testing.assert_allclose(found.vertices, cached["vertices"][row], atol=1e-6)
            np.testing.assert_array_equal(found.hand_contact, cached["hand_contact"][row])
            np.testing.assert_array_equal(found.object_contact(64), cached["object_contact"][row])
            np.testing.assert_array_equal(found.object_points(64), cached.class_points[found.class_id])


def test_what_lies_in_no_set_is_none(tiny_set, tmp_path):
    path = next(tiny_set.rglob("color_000000.jpg"))
    for other in (
        path.with_name("color_0.jpg"),
        path.with_name("aligned_depth_to_color_000000.png"),
        path.parents[1] / "meta.yml",
        tmp_path / "color_000000.jpg",
        "color_000000.jpg",
    ):
        assert frame_of(other) is None


def test_a_part_that_is_missing_leaves_the_others(own_set):
    path = next(own_set.rglob("color_000001.jpg"))
    whole = frame_of(path)
    expected = whole.intrinsics()
    side, class_id = whole.side, whole.class_id

    # MANO's files are not at hand.
    (own_set / "synthetic.json").rename(own_set / "moved")
    found = frame_of(path)
    np.testing.assert_array_equal(found.intrinsics(), expected)
    np.testing.assert_array_equal(found.labels.joints, whole.labels.joints)
    assert (found.side, found.class_id) == (side, class_id)
    with pytest.raises(MissingHand):
        _ = found.vertices
    (own_set / "moved").rename(own_set / "synthetic.json")

    # Another person's meta.yml is broken.
    for other in own_set.glob("*/*/meta.yml"):
        if other.parent != path.parents[1]:
            other.write_text("{")
    np.testing.assert_array_equal(frame_of(path).vertices, whole.vertices)

    # The camera's calibration, and then the picture's own meta.yml, are missing.
    (own_set / "calibration" / "intrinsics" / f"{SERIALS[whole.camera]}_640x480.yml").unlink()
    found = frame_of(path)
    assert (found.side, found.class_id, found.labels.hand_valid) == (side, class_id, True)
    with pytest.raises(DataError, match=rf"{SERIALS[whole.camera]}_640x480\.yml: No such file"):
        found.intrinsics()
    (path.parents[1] / "meta.yml").unlink()
    with pytest.raises(DataError, match=r"meta\.yml: No such file"):
        _ = frame_of(path).side

    # No models.
    shutil.rmtree(own_set / "models")
    with pytest.raises(DataError, match="put the set's models folder in place"):
        frame_of(path).set.objects.points(class_id, 8)


def test_a_frame_without_labels_still_has_its_camera(own_set):
    path = next(own_set.rglob("color_000001.jpg"))
    path.with_name("labels_000001.npz").unlink()
    found = frame_of(path)
    assert found.intrinsics().shape == (3, 3)
    with pytest.raises(BrokenFrame, match=r"labels_000001\.npz: is missing"):
        _ = found.labels


def test_a_picture_of_another_size_has_not_the_sets_camera(own_set):
    path = next(own_set.rglob("color_000001.jpg"))
    cv2.imwrite(str(path), np.zeros((240, 320, 3), np.uint8))
    with pytest.raises(DataError, match="is 320 x 240 px, and its camera's calibration is for 640 x 480 px"):
        frame_of(path).intrinsics((240, 320))
