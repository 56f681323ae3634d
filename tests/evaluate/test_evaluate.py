"""Counting over a loader, and the baseline beside it."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from amt.evaluate.__main__ import main
from amt.evaluate.evaluate import Collected, collect, score
from amt.evaluate.report import table, write_json
from amt.metrics import wrist_aligned_error_mm
from amt.model import AMT, ModelConfig, save_checkpoint
from amt.model.mean_pose import MeanPose


@pytest.fixture(scope="module")
def collected(make_batch):
    torch.manual_seed(0)
    batches = [make_batch(5, seed=1, left=True), make_batch(3, seed=2)]
    mean_pose = MeanPose.of(batches)
    return collect(AMT(ModelConfig()), batches, mean_pose), mean_pose


def test_every_key_is_there_and_a_perfect_answer_scores_perfectly(collected):
    c, mean_pose = collected
    figures = score(c, mean_pose)
    wanted = {
        "wrist_aligned_mpjpe_mm", "coarse_wrist_aligned_mpjpe_mm", "procrustes_mpjpe_mm", "absolute_mpjpe_mm", "adds_mm",
        "contact_f1", "spread_ratio",
    }  # fmt: skip
    assert wanted <= set(figures)
    assert wanted - {"coarse_wrist_aligned_mpjpe_mm"} <= set(figures["baseline"])
    assert figures["refined_wrist_aligned_mpjpe_mm"][-1] == figures["wrist_aligned_mpjpe_mm"]
    json.dumps(figures)
    truth = dataclasses.replace(
        c,
        joints=c.true_joints,
        object_points=c.true_points,
        hand_contact=c.true_hand_contact,
        object_contact=c.true_object_contact,
    )
    best = score(truth, mean_pose)
    assert best["absolute_mpjpe_mm"] == best["adds_mm"] == best["adi_mm"] == 0
    assert best["contact_f1"] == best["object_contact_f1"] == 1
    assert best["spread_ratio"] == pytest.approx(1.0)
    assert best["baseline"] == figures["baseline"]


def test_frames_without_labels_are_left_out(collected):
    c, mean_pose = collected
    changed = dataclasses.replace(c, **{f.name: getattr(c, f.name).clone() for f in dataclasses.fields(Collected)})
    changed.true_joints[2] += 50
    changed.hand_valid[2] = False
    clean = [i for i in range(len(c.joints)) if i != 2]
    kept = Collected(*(getattr(c, f.name)[clean] for f in dataclasses.fields(Collected)))
    a, b = score(changed, mean_pose), score(kept, mean_pose)
    assert a["wrist_aligned_mpjpe_mm"] == pytest.approx(b["wrist_aligned_mpjpe_mm"])
    assert a["hands"] == b["hands"] == 7
    changed.hand_valid[:] = False
    assert "wrist_aligned_mpjpe_mm" not in score(changed, mean_pose)


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


def test_the_table_and_the_file(collected, tmp_path):
    figures = {"split": "s1", "subset": "test", "protocol": "V", "box": "true", **score(*collected)}
    text = table(figures)
    assert "s1 test, protocol V, true box, 8 frames" in text
    assert f"{figures['absolute_mpjpe_mm']:.1f}" in text
    write_json(tmp_path / "deep" / "metrics.json", figures)
    assert json.loads((tmp_path / "deep" / "metrics.json").read_text())["contact_f1"] == figures["contact_f1"]


def test_only_the_test_set_is_read_where_the_checkpoint_holds_the_mean_pose(make_batch, monkeypatch, tmp_path, capsys):
    batches = {"train": [make_batch(6, seed=1, left=True)], "test": [make_batch(4, seed=2)]}
    read = []

    def make_loader(data, subset, *_, augment, shuffle):
        read.append(subset)
        return batches[subset]

    monkeypatch.setattr("amt.data.loader.make_loader", make_loader)
    monkeypatch.setattr("amt.data.loader.open_reader", lambda *_: SimpleNamespace(record={}))
    torch.manual_seed(0)
    model = AMT(ModelConfig())
    newer = save_checkpoint(tmp_path / "newer", model, MeanPose.of(batches["train"]))
    older = save_checkpoint(tmp_path / "older", model)
    assert main([str(newer), "evaluate.device=cpu"]) == 0
    assert read == ["test"]
    assert "holds no mean pose" not in capsys.readouterr().err
    assert main([str(older), "evaluate.device=cpu"]) == 0
    assert read == ["test", "test", "train"]
    assert "the checkpoint holds no mean pose: it is computed from the training set" in capsys.readouterr().err
    a, b = (json.loads((folder / "metrics.json").read_text()) for folder in (newer, older))
    differing = {"checkpoint", "images_per_second"}
    assert {k: v for k, v in a.items() if k not in differing} == {k: v for k, v in b.items() if k not in differing}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere"], "/nowhere: no such checkpoint folder"),
        (["{checkpoint}", "evaluate.subset=some"], "evaluate.subset must be one of train, val, test; got 'some'"),
        (["{checkpoint}", "evaluate.subzet=val"], "evaluate.subzet: no such key; there are subset, batch_size"),
        (["{checkpoint}", "data.root=/nowhere"], "data.root=/nowhere: no such folder"),
        (["{checkpoint}", "data.split=s7"], "data.split must be one of s0, s1, s2, s3; got 's7'"),
        (["{checkpoint}", "val"], "cannot read 'val': expected key=value"),
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
