"""Words beside ``evaluate.results`` that make no sense: one line, before anything is read."""

import pytest
from made_set import write_set

from amt.evaluate.__main__ import main


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate.results=/nowhere.txt"], "evaluate.results=/nowhere.txt: no such file"),
        (["evaluate.results={file}"], "expected a file *.txt, *.csv, *.json, *.zip"),
        (["evaluate.results={text}", "data.root={root}", "evaluate.protocol=V"], "protocol T; leave it out"),
        (["evaluate.results={text}"], "data.root: name the folder of the set that the result file is about"),
        (
            ["some/checkpoint", "evaluate.results={text}"],
            "some/checkpoint: evaluate.results scores a file without a checkpoint",
        ),
        (
            ["evaluate.results={text}", "evaluate.physics=true"],
            "evaluate.physics=true: has no effect where evaluate.results",
        ),
        (["evaluate.results=null"], "evaluate.results=null: no such checkpoint folder"),
        (["evaluate.results={text}", "data.root={root}", "data.limit=3", "data.split=s1"], "leave data.limit out"),
    ],
)
def test_wrong_words(words, message, root, tmp_path, capsys):
    for name in ("a.pdf", "a.txt"):
        (tmp_path / name).write_text("x")
    words = [word.format(file=tmp_path / "a.pdf", text=tmp_path / "a.txt", root=root) for word in words]
    assert main(words) == 2
    assert message in capsys.readouterr().err
