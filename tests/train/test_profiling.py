"""A profile has the steps and the names that were asked for, and changes no bit of the run."""

import gzip
import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch

from amt.kernels import ranges
from amt.train.config import TrainConfig
from amt.train.contents import contents
from amt.train.trainer import Trainer, run

SCRIPT = Path(__file__).parents[2] / "tools" / "profile.sh"


def test_chosen_steps_are_recorded_by_their_names(make_small, small_loader, monkeypatch):
    monkeypatch.setattr("amt.train.trainer.draw_curves", lambda *_: None)
    plain, config = make_small("plain", steps=4), make_small("profiled", steps=4, profile="1:3")
    for each in (plain, config):
        run(each, small_loader, progress=False)
    a, b = (each.checkpoint_folder() / "model.safetensors" for each in (plain, config))
    assert a.read_bytes() == b.read_bytes()
    trace = config.output_folder() / "profile" / "from-step-1.json.gz"
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = Counter(event["name"] for event in events if event.get("cat") == "user_annotation")
    for name in (
        "forward",
        "backward",
        "loss",
        "optimizers",
        "backbone",
        "fusion",
        "refinement",
        "backbone.blocks.0",
        "amt.hand_frames",
    ):
        assert names[name] >= 2, name
    assert names["backward"] == names["fusion"] == names["amt.refine"] == 2  # of four steps
    assert str(trace.parent) in contents(config)


def test_a_run_that_ends_early_leaves_its_profile(make_small, small_loader, monkeypatch):
    monkeypatch.setattr("amt.train.trainer.draw_curves", lambda *_: None)
    config = make_small("short", steps=2, profile="1:90")
    run(config, small_loader, progress=False)
    assert (config.output_folder() / "profile" / "from-step-1.json.gz").stat().st_size > 1000


def test_nsight_gets_ranges_and_no_second_profiler(make_small, small_loader, monkeypatch):
    seen = []
    monkeypatch.setattr("amt.train.trainer.draw_curves", lambda *_: None)
    monkeypatch.setattr(ranges, "_nvtx", lambda: (seen.append, lambda: seen.append(None)))
    monkeypatch.setenv("AMT_PROFILER", "nsys")
    config = make_small("marked", steps=3, profile="1:2")
    run(config, small_loader, progress=False)
    assert not (config.output_folder() / "profile").exists()
    assert seen.count("forward") == seen.count("backward") == 1
    inside = seen[seen.index("forward") : seen.index("loss")]
    assert inside.count(None) == len(inside) / 2  # each range has ended
    assert inside[1] == "normalize"


def test_nothing_is_marked_where_nobody_records(make_small, small_loader, monkeypatch):
    monkeypatch.setattr(ranges, "_Range", None)  # would raise
    Trainer(make_small("off")).train_step(next(iter(small_loader)))
    assert ranges.stage("forward") is ranges.stage("backward")


def test_a_model_is_as_before_after_a_recording():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with ranges.recording(model):
        model(torch.ones(1, 2))
        assert model[0]._forward_hooks
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


@pytest.mark.parametrize("text", ["20:10", "10:10", "10", "a:b", "-1:3"])
def test_a_bad_range_is_one_line(text):
    with pytest.raises(ValueError, match=rf"^train\.profile must be FIRST:END.* such as 10:20; got '{text}'$"):
        TrainConfig(profile=text)
    with pytest.raises(ValueError, match=r"train\.profile=30:40 begins after the last of train\.steps=20"):
        TrainConfig(profile="30:40", steps=20)


@pytest.fixture
def script(tmp_path):
    """``script(tools, *words)`` runs profile.sh with stand-ins that write down what they are called with."""

    def call(tools, *words):
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in ("python", *tools):
            text = f'echo "{name} $AMT_PROFILER $*" >> "{tmp_path}/calls"\n'
            text += 'case "$*" in *is_available*) echo yes ;; esac\n' if name == "python" else ""
            (folder / name).write_text(f"#!/bin/bash\n{text}")
            (folder / name).chmod(0o755)
        environment = {
            "PATH": f"{folder}:/usr/bin:/bin",
            "PYTHON": str(folder / "python"),
            "OUT": str(tmp_path / "out"),
        }
        done = subprocess.run(["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True)
        return done, (tmp_path / "calls").read_text()

    return call


def test_make_profile_says_what_is_missing(script):
    done, calls = script([], "--kernel", "refine", "model=small")
    assert done.returncode == 1
    assert "nsys is not on the PATH" in done.stderr
    assert "ncu is not on the PATH, so kernel 'refine' is not profiled" in done.stderr
    assert "PyTorch's trace: " in done.stdout
    assert "-m amt.train train.steps=20 train.profile=10:20" in calls
    assert "model=small" in calls


def test_make_profile_runs_nsight_where_it_is_installed(script, tmp_path):
    done, calls = script(["nsys", "ncu"], "--kernel", "refine")
    assert done.returncode == 0, done.stderr
    assert "nsys nsys profile --trace=cuda,nvtx,cudnn,cublas --capture-range=cudaProfilerApi" in calls
    assert "ncu  --kernel-name regex:refine --launch-count 10" in calls
    assert f"{tmp_path}/out/steps.nsys-rep" in done.stdout
    assert f"{tmp_path}/out/refine.ncu-rep" in done.stdout
