"""HO-3D's layout: small files made here from posed hands, in OpenGL's frame and MANO's order as the set documents them."""

import json
import os
import pickle
import re
import shutil
import zipfile
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from amt.config import compose
from amt.data.config import CropConfig, DataConfig
from amt.data.errors import BrokenFrame, DataError, EmptySubset, MissingHand, TooManyBroken
from amt.data.ho3d import HO3D, read_meta
from amt.data.index import Index, build_index
from amt.data.index.__main__ import main
from amt.data.layout import SYNTHETIC_RECORD
from amt.data.loader import make_loader
from amt.data.lookup import Lookup
from amt.evaluate.__main__ import main as evaluation
from amt.hand.camera import project
from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand
from amt.model import AMT, ModelConfig, save_checkpoint
from amt.train.config import PROGRAM

K = np.array([[617.3, 0, 312.4], [0, 616.1, 241.4], [0, 0, 1]])
# The set's own table, from its joints to thumb, index, middle, ring, little.
ORDER = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]
CLOUD = np.random.default_rng(1).uniform(-0.03, 0.03, (60, 3)).astype(np.float32)
FRAMES = {"train": [("ABF10", 0), ("ABF10", 3), ("MC1", 12), ("MC1", 2)], "evaluation": [("SM1", 0), ("SM1", 7)]}


def annotation(number: int) -> dict:
    """Labels as the set stores them, and in "vertices" and "cloud" what they mean: in OpenGL's frame, in metres."""
    rng = np.random.default_rng(number)
    layer = ManoLayer(shipped_hand("right"))
    pose = np.concatenate([rng.uniform(-1, 1, 3), layer.hands_mean.numpy() + rng.uniform(-0.2, 0.2, 45)])
    betas, translation = rng.uniform(-1, 1, 10), np.array([0.05, 0.03, -0.6]) + rng.uniform(-0.02, 0.02, 3)
    with torch.no_grad():
        hand = layer(*(torch.from_numpy(a).float()[None] for a in (pose, betas, translation)))
    joints = np.empty((21, 3))
    joints[ORDER] = hand.joints[0].double().numpy()
    turn, place = rng.uniform(-1, 1, 3), joints[9] + [0, 0, 0.02]
    return {
        "camMat": K,
        "handJoints3D": joints,
        "handPose": pose,
        "handBeta": betas,
        "handTrans": translation,
        "objRot": turn[:, None],  # a column, as the set has it
        "objTrans": place,
        "objName": "006_mustard_bottle",
        "objLabel": 5,
        "camIDList": ["0", "1"],
        "vertices": hand.vertices[0].numpy(),
        "cloud": CLOUD @ Rotation.from_rotvec(turn).as_matrix().T + place,
    }


@pytest.fixture
def ho3d(tmp_path):
    """Four training and two evaluation frames; hands are AMT's own."""
    root = tmp_path / "HO3D_v3"
    (root / "models" / "006_mustard_bottle").mkdir(parents=True)
    np.savetxt(root / "models" / "006_mustard_bottle" / "points.xyz", CLOUD)
    record = {"hand": "amt", "hand_digest": shipped_hand("right").digest}
    (root / SYNTHETIC_RECORD).write_text(json.dumps(record))
    for part, frames in FRAMES.items():
        (root / f"{part}.txt").write_text("".join(f"{name}/{number:04d}\n" for name, number in frames))
        for place, (name, number) in enumerate(frames):
            meta = annotation(number)
            if part == "evaluation":
                meta |= {"handJoints3D": meta["handJoints3D"][0], "handBoundingBox": [200, 100, 400, 300]}
                meta = {k: v for k, v in meta.items() if k not in ("handPose", "handBeta", "handTrans")}
            folder = root / part / name
            for kind in ("rgb", "depth", "meta"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(
                str(folder / "rgb" / f"{number:04d}.jpg"), np.full((480, 640, 3), (30, 120, 40 * place), np.uint8)
            )
            depth = np.zeros((480, 640, 3), np.uint8)
            depth[..., 2], depth[..., 1] = 100, 18  # 100 + 256 x 18, in BGR
            cv2.imwrite(str(folder / "depth" / f"{number:04d}.png"), depth)
            with open(folder / "meta" / f"{number:04d}.pkl", "wb") as file:
                pickle.dump(meta, file, protocol=2)
    return root


def opengl_to_camera(points):
    return np.asarray(points) * [1, -1, -1]


def test_labels_come_into_our_camera_frame_and_order(ho3d):
    reader = HO3D(ho3d)
    info, camera, number = reader.locate(0)
    assert (info.folder.name, camera, number) == (reader[0].sequence.folder.name, 0, reader[0].number)
    assert len(reader) == 4
    for index, (name, number) in enumerate(FRAMES["train"]):
        frame, truth = reader[index], annotation(number)
        assert (frame.image_path.parent.parent.name, frame.number, frame.index) == (name, number, index)
        assert (frame.hand_valid, frame.object_valid, frame.sequence.side) == (True, True, "right")
        joints = opengl_to_camera(truth["handJoints3D"][ORDER])
        np.testing.assert_allclose(frame.joints, joints, atol=1e-6)
        assert (joints[:, 2] > 0).all()
        seen = joints @ K.T
        np.testing.assert_allclose(frame.joints_2d, seen[:, :2] / seen[:, 2:], atol=1e-3)
        parts = (torch.from_numpy(a)[None] for a in (frame.pose, frame.betas, frame.translation))
        with torch.no_grad():
            hand = reader.layer("right")(*parts)
        np.testing.assert_allclose(hand.joints[0], joints, atol=2e-6)
        np.testing.assert_allclose(hand.vertices[0], opengl_to_camera(truth["vertices"]), atol=2e-6)
        cloud = reader.objects.cloud(frame.sequence.class_id) @ frame.object_rotation.T + frame.object_translation
        np.testing.assert_allclose(cloud, opengl_to_camera(truth["cloud"]), atol=2e-6)
        assert frame.sequence.class_id == 5
        assert abs(int(frame.image()[0, 0, 0]) - 40 * index) <= 2
        np.testing.assert_allclose(frame.depth(), (100 + 256 * 18) * 0.00012498664727900177, rtol=1e-6)
    for index in (-1, 4):
        with pytest.raises(IndexError):
            reader[index]


def test_the_evaluation_set_has_no_hands_and_there_is_no_validation_set(ho3d):
    reader = HO3D(ho3d, subset="test")
    assert len(reader) == 2
    assert [reader[i].number for i in range(2)] == [0, 7]
    assert not any(reader[i].hand_valid for i in range(2))
    assert all(reader[i].object_valid for i in range(2))
    with pytest.raises(EmptySubset, match="HO-3D has no validation set"):
        HO3D(ho3d, subset="val")
    with pytest.raises(DataError, match="split must be official for HO-3D; got 's0'"):
        HO3D(ho3d, "s0")
    (ho3d / SYNTHETIC_RECORD).unlink()
    with pytest.raises(MissingHand):
        HO3D(ho3d)


def test_missing_parts_are_flags(ho3d):
    path = ho3d / "train" / "ABF10" / "meta" / "0000.pkl"
    whole = annotation(0)
    for change, flags in (
        ({"handJoints3D": None, "handPose": None}, (False, True)),
        ({"handJoints3D": np.full((21, 3), np.nan)}, (False, True)),
        ({"handJoints3D": -whole["handJoints3D"]}, (False, True)),  # behind the camera
        ({"objRot": None}, (True, False)),
        ({"objRot": np.full(3, np.inf)}, (True, False)),
        ({"objName": "a spoon"}, (True, False)),
        ({"objName": None}, (True, False)),
    ):
        path.write_bytes(pickle.dumps(whole | change))
        frame = HO3D(ho3d)[0]
        assert (frame.hand_valid, frame.object_valid) == flags, change
        for name in ("joints", "joints_2d", "pose", "betas", "translation", "object_rotation", "object_translation"):
            assert np.isfinite(getattr(frame, name)).all(), name
    for change in ({"handPose": np.zeros(45)}, {"camMat": "K"}, {"camMat": None}, {"objTrans": np.array([{}] * 3)}):
        path.write_bytes(pickle.dumps(whole | change))
        with pytest.raises(BrokenFrame, match=rf"0000\.pkl: .*{next(iter(change))}"):
            HO3D(ho3d)[0]


@pytest.mark.parametrize(
    ("change", "reason", "hand"),
    [
        ({"handJoints3D": np.full((21, 3), np.nan)}, "handJoints3D holds a number that is not finite", False),
        ({"handTrans": np.full(3, 1e300)}, "handTrans holds a number that is not finite", False),
        ({"handJoints3D": annotation(0)["handJoints3D"] * 1000}, "handJoints3D is larger than a hand in metres", False),
        ({"camMat": K * 1e300}, "its camMat is no camera's", True),
        ({"camMat": None}, "has no camMat", True),
    ],
)
def test_what_labels_cannot_say_is_a_problem_and_no_frame_to_train_on(ho3d, tmp_path, change, reason, hand):
    path = ho3d / "train" / "ABF10" / "meta" / "0000.pkl"
    path.write_bytes(pickle.dumps(annotation(0) | change))
    index = build_index(ho3d, progress=False)
    assert [found for found, _ in index.problems] == [path]
    assert index.problems[0][1].startswith(reason)
    assert (bool(index.frames["hand"][0]), bool(index.frames["calibrated"][0])) == (hand, not hand)
    config = DataConfig(root=str(ho3d), layout="ho3d", split="official", cache=str(tmp_path), crop=CropConfig(size=16))
    with pytest.raises(TooManyBroken, match=r"1 of 4 frames of official train \(25\.0%\) cannot be read"):
        make_loader(config, "train", 2, progress=False)


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_meta_file_is_read_and_never_run(tmp_path, protocol):
    path, truth = tmp_path / "0000.pkl", annotation(4)
    path.write_bytes(pickle.dumps(truth, protocol))
    found = read_meta(path)
    for name in ("camMat", "handJoints3D", "handPose", "objRot"):
        np.testing.assert_array_equal(found[name], truth[name].ravel())
    assert found["objName"] == truth["objName"]
    path.write_bytes(pickle.dumps(truth | {"extra": Trap(tmp_path / "executed")}, protocol))
    with pytest.raises(BrokenFrame, match="asks for what labels do not need"):
        read_meta(path)
    assert not (tmp_path / "executed").exists()


def test_damaged_meta_files_are_one_line_each(tmp_path):
    """Flipped bits and cut ends. One of a pickle's bits can ask for a memo of gigabytes, which must not be made."""
    path, whole = tmp_path / "0000.pkl", pickle.dumps(annotation(4), 2)
    rng, broken = np.random.default_rng(6), 0
    cases = [whole[: rng.integers(len(whole))] for _ in range(100)]
    for _ in range(400):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 9)):
            data[at] ^= 1 << rng.integers(8)
        cases.append(bytes(data))
    cases += [
        b"",
        b"\x80\x02]r\xff\xff\xff\xff.",
        pickle.dumps([1, 2]),
        pickle.dumps("x" * 10),
        b"\x80\x02}" + b"]" * 100_000,
    ]
    for data in cases:
        path.write_bytes(data)
        try:
            read_meta(path)
        except BrokenFrame as error:
            assert error.path == path  # noqa: PT017 (any other error fails the test)
            broken += 1
    assert broken > 200
    path.write_bytes(cases[501])
    with pytest.raises(BrokenFrame, match="asks for what"):
        read_meta(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BrokenFrame, match="is a fifo, not a file"):
        read_meta(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"train\.txt: No such file"),
        ("", r"train\.txt: names no frame"),
        ("ABF10/0000\n../../etc/passwd\n", r"train\.txt: line 2 is not SEQUENCE/0000"),
        ("ABF10\n", r"train\.txt: line 1 is not SEQUENCE/0000"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(ho3d, text, message):
    path = ho3d / "train.txt"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        HO3D(ho3d)
    assert "\n" not in str(error.value)


def test_a_frame_without_its_files_is_broken_and_replaced(ho3d):
    (ho3d / "train" / "ABF10" / "rgb" / "0003.jpg").unlink()
    reader = HO3D(ho3d)
    frame, image = reader.readable(1)
    assert (frame.index, image.shape) == (2, (480, 640, 3))
    assert "1 skipped: no such file" in reader.report()


def test_a_picture_is_looked_up_by_its_path(ho3d):
    lookup = Lookup()
    found, truth = lookup.frame_of(ho3d / "train" / "MC1" / "rgb" / "0012.jpg"), annotation(12)
    np.testing.assert_allclose(found.intrinsics((480, 640)), K, rtol=1e-6)
    assert (found.side, found.class_id, found.object_name, found.root) == ("right", 5, "006_mustard_bottle", ho3d)
    np.testing.assert_allclose(found.vertices, opengl_to_camera(truth["vertices"]), atol=2e-6)
    np.testing.assert_array_equal(found.labels.joints, found.frame.joints)
    assert found.object_points(16).shape == (16, 3)
    assert found.hand_contact.shape == found.vertices.shape[:1]
    with pytest.raises(DataError, match="is 320 x 240 px"):
        found.intrinsics((240, 320))
    hidden = lookup.frame_of(ho3d / "evaluation" / "SM1" / "rgb" / "0007.jpg")
    np.testing.assert_allclose(hidden.intrinsics(), K, rtol=1e-6)
    assert (hidden.labels.hand_valid, hidden.labels.object_valid) == (False, True)
    for other in ("train/MC1/rgb/x.jpg", "train/MC1/depth/0012.png", "elsewhere/MC1/rgb/0012.jpg"):
        assert lookup.frame_of(ho3d / other) is None
    (ho3d / SYNTHETIC_RECORD).unlink()  # MANO's files are not at hand: camera, joints and object are known all the same
    found = Lookup().frame_of(found.path)
    assert found.labels.hand_valid
    with pytest.raises(MissingHand):
        _ = found.vertices
    meta = ho3d / "train" / "MC1" / "meta" / "0012.pkl"
    meta.write_bytes(pickle.dumps(truth | {"objName": "a spoon"}))
    assert (Lookup().frame_of(found.path).class_id, Lookup().frame_of(found.path).object_name) == (0, "")


def test_training_reads_it_by_its_configuration(ho3d, tmp_path):
    words = ["data=ho3d", f"data.root={ho3d}", f"data.cache={tmp_path / 'cache'}", "model.crop_size=64"]
    data = compose(PROGRAM, words)["data"]
    assert (data.layout, data.split, data.root) == ("ho3d", "official", str(ho3d))
    loader = make_loader(data, "train", 4, augment=False, shuffle=False, progress=False)
    batch = next(iter(loader))
    assert batch.index.tolist() == [0, 1, 2, 3]
    assert batch.inputs.object_class.tolist() == [5] * 4
    assert batch.targets.hand_valid.all()
    pixels = project(batch.targets.joints, batch.inputs.intrinsics)
    assert ((pixels > 0) & (pixels < 63)).all()  # the true box holds the joints
    for index, (_, number) in enumerate(FRAMES["train"]):
        truth = opengl_to_camera(annotation(number)["vertices"])
        np.testing.assert_allclose(batch.targets.vertices[index], truth, atol=2e-6)
    assert batch.targets.hand_contact.any()
    with pytest.raises(DataError, match="not one of 2 frames of official test can be used: 2 left out without a hand"):
        make_loader(data, "test", 4, progress=False)


def test_its_index_has_ids_counts_and_problems(ho3d, tmp_path, capsys):
    whole = build_index(ho3d, decode=True, progress=False)
    assert (whole.problems, whole.incomplete, whole.layout) == ([], "", "ho3d")
    assert whole.frames["frame"][whole.rows("official", "train")].tolist() == [0, 3, 12, 2]
    assert whole.ids("official", "train", "T").tolist() == [0, 1, 2, 3]
    assert whole.ids("official", "test").tolist() == [0, 1]
    assert len(whole.ids("official", "test", "T")) == 0
    assert (whole.frames["distance"][:4] < 60).all()
    picture, meta = ho3d / "train" / "MC1" / "rgb" / "0012.jpg", ho3d / "train" / "ABF10" / "meta" / "0003.pkl"
    picture.write_bytes(picture.read_bytes()[:-90])
    meta.write_bytes(pickle.dumps(Trap(tmp_path / "executed")))
    shutil.rmtree(ho3d / "models")
    assert main([str(ho3d), "--quiet", "--workers", "1", "--out", str(tmp_path / "index.npz")]) == 1
    said = capsys.readouterr().out
    assert re.search(r"^official train +4 +83,325 +3 +83,325 +2 ", said, re.MULTILINE)
    assert not (tmp_path / "executed").exists()
    index = Index.load(tmp_path / "index.npz")
    assert [path for path, _ in index.problems] == [meta, picture, ho3d / "models"]
    assert index.ids("official", "train", "T").tolist() == [0, 2, 3]
    with pytest.raises(DataError, match="HO-3D has the split official with train and test; got 's0' 'train'"):
        index.ids("s0", "train")


def test_a_layout_needs_its_own_split_and_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"data\.split must be one of official with data\.layout=ho3d; got 's1'"):
        DataConfig(root=str(tmp_path), layout="ho3d")
    with pytest.raises(DataError, match=r"data\.root must be given with data\.layout=ho3d"):
        DataConfig(layout="ho3d", split="official")
    with pytest.raises(DataError, match=r"data\.layout must be one of dexycb, ho3d; got 'coco'"):
        DataConfig(layout="coco")


class Oracle(AMT):
    """A model that knows the truth of the evaluation set, and what it was asked."""

    def __init__(self):
        super().__init__(ModelConfig(decoder_depth=1, backbone={"depth": 1}))
        self.asked = []

    def forward(self, inputs):
        self.asked.append(inputs)
        numbers = [int(x) * 7 for x in inputs.image[:, 0].float().mean((1, 2)) > 20]  # red tells the frames apart
        found = [annotation(number) for number in numbers]
        joints = torch.from_numpy(np.stack([opengl_to_camera(a["handJoints3D"][ORDER]) for a in found]))
        return SimpleNamespace(
            joints=joints, vertices=torch.from_numpy(opengl_to_camera([a["vertices"] for a in found]))
        )


@pytest.fixture
def evaluate(ho3d, monkeypatch, tmp_path):
    """``evaluate(*words) -> status``, of a model that says the truth."""
    oracle = Oracle()
    save_checkpoint(tmp_path / "checkpoint", oracle)
    monkeypatch.setattr("amt.evaluate.run.load_checkpoint", lambda *_, **__: (oracle, {}))
    words = [str(tmp_path / "checkpoint"), f"data.root={ho3d}", "data.layout=ho3d", "data.split=official"]

    def run(*more):
        return evaluation([*words, "evaluate.device=cpu", f"evaluate.write={tmp_path / 'out'}", *more]), oracle

    return run


def test_the_file_of_the_evaluation_set_has_the_form_of_its_challenge(ho3d, evaluate, tmp_path, capsys):
    """What is predicted in our frame comes out as the set's own joints and vertices, frame by frame."""
    status, oracle = evaluate("evaluate.batch_size=1")
    assert status == 0
    joints, vertices = json.loads((tmp_path / "out" / "pred.json").read_text())
    for k, (_, number) in enumerate(FRAMES["evaluation"]):
        np.testing.assert_allclose(joints[k], annotation(number)["handJoints3D"], atol=1e-6)
        np.testing.assert_allclose(vertices[k], annotation(number)["vertices"], atol=1e-6)
    with zipfile.ZipFile(tmp_path / "out" / "pred.zip") as archive:
        assert archive.read("pred.json") == (tmp_path / "out" / "pred.json").read_bytes()
    assert len(oracle.asked) == 2
    assert oracle.asked[0].box.tolist() == [[300, 200, 300]]
    np.testing.assert_allclose(oracle.asked[0].frame_intrinsics[0], K, rtol=1e-6)
    assert oracle.asked[0].object_class.tolist() == [5]
    from_its_model = np.abs(oracle.asked[0].object_points[0].numpy()[:, None] - CLOUD).max(-1).min(1)
    assert from_its_model.max() < 1e-6  # m
    assert "vertices, and the challenge compares MANO's 778" in capsys.readouterr().err
    assert not (tmp_path / "checkpoint" / "metrics.json").exists()


def test_the_file_is_scored_where_the_labels_are_published(ho3d, evaluate, tmp_path):
    """Against another hand: what is scored is the file, frame by frame, in the set's own frame and order."""
    truth = [annotation(number) for _, number in FRAMES["evaluation"]]
    shifted = [a["handJoints3D"] + [0.01, 0, 0] for a in truth]
    (ho3d / "evaluation_xyz.json").write_text(json.dumps([x.tolist() for x in shifted]))
    (ho3d / "evaluation_verts.json").write_text(json.dumps([a["vertices"].tolist() for a in truth]))
    assert evaluate(f"evaluate.output={tmp_path / 'm.json'}")[0] == 0
    figures = json.loads((tmp_path / "m.json").read_text())
    assert (figures["challenge"], figures["frames"]) == ("HO-3D", 2)
    assert figures["absolute_mpjpe_mm"] == pytest.approx(10, abs=1e-3)
    assert figures["absolute_mpvpe_mm"] == pytest.approx(0, abs=1e-3)
    assert figures["procrustes_mpjpe_mm"] == pytest.approx(0, abs=1e-3)


def test_a_broken_evaluation_frame_is_zeros_and_counted(ho3d, evaluate, tmp_path, capsys):
    (ho3d / "evaluation" / "SM1" / "rgb" / "0000.jpg").write_bytes(b"")
    assert evaluate()[0] == 0
    joints, vertices = json.loads((tmp_path / "out" / "pred.json").read_text())
    assert not np.any(joints[0])
    assert np.any(joints[1])
    assert len(vertices[0]) == len(vertices[1])
    assert "1 skipped: the file is empty" in capsys.readouterr().err


def test_the_file_is_of_the_whole_evaluation_set(evaluate, capsys):
    assert evaluate("evaluate.subset=train")[0] == 2
    assert "HO-3D's pred.json is of its evaluation set; take evaluate.subset=test" in capsys.readouterr().err
    assert evaluate("data.limit=1")[0] == 2
    assert "evaluate.write needs a whole subset; leave data.limit out" in capsys.readouterr().err
