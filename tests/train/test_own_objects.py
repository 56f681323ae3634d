"""A user's objects from their meshes to a prediction: rendered, trained on, evaluated, and looked for in a picture."""

import json

import numpy as np
import pytest

from amt.data.dexycb import DexYCB
from amt.data.mass import object_mass
from amt.data.synthetic.__main__ import main as render
from amt.evaluate.__main__ import main as evaluate
from amt.infer.__main__ import main as infer
from amt.train.__main__ import main as train

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")


def test_own_objects_are_rendered_trained_on_evaluated_and_found(tmp_path, monkeypatch):
    given, root = tmp_path / "objects", tmp_path / "data"
    given.mkdir()
    trimesh.creation.box((50, 60, 120)).export(given / "carton.stl")
    (given / "carton.yaml").write_text("unit: mm\nmass: 0.25\nsymmetry: {}\n")
    trimesh.creation.cylinder(0.033, 0.09).export(given / "tin.obj")
    words = ["--objects", str(given), "--independent", "10", "--workers", "1", "--quiet"]
    assert render([str(root), *words]) == 0  # ten people: seven to train on, one to validate, two to test
    checkpoint = tmp_path / "checkpoint"
    settings = [
        "train.steps=2",
        "train.batch_size=4",
        "train.save_every=2",
        "train.validate_images=1",
        "train.logger=none",
    ]
    places = [f"data.root={root}", f"data.cache={tmp_path / 'cache'}", f"train.output={tmp_path / 'run'}"]
    words = [*settings, *places, f"train.checkpoint={checkpoint}", "train.device=cpu", "data.split=s1", "model=tiny"]
    monkeypatch.setattr("sys.argv", ["amt.train", *words])
    assert train() == 0
    assert evaluate([str(checkpoint), "evaluate.device=cpu"]) == 0
    figures = json.loads((checkpoint / "metrics.json").read_text())
    assert np.isfinite(figures["adds_mm"])
    frame = DexYCB(root, "s1", "test")[0]
    out = tmp_path / "found"
    assert infer([str(checkpoint), str(frame.image_path), "--device", "cpu", "--no-draw", "--out", str(out)]) == 0
    assert any(out.iterdir())
    names = {c: DexYCB(root, "s1", "test").objects.names[c] for c in (1, 2)}
    assert {name: round(object_mass(root / "models" / name), 3) for name in names.values()} == {
        "carton": 0.25,
        "tin": 0.153,
    }
