"""Predictions judged beside their labels, batch by batch, as an evaluation does."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("mujoco", reason="the extra physics is not installed")

import torch
import trimesh

from amt.evaluate.tables import physics
from amt.hand.shipped import shipped_hand
from amt.physics.frames import Judging
from amt.physics.solids import MeshError


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Two cameras see each grasp; every object is a ball of 30 mm radius and 100 g."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "models" / "ball"
    folder.mkdir(parents=True)
    trimesh.creation.icosphere(1, 0.03).export(folder / "ball.obj")
    (folder / "object.yml").write_text("mass: 0.1\n")
    return SimpleNamespace(
        hand_model=shipped_hand,
        objects=SimpleNamespace(folder=tmp_path / "models", names=dict.fromkeys(range(1, 22), "ball")),
        locate=lambda index: (SimpleNamespace(folder="sequence"), index % 2, index // 2),
    )


def labelled(make_batch, count):
    batch = make_batch(count, left=True)
    known = torch.arange(1, count + 1)
    return replace(batch, inputs=replace(batch.inputs, object_class=known))


def test_predictions_are_judged_beside_their_labels(make_batch, reader):
    batch, judging = labelled(make_batch, 6), Judging(reader)
    t = batch.targets
    t.hand_valid[5] = False
    vertices, away = t.vertices.clone(), t.object_translation.clone()
    vertices[4] = float("nan")  # a hand that was missed
    away[2:] += 0.5
    judging.take(vertices, t.object_rotation, away, batch)
    figures = judging.figures(workers=1, progress=False)
    assert (figures["grasps"], figures["left_out"]) == (4, 1)
    assert figures["labels"]["grasps"] == 3  # of five frames, by two cameras
    assert figures["touching_rate"] == 0.5
    assert figures["labels"]["touching_rate"] == 1
    assert 0 < figures["true_depth_mm"] < figures["labels"]["true_depth_mm"]
    assert judging.true[("sequence", 0)][1].inertia[0] == 0.1
    lines = physics({"physics": figures}).splitlines()
    assert lines[0].split() == ["physics", "model", "labels"]
    assert lines[-1].split() == ["grasps", "4", "3"]
    assert lines[-2].split() == ["left", "out:", "no", "hand,", "or", "no", "finite", "one", "1"]


def test_a_hand_that_is_metres_large_is_left_out(make_batch, reader):
    batch, judging = labelled(make_batch, 2), Judging(reader)
    t = batch.targets
    vertices = t.vertices.clone()
    vertices[1] *= 100
    judging.take(vertices, t.object_rotation, t.object_translation, batch)
    assert (len(judging.predicted), judging.refused) == (1, 1)
    other = vertices[:, :778]
    with pytest.raises(MeshError, match="hand: expected vertices"):
        judging.take(other, t.object_rotation, t.object_translation, batch)


def test_an_object_that_is_not_known_is_left_out(make_batch, reader):
    batch, judging = labelled(make_batch, 2), Judging(reader)
    batch.inputs.object_class[:] = 0
    t = batch.targets
    judging.take(t.vertices, t.object_rotation, t.object_translation, batch)
    figures = judging.figures(progress=False)
    assert figures == {"grasps": 0, "left_out": 0, "labels": {"grasps": 0}}
    assert physics({}) == ""
