"""Result files: the figures of the official algorithms, worked out here a second time from their definition."""

import json

import numpy as np
import pytest
import torch
from drawn_box import box_distances, discrepancy, ray_lengths
from made_set import FRAMES, GRASPED, IDS, NO_HAND, write_set
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from amt.data import bop_csv
from amt.data.dexycb import DexYCB
from amt.evaluate.__main__ import main
from amt.evaluate.collect import Answer
from amt.evaluate.results import ResultWriter, bop
from amt.evaluate.results.bop_models import Models, motions
from amt.evaluate.results.checks import ResultError
from amt.hand.batch import Batch
from amt.hand.skeleton import MANO_TO_SKELETON

LIMITS = np.linspace(0, 50, 100)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def frames(root):
    reader = DexYCB(root, "s1", "test")
    return [reader[i] for i in range(len(reader))]


@pytest.fixture
def score(root, tmp_path, capsys):
    """``score(file) -> figures``; or the one line that refused it."""

    def run(path, folder=root):
        out = tmp_path / "figures.json"
        status = main([f"evaluate.results={path}", f"data.root={folder}", "data.split=s1", f"evaluate.output={out}"])
        if status == 0:
            return json.loads(out.read_text())
        told = [line for line in capsys.readouterr().err.splitlines() if "it/s" not in line and "frame/s" not in line]
        assert (status, len([line for line in told if line.startswith("amt.evaluate: ")])) == (2, 1)
        return told[-1]

    return run


def noisy(frames, seed=0, size=0.02):
    """Joints, m, of every labelled frame: the labels with noise."""
    rng = np.random.default_rng(seed)
    return {f.index: f.joints + rng.normal(0, size, (21, 3)) for f in frames if f.hand_valid}


def hand_pose(path, joints, scale=1000.0):
    path.write_text(
        "".join(f"{i}," + ",".join(f"{v:.5f}" for v in scale * x.ravel()) + "\n" for i, x in joints.items())
    )
    return path


def measures(pairs):
    """Mean and AUC of pairs (predicted, true; mm), joint by joint as the official evaluator accumulates them."""
    distances = np.array([np.sqrt(((a - b) ** 2).sum(1)) for a, b in pairs])
    curves = [[np.mean(column <= limit) for limit in LIMITS] for column in distances.T]
    areas = [np.sum(np.diff(LIMITS) * (np.array(c[1:]) + c[:-1]) / 2) / 50 for c in curves]
    return np.mean([column.mean() for column in distances.T]), np.mean(areas)


def aligned(true, found):
    a, b = true - true.mean(0), found - found.mean(0)
    sa, sb = np.linalg.norm(a) + 1e-8, np.linalg.norm(b) + 1e-8
    rotation, scale = orthogonal_procrustes(a / sa, b / sb)
    return b / sb @ rotation.T * scale * sa + true.mean(0)


def test_the_hand_pose_file(frames, score, tmp_path):
    joints = noisy(frames)
    figures = score(hand_pose(tmp_path / "hands.txt", joints))
    pairs = [
        (np.round(1000 * joints[f.index], 5), (f.joints * np.float32(1000)).astype(float))
        for f in frames
        if f.hand_valid
    ]
    for name, chosen in {
        "absolute": pairs,
        "wrist_aligned": [(a - a[0], b - b[0]) for a, b in pairs],
        "procrustes": [(aligned(b, a), b) for a, b in pairs],
    }.items():
        mean, area = measures(chosen)
        assert figures[f"{name}_mpjpe_mm"] == pytest.approx(mean, abs=1e-6)
        assert figures[f"{name}_auc"] == pytest.approx(area, abs=1e-6)
    assert (figures["frames"], figures["protocol"]) == (19, "T")


def test_a_hand_pose_file_by_hand(frames, score, tmp_path):
    """Every joint 10 mm to the right: 10 mm absolute, nothing after alignment. Thresholds k x 50 / 99 hold it from k = 20 on."""
    joints = {f.index: f.joints.astype(np.float64) + np.array((0.01, 0, 0)) for f in frames if f.hand_valid}
    figures = score(hand_pose(tmp_path / "hands.txt", joints))
    assert figures["absolute_mpjpe_mm"] == pytest.approx(10, abs=1e-4)
    assert figures["wrist_aligned_mpjpe_mm"] == pytest.approx(0, abs=1e-4)
    assert figures["procrustes_mpjpe_mm"] == pytest.approx(0, abs=1e-4)
    assert figures["absolute_auc"] == pytest.approx(
        (99 - 20 + 0.5) / 99, abs=1e-9
    )  # threshold 20 is the first above 10 mm
    assert figures["procrustes_auc"] > 0.99


def bop_file(path, rows):
    path.write_text(bop_csv.HEADER + "\n" + "".join(rows))
    return path


def posed(frames, turn=0.0, shift=0.0):
    """Lines for every object of the frames that count, each turned (degrees, about its z) and moved along x (m)."""
    rows = []
    extra = Rotation.from_euler("z", turn, degrees=True).as_matrix()
    for frame in (f for f in frames if f.number % 4 == 0):
        scene = 2 * (frame.sequence.subject - 7) + frame.camera
        for kind, pose in zip(IDS, frame.object_poses.astype(np.float64)):
            rows.append(bop_csv.line(scene, frame.number, kind, pose[:, :3] @ extra, pose[:, 3] + (shift, 0, 0)))
    return rows


def test_the_object_file(frames, score, tmp_path):
    """Against BOP's definitions, one target after the other, with a depth picture drawn by another way: planes of the box."""
    figures = score(bop_file(tmp_path / "objects.csv", posed(frames, turn=4, shift=0.006)))
    assert figures["all"]["objects"] == 2 * 2 * 2 * 2  # people, cameras, frames 0 and 4, objects
    assert figures["grasped"]["objects"] == 8
    counted = {"mssd": [], "mspd": [], "vsd": []}
    extra = Rotation.from_euler("z", 4, degrees=True).as_matrix()
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * (0.06, 0.1, 0.15)
    size = np.linalg.norm((0.06, 0.1, 0.15))
    for frame in (f for f in frames if f.number % 4 == 0):
        for kind, pose in zip(IDS, frame.object_poses.astype(np.float64)):
            r, t = pose[:, :3], pose[:, 3]
            symmetries = [np.eye(3), np.diag((-1.0, -1, 1))] if kind == 14 else [np.eye(3)]
            moved = corners @ (r @ extra).T + t + np.array((0.006, 0, 0))
            true = [corners @ (r @ s).T + t for s in symmetries]
            mssd = min(np.linalg.norm(moved - x, axis=1).max() for x in true)
            k = frame.intrinsics.astype(np.float64)
            pixels = [(x @ k.T)[:, :2] / x[:, 2:] for x in (moved, *true)]
            counted["mssd"].append(np.mean([mssd / size < limit for limit in bop.SHARES]))
            mspd = min(np.linalg.norm(pixels[0] - x, axis=1).max() for x in pixels[1:])
            counted["mspd"].append(np.mean([mspd < 5 * n for n in range(1, 11)]))
            drawn = [box_distances(a, b, k) for a, b in ((r @ extra, t + np.array((0.006, 0, 0))), (r, t))]
            scene = frame.depth().astype(np.float64) * ray_lengths(k)
            counted["vsd"].append(
                np.mean([[e < limit for limit in bop.SHARES] for e in discrepancy(*drawn, scene, size)])
            )
    for name, recalls in counted.items():
        assert figures["all"][name] == pytest.approx(np.mean(recalls), abs=1e-6), name
    assert figures["all"]["ar"] == pytest.approx(np.mean([figures["all"][name] for name in counted]))
    assert 0.1 < figures["all"]["ar"] < 1


def test_perfect_and_missing_objects(frames, score, tmp_path):
    everything = posed(frames)
    figures = score(bop_file(tmp_path / "objects.csv", everything))
    assert [figures["all"][name] for name in ("mssd", "mspd", "vsd", "ar")] == pytest.approx([1, 1, 1, 1])
    half = posed(frames, turn=180)[GRASPED::2]
    figures = score(bop_file(tmp_path / "half.csv", half))
    assert (
        figures["grasped"]["mssd"] == figures["grasped"]["mspd"] == 1
    )  # its card says that half a turn about z is no error
    assert figures["grasped"]["vsd"] == 0  # which no picture of this box would say: it stands beside its z axis
    figures = score(bop_file(tmp_path / "half.csv", everything[GRASPED::2]))
    assert (figures["grasped"]["ar"], figures["all"]["ar"]) == pytest.approx((1, 0.5))
    assert figures["by_object"]["004_sugar_box"]["ar"] == 0
    assert [figures[name]["estimated"] for name in ("all", "grasped")] == [8, 8]


def test_a_file_of_another_split_is_suspected(frames, score, tmp_path, capsys):
    """As BOP does, it is scored all the same."""
    good = posed(frames)
    figures = score(bop_file(tmp_path / "objects.csv", [good[0], *(fields(row, obj_id="9") for row in good[1:3])]))
    assert (figures["all"]["objects"], figures["all"]["estimated"]) == (16, 1)
    told = capsys.readouterr()
    assert "2 of 3 estimates are of objects that the scenes of this subset do not have" in told.err
    assert "average recalls in %" in told.out
    score(bop_file(tmp_path / "objects.csv", good))
    assert "another split" not in capsys.readouterr().err


def test_symmetries_of_bop(frames, root, tmp_path):
    """A bowl and a block by BOP's file: the axis goes through the middle of the model's box, wherever the model's origin is."""
    vertices = np.array([[x, y, z] for x in (0, 0.06) for y in (0, 0.1) for z in (0, 0.15)])
    half = [-1, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    found = motions({"diameter": 1, "symmetries_discrete": [half]}, vertices)
    assert len(found) == 2
    turned = vertices @ found[1, :, :3].T + found[1, :, 3]
    assert cdist(turned, vertices).min(1).max() < 1e-12  # the box lies on itself
    off = {"axis": [0, 0, 2], "offset": [10, 0, 0]}
    found = motions({"diameter": 1, "symmetries_continuous": [off], "symmetries_discrete": [half]}, vertices)
    assert len(found) == 2 * 315
    on_axis = np.array((0.03 + 0.01, 0.05, 0.2))  # 10 mm beside the middle of the box
    assert np.abs(found[:315, :, :3] @ on_axis + found[:315, :, 3] - on_axis).max() < 1e-12
    info = tmp_path / "set" / "bop" / "s1" / "models_eval" / "models_info.json"
    info.parent.mkdir(parents=True)
    (tmp_path / "set" / "models").symlink_to(root / "models")
    info.write_text(json.dumps({"3": {"diameter": 190.0, "symmetries_discrete": [half]}}))
    reader = DexYCB(root, "s1", "test")
    reader.root = tmp_path / "set"
    models = Models(reader)
    assert models[3][2] == 0.19
    assert models[3][3].shape == (2, 3, 4)
    assert models[14][3].shape == (2, 3, 3)  # not in the file: its card
    assert models[14][2] == pytest.approx(np.linalg.norm((0.06, 0.1, 0.15)))
    info.write_text('{"3": {"diameter": 1, "symmetries_discrete": [[1, 2]]}}')
    with pytest.raises(ResultError, match=r"is no models_info\.json of BOP"):
        Models(reader)


def test_the_surest_estimate_counts(frames, score, tmp_path):
    good, bad = posed(frames), posed(frames, shift=0.5)
    doubtful = [row.replace(",1.0000,", ",0.5000,") for row in bad]
    assert score(bop_file(tmp_path / "a.csv", doubtful + good))["all"]["ar"] == pytest.approx(1)
    sure = [row.replace(",1.0000,", ",2.0000,") for row in bad]
    assert score(bop_file(tmp_path / "b.csv", good + sure))["all"]["ar"] == pytest.approx(0)


def mesh_figures(joints, vertices, true_joints, true_vertices, ho3d=False):
    """FreiHAND's and HO-3D's evaluation, frame by frame, m."""
    f = {}
    pairs = list(zip(joints, true_joints)), list(zip(vertices, true_vertices))
    for name, chosen in zip(("mpjpe", "mpvpe"), pairs):
        f[f"absolute_{name}"] = measures([(1000 * a, 1000 * b) for a, b in chosen])
        f[f"procrustes_{name}"] = measures([(1000 * aligned(b, a), 1000 * b) for a, b in chosen])
    if ho3d:
        moved = [(a - a[0]) / np.linalg.norm(a[4] - a[0]) * np.linalg.norm(b[4] - b[0]) + b[0] for a, b in pairs[0]]
        f["scale_translation_mpjpe"] = measures([(1000 * a, 1000 * b) for a, (_, b) in zip(moved, pairs[0])])
    for name, chosen in (("", pairs[1]), ("procrustes_", [(aligned(b, a), b) for a, b in pairs[1]])):
        for limit in (5, 15):
            scores = []
            for a, b in chosen:
                near = cdist(b, a)
                recall, precision = (near.min(0) * 1000 < limit).mean(), (near.min(1) * 1000 < limit).mean()
                scores.append(2 * recall * precision / (recall + precision) if recall + precision else 0)
            f[f"{name}f{limit}"] = np.mean(scores)
    return f


def same_figures(figures, expected):
    for name, value in expected.items():
        if "mp" in name:
            assert figures[f"{name}_mm"] == pytest.approx(value[0], abs=1e-6), name
            assert figures[f"{name}_auc"] == pytest.approx(value[1], abs=1e-6), name
        else:
            assert figures[name] == pytest.approx(value, abs=1e-6), name


def challenge(folder, ho3d):
    """A folder with labels as the challenges publish them, and hands near them."""
    rng = np.random.default_rng(1)
    place = np.array((0, 0, -0.6 if ho3d else 0.6))
    true_vertices = rng.normal(0, 0.04, (6, 90, 3)) + place
    true = np.concatenate((true_vertices[:, :1] * 0.5 + place * 0.5, true_vertices[:, 1:21]), 1)
    folder.mkdir()
    for name, points in (("xyz", true), ("verts", true_vertices)):
        (folder / f"evaluation_{name}.json").write_text(json.dumps(points.tolist()))
    if ho3d:
        (folder / "evaluation.txt").write_text("SM1/0000\n")
    joints, vertices = (x + rng.normal(0, 0.006, x.shape) for x in (true, true_vertices))
    return joints, vertices, true, true_vertices


@pytest.mark.parametrize("ho3d", [False, True], ids=["FreiHAND", "HO-3D"])
def test_the_challenges_files(ho3d, score, tmp_path):
    joints, vertices, true, true_vertices = challenge(tmp_path / "set", ho3d)
    (tmp_path / "pred.json").write_text(json.dumps([joints.tolist(), vertices.tolist()]))
    figures = score(tmp_path / "pred.json", tmp_path / "set")
    same_figures(figures, mesh_figures(joints, vertices, true, true_vertices, ho3d))
    assert ("scale_translation_mpjpe_mm" in figures) == ho3d
    assert figures["frames"] == 6


def test_a_mesh_of_another_hand_is_moved_by_its_joints(score, tmp_path):
    """As FreiHAND's evaluator does: scale of the joints' alignment times the true size, without the predicted one."""
    joints, vertices, true, true_vertices = challenge(tmp_path / "set", False)
    other = vertices[:, :50]
    (tmp_path / "pred.json").write_text(json.dumps([joints.tolist(), other.tolist()]))
    figures = score(tmp_path / "pred.json", tmp_path / "set")
    assert "absolute_mpvpe_mm" not in figures
    scores = []
    for j, v, t, tv in zip(joints, other, true, true_vertices):
        a, b = t - t.mean(0), j - j.mean(0)
        sa, sb = np.linalg.norm(a) + 1e-8, np.linalg.norm(b) + 1e-8
        rotation, scale = orthogonal_procrustes(a / sa, b / sb)
        moved = (v - v.mean(0)) @ rotation.T * scale * sa + t.mean(0) - j.mean(0) + v.mean(0)
        near = cdist(moved, tv) * 1000 < 15
        p, r = near.any(1).mean(), near.any(0).mean()
        scores.append(2 * p * r / (p + r) if p + r else 0)
    assert figures["procrustes_f15"] == pytest.approx(np.mean(scores), abs=1e-6)


def test_what_is_written_is_scored_again(root, frames, score, tmp_path):
    """The truth, written in each form, is read back as the truth; a labelled frame without a crop gets the stand-in."""
    reader = DexYCB(root, "s1", "test")
    writer = ResultWriter(reader, np.zeros((21, 3)))
    without = 3
    for frame in frames:
        if frame.index == without:
            continue
        layer = reader.layer(frame.sequence.side)
        parts = (torch.from_numpy(x)[None] for x in (frame.pose, frame.betas, frame.translation))
        rotation, translation = (torch.from_numpy(x)[None] for x in (frame.object_rotation, frame.object_translation))
        answer = Answer(torch.from_numpy(frame.joints)[None], rotation, translation, None, None, layer(*parts).vertices)
        writer.take(answer, Batch(None, None, torch.tensor([frame.index])))
    written, missing = writer.write(tmp_path / "out")
    assert missing == 1
    hand, objects, mesh = map(score, written)
    spared = hand["wrist_aligned_mpjpe_mm"] * 19
    away = next(f for f in frames if f.index == without).joints
    assert spared == pytest.approx(1000 * np.linalg.norm(away - away[0], axis=1).mean(), abs=0.01)
    assert objects["grasped"]["ar"] == pytest.approx(1)
    assert mesh["f5"] > 0.9
    assert mesh["frames"] == hand["frames"] == 19


# What is wrong with a hand-pose file, as a change of its good lines, and what is said.
def lines_of(frames):
    return {i: f"{i}," + ",".join(f"{v:.4f}" for v in 1000 * x.ravel()) for i, x in noisy(frames, size=0.003).items()}


def rewritten(frames, change):
    joints = {i: change(i, x) for i, x in noisy(frames, size=0.003).items()}
    return [f"{i}," + ",".join(f"{v:.6f}" for v in 1000 * x.ravel()) for i, x in joints.items()]


MANO_ORDER = np.argsort(MANO_TO_SKELETON)
WRONG_HANDS = {
    "looks like metres": lambda f: rewritten(f, lambda i, x: x / 1000),
    "looks like centimetres": lambda f: rewritten(f, lambda i, x: x / 10),
    "times as far from the camera as the labels; the form takes millimetres": lambda f: rewritten(
        f, lambda i, x: x / 25.4
    ),  # inches
    "lies behind the camera": lambda f: rewritten(f, lambda i, x: x * (1, -1, -1)),
    "line 20 is empty; leave it out": lambda f: [*lines_of(f).values(), "", ""],
    "another order: MANO's": lambda f: rewritten(f, lambda i, x: x[MANO_ORDER]),
    "another order: one with the little finger first": lambda f: rewritten(
        f, lambda i, x: x[[0, *(17 - 4 * k + j for k in range(5) for j in range(4))]]
    ),
    "every wrist is (0, 0, 0)": lambda f: rewritten(f, lambda i, x: x - x[0]),
    "mixes root-relative joints (9 of 19": lambda f: rewritten(f, lambda i, x: x - x[0] if i < 10 else x),
    "its left hands are mirrored": lambda f: rewritten(f, lambda i, x: x * (-1, 1, 1) if i >= 10 else x),
    "lacks 1 of 19 labelled images of s1 test, the first is 4": lambda f: [v for i, v in lines_of(f).items() if i != 4],
    "names image 2 again": lambda f: [*lines_of(f).values(), lines_of(f)[2]],
    "names image 20, and s1 test has 20": lambda f: [*lines_of(f).values(), lines_of(f)[2].replace("2,", "20,", 1)],
    "has 63 fields, expected 64": lambda f: [line.rpartition(",")[0] for line in lines_of(f).values()],
    "is not a number": lambda f: [line.replace(",", ",x", 1) for line in lines_of(f).values()],
    "is not finite": lambda f: [line.rpartition(",")[0] + ",nan" for line in lines_of(f).values()],
    "the index must be a whole number": lambda f: ["-" + line for line in lines_of(f).values()],
}


@pytest.mark.parametrize("message", WRONG_HANDS)
def test_wrong_hand_pose_files(message, frames, score, tmp_path):
    (tmp_path / "hands.txt").write_text("\n".join(WRONG_HANDS[message](frames)))
    assert message in score(tmp_path / "hands.txt")


def test_an_image_without_a_label_may_be_there(frames, score, tmp_path):
    extra = lines_of(frames) | {NO_HAND: lines_of(frames)[2].replace("2,", f"{NO_HAND},", 1)}
    (tmp_path / "hands.txt").write_text("\n".join(extra.values()))
    assert score(tmp_path / "hands.txt")["frames"] == 19
    assert len(frames) == FRAMES * 4


def fields(row, **changed):
    """A line with other fields."""
    names = bop_csv.HEADER.split(",")
    values = dict(zip(names, row.rstrip("\n").split(","))) | changed
    return ",".join(values[name] for name in names) + "\n"


WRONG_OBJECTS = {
    "looks like metres": lambda rows: [scaled(row, 0.001) for row in rows],
    "lies behind the camera": lambda rows: [behind(row) for row in rows],
    "line 1 must be scene_id,im_id": None,
    "names scene 4, and the subset has 4": lambda rows: [fields(row, scene_id="4") for row in rows],
    "has none of the 16 objects": lambda rows: [fields(row, im_id="1") for row in rows],
    "repeats an earlier line": lambda rows: [*rows, rows[0]],
    "has 6 fields, expected 7": lambda rows: [row.replace(",-1", "") for row in rows],
    "R is no rotation": lambda rows: [fields(row, R="1 0 0 0 1 0 0 0 -1") for row in rows],
    "nine numbers of R": lambda rows: [fields(row, R="1 0 0") for row in rows],
    "'=cmd|calc!A1' is not a number": lambda rows: [fields(row, score="=cmd|calc!A1") for row in rows],
    "obj_id must be a whole number, got '+3'": lambda rows: [fields(row, obj_id="+3") for row in rows],
    "holds no estimate": lambda rows: [],
}


def scaled(row, factor):
    return fields(row, t=" ".join(str(float(v) * factor) for v in row.split(",")[5].split()))


def behind(row):
    x, y, z = map(float, row.split(",")[5].split())
    return fields(row, t=f"{x} {-y} {-z}")


@pytest.mark.parametrize("message", WRONG_OBJECTS)
def test_wrong_object_files(message, frames, score, tmp_path):
    change = WRONG_OBJECTS[message]
    bop_file(tmp_path / "objects.csv", change(posed(frames)) if change else [])
    if change is None:
        (tmp_path / "objects.csv").write_text("".join(posed(frames)))
    assert message in score(tmp_path / "objects.csv")


WRONG_MESHES = {
    "looks like millimetres": lambda j, v: [(1000 * j).tolist(), (1000 * v).tolist()],
    "expected 6 frames, got 5 frames": lambda j, v: [j[1:].tolist(), v.tolist()],
    "vertices: expected 6 frames, got 1 frames": lambda j, v: [j.tolist(), v[:1].tolist()],
    "expected [6][21][3], got [6, 20, 3]": lambda j, v: [j[:, 1:].tolist(), v.tolist()],
    "must be a list of two": lambda j, v: {"xyz": j.tolist()},
    "no equally long lists": lambda j, v: [[*j[1:].tolist(), j[0, 1:].tolist()], v.tolist()],
    "expected numbers": lambda j, v: [j.astype(str).tolist(), v.tolist()],
    "holds NaN": lambda j, v: [np.where(np.arange(3) == 1, np.nan, j).tolist(), v.tolist()],
    "vertices: looks like millimetres": lambda j, v: [j.tolist(), (1000 * v).tolist()],
    "lies behind the camera": lambda j, v: [(j * (1, -1, -1)).tolist(), v.tolist()],
    "every wrist is (0, 0, 0)": lambda j, v: [(j - j[:, :1]).tolist(), v.tolist()],
}


@pytest.mark.parametrize("message", WRONG_MESHES)
def test_wrong_mesh_files(message, score, tmp_path):
    joints, vertices, *_ = challenge(tmp_path / "set", False)
    (tmp_path / "pred.json").write_text(json.dumps(WRONG_MESHES[message](joints, vertices)))
    assert message in score(tmp_path / "pred.json", tmp_path / "set")
