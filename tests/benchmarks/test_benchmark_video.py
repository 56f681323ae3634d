"""`python -m benchmarks.video`: every figure with its goal, from a small model and a short video."""

import re

import cv2
import numpy as np
import pytest
import torch

from amt.infer import benchmark
from benchmarks import video


def test_every_figure_is_printed_with_its_goal(tmp_path, monkeypatch, capsys):
    from amt.model import AMT, ModelConfig
    from amt.model.checkpoint import save_checkpoint

    torch.manual_seed(0)
    save_checkpoint(tmp_path / "ck", AMT(ModelConfig(size="tiny", crop_size=32)), data={"crop": {"num_points": 64}})
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    monkeypatch.setattr(benchmark, "PICTURES", 3)
    monkeypatch.setattr(benchmark, "WARM_UP", 2)
    monkeypatch.setattr(video, "FRESH", 1)
    words = [str(tmp_path / "ck"), str(tmp_path / "a.png"), "--box", "320,240,200", "--frames", "4"]
    assert video.main(words) == 0
    said = capsys.readouterr().out
    for name, goal, _ in video.GOALS:
        pattern = re.escape(name) + r" +[\d.]+( x)?" + ("$" if goal is None else r"   goal [<>]= [\d.]+: (met|missed)$")
        assert re.search(pattern, said, re.MULTILINE), name
    assert "record:" not in said  # a CPU's times belong to one machine and moment


def test_goals_are_bounds_from_below_or_above():
    assert video.verdict(3.0, None) == ""
    assert video.verdict(2.0, 2.0).endswith("goal >= 2: met")
    assert video.verdict(1.9, 2.0).endswith("missed")
    assert video.verdict(3.9, -4.0).endswith("goal <= 4: met")
    assert video.verdict(4.1, -4.0).endswith("missed")


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(RuntimeError, match=r"the fresh process failed: .*no such"):
        video.main([str(tmp_path / "ck"), str(tmp_path / "a.png"), "--frames", "2"])
