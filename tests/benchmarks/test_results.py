"""A run that is cut off keeps what it had; a record that is measured again replaces the old one."""

import json

import pytest
import torch

from benchmarks import choices, results
from benchmarks.results import Results

CPU = torch.device("cpu")


def record(batch=1, ms=1.0, **others):
    return {
        "op": "refine",
        "pass": "forward",
        "shape": {"B": batch},
        "dtype": "float32",
        "device": "cpu",
        "ours_ms": ms,
    } | others


def test_every_record_is_on_disk_at_once_with_commit_and_date(tmp_path):
    path = tmp_path / "deep" / "cpu.json"
    store = Results(path, CPU)
    store.add(record(1))
    assert [r["shape"] for r in results.load(path)["records"]] == [{"B": 1}]
    store.add(record(2))
    store.set_ceilings({"copy_gb_s": 3.0})
    data = results.load(path)
    assert [r["shape"]["B"] for r in data["records"]] == [1, 2]
    assert data["ceilings"]["copy_gb_s"] == 3.0
    assert data["environment"]["versions"]["torch"] == torch.__version__
    assert all(r["commit"] == data["environment"]["commit"] and r["date"] for r in data["records"])
    assert not list(tmp_path.rglob("*.part"))


def test_same_measurement_is_replaced_another_is_kept(tmp_path):
    path = tmp_path / "cpu.json"
    Results(path, CPU).add(record(1, ms=1.0))
    again = Results(path, CPU)
    again.add(record(1, ms=2.0))
    again.add(record(1, ms=3.0, dtype="bfloat16"))
    assert [(r["dtype"], r["ours_ms"]) for r in results.load(path)["records"]] == [("float32", 2.0), ("bfloat16", 3.0)]


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}'])
def test_what_is_no_results_file_is_named_and_not_overwritten(tmp_path, text):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"broken.json is not a results file"):
        Results(path, CPU)
    assert path.read_text() == text


def test_slug():
    assert results.slug("NVIDIA H200") == "nvidia-h200"
    assert results.slug("Intel(R) Xeon(R) Processor, 2 threads") == "intel-xeon-processor-2-threads"


def test_commit_without_a_repository_is_what_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("AMT_COMMIT", "abc123")
    assert results.commit() == "abc123"
    monkeypatch.delenv("AMT_COMMIT")
    assert results.commit() == "unknown"


def timed(times, **others):
    return record(times_ms={name: {"median": ms} for name, ms in times.items()}, **{"variants": [], **others})


def attention(times, **others):
    return timed(times, op="attention", device="cuda", **others)


def test_winner_is_the_fastest_candidate_by_its_graph_where_there_is_one():
    shapes = [
        timed({"ours": 3.0, "ours graph": 2.0, "one kernel": 2.5, "eager": 0.1}, variants=["one kernel"]),
        timed({"ours": 3.0}),
        timed({"ours": 3.0, "other": 1.0}, variants=["other"], quick=True),
        record(failed="wrong"),
        attention({"ours": 0.5, "sdpa flash": 3.0, "sdpa cudnn": 2.0, "sdpa cudnn graph": 1.5}),
    ]
    refine, attend = choices.winners(shapes)
    assert (refine["winner"], refine["runner_up"], refine["ahead"]) == ("ours", "one kernel", 1.25)
    assert (attend["winner"], attend["ahead"]) == ("sdpa cudnn", 2.0)


def test_choices_are_written_beside_the_results_and_installed_for_attention(tmp_path, monkeypatch, capsys):
    from amt.kernels.attention import sdpa

    path, table = tmp_path / "card.json", tmp_path / "choices.json"
    table.write_text(json.dumps({"another card": []}))
    monkeypatch.setattr(choices, "ATTENTION", table)
    monkeypatch.setattr(choices, "ROOT", tmp_path)
    store = Results(path, CPU)
    shape = {"B": 16, "H": 16, "N": 257, "D": 64}
    store.add(attention({"sdpa flash": 3.0, "sdpa cudnn": 2.0}, shape=shape, dtype="bfloat16"))
    store.data["environment"]["machine"] = "the card"
    store.write()
    assert choices.main([str(path), "--install"]) == 0
    assert json.loads((tmp_path / "card.choices.json").read_text())["choices"][0]["winner"] == "sdpa cudnn"
    written = json.loads(table.read_text())
    assert set(written) == {"another card", "the card"}
    monkeypatch.setattr(sdpa, "_choices", written)
    assert sdpa.back_end("the card", 256, 257, 64, torch.bfloat16, training=False) == "cudnn"
    assert choices.main([str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
