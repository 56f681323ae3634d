"""The training run of ten minutes: how its time is divided, and what its record says."""

import json
import types

import pytest
import torch

from benchmarks import learn

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """Programs that take as long as the test says, and are only noted."""
    called, now = [], [0.0]

    def program(name, *arguments):
        words = [str(argument) for argument in arguments]
        called.append((name, words))
        now[0] += clock.seconds(name, words)

    clock = types.SimpleNamespace(called=called, now=now, seconds=lambda name, words: 0.0)
    monkeypatch.setattr(learn.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(learn, "program", program)
    return clock


def test_as_many_scenes_as_the_time_renders(clock):
    """5 s to start, then half a second a scene and core."""
    clock.seconds = lambda name, words: 5 + 0.5 * int(words[words.index("--independent") + 1]) / 16
    # the trials take 5.5 and 7.5 s; of 100 s, 81.5 remain less the start of the set's own rendering, at 32 scenes a second
    assert learn.affordable(100, 16) == int((100 - 5.5 - 7.5 - 5.5) * 32)
    assert [words[1:3] for _, words in clock.called] == [["--independent", "16"], ["--independent", "80"]]
    assert learn.affordable(10, 16) == 16  # never none
    clock.seconds = lambda name, words: 0.0
    assert learn.affordable(500, 16) == learn.MOST_SCENES


def test_a_set_that_is_there_is_taken_again(tmp_path):
    assert learn.rendered_before(tmp_path) is None
    for name in ("scenes-64", "scenes-512", "scenes-x", "run-1"):
        (tmp_path / name).mkdir()
    assert learn.rendered_before(tmp_path) == 512


def options(**changes):
    return types.SimpleNamespace(device="cuda", seconds=520, quick=False, folder=learn.Path("f")) if not changes else (
        types.SimpleNamespace(**vars(options()) | changes)
    )  # fmt: skip


def test_training_gets_what_is_left(clock):
    words = list(learn.settings(options(), learn.Path("set"), learn.Path("run"), 270.0))
    assert {"train.minutes=4.500", "train.device=cuda", "data.root=set", "train.output=run"} <= set(words)
    with pytest.raises(
        learn.UsageError, match=r"--seconds 90: 29 s would be left for training, at least 30 are needed"
    ):
        list(learn.settings(options(seconds=90), learn.Path("set"), learn.Path("run"), 29.0))


def test_a_program_that_fails_ends_it():
    with pytest.raises(RuntimeError, match=r"amt\.evaluate ended with exit status 2"):
        learn.program("amt.evaluate", "/no/such/checkpoint")


def test_record_of_a_run(tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = {"model": {"size": "tiny", "crop_size": 112}, "train": {"batch_size": 64, "precision": "bf16"}}
    (folder / "config.json").write_text(json.dumps(config))
    metrics = dict.fromkeys(learn.METRICS, 20.0) | {"frames": 128, "baseline": {"wrist_aligned_mpjpe_mm": 100.0}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    steps = [{"step": step, "seconds": 0.5} for step in range(10)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    row = {"wrist_aligned_mm": 30.123, "procrustes_mm": 9.0, "adds_mm": 50.0, "loss": 1.0}
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps({"step": s} | row) + "\n" for s in (5, 10)))
    record = learn.record_of(tmp_path, CPU)
    assert (record["images"], record["samples_s"]) == (640, 128.0)
    assert (record["shape"], record["dtype"]) == ({"size": "tiny", "px": 112, "B": 64}, "bfloat16")
    assert record["curve"] == [[320, 30.12, 9.0, 50.0], [640, 30.12, 9.0, 50.0]]
    assert (record["of_mean_pose"], record["metrics"]["adds_mm"], record["frames"]) == (0.2, 20.0, 128)
    learn.draw(tmp_path / "learn.png", record)
    assert (tmp_path / "learn.png").stat().st_size > 5000


def test_a_wrong_word_is_told(capsys):
    with pytest.raises(SystemExit):
        learn.main(["--second", "3", "--folder", "x", "oops"])
    assert "unrecognized arguments: oops" in capsys.readouterr().err
