"""tools.precisions: which runs it makes, and its table. The runs themselves take minutes."""

import json
import subprocess
from pathlib import Path

from tools import precisions


def test_each_seed_runs_in_both_precisions_and_finished_runs_are_kept(tmp_path, monkeypatch, capsys):
    ran = []

    def run(command, **options):
        program, words = command[2], command[3:]
        ran.append((program, words))
        if program == "amt.evaluate":
            error = 1.5 if "bf16" in words[0] else 1.75
            Path(words[0]).mkdir(parents=True)
            (Path(words[0]) / "metrics.json").write_text(json.dumps({"wrist_aligned_mpjpe_mm": error}))

    monkeypatch.setattr(subprocess, "run", run)
    words = ["data", "--out", str(tmp_path), "--steps", "7", "--seed", "3"]
    assert precisions.main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "| 3 | 1.50 | 1.75 | +0.25 |"
    assert [program for program, _ in ran] == ["amt.train", "amt.evaluate"] * 2
    assert {"experiment=overfit", "train.steps=7", "train.seed=3", "train.precision=bf16"} <= set(ran[0][1])
    assert {"train.precision=fp8", f"train.checkpoint={(tmp_path / 'fp8-3').resolve() / 'checkpoint'}"} <= set(
        ran[2][1]
    )
    assert "evaluate.subset=train" in ran[3][1]
    ran.clear()
    assert precisions.main(words) == 0
    assert not ran


def test_words_go_to_the_training_and_precisions_can_be_named(tmp_path, monkeypatch, capsys):
    ran = []

    def run(command, **options):
        ran.append(command[2:])
        if command[2] == "amt.evaluate":
            Path(command[3]).mkdir(parents=True)
            error = 1.0 if "float32" in command[3] else 1.25
            (Path(command[3]) / "metrics.json").write_text(json.dumps({"wrist_aligned_mpjpe_mm": error}))

    monkeypatch.setattr(subprocess, "run", run)
    words = ["data", "train.schedule=cosine", "--out", str(tmp_path), "--seed", "0"]
    assert precisions.main([*words, "--precision", "float32", "--precision", "bf16"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "| 0 | 1.00 | 1.25 | +0.25 |"
    assert [command[0] for command in ran] == ["amt.train", "amt.evaluate"] * 2
    assert ["train.schedule=cosine" in command for command in ran] == [True, False] * 2
