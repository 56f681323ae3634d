"""The writer continues what was interrupted, reuses what is there, refuses what is not its own, and repeats itself exactly."""

import errno
import fcntl
import hashlib
import json
import os
import shlex
import shutil
import sys
import threading
import time

import numpy as np
import pytest

from amt.data.dexycb import DexYCB
from amt.data.errors import DataError
from amt.data.layout import in_subset
from amt.data.synthetic import scene
from amt.data.synthetic.__main__ import main
from amt.data.synthetic.config import LOCK, sequence_folder, unfinished
from amt.data.synthetic.write import SetConfig, write_set
from tests.data.conftest import TINY

pytest.importorskip("embreex")


def digests(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def test_interrupted_rendering_continues_and_a_whole_set_is_reused(own_set):
    before = digests(own_set)
    times = {p: p.stat().st_mtime_ns for p in own_set.rglob("*") if p.is_file()}
    lost = sequence_folder(own_set, TINY.specs()[2])
    # As a killed run leaves it: one sequence only begun.
    begun = lost.with_name(f".partial-{lost.name}")
    shutil.move(lost, begun)
    for serial in sorted(begun.glob("9*")):
        shutil.rmtree(serial)
    assert len(DexYCB(own_set, "s0", "train").sequences) == 3
    write_set(own_set, TINY, workers=1, progress=False)
    assert digests(own_set) == before
    untouched = [p for p in times if lost not in p.parents]
    assert all(p.stat().st_mtime_ns == times[p] for p in untouched)


def test_a_sequence_that_lost_a_file_is_rendered_again_and_no_other(own_set):
    before = digests(own_set)
    one, other = (sequence_folder(own_set, TINY.specs()[number]) for number in (1, 2))
    times = {p: p.stat().st_mtime_ns for p in own_set.rglob("*.jpg") if not {one, other} & set(p.parents)}
    next(one.glob("*/labels_000002.npz")).unlink()
    (other / "grasp.json").write_text("")  # as a machine that lost power leaves it
    write_set(own_set, TINY, workers=1, progress=False)
    assert digests(own_set) == before
    assert all(p.stat().st_mtime_ns == time_ for p, time_ in times.items())


@pytest.mark.parametrize("name", ["none/sheet.jpg", "sheet.txt", "sheet", "."])
def test_a_sheet_that_cannot_be_written_is_told_before_the_rendering(tmp_path, capsys, name):
    assert main([str(tmp_path / "set"), "--independent", "1", "--quiet", "--sheet", str(tmp_path / name)]) == 2
    told = f"--sheet: {tmp_path / name} cannot be written; name a .jpg or .png file in a folder that exists"
    assert told in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_a_second_process_waits_for_the_one_that_renders_and_reuses_its_set(own_set, capfd):
    """As two trainings do that begin together: the one that comes second says so, touches nothing and finds the set whole."""
    lost = sequence_folder(own_set, TINY.specs()[2])
    begun = lost.with_name(f".partial-{lost.name}")
    shutil.move(lost, begun)  # what the first one is at
    before, said = digests(own_set), ""
    with open(own_set / LOCK, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=write_set, args=(own_set, TINY, 1, False))
        second.start()
        while "waiting" not in said and second.is_alive():
            said += capfd.readouterr().err
            time.sleep(0.01)
        assert said == f"{own_set}: another process renders this set; waiting for it\n"
        assert digests(own_set) == before
        shutil.move(begun, lost)
        whole = {p: p.stat().st_mtime_ns for p in own_set.rglob("*") if p.is_file()}
    second.join()
    assert {p: p.stat().st_mtime_ns for p in own_set.rglob("*") if p.is_file()} == whole


def test_a_whole_set_that_may_only_be_read_is_reused(own_set):
    (own_set / LOCK).unlink()
    (own_set / LOCK).mkdir()  # cannot be opened for writing, whoever runs the test
    before = digests(own_set)
    write_set(own_set, TINY, workers=1, progress=False)
    assert digests(own_set) == before


def test_processes_do_not_change_what_is_written(own_set):
    before = digests(own_set)
    for spec in TINY.specs()[:2]:
        shutil.rmtree(sequence_folder(own_set, spec))
    write_set(own_set, TINY, workers=2, progress=False)
    assert digests(own_set) == before


@pytest.mark.parametrize(
    ("change", "named"), [({"frames": 3}, "frames 4"), ({"seed": 4}, "seed 3"), ({"sequences": 5}, "sequences 2")]
)
def test_other_parameters_are_refused(own_set, change, named):
    before = digests(own_set)
    values = {"sequences": 2, "frames": 4, "subjects": 2, "seed": 3} | change
    with pytest.raises(DataError, match=named) as error:
        write_set(own_set, SetConfig(**values), workers=1, progress=False)
    assert str(own_set) in str(error.value)
    assert "name another folder" in str(error.value)
    assert digests(own_set) == before


def test_a_strangers_folder_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert main([str(tmp_path), "--quiet"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert str(tmp_path) in message
    assert "not empty" in message
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    "arguments", [["--sequences", "0"], ["--subjects", "11"], ["--frames", "0"], ["--seed", "-1"], ["--workers", "0"]]
)
def test_wrong_numbers_name_the_option(tmp_path, capsys, arguments):
    out = tmp_path / "set"
    assert main([str(out), "--quiet", *arguments]) == 2
    assert arguments[0].strip("-") in capsys.readouterr().err
    assert not out.exists()


def test_users_meshes_replace_the_shapes(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    given = tmp_path / "my_box.obj"
    trimesh.creation.box((0.05, 0.06, 0.12)).export(given)
    out = write_set(tmp_path / "set", SetConfig(1, 1, 1, 0, (str(given),)), workers=1, progress=False)
    reader = DexYCB(out, "s0", "train")
    assert json.loads((out / "synthetic.json").read_text())["object_names"] == {"1": "my_box"}
    np.testing.assert_allclose(np.ptp(reader.objects.points(1, 512), axis=0), (0.05, 0.06, 0.12), atol=0.004)
    with pytest.raises(DataError, match="object_names"):
        write_set(out, SetConfig(1, 1, 1, 0), workers=1, progress=False)


def test_an_open_or_misscaled_mesh_is_named(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box((50, 60, 120))
    box.export(tmp_path / "millimetres.obj")
    with pytest.raises(ValueError, match=r"millimetres\.obj: is 120 m long"):
        write_set(tmp_path / "a", SetConfig(objects=(str(tmp_path / "millimetres.obj"),)), progress=False)
    trimesh.Trimesh(box.vertices / 1000, box.faces[:-1]).export(tmp_path / "open.obj")
    with pytest.raises(ValueError, match=r"open\.obj: is not watertight"):
        write_set(tmp_path / "b", SetConfig(objects=(str(tmp_path / "open.obj"),)), progress=False)
    assert sorted(os.listdir(tmp_path)) == ["millimetres.obj", "open.obj"]


@pytest.mark.parametrize("sequences", [5, 10, 12, 20])
def test_small_sets_spread_objects_and_hands(sequences):
    classes = [c for c in range(1, 22) if c != 19]
    held = {
        (subject, number): scene.sequence_class(0, subject, number, sequences, classes)
        for subject in range(10)
        for number in range(sequences)
    }
    train = {c for (s, _), c in held.items() if s not in (6, 7, 8)}
    assert train == set(classes)
    assert len({c for (s, _), c in held.items() if s in (7, 8)}) >= min(20, 2 * sequences) - 3
    sides = [scene.sequence_side(0, s, n) for s, n in held]
    assert 0.3 < sides.count("left") / len(sides) < 0.7


def test_a_full_set_grasps_as_dexycb_does():
    classes = [c for c in range(1, 22) if c != 19]
    for number in range(100):
        assert scene.sequence_class(0, 4, number, 100, classes) == classes[number // 5]


def test_independent_scenes_share_nothing_and_are_read_like_any_set(tmp_path, capsys):
    out = tmp_path / "scenes"
    command = [str(out), "--independent", "5", "--subjects", "2", "--seed", "3", "--workers", "1", "--quiet"]
    assert main(command) == 0
    assert "5 frames, 5 grasps, 5 people" in capsys.readouterr().out
    reader = DexYCB(out, "s0", "train")
    frames = [reader[i] for i in range(len(reader))]
    assert len(frames) == 5
    assert len({frame.betas.tobytes() for frame in frames}) == 5
    assert len({frame.pose[3:].tobytes() for frame in frames}) == 5
    assert len({frame.sequence.class_id for frame in frames}) == 5
    assert len({reader.extrinsics(f.sequence, f.camera).tobytes() for f in frames}) == 5
    for frame in frames:
        seen = frame.joints @ frame.intrinsics.T
        np.testing.assert_allclose(seen[:, :2] / seen[:, 2:], frame.joints_2d, atol=0.01)
    before = digests(out)
    shutil.rmtree(sequence_folder(out, SetConfig(subjects=2, seed=3, independent=5).specs()[3]))
    assert main(command) == 0
    assert digests(out) == before, "a scene is the same, made alone or with the others"
    assert main([str(out), "--independent", "5", "--frames", "2"]) == 2
    assert "leave --frames out, or add --held-out or --lift" in capsys.readouterr().err


def test_a_half_rendered_set_is_told_with_the_command_that_finishes_it(own_set, tmp_path, capsys):
    from amt.data.config import CropConfig, DataConfig
    from amt.data.index.__main__ import main as index
    from amt.data.loader import make_loader, open_reader

    assert unfinished(own_set) == ""
    shutil.rmtree(sequence_folder(own_set, TINY.specs()[3]))
    command = f"python -m amt.data.synthetic {own_set} --sequences 2 --frames 4 --subjects 2 --seed 3"
    line = f"{own_set}: 1 of the set's 4 sequences are not rendered; finish it with {command}\n"
    config = DataConfig(root=str(own_set), split="s0", cache=str(tmp_path), crop=CropConfig(size=32, num_points=16))
    make_loader(config, "train", progress=False)
    open_reader(config, "train")
    assert capsys.readouterr().err.count(line) == 1, "once a process"
    assert index([str(own_set), "--quiet"]) == 0
    assert line in capsys.readouterr().out
    assert main([*command.split()[3:], "--quiet"]) == 0
    assert unfinished(own_set) == ""


def test_the_command_that_finishes_a_set_is_the_one_that_began_it(tmp_path, monkeypatch):
    monkeypatch.setattr("amt.data.synthetic.write._run", lambda *_: None)  # nothing is rendered
    out = tmp_path / "my scenes"
    words = ["--seed", "7", "--independent", "300", "--distorted", "--camera", "exposure_time=0,8", "occluded=0"]
    assert main([str(out), *words, "--quiet"]) == 0
    command = f"python -m amt.data.synthetic '{out}' {' '.join(words)}"
    assert unfinished(out) == f"{out}: 300 of the set's 300 scenes are not rendered; finish it with {command}"
    assert main([*shlex.split(command)[3:], "--quiet"]) == 0, "the same set"
    with pytest.raises(DataError, match=r"holds not one sequence .*; finish it with python -m amt\.data\.synthetic"):
        DexYCB(out, "s0", "train")


def test_a_full_disk_is_one_line_and_whole_sequences_stay(own_set, monkeypatch, capsys):
    before = digests(own_set)
    shutil.rmtree(sequence_folder(own_set, TINY.specs()[1]))
    command = [
        str(own_set),
        *["--sequences", "2", "--frames", "4", "--subjects", "2", "--seed", "3", "--workers", "1", "--quiet"],
    ]

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", full)
        assert main(command) == 2
    said = capsys.readouterr().err
    assert said == (
        f"amt.data.synthetic: {own_set}: cannot be written (No space left on device); check free space and permissions, then "
        "give the same command again: whole sequences stay\n"
    )
    assert main(command) == 0
    assert digests(own_set) == before


def test_held_out_people_have_sequences_and_all_others_independent_scenes():
    config = SetConfig(independent=30, held_out=2, frames=2)
    specs = config.specs()
    subset = {
        spec: next(s for s in ("train", "val", "test") if in_subset("s1", s, spec.subject, 0, spec.sequence, 0))
        for spec in specs
    }
    assert {subset[spec] for spec in specs if spec.scene is not None} == {"train"}
    assert [subset[spec] for spec in specs if spec.scene is None] == ["val"] * 2 + ["test"] * 4
    assert len({(spec.subject, spec.sequence) for spec in specs}) == len(specs) == config.num_grasps == 36
    assert (config.num_pictures, config.num_people) == (30 + 6 * 2 * 8, 33)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--held-out", "2"], "--held-out goes with --independent"),
        (["--independent", "5", "--held-out", "0"], "--held-out must be at least 1; got 0"),
        (["--independent", "0"], "--independent must be at least 1; got 0"),
        (["--independent", "5", "--sequences", "3"], "leave --sequences out"),
        (["--independent", "5", "--held-out", "1", "--subjects", "8"], "subjects at least 9"),
    ],
)
def test_options_that_do_not_go_together_are_told(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        sys.exit(main([str(tmp_path / "set"), *arguments]))
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
