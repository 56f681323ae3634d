"""Counting over a loader, and the baseline beside it."""

import dataclasses
import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_samples import SMALL, SYMMETRIES, made_reader, reader_with_pictures, with_visibility

from amt.evaluate.__main__ import main
from amt.evaluate.collect import Answer, collect, errors, joined
from amt.evaluate.compare import main as compare
from amt.evaluate.report import look
from amt.evaluate.samples import NUMBERS, SamplesError, read_samples
from amt.evaluate.score import movement, score
from amt.evaluate.tables import all_tables, table, write_json
from amt.metrics import wrist_aligned_error_mm
from amt.model import AMT, ModelConfig, save_checkpoint
from amt.model.mean_pose import MeanPose


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return AMT(ModelConfig(**SMALL)).eval()


@pytest.fixture(scope="module")
def batches(make_batch):
    return [with_visibility(make_batch(5, seed=1, left=True)), with_visibility(make_batch(3, seed=2))]


@pytest.fixture(scope="module")
def collected(model, batches):
    return collect(model, batches, MeanPose.of(batches), symmetries=SYMMETRIES)


def perfect(samples, batches):
    """The samples of a model that says the truth."""
    truth = joined([errors(Answer.true(batch.targets), batch, SYMMETRIES) for batch in batches])
    return dataclasses.replace(samples, model=truth, joints=samples.true_joints)


def test_every_key_is_there_and_a_perfect_answer_scores_perfectly(collected, model, batches):
    samples, beliefs = collected
    figures = score(samples, beliefs)
    wanted = {
        "wrist_aligned_mpjpe_mm", "coarse_wrist_aligned_mpjpe_mm", "procrustes_mpjpe_mm", "absolute_mpjpe_mm", "adds_mm",
        "contact_f1", "spread_ratio", "procrustes_f5", "wrist_aligned_auc", "procrustes_mpvpe_mm", "mce_mm", "oce_mm",
        "rotation_deg", "mssd_mm", "mspd_px", "touching_accuracy", "contact_precision", "wrist_aligned_mpjpe_p_mm",
        "rotation_median_deg", "rotation_below_30",
    }  # fmt: skip
    assert wanted <= set(figures)
    assert {"contact_ece", "visibility_ece", "scale_ece"} <= set(figures["calibration"])
    said = torch.cat([model(batch.inputs).joint_visible > 0 for batch in batches])
    true = torch.cat([batch.targets.joint_visible for batch in batches])
    assert figures["calibration"]["visibility_accuracy"] == pytest.approx(float((said == true).double().mean()))
    assert figures["calibration"]["visible_share"] == pytest.approx(float(true.double().mean()))
    of_the_hand_alone = {
        "coarse_wrist_aligned_mpjpe_mm", "procrustes_f5", "procrustes_mpvpe_mm", "wrist_aligned_mpjpe_p_mm",
    }  # fmt: skip
    assert wanted - of_the_hand_alone <= set(figures["baseline"])
    assert figures["refined_wrist_aligned_mpjpe_mm"][-1] == pytest.approx(figures["wrist_aligned_mpjpe_mm"], abs=1e-9)
    json.dumps(figures)
    best = score(perfect(samples, batches))
    assert best["absolute_mpjpe_mm"] == best["adds_mm"] == best["adi_mm"] == best["add_mm"] == best["mce_mm"] == 0
    assert (
        best["contact_f1"] == best["object_contact_f1"] == best["touching_accuracy"] == best["wrist_aligned_auc"] == 1
    )
    assert best["f5"] == best["procrustes_f15"] == best["recall"] == 1
    assert best["rotation_deg"] == pytest.approx(0, abs=0.1)  # float32 rotations
    assert best["rotation_median_deg"] == pytest.approx(0, abs=0.1)
    assert best["rotation_below_30"] == 1
    assert best["spread_ratio"] == pytest.approx(1.0)
    assert best["baseline"] == figures["baseline"]


def test_the_size_of_the_batches_changes_nothing(collected, model, batches):
    samples, beliefs = collected
    single = [batch[[k]] for batch in batches for k in range(len(batch.index))]
    other, others = collect(model, single, MeanPose.of(batches), symmetries=SYMMETRIES)
    for name, tensor in samples.named_tensors():
        torch.testing.assert_close(dict(other.named_tensors())[name], tensor, rtol=1e-4, atol=1e-3, equal_nan=True)
    assert others.contact.ece == pytest.approx(beliefs.contact.ece, abs=1e-5)
    assert others.visible.count.sum() == beliefs.visible.count.sum() == 8 * 21


def test_frames_without_labels_are_left_out(collected):
    samples, _ = collected
    changed = samples.map(torch.clone)
    changed.true_joints[2] += 50
    changed.model.aligned_mm[2] += 5e4
    changed.hand_valid[2] = changed.object_valid[2] = False
    kept = samples[[i for i in range(len(samples)) if i != 2]]
    a, b = score(changed), score(kept)
    assert a["wrist_aligned_mpjpe_mm"] == pytest.approx(b["wrist_aligned_mpjpe_mm"])
    assert a["adds_mm"] == pytest.approx(b["adds_mm"])
    assert a["hands"] == b["hands"] == 7
    changed.hand_valid[:] = False
    assert "wrist_aligned_mpjpe_mm" not in score(changed)


def test_a_missed_hand_is_the_mean_hand_at_its_box(collected, model, batches):
    samples, _ = collected
    lost, _ = collect(model, batches, MeanPose.of(batches), missed={int(batches[0].index[1])})
    assert lost.missed.sum() == 2  # both batches count from 0
    row = 1
    torch.testing.assert_close(lost.model.aligned_mm[row], lost.baseline.aligned_mm[row])
    assert lost.model.contact[row, 1] == 0
    figures = score(lost)
    assert figures["recall"] == 6 / 8
    mean = lost.baseline.aligned_mm[lost.missed].mean()
    expected = (6 * figures["wrist_aligned_mpjpe_mm"] + 2 * float(mean)) / 8
    assert figures["wrist_aligned_mpjpe_p_mm"] == pytest.approx(expected)
    assert score(samples)["wrist_aligned_mpjpe_p_mm"] == score(samples)["wrist_aligned_mpjpe_mm"]


def test_tables_by_joint_and_by_group(collected):
    samples, beliefs = collected
    names = ["a", "b"] * 4
    figures = {
        "split": "s1",
        "subset": "test",
        "protocol": "V",
        "box": "true",
        **score(samples, beliefs, {"object": names}),
    }
    rows = figures["by"]["object"]
    assert [row["frames"] for row in rows.values()] == [4, 4]
    both = sum(row["wrist_aligned_mpjpe_mm"] for row in rows.values()) / 2
    assert both == pytest.approx(figures["wrist_aligned_mpjpe_mm"], abs=1e-3)
    joints = figures["joints"]
    assert joints["wrist"]["wrist_aligned_mpjpe_mm"] == 0
    assert (joints["wrist"]["hidden"], joints["thumb_cmc"]["visible"]) == (8, 8)
    assert "visible" not in joints["wrist"]
    mean = sum(row["wrist_aligned_mpjpe_mm"] for row in joints.values()) / 21
    assert mean == pytest.approx(figures["wrist_aligned_mpjpe_mm"], abs=1e-3)
    text = all_tables(figures)
    assert "index_tip" in text
    assert "where hidden" in text


def test_the_mean_pose_is_the_best_constant_answer(make_batch):
    batch = make_batch(16, seed=3)
    mean_pose = MeanPose.of([batch])
    joints, _, translation = mean_pose.predict(batch.inputs)
    true = batch.targets.joints
    relative = true - true[:, :1]
    torch.testing.assert_close(joints - joints[:, :1], relative.mean(dim=0).expand_as(joints), atol=1e-6, rtol=0)
    error = wrist_aligned_error_mm(joints, true).mean()
    one_of_them = wrist_aligned_error_mm(relative[:1].expand_as(relative), true).mean()
    assert error < one_of_them
    assert (joints[:, 0] - true[:, 0]).norm(dim=1).mean() < 0.5  # placed through box and K, not at the origin
    assert (translation - joints[:, 0]).norm(dim=1).max() < 0.3


def test_left_hands_get_the_mirrored_mean(make_batch):
    from amt.hand.mirror import mirror_inputs, mirror_points

    batch = make_batch(4, seed=3)
    mean_pose = MeanPose.of([batch])
    joints, rotation, translation = mean_pose.predict(batch.inputs)
    which = torch.ones(4, dtype=torch.bool)
    mirrored = mean_pose.predict(mirror_inputs(batch.inputs, which))
    torch.testing.assert_close(mirrored[0], mirror_points(joints), atol=1e-5, rtol=0)
    torch.testing.assert_close(mirrored[2], mirror_points(translation), atol=1e-5, rtol=0)
    assert torch.linalg.det(mirrored[1]).sub(1).abs().max() < 1e-4
    assert torch.linalg.det(rotation).sub(1).abs().max() < 1e-4


def test_a_set_without_hands_has_no_mean(make_batch):
    batch = make_batch(2)
    batch.targets.hand_valid[:] = False
    with pytest.raises(ValueError, match="there is none"):
        MeanPose.of([batch])


def test_movement_is_measured_over_runs_without_a_gap(collected):
    """Six frames that accelerate by 2 mm a frame squared, a gap, and two more; the other camera's frames do not mix in."""
    samples, _ = collected
    numbers = [0, 1, 2, 3, 10, 11, 4, 5]
    moved = samples.map(torch.clone)
    for row, number in enumerate(numbers):
        moved.true_joints[row, 1:, 0] = moved.true_joints[row, :1, 0] + 0.001 * number**2
        moved.true_joints[row, 1:, 1:] = moved.true_joints[row, :1, 1:]
        moved.joints[row] = moved.true_joints[row, :1]
    where = {name: ["x"] * 8 for name in ("subject", "sequence", "camera")} | {"frame": [str(n) for n in numbers]}
    figures = movement(moved, where)
    assert figures["acceleration_error_mm"] == pytest.approx(2 * 20 / 21, abs=1e-3)  # the wrist does not move
    assert "lag_frames" not in figures
    where["camera"] = list("abababab")
    assert movement(moved, where) == {}


def test_a_set_with_another_hand_is_scored_by_joints_and_objects(model, batches):
    """As a model of AMT's hand on MANO's labels: no vertex, no contact is compared, all else is."""
    other = [
        dataclasses.replace(
            batch,
            targets=dataclasses.replace(
                batch.targets,
                vertices=batch.targets.vertices[:, :778],
                hand_contact=batch.targets.hand_contact[:, :778],
            ),
        )
        for batch in batches
    ]
    samples, beliefs = collect(model, other, MeanPose.of(batches), symmetries=SYMMETRIES)
    figures = score(samples, beliefs)
    same = score(*collect(model, batches, MeanPose.of(batches), symmetries=SYMMETRIES))
    assert figures["wrist_aligned_mpjpe_mm"] == same["wrist_aligned_mpjpe_mm"]
    assert figures["adds_mm"] == same["adds_mm"]
    assert not {"contact_f1", "f5", "absolute_mpvpe_mm", "touching_f1"} & set(figures)
    assert "contact_ece" not in figures["calibration"]
    looks = look(model, other, samples, reader_with_pictures(), ["mug"] * len(samples))
    assert "truth" not in looks.scenes[0].points()


def test_the_table_and_the_file(collected, tmp_path):
    figures = {"split": "s1", "subset": "test", "protocol": "V", "box": "true", **score(*collected)}
    text = table(figures)
    assert "s1 test, protocol V, true box, 8 frames" in text
    assert f"{figures['absolute_mpjpe_mm']:.1f}" in text
    write_json(tmp_path / "deep" / "metrics.json", figures)
    assert json.loads((tmp_path / "deep" / "metrics.json").read_text())["contact_f1"] == figures["contact_f1"]


@pytest.fixture
def evaluated(model, batches, make_batch, monkeypatch, tmp_path):
    """A checkpoint without a data set: ``evaluated(words) -> folder``, and the subsets that were read."""
    sets = {"train": batches, "test": [make_batch(4, seed=2)]}
    read = []

    def make_loader(data, subset, *_, augment, shuffle):
        read.append(subset)
        return sets[subset]

    monkeypatch.setattr("amt.evaluate.run.make_loader", make_loader)
    monkeypatch.setattr("amt.evaluate.run.open_reader", lambda *_: made_reader())
    return SimpleNamespace(mean_pose=MeanPose.of(batches), read=read, folder=tmp_path, model=model)


def test_only_the_test_set_is_read_where_the_checkpoint_holds_the_mean_pose(evaluated, capsys):
    newer = save_checkpoint(evaluated.folder / "newer", evaluated.model, evaluated.mean_pose)
    older = save_checkpoint(evaluated.folder / "older", evaluated.model)
    assert main([str(newer), "evaluate.device=cpu", "evaluate.report=off"]) == 0
    assert evaluated.read == ["test"]
    assert "holds no mean pose" not in capsys.readouterr().err
    assert main([str(older), "evaluate.device=cpu", "evaluate.report=off"]) == 0
    assert evaluated.read == ["test", "test", "train"]
    assert "the checkpoint holds no mean pose: it is computed from the training set" in capsys.readouterr().err
    a, b = (json.loads((folder / "metrics.json").read_text()) for folder in (newer, older))
    own = ("checkpoint", "weights_sha256")
    assert {k: v for k, v in a.items() if k not in own} == {k: v for k, v in b.items() if k not in own}
    assert a["weights_sha256"] == hashlib.sha256((newer / "model.safetensors").read_bytes()).hexdigest()
    assert (newer / "samples.csv").read_text() == (older / "samples.csv").read_text()


def test_two_runs_write_the_same_bytes(evaluated):
    folder = save_checkpoint(evaluated.folder / "checkpoint", evaluated.model, evaluated.mean_pose)
    written = []
    for no in ("off", "false"):
        assert main([str(folder), "evaluate.device=cpu", f"evaluate.report={no}"]) == 0
        assert not {"report.html", no} & {path.name for path in (*folder.iterdir(), *Path().iterdir())}
        written.append([(folder / name).read_bytes() for name in ("metrics.json", "samples.csv")])
    assert written[0] == written[1]
    save_checkpoint(folder, evaluated.model)  # what an evaluation leaves is no stranger's file


def test_two_checkpoints_are_scored_and_compared(evaluated, capsys):
    torch.manual_seed(1)
    other = AMT(ModelConfig(**SMALL)).eval()
    folders = [
        save_checkpoint(evaluated.folder / name, model, evaluated.mean_pose)
        for name, model in (("a", evaluated.model), ("b", other))
    ]
    assert compare([*map(str, folders), "evaluate.device=cpu"]) == 0
    out = capsys.readouterr().out
    assert evaluated.read == ["test", "test"]
    assert "4 frames of 1 sequence," in out
    errors = [json.loads((folder / "metrics.json").read_text())["absolute_mpjpe_mm"] for folder in folders]
    assert f"{errors[1] - errors[0]:+.2f}" in out


def test_the_protocol_is_one_that_the_split_has(evaluated):
    """V is defined on s0 alone; on another split the same frames are those of T."""
    folder = save_checkpoint(evaluated.folder / "checkpoint", evaluated.model, evaluated.mean_pose)
    told = []
    for split in ("s0", "s1"):
        assert main([str(folder), f"data.split={split}", "evaluate.device=cpu", "evaluate.report=off"]) == 0
        told.append(json.loads((folder / "metrics.json").read_text())["protocol"])
    assert told == ["V", "T"]


def test_two_files_of_one_name_are_refused(evaluated, capsys):
    folder = save_checkpoint(evaluated.folder / "checkpoint", evaluated.model, evaluated.mean_pose)
    x = evaluated.folder / "x"
    for words, message in (
        ([f"evaluate.output={x}/samples.csv"], f"evaluate.output and samples.csv would be one file, {x}/samples.csv"),
        ([f"evaluate.report={folder}/metrics.json"], "evaluate.output and evaluate.report would be one file"),
    ):
        assert main([str(folder), *words]) == 2
        assert message in capsys.readouterr().err
    assert evaluated.read == []


@pytest.mark.parametrize("key", ["output", "report", "write"])
def test_a_place_that_cannot_be_written_is_told_before_the_work(key, evaluated, capsys):
    folder = save_checkpoint(evaluated.folder / "checkpoint", evaluated.model, evaluated.mean_pose)
    (evaluated.folder / "file").write_text("")
    assert main([str(folder), f"evaluate.{key}={evaluated.folder}/file/below"]) == 2
    assert "file/below: cannot be written" in capsys.readouterr().err
    assert evaluated.read == []


def test_samples_are_read_back(evaluated):
    folder = save_checkpoint(evaluated.folder / "checkpoint", evaluated.model, evaluated.mean_pose)
    assert main([str(folder), "evaluate.device=cpu", "evaluate.report=off"]) == 0
    found, figures = read_samples(folder / "samples.csv"), json.loads((folder / "metrics.json").read_text())
    assert found.index.tolist() == [0, 1, 2, 3]
    for name in ("wrist_aligned_mpjpe_mm", "procrustes_mpjpe_mm", "absolute_mpjpe_mm", "adds_mm", "oce_mm"):
        assert found.numbers[name].mean() == pytest.approx(figures[name], abs=1e-3)
    assert set(found.numbers) == set(NUMBERS)
    assert found.names["subject"].tolist() == ["20201002-subject-08"] * 4
    text = (folder / "samples.csv").read_text()
    for broken, message in (
        ("", "its first line is not that of a samples.csv"),
        (text.replace("\n1,", "\n0,"), "names a frame twice"),
        (text.replace("\n1,", "\none,"), "holds something else than numbers"),
        (text + "7,x\n", "line 6 has 2 fields"),
    ):
        (folder / "samples.csv").write_text(broken)
        with pytest.raises(SamplesError, match=message):
            read_samples(folder / "samples.csv")


def test_a_rotation_is_found_or_not_and_unknown_symmetries_do_not_count(collected):
    samples, beliefs = collected
    held = samples.object_valid.nonzero()[:, 0]
    degrees = torch.full((len(samples),), 150.0, dtype=torch.float64)
    degrees[held[0]], degrees[held[1]], degrees[held[2]] = 10, 20, float("nan")
    turned = dataclasses.replace(samples, model=dataclasses.replace(samples.model, object_deg=degrees))
    figures = score(turned, beliefs)
    assert figures["rotation_median_deg"] == 150
    assert figures["rotation_below_30"] == pytest.approx(2 / (len(held) - 1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere"], "/nowhere: no such checkpoint folder"),
        (["{checkpoint}", "evaluate.subset=some"], "evaluate.subset must be one of train, val, test; got 'some'"),
        (["{checkpoint}", "evaluate.subzet=val"], "evaluate.subzet: no such key; there are subset, protocol"),
        (["{checkpoint}", "data.root=/nowhere"], "data.root=/nowhere: no such folder"),
        (["{checkpoint}", "data.split=s7"], "data.split must be one of s0, s1, s2, s3; got 's7'"),
        (["{checkpoint}", "val"], "cannot read 'val': expected key=value"),
        (["{checkpoint}", "evaluate.protocol=W"], "evaluate.protocol must be one of T, V, R, F, X, or null; got 'W'"),
        (
            ["{checkpoint}", "evaluate.protocol=V", "data.protocol=F"],
            "evaluate.protocol=V contradicts data.protocol=F: give one of them",
        ),
        (["{checkpoint}", "--rerun", "{checkpoint}/a.txt"], "evaluate.rerun: "),
        (["{checkpoint}", "--rerun"], "--rerun: expected the name of an .rrd file"),
        (["{checkpoint}", "evaluate.box=found"], "evaluate.box must be one of truth, located; got 'found'"),
    ],
)
def test_one_clear_line_and_status_2(words, message, tmp_path, capsys):
    folder = save_checkpoint(tmp_path / "checkpoint", AMT(ModelConfig(decoder_depth=1, backbone={"depth": 1})))
    assert main([word.format(checkpoint=folder) for word in words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("amt.evaluate: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "metrics.json").exists()


def test_a_recording_shows_every_frame_with_its_truth(collected, model, batches, monkeypatch, tmp_path):
    """Through a stand-in for Rerun's stream: what is added of each frame, missed hands and frames without labels among them."""
    from amt.evaluate.recorded import RecordedFrames

    added = []
    monkeypatch.setattr(RecordedFrames, "add", lambda self, *given, **more: added.append((given, more)))
    reader = reader_with_pictures()
    recording = RecordedFrames(tmp_path / "r.rrd", reader, model.mano.faces.numpy())
    collect(model, batches, MeanPose.of(batches), told=recording.take)
    indices = [int(index) for batch in batches for index in batch.index]
    assert [more["picture"] for _, more in added] == indices
    true = torch.cat([batch.targets.joints for batch in batches])
    known = torch.cat([batch.targets.hand_valid for batch in batches]).tolist()
    frames = torch.cat([batch.inputs.frame_intrinsics for batch in batches]).numpy()
    for ((image, (scene,)), more), row in zip(added, range(len(indices))):
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(scene.intrinsics, frames[row])
        assert scene.hand_found
        assert scene.vertices.shape == (model.mano.num_vertices, 3)
        truth = more["truth"]
        assert (truth is not None) == known[row]
        if truth is not None:
            np.testing.assert_array_equal(truth.joints, true[row].numpy())


def test_a_missed_hand_is_not_recorded(model, batches, monkeypatch, tmp_path):
    from amt.evaluate.recorded import RecordedFrames

    shown = []
    monkeypatch.setattr(RecordedFrames, "add", lambda self, image, scenes, **more: shown.append(scenes[0].hand_found))
    recording = RecordedFrames(tmp_path / "r.rrd", reader_with_pictures(), model.mano.faces.numpy())
    missed = {int(batches[0].index[1])}
    collect(model, batches[:1], MeanPose.of(batches), missed=missed, told=recording.take)
    assert shown == [True, False, True, True, True]
