"""Files and folders appear whole or not at all."""

import os

import pytest

from amt import files
from amt.files import discard, new_folder, recover, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fill(folder, text):
    with new_folder(folder) as part:
        (part / "a").write_text(text)
        (part / "b").write_text(text)


def content(folder):
    return [(folder / name).read_text() for name in names(folder)]


def test_a_folder_takes_the_place_of_the_one_before(tmp_path):
    for text in ("first", "second"):
        fill(tmp_path / "deep" / "made", text)
        assert content(tmp_path / "deep" / "made") == [text, text]
    assert names(tmp_path / "deep") == ["made"]


def test_a_folder_that_is_not_finished_leaves_the_one_before(tmp_path):
    fill(tmp_path / "made", "first")
    with pytest.raises(IsADirectoryError), new_folder(tmp_path / "made") as part:
        part.write_text("second")
    assert content(tmp_path / "made") == ["first", "first"]
    assert names(tmp_path) == ["made"]


@pytest.mark.parametrize("stops_at", range(4))
def test_at_whatever_step_a_process_is_killed_a_whole_folder_is_found(tmp_path, monkeypatch, stops_at):
    """The process ends before the n-th rename, or before the old folder is removed; another one clears up."""
    fill(tmp_path / "made[1]", "first")
    calls = []

    class Killed(BaseException):
        pass

    def counted(function):
        def call(*arguments, **options):
            if len(calls) == stops_at:
                raise Killed
            calls.append(function)
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", counted(os.replace))
        patch.setattr(files, "remove", counted(files.remove))
        patch.setattr(files.shutil, "rmtree", lambda *_, **__: None)  # a killed process does not clear up
        if stops_at < 3:
            with pytest.raises(Killed):
                fill(tmp_path / "made[1]", "second")
        else:
            fill(tmp_path / "made[1]", "second")
    recover(tmp_path / "made[1]")
    assert names(tmp_path) == ["made[1]"]
    expected = "first" if stops_at < 2 else "second"
    assert content(tmp_path / "made[1]") == [expected, expected]


def test_an_old_folder_that_cannot_be_removed_is_only_a_warning(tmp_path, monkeypatch, caplog):
    fill(tmp_path / "made", "first")

    def refuse(*_, dir_fd=None):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        fill(tmp_path / "made", "second")
    assert content(tmp_path / "made") == ["second", "second"]
    assert "cannot be removed" in caplog.text


def test_a_folder_that_is_discarded_is_whole_or_gone(tmp_path, monkeypatch):
    """The process is killed before the first file is removed, or after it; the rest goes when another one clears up."""
    unlink = os.unlink

    class Killed(BaseException):
        pass

    for removed in (0, 1):
        fill(tmp_path / "made", "first")
        calls = []

        def dying(*arguments, calls=calls, removed=removed, **options):
            if len(calls) == removed:
                raise Killed
            calls.append(unlink(*arguments, **options))

        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", dying)
            with pytest.raises(Killed):
                discard(tmp_path / "made")
        assert not (tmp_path / "made").exists()
        recover(tmp_path / "made")
        assert names(tmp_path) == []


def test_two_writers_do_not_share_a_temporary_name(tmp_path):
    with new_folder(tmp_path / "made") as one, new_folder(tmp_path / "made") as other:
        assert one != other


def test_a_text_file_is_written_whole(tmp_path, monkeypatch):
    write_text(tmp_path / "deep" / "x.json", "one")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full") as raised:
        write_text(tmp_path / "deep" / "x.json", "two")
    assert raised.value.filename == str(tmp_path / "deep" / "x.json")
    assert (tmp_path / "deep" / "x.json").read_text() == "one"
    assert names(tmp_path / "deep") == ["x.json"]
