"""The index: the toolkit's sample ids on a tree of the recorded set's shape, protocols, problems, and the command."""

import os
import re
import shutil

import numpy as np
import pytest
from layout_files import kind_of, sequence_folder, write_tree

from amt.data.config import CropConfig, DataConfig
from amt.data.dexycb import DexYCB
from amt.data.errors import DataError, EmptySubset, FileError
from amt.data.index import Index, build_index
from amt.data.index.__main__ import main
from amt.data.layout import SERIALS
from amt.data.loader import make_loader
from amt.data.protocols import PROTOCOLS


def frames_of(sequence: int) -> int:
    return 2 if sequence % 10 == 4 else 1


@pytest.fixture(scope="module")
def full_tree(tmp_path_factory):
    """10 subjects x 100 sequences x 8 cameras, one or two frames each."""
    return write_tree(tmp_path_factory.mktemp("full"), 10, 100, frames_of)


@pytest.fixture(scope="module")
def full_index(full_tree):
    return build_index(full_tree, progress=False)


@pytest.fixture
def tree_of_one(tmp_path):
    """One subject, one sequence, one frame a camera."""
    (tmp_path / "set").mkdir()
    return write_tree(tmp_path / "set", 1, 1, lambda _: 1)


def toolkit_samples(split: str, subset: str) -> list[tuple[int, int, int, int]]:
    """(subject, sequence, camera, frame) by sample id, from the public description of the splits, and from nothing of ours."""
    subjects, cameras, sequences = list(range(10)), list(range(8)), list(range(100))
    if split == "s0":
        if subset == "train":
            sequences = [q for q in sequences if q % 5 != 4]
        else:
            subjects = [0, 1] if subset == "val" else [2, 3, 4, 5, 6, 7, 8, 9]
            sequences = [q for q in sequences if q % 5 == 4]
    elif split == "s1":
        subjects = {"train": [0, 1, 2, 3, 4, 5, 9], "val": [6], "test": [7, 8]}[subset]
    elif split == "s2":
        cameras = {"train": [0, 1, 2, 3, 4, 5], "val": [6], "test": [7]}[subset]
    else:
        held = {"val": [3, 19], "test": [7, 11, 15]}
        held["train"] = [o for o in range(20) if o not in held["val"] + held["test"]]
        sequences = [q for q in sequences if q // 5 in held[subset]]
    return [(s, q, c, f) for s in subjects for q in sequences for c in cameras for f in range(frames_of(q))]


@pytest.mark.parametrize("split", ["s0", "s1", "s2", "s3"])
def test_sample_ids_of_every_split_are_the_toolkits(full_tree, full_index, split):
    assert full_index.incomplete == ""
    assert full_index.problems == []
    for subset in ("train", "val", "test"):
        expected = toolkit_samples(split, subset)
        found = full_index.frames[full_index.rows(split, subset)]
        assert found[["subject", "sequence", "camera", "frame"]].tolist() == expected
        reader = DexYCB(full_tree, split, subset)
        assert len(reader) == len(expected)
        places = map(reader.locate, range(len(reader)))
        assert [(info.subject, info.number, camera, frame) for info, camera, frame in places] == expected


def test_protocols_are_filters_over_the_sample_ids(full_index):
    samples = toolkit_samples("s0", "test")
    kinds = [kind_of(*sample) for sample in samples]
    hands = [i for i, kind in enumerate(kinds) if kind != "no hand"]
    for protocol in ("T", "V", "F"):
        assert full_index.ids("s0", "test", protocol).tolist() == hands
    held = [i for i, kind in enumerate(kinds) if kind == "near" and samples[i][1] % 2 == 0]
    assert full_index.ids("s0", "test", "R").tolist() == held
    assert 0 < len(held) < len(hands) < len(samples)
    assert full_index.ids("s0", "test").tolist() == list(range(len(samples)))
    assert len(full_index.ids("s2", "val", "T"))
    with pytest.raises(DataError, match="protocol V is defined on split s0; got s1"):
        full_index.ids("s1", "test", "V")
    with pytest.raises(DataError, match="protocol must be one of T, V, R, F, X; got 'Z'"):
        full_index.ids("s0", "test", "Z")
    with pytest.raises(DataError, match="split must be one of"):
        full_index.ids("s9", "test")


def test_protocol_x_takes_whole_windows_that_share_no_frame():
    """Two cameras in turn: 40 frames with a gap at 20 (one window before it, one after), and 15 (none)."""
    run = np.array([1] * 40 + [2] * 15)
    number = np.array([*range(40), *range(15)])
    hand = np.ones(55, bool)
    hand[20] = False
    columns = {"hand": hand, "run": run, "number": number}
    expected = [*range(16), *range(21, 37)]
    assert np.flatnonzero(PROTOCOLS["X"].admits(columns)).tolist() == expected
    mixed = np.random.default_rng(0).permutation(55)
    shuffled = PROTOCOLS["X"].admits({name: column[mixed] for name, column in columns.items()})
    assert shuffled.sum() == 32
    found = mixed[shuffled]
    for k in (0, 1):
        part = np.sort(found[(found > 20) == bool(k)])
        assert (len(part), np.ptp(part)) == (16, 15)
    assert not PROTOCOLS["X"].admits({"hand": hand & False, "run": run, "number": number}).any()


def test_protocol_x_of_an_index_is_that_of_its_runs(full_index):
    frames = full_index.frames[full_index.rows("s0", "test")]
    ids = full_index.ids("s0", "test", "X")
    assert frames["hand"][ids].all()
    runs = {}
    for subject, sequence, camera, frame in frames[ids][["subject", "sequence", "camera", "frame"]].tolist():
        runs.setdefault((subject, sequence, camera), []).append(frame)
    for numbers in runs.values():
        assert len(numbers) % 16 == 0
        for window in np.array(numbers).reshape(-1, 16):
            assert np.diff(window).tolist() == [1] * 15
    with pytest.raises(DataError, match="protocol X is defined on split s0; got s1"):
        full_index.ids("s1", "test", "X")


def test_a_loader_shows_the_frames_of_a_protocol(own_set, tmp_path):
    """By its crops; the same samples as the index, which reads the labels."""
    far = DexYCB(own_set, "s0", "train")[3]
    path = far.folder / f"labels_{far.number:06d}.npz"
    with np.load(path) as archive:
        found = dict(archive)
    found["pose_y"][far.sequence.grasp, 2, 3] += 0.2
    np.savez_compressed(path, **found)
    given = {"root": str(own_set), "split": "s0", "cache": str(tmp_path), "crop": CropConfig(size=16, num_points=8)}
    index = build_index(own_set, progress=False)
    for protocol in ("T", "R"):
        loader = make_loader(DataConfig(**given, protocol=protocol), "train", 8, shuffle=False, progress=False)
        shown = np.concatenate([batch.index for batch in loader])
        assert shown.tolist() == index.ids("s0", "train", protocol).tolist()
        assert (3 in shown) == (protocol == "T")
        mixed = make_loader(DataConfig(**given, protocol=protocol), "train", 8, progress=False)
        assert set(np.concatenate([batch.index for batch in mixed])) <= set(shown)
    with pytest.raises(DataError, match="protocol R is defined on split s0; got s2"):
        make_loader(DataConfig(**given | {"split": "s2"}, protocol="R"), "train", 8, progress=False)
    with pytest.raises(DataError, match=r"data\.protocol must be one of T, V, R, F, X, or null; got 'Z'"):
        DataConfig(protocol="Z")


def test_an_index_is_kept_whole(full_index, tmp_path):
    again = Index.load(full_index.save(tmp_path / "index.npz"))
    assert again.frames.dtype == full_index.frames.dtype
    assert again.frames.tobytes() == full_index.frames.tobytes()
    assert (again.root, again.problems, again.incomplete) == (full_index.root, [], "")
    np.savez(tmp_path / "other.npz", frames=np.zeros(3), about=np.zeros(3, np.uint8))
    with pytest.raises(FileError, match="another version"):
        Index.load(tmp_path / "other.npz")


def test_a_broken_meta_yml_keeps_the_official_ids(full_tree, full_index, tmp_path):
    """The tree again, with three broken meta.yml; each sequence's frames are counted by their files."""
    tree = tmp_path / "tree"
    shutil.copytree(full_tree, tree, copy_function=os.link, ignore=shutil.ignore_patterns("aligned*", "pose.npz"))
    lost = [(0, 4), (3, 50), (9, 99)]
    for s, q in lost:
        path = sequence_folder(tree, s, q) / "meta.yml"
        path.unlink()
        if q != 50:
            path.write_text("a: [")
    for subset, broken in (("train", [(3, 50)]), ("test", [(9, 99)])):
        reader, whole = DexYCB(tree, "s0", subset), full_index.rows("s0", subset)
        assert len(reader) == len(whole)
        files = [path for paths in reader.broken.values() for path in paths]
        assert files == [sequence_folder(tree, *place) / "meta.yml" for place in broken]  # those of this subset alone
        for index in range(0, len(reader), 41):
            info, camera, frame = reader.locate(index)
            assert (info.subject, info.number, camera, frame) == tuple(
                full_index.frames[whole[index]][["subject", "sequence", "camera", "frame"]]
            )


def test_the_command_prints_counts_beside_the_official_ones(own_set, tmp_path, capsys):
    reader = DexYCB(own_set, "s0", "train")
    frame = reader[3]
    frame.image_path.write_bytes(frame.image_path.read_bytes()[:-100])
    lost = reader[9]
    shutil.rmtree(lost.folder)
    out, problems = tmp_path / "index.npz", tmp_path / "problems.tsv"
    assert main([str(own_set), "--quiet", "--workers", "1", "--out", str(out), "--problems", str(problems)]) == 1
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if line.startswith("s0 train"))
    assert re.split(r"  +", line)[1:5] == [str(len(reader)), "465,504", str(len(reader) - 4), "406,888"]
    assert "this tree's own (20200709-subject-01 has 2 of 100 sequences)" in said
    assert "2 problems" in said
    assert f"(the first: {frame.image_path})" in said
    told = [tuple(line.split("\t")) for line in problems.read_text().splitlines()]
    assert [path for path, _ in told] == [str(frame.image_path), str(lost.folder)]
    assert told == [(str(path), reason) for path, reason in Index.load(out).problems]
    assert not Index.load(out).frames["picture"].all()


def test_the_index_of_a_whole_set_has_no_problem_and_every_process_count_gives_it(tiny_set, capsys):
    alone = build_index(tiny_set, decode=True, progress=False)
    assert alone.problems == []
    assert all(alone.frames[name].all() for name in ("picture", "depth", "labels", "calibrated", "hand", "object"))
    held = alone.frames["distance"]
    assert (held < 120).all()
    assert main([str(tiny_set), "--quiet", "--workers", "2"]) == 0
    assert "\n0 problems" in capsys.readouterr().out
    with pytest.raises(EmptySubset):
        DexYCB(tiny_set, "s1", "test")
    assert len(alone.rows("s1", "test")) == 0


@pytest.mark.parametrize("damage", ["calibration", "models"])
def test_what_many_frames_share_is_one_problem(own_set, damage):
    if damage == "calibration":
        path = own_set / "calibration" / "intrinsics" / f"{SERIALS[3]}_640x480.yml"
        path.write_text("color: 3")
    else:
        path = own_set / "models"
        shutil.rmtree(path)
    index = build_index(own_set, progress=False)
    assert {problem[0] for problem in index.problems} == {path}
    if damage == "calibration":
        assert set(index.frames["camera"][~index.frames["calibrated"]]) == {3}
        assert len(index.problems) == 1
    else:
        assert np.isnan(index.frames["distance"]).all()
        with pytest.raises(DataError, match="put the set's models folder in place"):
            index.ids("s0", "train", "R")


def test_what_is_no_set_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path / "nowhere")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"amt.data.index: {tmp_path / 'nowhere'}: no such folder")
    assert said.count("\n") == 1
    assert main([str(tmp_path), "--workers", "0"]) == 2
    assert "--workers must be at least 1; got 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("labels", "{given}: is a file, not the folder of a set; give {set}"),
        ("20200709-subject-01", "{given}: is a part of the set {set}; give that folder"),
        ("..", "{given}: is not a set itself; give {given}/set, which is one"),
    ],
)
def test_a_place_near_a_set_names_the_set(tree_of_one, given, message, capsys):
    places = {"labels": next(tree_of_one.rglob("labels_*")), "..": tree_of_one.parent}
    place = places.get(given, tree_of_one / given)
    assert main([str(place)]) == 2
    assert capsys.readouterr().err == f"amt.data.index: {message.format(given=place, set=tree_of_one)}\n"


def test_the_other_layout_is_named(tmp_path):
    (tmp_path / "train.txt").write_text("ABF10/0000\n")
    with pytest.raises(DataError, match="is a set in HO-3D's layout; choose it by data=ho3d"):
        DexYCB(tmp_path, "s0", "train")


def test_where_the_index_goes_is_tried_before_the_pass(tree_of_one, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("amt.data.index.build.build_index", lambda *_: pytest.fail("indexed"))
    for option in ("--out", "--problems"):
        assert main([str(tree_of_one), option, "/proc/nowhere/index"]) == 2
        assert "/proc/nowhere/index: cannot be written" in capsys.readouterr().err
