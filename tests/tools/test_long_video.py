"""`python -m tools.long_video`: memory over a run, and what kills leave; a run that fails is said."""

import json
import re

import pytest
import torch

from amt.errors import UserError
from amt.model import AMT, ModelConfig
from amt.model.checkpoint import save_checkpoint
from tools import long_video


def test_memory_is_followed_and_what_kills_leave_is_read(tmp_path, capfd):
    pytest.importorskip("embreex")
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "ck", AMT(ModelConfig(size="tiny", crop_size=32)), data={"crop": {"num_points": 64}})
    words = [str(tmp_path / "ck"), "--frames", "40", "--every", "15", "--kills", "1"]
    assert long_video.main(words) == 0
    said = capfd.readouterr().out
    assert len(re.findall(r"^ +\d+ frames +[\d.]+ MB$", said, re.MULTILINE)) == 2
    hands = re.search(r"^hands: (\d+), of them (\d+) followed; of 40 frames .*\d+ with [12]", said, re.MULTILINE)
    assert int(hands[1]) > 20  # the untrained model loses whom it follows; the locator that ships finds them again
    assert re.search(r"growth after the first 15 frames: [\d.]+ % +goal <= 0.05: (met|missed)", said)
    assert re.search(r"killed at frame \d+: \d+ whole lines", said)


def test_a_run_that_fails_is_said(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(long_video, "make_video", lambda path, frames: path)
    assert long_video.main([str(tmp_path / "ck"), "--frames", "2", "--kills", "0"]) == 2
    assert "the run ended with status 2 after 0 frames" in capfd.readouterr().err


def test_lines_of_other_frames_are_an_error(tmp_path):
    (tmp_path / long_video.LINES).write_text('{"frame": 0}\n{"frame": 0}\n{"frame": 1}\n{"fra')
    assert long_video.left(tmp_path).startswith("3 whole lines, one that was cut; no film")
    for frames in ((0, 2), (0, 1, 0), (1, 2)):
        (tmp_path / long_video.LINES).write_text("".join(f'{{"frame": {frame}}}\n' for frame in frames))
        with pytest.raises(UserError, match="is another frame's"):
            long_video.left(tmp_path)
    (tmp_path / long_video.LINES).write_text("{nothing\n")
    with pytest.raises(json.JSONDecodeError):
        long_video.left(tmp_path)
