"""Labels that can be read and cannot be true: each is a problem of the index, and no frame that a model is trained on."""

import os

import numpy as np
import pytest
from layout_files import LENS, sequence_folder, write_tree

from amt.data.config import CropConfig, DataConfig
from amt.data.crop_cache import build_cache
from amt.data.dexycb import DexYCB
from amt.data.errors import TooManyBroken
from amt.data.index import build_index
from amt.data.layout import SERIALS, SUBJECTS, labels_name
from amt.data.loader import make_loader

CROP = CropConfig(size=16, num_points=8)


@pytest.fixture
def tree(tmp_path):
    """One sequence, one frame for each of eight cameras; the third and the seventh have no hand."""
    (tmp_path / "set").mkdir()
    return write_tree(tmp_path / "set", 1, 1, lambda _: 1)


def change(tree, camera, name, how):
    path = sequence_folder(tree, 0, 0) / SERIALS[camera] / labels_name(0)
    found = dict(np.load(path))
    path.unlink()  # a hard link to a file that other frames share
    np.savez_compressed(path, **found | {name: how(found[name])})
    return path


def with_nan(array):
    array = array.copy()
    array.flat[4] = np.nan
    return array


@pytest.mark.parametrize(
    ("name", "how", "reason", "hand", "held"),
    [
        ("joint_3d", with_nan, "joint_3d holds a number that is not finite", False, True),
        ("joint_2d", with_nan, "joint_2d holds a number that is not finite", False, True),
        ("pose_m", lambda a: a.astype(np.float64) * 1e300, "pose_m holds a number that is not finite", False, True),
        (
            "joint_3d",
            lambda a: a * 1000,
            "joint_3d is larger than a hand in metres (0.5 m from the wrist)",
            False,
            True,
        ),
        ("joint_3d", lambda a: a * np.float32([1, 1, -1]), "joint_3d lies behind the camera", True, True),
        ("joint_2d", lambda a: a + 6, "joint_2d is not where the calibration puts joint_3d (over 5 px)", True, True),
        ("joint_2d", lambda a: a + 1, None, True, True),
        ("pose_y", with_nan, "pose_y holds a number that is not finite", True, False),
        ("pose_y", lambda a: a * 2, "pose_y holds what is no rotation", True, False),
        ("pose_y", np.zeros_like, None, True, False),
        ("seg", lambda a: a[:100], "seg has a wrong shape or type", True, True),
        ("seg", lambda a: a.astype(np.int32), "seg has a wrong shape or type", True, True),
    ],
)
def test_what_cannot_be_true_is_a_problem_with_its_reason(tree, name, how, reason, hand, held):
    path = change(tree, 0, name, how)
    index = build_index(tree, progress=False)
    assert index.problems == ([] if reason is None else [(path, reason)])
    assert (bool(index.frames["hand"][0]), bool(index.frames["object"][0])) == (hand, held)
    assert index.frames["labels"].all()


def test_another_camera_s_calibration_is_noticed(tree):
    lens = tree / "calibration" / "intrinsics" / f"{SERIALS[4]}_640x480.yml"
    lens.write_text(f"color: {dict(LENS, fx=LENS['fx'] * 1.1)}")
    ((path, reason),) = build_index(tree, progress=False).problems
    assert path.parent.name == SERIALS[4]
    assert reason.startswith("joint_2d is not where the calibration puts joint_3d")


def test_training_loses_such_hands_as_it_loses_files_that_cannot_be_read(tree, tmp_path):
    first = change(tree, 0, "joint_3d", with_nan)
    change(tree, 1, "joint_3d", lambda array: array * 1000)
    cache = build_cache(DexYCB(tree, "s0", "train"), CROP, tmp_path / "crops", False)
    assert (len(cache), cache.lost, cache.info["left_out"]) == (4, 2, {"without a hand's labels": 2})
    assert f"1 skipped: joint_3d holds a number that is not finite (the first: {first})" in cache.report()
    assert np.isfinite(cache["joints"]).all()
    with pytest.raises(TooManyBroken, match=r"2 of 8 frames of s0 train \(25\.0%\) cannot be read"):
        make_loader(DataConfig(root=str(tree), split="s0", cache=str(tmp_path), crop=CROP), "train", 2, progress=False)


def test_a_subject_that_is_no_folder_is_told(tree):
    (tree / SUBJECTS[3]).write_text("")
    os.symlink(SUBJECTS[5], tree / SUBJECTS[5])
    problems = [(tree / SUBJECTS[number], "is no folder") for number in (3, 5)]
    assert build_index(tree, progress=False).problems == problems
