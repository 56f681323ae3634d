"""The ablation's table and its memory of finished runs; the training itself is the trainer's to test."""

import json

import pytest

from amt.config import compose
from amt.model import ModelConfig
from amt.train.config import PROGRAM
from tools import ablation


def metrics(value):
    steps = {"decoded_wrist_aligned_mpjpe_mm": value + 3, "refined_wrist_aligned_mpjpe_mm": [value + 1, value]}
    return {key: value for _, key, _ in ablation.COLUMNS} | steps


def write(out, name, seed, value):
    folder = ablation._folder(out, name, seed) / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(metrics(value)))


def test_finished_runs_are_not_repeated_and_the_table_is_mean_and_deviation(tmp_path, capsys):
    for seed, value in enumerate((40.0, 42.0)):
        write(tmp_path, "as it ships", seed, value)
    arguments = [
        tmp_path / "data",
        "--out",
        tmp_path,
        "--results",
        tmp_path / "r",
        "--seeds",
        "2",
        "--only",
        "as it ships",
    ]
    assert ablation.main([str(a) for a in arguments]) == 0
    printed = capsys.readouterr().out
    assert "| as it ships | 41.0 ± 1.4 |" in printed
    assert "stopped after 0 steps | 44.0 ± 1.4 |" in printed
    assert "stopped after 2 steps | 41.0 ± 1.4 |" in printed
    record = json.loads((tmp_path / "r" / "ablation.json").read_text())
    assert [run["wrist_aligned_mpjpe_mm"] for run in record["runs"]] == [40.0, 42.0]


def test_a_run_that_fails_is_named_and_its_exit_status_kept(tmp_path, capsys):
    arguments = [
        tmp_path / "nothing",
        "--out",
        tmp_path,
        "--results",
        tmp_path / "r",
        "--seeds",
        "1",
        "--only",
        "without sigma",
    ]
    assert ablation.main([str(a) for a in arguments]) == 1
    error = capsys.readouterr().err
    assert "'without sigma', seed 0, failed: see" in error
    assert "nothing" in (ablation._folder(tmp_path, "without sigma", 0) / "log.txt").read_text()


def test_where_no_run_succeeds_earlier_results_stay(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ablation, "trained", lambda *_: None)
    results = tmp_path / "r"
    results.mkdir()
    (results / "ablation.md").write_text("earlier")
    arguments = ["data", "--out", str(tmp_path), "--results", str(results), "--only", "as it ships"]
    assert ablation.main(arguments) == 1
    assert f"tools.ablation: no run succeeded; {results} stays as it is" in capsys.readouterr().err
    assert {path.name: path.read_text() for path in results.iterdir()} == {"ablation.md": "earlier"}


@pytest.mark.parametrize("name", ["jobs", "seeds", "steps"])
def test_a_count_below_1_is_one_line(tmp_path, capsys, name):
    arguments = ["data", "--out", str(tmp_path), "--results", str(tmp_path / "r"), f"--{name}", "0"]
    assert ablation.main(arguments) == 2
    assert capsys.readouterr().err == f"tools.ablation: --{name} must be at least 1; got 0\n"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", list(ablation.VARIANTS))
def test_every_variant_is_a_configuration(name):
    settings = compose(PROGRAM, ["experiment=ablation", *ablation.VARIANTS[name]])
    assert settings["train"].steps > 0
    own = ModelConfig() == settings["model"]
    assert own == (name in ("as it ships", "with diversity loss"))  # each other one changes the model
