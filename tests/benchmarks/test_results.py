"""A run that is cut off keeps what it had; a record that is measured again replaces the old one."""

import pytest
import torch

from benchmarks import results
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


def test_what_a_commit_has_measured_well_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "commit", lambda: "abc")
    path = tmp_path / "cpu.json"
    Results(path, CPU).add(record(1))
    Results(path, CPU).add(record(2, failed="result 0 is off"))
    Results(path, CPU).add(record(3, loaded=True))
    Results(path, CPU).add(record(4, quick=True))
    store = Results(path, CPU)
    assert [store.has(record(batch)) for batch in (1, 2, 3, 4, 5)] == [True, False, False, False, False]
    for another in ("def", "abc-dirty"):
        monkeypatch.setattr(results, "commit", lambda another=another: another)
        store = Results(path, CPU)
        store.add(record(6))
        assert not store.has(record(1))
        assert store.has(record(6)) == (another == "def")


def test_a_loaded_or_quick_run_does_not_replace_a_good_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "commit", lambda: "abc")
    store = Results(tmp_path / "cpu.json", CPU)
    store.add(record(1, ms=1.0))
    store.add(record(1, ms=2.0, loaded=True))
    store.add(record(1, ms=3.0, quick=True))
    assert [r["ours_ms"] for r in store.data["records"]] == [1.0]
    store.add(record(1, ms=4.0, with_compile=False))
    assert [r["ours_ms"] for r in store.data["records"]] == [4.0]
    assert store.has(record(1))
    assert not store.has(record(1), compiled=True)


def test_a_record_gets_more_and_keeps_the_rest(tmp_path):
    path = tmp_path / "cpu.json"
    store = Results(path, CPU)
    store.add(record(1))
    store.add(record(2))
    store.amend(record(2), limit="the host")
    first, second = results.load(path)["records"]
    assert "limit" not in first
    assert (second["limit"], second["ours_ms"]) == ("the host", 1.0)
    store.add(record(2))  # measured again: what limited it before is not known of it
    assert "limit" not in results.load(path)["records"][1]


@pytest.mark.parametrize(
    ("load", "cores", "marked"), [(2.9, 2, False), (3.1, 2, True), (20.0, 16, False), (25.0, 16, True)]
)
def test_load_above_one_and_a_half_a_core_is_marked(monkeypatch, load, cores, marked):
    monkeypatch.setattr(results.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(results.os, "cpu_count", lambda: cores)
    assert results.load_mark() == {"load_average": load, "cores": cores} | ({"loaded": True} if marked else {})


def test_ceilings_are_taken_over_within_an_hour_of_the_same_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "commit", lambda: "abc")
    monkeypatch.setattr(results, "now", lambda: "2026-01-01 12:00 UTC")
    path = tmp_path / "cpu.json"
    Results(path, CPU).set_ceilings({"copy_gb_s": 3.0, "quick": False})

    def found(date, commit="abc", quick=False):
        monkeypatch.setattr(results, "now", lambda: date)
        monkeypatch.setattr(results, "commit", lambda: commit)
        return Results(path, CPU).recent_ceilings(quick).get("copy_gb_s")

    assert found("2026-01-01 12:59 UTC") == 3.0
    assert found("2026-01-01 13:01 UTC") is None
    assert found("2026-01-01 12:01 UTC", commit="def") is None
    assert found("2026-01-01 12:01 UTC", quick=True) is None


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
