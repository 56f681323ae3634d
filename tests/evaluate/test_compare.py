"""Paired bootstrap intervals: of known differences, over whole sequences, and the messages."""

import json

import numpy as np
import pytest

from amt.evaluate.compare import compare, main, text
from amt.evaluate.samples import NUMBERS, PLACES, SampleTable


def table(errors, sequences, order=None):
    """Frames whose errors are all the same; every third is in contact."""
    count = len(errors)
    order = np.arange(count) if order is None else order
    numbers = {name: np.asarray(errors, float)[order] for name in NUMBERS}
    numbers["contact_hits"], numbers["contact_said"] = (
        (np.asarray(errors, float)[order] > 0).astype(float),
        np.ones(count),
    )
    numbers["contact_true"] = np.ones(count)
    names = {name: np.array([f"{name}{s}" for s in sequences])[order] for name in PLACES}
    return SampleTable(order.astype(np.int64), names, numbers)


def test_the_interval_of_a_mean_is_students():
    """Of 200 sequences of one frame: mean difference 1, deviation 2, so 1 +- 1.97 x 2 / sqrt(200)."""
    rng = np.random.default_rng(0)
    base, change = rng.uniform(10, 30, 200), rng.normal(0, 1, 200)
    change = 1 + 2 * (change - change.mean()) / change.std()
    found = compare(table(base, range(200)), table(base + change, range(200)))[0]
    assert found.b - found.a == pytest.approx(1)
    assert (found.low, found.high) == pytest.approx((1 - 0.279, 1 + 0.279), abs=0.02)
    assert found.verdict == "worse"
    back = compare(table(base + change, range(200)), table(base, range(200)))[0]
    assert back.verdict == "better"
    assert (back.low, back.high) == pytest.approx((-found.high, -found.low))


def test_frames_of_one_sequence_count_as_one_draw():
    """Each frame ten times: ten times the frames, and the same interval."""
    rng = np.random.default_rng(1)
    base, change = rng.uniform(10, 30, 50), rng.normal(0.2, 2, 50)
    single = compare(table(base, range(50)), table(base + change, range(50)))[0]
    many = compare(
        table(base.repeat(10), np.arange(50).repeat(10)), table((base + change).repeat(10), np.arange(50).repeat(10))
    )[0]
    assert (many.low, many.high) == pytest.approx((single.low, single.high))
    assert single.verdict == "not told apart"


def test_one_sequence_says_nothing_of_others():
    found = compare(table(np.arange(30), [0] * 30), table(np.arange(30) + 9, [0] * 30))[0]
    assert found.b - found.a == 9
    assert (found.low, found.high, found.verdict) == (-np.inf, np.inf, "not told apart")
    one = table(np.arange(30), [0] * 30)
    told = text(compare(one, one), one, one)
    assert "30 frames of 1 sequence," in told
    assert "inf" not in told
    assert told.count("not known") == 7
    few = table(np.arange(3), range(3))
    assert "fewer than 20 sequences" in text(compare(few, few), few, few)


def test_pairs_are_found_by_their_index_and_unknown_values_are_left_out():
    rng = np.random.default_rng(2)
    base = rng.uniform(10, 30, 40)
    a, b = table(base, range(40)), table(base + 1, range(40), order=rng.permutation(40))
    b.numbers["adds_mm"][3] = np.nan
    for found in compare(a, b):
        if not found.name.startswith("contact"):
            assert (found.b - found.a, found.low, found.high) == pytest.approx((1, 1, 1))
    assert "40 frames of 40 sequences" in text(compare(a, b), a, b)


def test_missed_hands_are_told_and_their_figures_are_named_as_in_metrics_json():
    a, b = table(np.arange(9) + 1, range(9)), table(np.arange(9) + 2, range(9))
    for side in (a, b):
        side.numbers["found"] = np.ones(9)
    assert compare(a, b)[0].name == "wrist-aligned MPJPE, mm"
    assert "missed" not in text(compare(a, b), a, b)
    b.numbers["found"][[2, 4]] = 0
    assert [d.name for d in compare(a, b)[:3]] == [
        "wrist-aligned MPJPE-p, mm", "Procrustes MPJPE-p, mm", "absolute MPJPE-p, mm"
    ]  # fmt: skip
    told = text(compare(a, b), a, b)
    assert "missed hands (0 of A, 2 of B) count as the mean hand and object at their true box" in told


def test_f1_is_counted_anew_in_every_draw():
    found = compare(table([1, 0, 1, 0] * 10, range(40)), table([1] * 40, range(40)))[-1]
    assert (found.a, found.b) == pytest.approx((0.5, 1))
    assert found.verdict == "better"  # higher is better here
    assert -0.01 < (found.low + found.high) / 2 - 0.5 < 0.01


def write(folder, errors, **record):
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"split": "s1", "protocol": "V"} | record))
    rows = [",".join(("index", *PLACES, *NUMBERS))]
    rows += [",".join((str(k), "p", f"s{k}", "c", "o", *[str(e)] * len(NUMBERS))) for k, e in enumerate(errors)]
    (folder / "samples.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_command(tmp_path, capsys):
    a, b = write(tmp_path / "a", [3, 4, 5]), write(tmp_path / "b", [2, 3, 4])
    assert main([str(a), str(b / "metrics.json")]) == 0
    out = capsys.readouterr().out
    assert "3 frames of 3 sequences" in out
    assert "-1.00 to -1.00" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{a}"], "expected two evaluations A and B, got 1"),
        (["{a}", "{none}"], "no such file; name a checkpoint's folder or a metrics.json"),
        (["{a}", "{fewer}"], "A has 3 frames and B 2, 2 of them the same"),
        (["{a}", "{other}"], "A has protocol 'V' and B has 'F': such figures do not compare"),
        (["{a}", "{broken}"], "is not JSON"),
        (["{a}/metrics.json", "{a}", "data.split=s1"], "figures cannot be scored on another set"),
        (["{a}", "{unscored}"], "metrics.json: no such file; score it with python -m amt.evaluate"),
    ],
)
def test_one_clear_line(words, message, tmp_path, capsys):
    sides = {
        "a": write(tmp_path / "a", [3, 4, 5]),
        "fewer": write(tmp_path / "fewer", [3, 4]),
        "other": write(tmp_path / "other", [3, 4, 5], protocol="F"),
        "broken": write(tmp_path / "broken", [1]),
        "none": tmp_path / "none",
        "unscored": tmp_path / "unscored",
    }
    (sides["broken"] / "metrics.json").write_text("{")
    sides["unscored"].mkdir()
    assert main([word.format(**sides) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
