"""The command line: a wrong word gives one clear line and status 2, and leaves nothing behind."""

import sys

import pytest

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
        ("train.steps=many", "Value 'many' of type 'str' could not be converted to Integer"),
        ("train.steps=0", "train.steps must be at least 1; got 0"),
        ("train.loss.joints=-1", "train.loss.joints must not be negative"),
        ("model=enormous", "no configuration 'model/enormous'; there are base, large, small, tiny"),
        ("model.crop_size=100", "model.crop_size must be a multiple of 16"),
        ("data.split=s9", "data.split must be one of s0, s1, s2, s3; got 's9'"),
        ("data.root=/nowhere/at/all", "data.root=/nowhere/at/all: no such folder"),
        ("kernels.use=magic", "kernels.use must be one of auto, reference, native, triton, cuda; got 'magic'"),
        ("train.device=abacus", "train.device must be auto, cpu, cuda or cuda:N; got 'abacus'"),
        ("nonsense", "cannot read 'nonsense'"),
    ],
)
def test_one_clear_line_and_status_2(call, word, message):
    status, error = call(word)
    assert status == 2
    assert message in error
    assert error.startswith("amt.train: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
