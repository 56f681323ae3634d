"""Missing parts: what is not labelled is a flag; what cannot be read is replaced, counted and limited."""

import numpy as np
import pytest
import torch
import yaml

from amt.data.config import CropConfig, DataConfig
from amt.data.crop_cache import build_cache
from amt.data.dexycb import DexYCB
from amt.data.errors import BrokenFrame, TooManyBroken
from amt.data.files import load_npz
from amt.data.layout import LABEL_SHAPES, depth_name, labels_name
from amt.data.loader import CropDataset, make_loader
from amt.model import AMT, ModelConfig
from amt.train.config import LossConfig
from amt.train.losses import compute_loss

SMALL = CropConfig(size=64, num_points=32)


def relabel(frame, **changed):
    """Writes a frame's labels anew; each value is an array, or a function of the old one."""
    path = frame.folder / labels_name(frame.number)
    found = load_npz(path, (*LABEL_SHAPES, "seg"))
    for name, change in changed.items():
        found[name] = change(found[name])
    np.savez_compressed(path, **found)


def no_hand(frame):
    relabel(frame, joint_3d=lambda a: a * 0 - 1, joint_2d=lambda a: a * 0 - 1, pose_m=lambda a: a * 0)


def one_joint_of_minus_one(frame):
    def mark(joints):
        joints[0, 8] = -1
        return joints

    relabel(frame, joint_3d=mark)


def no_pixels(frame):
    relabel(frame, joint_2d=lambda a: a * 0 - 1)


def no_object(frame):
    relabel(frame, pose_y=lambda a: a * 0)


def a_mirrored_object(frame):
    relabel(frame, pose_y=lambda a: a * np.float32([-1, 1, 1])[:, None])


def no_depth(frame):
    (frame.folder / depth_name(frame.number)).unlink()


@pytest.mark.parametrize(
    ("remove", "hand", "held"),
    [
        (no_hand, False, True),
        (one_joint_of_minus_one, False, True),
        (no_pixels, False, True),
        (no_object, True, False),
        (a_mirrored_object, True, False),
        (no_depth, True, True),
    ],
)
def test_each_missing_part_is_a_flag(own_set, remove, hand, held):
    before = DexYCB(own_set, "s0", "train")[6]
    remove(before)
    frame = DexYCB(own_set, "s0", "train")[6]
    assert (frame.hand_valid, frame.object_valid) == (hand, held)
    for name in ("joints", "joints_2d", "pose", "translation", "object_rotation", "object_translation"):
        assert np.isfinite(getattr(frame, name)).all()
        assert not (getattr(frame, name) == -1).any()
    assert frame.image().shape == (480, 640, 3)
    if remove is no_depth:
        with pytest.raises(BrokenFrame, match=r"aligned_depth_to_color_\d{6}\.png: no such file"):
            frame.depth()


def without_objects(own_set):
    """The first sequence holds no object at all: empty lists in meta.yml and in every label."""
    info = DexYCB(own_set, "s0", "train").sequences[0]
    path = info.folder / "meta.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"ycb_ids": [], "ycb_grasp_ind": 0}))
    (info.folder / "contact.npz").unlink()
    for path in info.folder.glob("*/labels_*.npz"):
        found = load_npz(path, (*LABEL_SHAPES, "seg"))
        np.savez(path, **found | {"pose_y": np.zeros((0, 3, 4), np.float32)})
    return info


def test_a_model_trains_on_what_is_left(own_set, tmp_path):
    """No object in the scene, an object without a pose, no depth, and left hands, beside whole frames: all in one batch."""
    info = without_objects(own_set)
    reader = DexYCB(own_set, "s0", "train")
    other = next(i for i in range(len(reader)) if reader.locate(i)[0].folder != info.folder)
    no_object(reader[other])
    no_depth(reader[other + 1])
    no_hand(reader[other + 2])
    assert len(reader.locate(other)[0].class_ids) > 1  # several objects in the scene
    path = reader.sequences[-1].folder / "meta.yml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"mano_sides": ["left"]}))
    cache = build_cache(DexYCB(own_set, "s0", "train"), SMALL, tmp_path, progress=False)
    assert cache.info["left_out"] == {"without a hand's labels": 1}
    assert cache.lost == 0
    index = list(cache["index"])
    assert other + 2 not in index
    rows = np.array([index.index(i) for i in (0, 1, other, other + 1, len(reader) - 1)])
    batch = CropDataset(cache, SMALL).batch(rows)
    assert batch.inputs.object_class[:2].tolist() == [0, 0]
    assert batch.targets.object_valid.tolist() == [False, False, False, True, True]
    assert not batch.inputs.object_points[:2].any()
    assert not batch.targets.hand_contact[:2].any()
    assert torch.equal(batch.targets.contact_valid, batch.targets.object_valid)
    assert not batch.inputs.right[-1]
    torch.manual_seed(0)
    model = AMT(ModelConfig(crop_size=64))
    loss = compute_loss(model(batch.inputs), batch, LossConfig())
    loss.total.backward()
    assert loss.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def break_pictures(reader, indices):
    for index in indices:
        path = reader[index].image_path
        path.write_bytes(path.read_bytes()[:4000])


def test_a_replacement_is_the_same_for_everybody_and_its_rate_is_limited(own_set):
    reader = DexYCB(own_set, "s0", "train")
    break_pictures(reader, (5, 6))
    order = [5, 6, 4, 7]
    forward = {index: reader.readable(index)[0].index for index in order}
    other = DexYCB(own_set, "s0", "train")
    assert forward == {index: other.readable(index)[0].index for index in reversed(order)} == {5: 7, 6: 7, 4: 4, 7: 7}
    strict = DexYCB(own_set, "s0", "train")
    strict.most_broken = 1.5 / len(strict)
    assert strict.readable(6)[0].index == 7
    assert strict.readable(6)[0].index == 7  # the same frame counts once
    with pytest.raises(TooManyBroken, match=rf"2 of {len(strict)} frames of s0 train \(\d\.\d%\) cannot be read"):
        strict.readable(5)


def test_training_stops_above_one_percent_and_says_the_rate(own_set, tmp_path, capsys):
    reader = DexYCB(own_set, "s0", "train")
    total = len(reader)
    break_pictures(reader, (0, 3, 9))
    given = {"root": str(own_set), "split": "s0", "cache": str(tmp_path), "crop": CropConfig(size=16, num_points=8)}
    with pytest.raises(TooManyBroken) as error:
        make_loader(DataConfig(**given), "train", 4)
    said = str(error.value)
    assert f"3 of {total} frames of s0 train ({3 / total:.1%}) cannot be read" in said
    assert "data.most_broken=0.01 allows 1.0%" in said
    assert "3 skipped: the picture breaks off" in said
    assert "\n" not in said
    assert f"3 of {total} ({3 / total:.2%}) could not be read" in capsys.readouterr().err
    loader = make_loader(DataConfig(**given, most_broken=0.05), "train", 4)  # with the crops that were cut already
    assert len(loader.dataset) == total - 3
    assert "cutting" not in capsys.readouterr().err
    given |= {"split": "s2"}
    break_pictures(DexYCB(own_set, "s2", "val"), (0, 1))
    assert len(make_loader(DataConfig(**given), "val", 4, progress=False))  # figures say how many frames they are of
    with pytest.raises(ValueError, match=r"data\.most_broken is a share, 0-1; got 2"):
        DataConfig(most_broken=2)


def test_a_broken_meta_yml_is_a_rate_of_its_subset_alone(own_set, tmp_path):
    before = DexYCB(own_set, "s1", "train")
    lost = before.sequences[1]
    (lost.folder / "meta.yml").write_text("num_frames: [")
    given = {"root": str(own_set), "cache": str(tmp_path), "crop": CropConfig(size=16, num_points=8)}
    frames = sum(before.locate(i)[0].folder == lost.folder for i in range(len(before)))
    with pytest.raises(TooManyBroken, match=rf"{frames} of {len(before)} frames of s1 train .*1 skipped: is not YAML"):
        make_loader(DataConfig(**given), "train", 4, progress=False)
    loader = make_loader(DataConfig(**given, most_broken=0.5), "train", 4, progress=False)
    assert len(loader.dataset) == len(before) - frames
    assert DexYCB(own_set, "s2", "val").report().startswith("1 skipped: is not YAML")
