"""The command line: a wrong word gives one clear line and status 2, and leaves nothing behind."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fixed_loader import SMALL

from amt.data.synthetic import write
from amt.train.__main__ import main


@pytest.fixture
def call(monkeypatch, capfd, tmp_path):
    def run(*words):
        output = tmp_path / "run"
        monkeypatch.setattr(sys, "argv", ["amt.train", f"train.output={output}", "train.device=cpu", *words])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        status = main()
        return status, capfd.readouterr().err

    return run


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.stepz=5", "train.stepz: no such key; there are output, checkpoint, steps"),
        ("train.steps=many", "train.steps: expected a whole number, got 'many'"),
        ("train.steps=0", "train.steps must be at least 1; got 0"),
        ("train.loss.joints=-1", "train.loss.joints must not be negative"),
        ("model=enormous", "no configuration 'model/enormous'; there are base, large, small, tiny"),
        ("model.crop_size=100", "model.crop_size must be a multiple of 16"),
        ("data.split=s9", "data.split must be one of s0, s1, s2, s3; got 's9'"),
        ("data.root=/nowhere/at/all", "data.root=/nowhere/at/all: no such folder"),
        ("kernels.use=magic", "kernels.use must be one of auto, reference, native, triton, cuda; got 'magic'"),
        ("train.device=abacus", "train.device must be auto, cpu, cuda or cuda:N; got 'abacus'"),
        ("train.device=meta", "train.device must be auto, cpu, cuda or cuda:N; got 'meta'"),
        ("train.lr=inf", "train.lr must be finite; got inf"),
        ("train.weight_decay=inf", "train.weight_decay must be finite; got inf"),
        ("train.seed=20000000000000", "train.seed must be below 8796093022208; got 20000000000000"),
        ("model.refine_steps=63", "model.refine_steps must be at most 62; got 63"),
        ("model.refine_step_size_m=inf", "model.refine_step_size_m must be above 0 and finite; got inf"),
        ("train.checkpoint=/proc/nowhere/x", "/proc/nowhere: cannot be written"),
        ("train.freeze=abc", "train.freeze: expected a list in brackets, [first,second], got 'abc'"),
        ("train.freeze=null", "train.freeze: expected a list in brackets, [first,second], got 'null'"),
        ("train.loss_schedule=abc", "train.loss_schedule: expected a mapping in braces, {key:value}, got 'abc'"),
        ("nonsense", "cannot read 'nonsense'"),
        ("--multirum", "--multirum: no such option; see python -m amt.train --help"),
    ],
)
def test_one_clear_line_and_status_2(call, word, message):
    status, error = call(word)
    assert status == 2
    assert message in error
    assert error.startswith("amt.train: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The configurations of all runs; nothing is trained."""
    seen = []

    def run(config):
        seen.append(config)
        return tmp_path

    monkeypatch.setattr("amt.train.trainer.run", run)
    monkeypatch.chdir(tmp_path)
    return seen


def test_hydra_composes_groups_experiments_and_named_configurations(call, runs, tmp_path):
    assert call("experiment=demo", "model.refine_steps=1", "train.steps=7")[0] == 0
    assert runs[0].train.steps == 7
    assert runs[0].train.batch_size == 16
    assert runs[0].model.refine_steps == 1
    (tmp_path / "mine.yaml").write_text("defaults: [train, _self_]\ntrain: {lr: 0.5}\n")
    assert call("--config-dir", str(tmp_path), "--config-name", "mine")[0] == 0
    assert runs[1].train.lr == 0.5
    status, error = call("--config-name=nowhere")
    assert (status, error) == (2, "amt.train: no configuration 'nowhere'\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.yaml"]  # composing leaves nothing behind


def test_each_run_of_a_multirun_has_its_folder(call, runs, tmp_path):
    assert call("--multirun", "train.seed=3,4", "data.split=s0")[0] == 0
    assert [(run.train.seed, run.train.output) for run in runs] == [
        (3, f"{tmp_path}/run/0"),
        (4, f"{tmp_path}/run/1"),
    ]
    assert call("--multirun", "train.seed=3,4", "train.checkpoint=made")[0] == 0
    # one folder would hold the last run alone
    assert [run.train.checkpoint for run in runs[2:]] == ["made/0", "made/1"]
    status, error = call("--multirun", "train.seed=5,-1")
    assert status == 2
    assert "train.seed must not be negative; got -1" in error
    assert runs[-1].train.seed == 5


def test_a_stopped_run_ends_a_multirun_with_its_status(call, monkeypatch, tmp_path):
    from amt.train.signals import Stopped

    seen = []

    def run(config):
        seen.append(config)
        raise Stopped(signal.SIGINT, 5)

    monkeypatch.setattr("amt.train.trainer.run", run)
    monkeypatch.chdir(tmp_path)
    status, error = call("--multirun", "train.seed=3,4")
    assert status == 130
    assert "SIGINT: saved step 5; the same command continues from it" in error
    assert len(seen) == 1


def test_without_a_set_one_is_rendered_and_the_end_says_where_everything_is(monkeypatch, capfd, tmp_path):
    """`python -m amt.train`, made short and small: one person is rendered of ten, and split by cameras."""
    right = write.write_set
    monkeypatch.setattr(
        write, "write_set", lambda folder, config, workers: right(folder, replace(config, subjects=1), workers)
    )
    monkeypatch.chdir(tmp_path)
    words = [f"model.{name}={value}" for name, value in SMALL.items()]
    words += [
        "data.render_sequences=1",
        "data.render_frames=1",
        "data.split=s2",
        "data.cache=cache",
        "train.steps=2",
        "train.batch_size=4",
    ]
    monkeypatch.setattr(sys, "argv", ["amt.train", *words, "train.device=cpu", "train.threads=1"])
    assert main() == 0
    out, err = capfd.readouterr()
    assert "data.root is not given" in err
    assert list(tmp_path.glob("cache/synthetic-1x1/**/*.jpg"))
    last = dict(line.split("  ", 1) for line in out.splitlines()[-7:])
    paths = {name: tmp_path / text.split()[0] for name, text in last.items()}
    expected = {"trained model": "checkpoint", "loss curves": "loss.png", "pictures": "pictures", "log": "log.jsonl"}
    expected |= {"validations": "validation.jsonl", "TensorBoard": "tensorboard", "states": "states"}
    assert paths == {name: tmp_path / "runs" / "train" / path for name, path in expected.items()}
    assert all(path.exists() for path in paths.values())
    assert f"python -m amt.evaluate {Path('runs/train/checkpoint')}" in out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "WORLD_SIZE=2: "),
        (["train.parallel=ddp", "--dry-run"], "--dry-run is done by one process"),
        (["train.parallel=fsdp", "train.batch_size=auto"], "train.batch_size=auto is found by one process"),
    ],
)
def test_several_ranks_are_refused(call, monkeypatch, words, named):
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, error = call(*words)
    assert status == 2
    assert error.startswith(f"amt.train: {named}")
    assert error.count("\n") == 1
