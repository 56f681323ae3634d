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
