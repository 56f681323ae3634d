"""Fitted parameters: nearer to the answer than the prediction's, and they give the joints that the record names for them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from infer_files import write_image

from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand
from amt.infer.__main__ import main
from amt.infer.fit import fitted

K = np.array([[310.0, 0, 158.0], [0, 305.0, 121.0], [0, 0, 1]])


def mean_mm(a: np.ndarray, b: np.ndarray) -> float:
    return float(1000 * np.linalg.norm(a - b, axis=1).mean())


@pytest.mark.parametrize(("side", "own_left"), [("right", False), ("left", False), ("left", True)])
def test_fitted_parameters_meet_the_answer(predictor, photo, side, own_left):
    seen = predictor(photo, K, (180, 110, 120), side=side)
    left = ManoLayer(shipped_hand("left")) if own_left else None
    found = fitted(seen, predictor.model.mano, left)
    np.testing.assert_array_equal(found.joints, seen.joints)
    assert mean_mm(found.mano_joints, found.joints) < 0.5 * mean_mm(seen.mano_joints, seen.joints)
    assert (found.mano_fitted, found.mano_model) == (
        True, "right" if side == "right" else "left" if own_left else "mirrored right"
    )  # fmt: skip
    layer = ManoLayer(shipped_hand(side))
    mesh = layer(*(torch.from_numpy(a)[None] for a in (found.pose, found.betas, found.translation)))
    assert np.abs(mesh.joints[0].numpy() - found.mano_joints).max() <= 1e-5  # m


def test_without_a_hand_nothing_is_fitted(predictor, photo):
    seen = replace(predictor(photo, K, (180, 110, 120)), hand_found=False)
    assert fitted(seen, predictor.model.mano) is seen


def test_the_command_exports_fitted_parameters_where_it_is_told(checkpoint, photo, tmp_path):
    picture = str(write_image(tmp_path / "a.jpg", photo))
    gaps = {}
    for word in ("infer.fit=false", "infer.fit=true"):
        out = tmp_path / word
        lens = ["--intrinsics", "310,305,158,121", "--box", "180,110,120", "--side", "left"]
        assert main([str(checkpoint), picture, *lens, word, "--no-draw", "--out", str(out)]) == 0
        record = json.loads((out / "predictions.jsonl").read_text())
        assert record["mano_fitted"] == (word == "infer.fit=true")
        gaps[word] = mean_mm(np.array(record["mano_joints_m"]), np.array(record["joints_m"]))
    assert gaps["infer.fit=true"] < 0.5 * gaps["infer.fit=false"]
