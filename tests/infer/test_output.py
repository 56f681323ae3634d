"""Nothing that another program wrote is ever replaced, and what is there is whole."""

from __future__ import annotations

import json

import pytest
from infer_files import small_disk

from amt.infer.output import OutputError, OutputFolder, Records


def test_a_file_of_somebody_else_stays(tmp_path, photo):
    (tmp_path / "a.png").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"a\.png: exists.*--overwrite"):
        OutputFolder(tmp_path).picture("a.png", photo)
    assert (tmp_path / "a.png").read_bytes() == b"precious"
    OutputFolder(tmp_path, overwrite=True).picture("a.png", photo)
    assert (tmp_path / "a.png").read_bytes() != b"precious"


def test_a_second_run_replaces_its_own_files_but_not_edited_ones(tmp_path, photo):
    OutputFolder(tmp_path).picture("a.png", photo)
    OutputFolder(tmp_path).picture("a.png", photo // 2)
    (tmp_path / "a.png").write_bytes(b"edited by hand")
    with pytest.raises(OutputError, match="not written by"):
        OutputFolder(tmp_path).picture("a.png", photo)
    assert (tmp_path / "a.png").read_bytes() == b"edited by hand"


def test_a_name_with_a_folder_is_refused(tmp_path):
    for name in ("/a.png", "../a.png", "b/a.png"):
        with pytest.raises(ValueError, match="without folders"):
            OutputFolder(tmp_path).claim(name)


def test_a_list_that_was_cut_short_protects(tmp_path, photo):
    out = OutputFolder(tmp_path)
    out.picture("a.png", photo)
    record = next(tmp_path.glob("*.jsonl"))
    record.write_text(record.read_text()[:-5])
    with pytest.raises(OutputError, match="not written by"):
        OutputFolder(tmp_path).picture("a.png", photo)


def test_records_of_a_failed_run_do_not_replace_earlier_ones(tmp_path):
    with Records(OutputFolder(tmp_path)) as records:
        records.add({"image": "a"})
    with pytest.raises(RuntimeError, match="before anything"), Records(OutputFolder(tmp_path)):
        raise RuntimeError("before anything was added")
    assert json.loads((tmp_path / "predictions.jsonl").read_text()) == {"image": "a"}
    with pytest.raises(ValueError, match="JSON compliant"), Records(OutputFolder(tmp_path)) as records:
        records.add({"x": float("nan")})
    assert not list(tmp_path.glob(".part*"))


def test_a_full_disk_keeps_the_lines_that_were_written(tmp_path):
    def write() -> None:
        with Records(OutputFolder(tmp_path)) as records:
            for i in range(10):
                records.add({"image": f"picture number {i}"})

    with small_disk(100), pytest.raises(OutputError, match=r"predictions\.jsonl: cannot be written \(.*\); free space"):
        write()
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in lines] == [f"picture number {i}" for i in range(3)]
    with Records(OutputFolder(tmp_path)) as records:  # the file counts as our own
        records.add({"image": "again"})


def test_a_full_disk_leaves_no_half_picture(tmp_path, photo):
    with small_disk(100), pytest.raises(OutputError, match=r"a\.png: cannot be written \(.*\); free space"):
        OutputFolder(tmp_path).picture("a.png", photo)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"file.*--out"):
        OutputFolder(tmp_path / "file" / "deeper")
    with pytest.raises(OutputError, match=r"file.*--out"):
        OutputFolder(tmp_path / "file")
