"""The crop cache follows the set that it was cut from, fits its disk, appears whole or not at all, and can be cleared."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple

import cv2
import numpy as np
import pytest
import yaml

from amt.data import cache as cache_folder
from amt.data import crop_cache, cutting, fingerprint, shards
from amt.data.cache import main, to_bytes
from amt.data.config import CropConfig, DataConfig
from amt.data.crop_cache import CropCache, build_cache, disk_need
from amt.data.dexycb import DexYCB
from amt.data.errors import DataError
from amt.data.layout import SERIALS, labels_name
from amt.data.loader import make_loader
from amt.hand.mano import HandModel
from amt.hand.shipped import shipped_hand

TINY = CropConfig(size=16, num_points=8)
Usage = namedtuple("Usage", "total used free")


def build(root, folder, config=TINY, said=None, subset="train"):
    return build_cache(DexYCB(root, "s0", subset), config, folder, False, None if said is None else said.append)


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def hidden(folder):
    return sorted(path.name for path in folder.glob(".*") if not path.name.startswith(".lock-"))


def test_an_unchanged_set_is_not_cut_again_and_the_run_says_where_its_crops_lie(tiny_set, tmp_path):
    said = []
    first = build(tiny_set, tmp_path, said=said)
    assert said[0].startswith(f"{first.folder}: the crops of {len(first)} frames take ")
    assert "are free" in said[0]
    times = {path: path.stat().st_mtime_ns for path in first.folder.glob("*.bin")}
    said.clear()
    second = build(tiny_set, tmp_path, said=said)
    assert said == [f"crops of {tiny_set} are taken from {first.folder}", f"s0 train: {len(first)} frames"]
    assert {path: path.stat().st_mtime_ns for path in second.folder.glob("*.bin")} == times
    sizes = sum(path.stat().st_size for path in first.folder.glob("*.bin"))
    assert sizes == disk_need(len(first), TINY, shipped_hand().num_vertices)


def black_pictures(reader):
    for index in range(len(reader)):
        cv2.imwrite(str(reader[index].image_path), np.zeros((480, 640, 3), np.uint8))


def longer_lens(reader):
    path = reader.root / "calibration" / "intrinsics" / f"{SERIALS[0]}_640x480.yml"
    content = yaml.safe_load(path.read_text())
    content["color"]["fx"] *= 1.5
    path.write_text(yaml.safe_dump(content))


def other_labels(reader):
    frame = reader[0]
    path = frame.folder / labels_name(frame.number)
    with np.load(path) as archive:
        found = dict(archive)
    found["joint_3d"][0] += 0.01
    np.savez_compressed(path, **found)


def other_person(reader):
    path = reader.root / "calibration" / f"mano_{reader.sequences[0].mano_calib}" / "mano.yml"
    path.write_text(yaml.safe_dump({"betas": [2.0] * 10}))


def no_contacts(reader):
    for path in reader.root.rglob("contact.npz"):
        path.unlink()


def other_model(reader):
    name = reader.objects.names[reader[0].sequence.class_id]
    path = reader.root / "models" / name / "points.xyz"
    np.savetxt(path, np.loadtxt(path) * 0.9)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (black_pictures, "image"),
        (longer_lens, "frame_intrinsics"),
        (other_labels, "joints"),
        (other_person, "vertices"),
        (no_contacts, "hand_contact"),
        (other_model, None),
    ],
)
def test_what_changes_in_the_set_is_cut_anew(own_set, tmp_path, change, field):
    before = build(own_set, tmp_path / "crops")
    old = None if field is None else np.array(before[field])
    change(DexYCB(own_set, "s0", "train"))
    said = []
    after = build(own_set, tmp_path / "crops", said=said)
    assert after.folder != before.folder
    assert f"{before.folder}: the set or the code has changed since it was cut; it stays as long" in said[0]
    if field is None:
        assert not np.array_equal(before.class_points, after.class_points)
    else:
        assert not np.array_equal(old, after[field])
    # Nobody reads the old one any more: the next change takes it away.
    old_folder, before = before.folder, None
    black_pictures(DexYCB(own_set, "s0", "train"))
    build(own_set, tmp_path / "crops")
    assert not old_folder.exists()


def test_a_damaged_picture_that_is_put_back_comes_back(own_set, tmp_path):
    reader = DexYCB(own_set, "s0", "train")
    path = reader[3].image_path
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    assert 3 not in build(own_set, tmp_path / "crops")["index"]
    path.write_bytes(whole)
    assert 3 in build(own_set, tmp_path / "crops")["index"]


def test_other_hands_and_other_code_make_another_cache(tiny_set, tmp_path, monkeypatch):
    reader = DexYCB(tiny_set, "s0", "train")
    first = crop_cache._names(reader, TINY)
    assert first == crop_cache._names(DexYCB(tiny_set, "s0", "train"), TINY)
    monkeypatch.setattr(HandModel, "digest", property(lambda model: "another hand"))
    assert crop_cache._names(reader, TINY) != first
    monkeypatch.undo()
    monkeypatch.setattr(crop_cache, "code_digest", lambda: "other code")
    assert crop_cache._names(reader, TINY) != first


def test_comments_do_not_make_another_cache_but_code_does(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text('"""One."""\ndef f(x):\n    """Two."""\n    return x + 1  # three\n')
    monkeypatch.setattr(fingerprint, "_CODE", ("a.py",))
    monkeypatch.setattr(fingerprint.amt, "__file__", str(tmp_path / "__init__.py"))
    first = fingerprint.code_digest.__wrapped__()
    (tmp_path / "a.py").write_text('"""Uno."""\ndef f(x):\n    """Due."""\n\n    return x + 1\n')
    assert fingerprint.code_digest.__wrapped__() == first
    (tmp_path / "a.py").write_text('"""One."""\ndef f(x):\n    """Two."""\n    return x + 2  # three\n')
    assert fingerprint.code_digest.__wrapped__() != first


def test_the_need_of_dexycb_is_what_the_papers_say():
    frames = 406_888  # s0 train
    assert disk_need(frames, CropConfig(size=112), 778) == pytest.approx(35e9, rel=0.03)
    assert disk_need(frames, CropConfig(size=224), 778) == pytest.approx(125e9, rel=0.03)


def test_a_disk_that_is_too_small_is_told_before_anything_is_cut(tiny_set, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 12_345))
    monkeypatch.setattr(crop_cache, "cut_shards", None)
    with pytest.raises(DataError, match=r"need .*B, and 12.3 KB are free; name another folder \(data.cache=") as error:
        build(tiny_set, tmp_path / "crops")
    assert "\n" not in str(error.value)
    assert visible(tmp_path / "crops") == hidden(tmp_path / "crops") == []


@pytest.mark.parametrize("full", ["at once", "later"])
def test_a_disk_that_fills_up_is_one_line(tiny_set, tmp_path, monkeypatch, full):
    def refuse(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate" if full == "at once" else "pwrite", refuse)
    with pytest.raises(DataError, match=r"crops: the disk became full while frames were cut; name another folder"):
        build(tiny_set, tmp_path / "crops")
    assert visible(tmp_path / "crops") == hidden(tmp_path / "crops") == []


def test_a_real_limit_is_an_error_and_no_signal(tiny_set, tmp_path):
    """A file size limit stands for a full disk: the writer gets an error, and nothing is mapped that has no blocks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataError, match="the disk became full"):
            build(tiny_set, tmp_path / "crops", CropConfig(size=112, num_points=8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert hidden(tmp_path / "crops") == []


def test_a_folder_that_cannot_be_written_is_one_line(tiny_set, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/crops: cannot be written \(Not a directory\); name another folder"):
        build(tiny_set, tmp_path / "file" / "crops")


SLOW = """
import sys, time
from amt.data import crop_cache, shards
from amt.data.config import CropConfig
from amt.data.dexycb import DexYCB

write, how, shards.ROWS, written = shards._write, sys.argv[3], int(sys.argv[4]), []
def slowly(*arguments):
    write(*arguments)
    written.append(0)
    if how == "slowly" or len(written) > int(how):
        print("writing", flush=True)
        time.sleep(0.02 if how == "slowly" else 600)

shards._write = slowly
config = CropConfig(size=16, num_points=8)
crop_cache.build_cache(DexYCB(sys.argv[1], "s0", "train"), config, sys.argv[2], progress=False)
"""


@pytest.fixture
def start_cutting(tiny_set, tmp_path):
    """Starts another process that cuts the tiny set into tmp_path/crops, and waits until it writes, or has written n times."""
    processes = []

    def start(how, rows=2048):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, str(tiny_set), str(tmp_path / "crops"), how, str(rows)],
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout.readline() == "writing\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_killed_process_leaves_only_what_can_be_used_again(tiny_set, tmp_path, start_cutting, capsys):
    process = start_cutting("0")
    crops = tmp_path / "crops"
    (left,) = hidden(crops)
    assert cache_folder.sweep(crops) == 0
    assert main(["clear", "--cache", str(tmp_path)]) == 2  # it lives
    assert "is in use and stays" in capsys.readouterr().err
    process.send_signal(signal.SIGKILL)
    process.wait()
    # As versions without locks left it: the number of a process that is gone, and of one that lives.
    gone, alive = crops / f".partial-{process.pid}-s1-train-112-0123", crops / f".partial-{os.getpid()}-s1-val-112-0123"
    gone.mkdir()
    alive.mkdir()
    assert main(["list", "--cache", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "removed 1 unfinished cache(s)" in told
    assert f"{left.removeprefix('.part-')}  " in told
    assert "not whole, last cut" in told
    assert hidden(crops) == sorted([alive.name, left])
    assert main(["clear", "--cache", str(tmp_path)]) == 0
    assert hidden(crops) == [alive.name]
    # What another state of the set left is of no use: it goes where no one asks.
    (crops / f"{left[:-3]}abc").mkdir()
    assert len(build(tiny_set, crops)) > 0
    assert hidden(crops) == [alive.name]


def test_a_cut_that_was_killed_goes_on_from_its_last_whole_shard(tiny_set, tmp_path, start_cutting, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 10)
    expected = build(tiny_set, tmp_path / "whole")
    assert len(expected.info["shards"]) > 3
    process = start_cutting("4", rows=10)  # two files a shard: in the middle of the third
    process.send_signal(signal.SIGKILL)
    process.wait()
    (part,) = (tmp_path / "crops").glob(".part-*")
    whole = {path: path.stat().st_mtime_ns for k in (0, 1) for path in part.glob(f"{k:05d}.*")}
    assert len(whole) == 6
    assert (part / "00002.image.bin").is_file()
    assert not (part / "00002.json").exists()
    said = []
    built = build(tiny_set, tmp_path / "crops", said=said)
    assert f"2 of {len(built.info['shards'])} shards were cut before; the cut goes on" in said[0]
    assert {built.folder / path.name: time_ for path, time_ in whole.items()} == {
        path: path.stat().st_mtime_ns for k in (0, 1) for path in built.folder.glob(f"{k:05d}.*")
    }
    for name in expected.names:
        np.testing.assert_array_equal(built[name], expected[name])
    assert built.report() == expected.report()
    assert hidden(tmp_path / "crops") == []


def test_processes_make_the_same_cache_as_one_and_tell_the_same(own_set, tmp_path, monkeypatch, caplog):
    reader = DexYCB(own_set, "s0", "train")
    for index in (3, 30):
        reader[index].image_path.write_bytes(reader[index].image_path.read_bytes()[:2000])
    reader[40].image_path.unlink()
    monkeypatch.setattr(shards, "ROWS", 48)
    one = build(own_set, tmp_path / "one")
    monkeypatch.setattr(cutting, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(cutting, "_cut_shard", None)  # this process cuts nothing
    many = build(own_set, tmp_path / "many")
    assert many.info["shards"] == one.info["shards"]
    assert len(many.info["shards"]) == 3
    for name in one.names:
        np.testing.assert_array_equal(many[name], one[name])
    assert many.report() == one.report()
    assert "2 skipped: the picture breaks off before its end" in many.report()
    warned = [record.message for record in caplog.records if "breaks off" in record.message]
    assert len(warned) == 2  # one a build


def test_an_error_in_a_process_is_the_cut_s_error(own_set, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", 48)
    monkeypatch.setattr(cutting, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    reader = DexYCB(own_set, "s0", "train")
    reader.objects  # noqa: B018 (read before its files go)
    shutil.rmtree(own_set / "models")
    with pytest.raises(DataError, match="models"):
        build_cache(reader, TINY, tmp_path / "crops", False)


def test_a_second_process_waits_for_the_first_ones_crops(tiny_set, tmp_path, start_cutting):
    process, said = start_cutting("slowly"), []
    built = build(tiny_set, tmp_path / "crops", said=said)
    assert "another process is cutting it; waiting" in said[0]
    assert not any("take" in line for line in said[1:])  # it was not cut twice
    assert process.wait(60) == 0
    assert visible(tmp_path / "crops") == [built.folder.name]


@pytest.mark.parametrize("damage", ["short", "no info", "no numbers", "missing"])
def test_a_damaged_cache_is_cut_anew(tiny_set, tmp_path, damage):
    built = build(tiny_set, tmp_path)
    images, folder = np.array(built["image"]), built.folder
    del built
    if damage == "short":
        os.truncate(folder / "00000.image.bin", 1000)
    elif damage == "missing":
        (folder / "00000.labels.bin").unlink()
    else:
        (folder / "info.json").write_text("" if damage == "no info" else "{}")
    with pytest.raises(DataError, match="is no whole crop cache"):
        CropCache(folder)
    said = []
    np.testing.assert_array_equal(build(tiny_set, tmp_path, said=said)["image"], images)
    assert "is no whole crop cache" in said[0]


def test_hands_outside_the_picture_are_not_trained_on_and_told(own_set, tmp_path, capsys):
    reader = DexYCB(own_set, "s0", "train")
    for index, change in ((2, {"joint_2d": 5000}), (6, {"joint_3d": -1}), (9, {"joint_2d": -100})):
        path = reader[index].folder / labels_name(reader[index].number)
        with np.load(path) as archive:
            found = dict(archive)
        for name, value in change.items():
            if name == "joint_3d":
                found[name][..., 2] = value  # behind the camera
            else:
                found[name] = found[name] * 0 + value
                found[name][0, 0] += 1  # a hand, though not one to be seen
        np.savez_compressed(path, **found)
    settings = DataConfig(root=str(own_set), split="s0", crop=TINY, cache=str(tmp_path / "cache"))
    for _ in range(2):  # cut, and taken from the cache
        loader = make_loader(settings, "train", 8, shuffle=False)
        assert set(range(len(reader))) - set(loader.dataset.cache["index"].tolist()) == {2, 6, 9}
        said = capsys.readouterr().err
        assert "3 left out whose labels put the hand outside the picture" in said
        assert str(tmp_path / "cache" / "crops") in said


def test_a_missing_camera_is_one_count_in_the_report(own_set, tmp_path):
    for folder in own_set.glob(f"*/*/{SERIALS[5]}"):
        shutil.rmtree(folder)
    built = build(own_set, tmp_path / "crops")
    assert "16 skipped: is missing (the first: " in built.report()
    assert len(built.report()) < 400
    assert len(json.dumps(built.info["broken"])) < 400


def test_nothing_left_says_why(own_set, tmp_path):
    for path in own_set.rglob("color_*.jpg"):
        cv2.imwrite(str(path), np.zeros((240, 320, 3), np.uint8))
    with pytest.raises(DataError, match=r"not one of .* can be used: .* skipped: is 320 x 240 px, and its camera's"):
        build(own_set, tmp_path / "crops")
    assert visible(tmp_path / "crops") == hidden(tmp_path / "crops") == []


def test_the_command_lists_limits_and_clears(tiny_set, tmp_path, capsys):
    crops = tmp_path / "crops"
    folders = [build(tiny_set, crops, CropConfig(size=size, num_points=8)).folder for size in (16, 32, 64)]
    for age, folder in zip((300, 200, 100), folders):
        os.utime(folder / "info.json", (time.time() - age, time.time() - age))
    assert main(["--cache", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == [folder.name for folder in folders]  # used longest ago first
    assert str(tiny_set) in lines[0]
    assert lines[3].startswith(f"{crops}: 3 cache(s), ")

    sizes = [sum(path.stat().st_size for path in folder.iterdir()) for folder in folders]
    assert main(["limit", str(sizes[1] + sizes[2]), "--cache", str(tmp_path)]) == 0
    assert visible(crops) == sorted(folder.name for folder in folders[1:])
    in_use = CropCache(folders[1])
    assert main(["clear", "--cache", str(tmp_path)]) == 2
    assert f"{folders[1]}: is in use and stays" in capsys.readouterr().err
    assert visible(crops) == [folders[1].name]
    assert main(["limit", "1KB", "--cache", str(tmp_path)]) == 2
    assert np.array(in_use["image"]).any()
    del in_use
    assert main(["clear", "nothing", "--cache", str(tmp_path)]) == 2
    assert "holds no cache nothing" in capsys.readouterr().err
    assert main(["clear", folders[1].name, "--cache", str(tmp_path)]) == 0
    assert visible(crops) == []
    assert main(["list", "--cache", str(tmp_path / "nowhere")]) == 0


def test_sizes_are_read_as_people_write_them():
    assert [to_bytes(text) for text in ("50GB", "1.5 tb", "7", "10k", "3 MB")] == [
        50 * 10**9,
        15 * 10**11,
        7,
        10**4,
        3 * 10**6,
    ]
    for text in ("", "GB", "-1GB", "1XB", "1e9"):
        with pytest.raises(DataError, match="limit: expected a size such as 50GB"):
            to_bytes(text)


def test_threads_of_one_process_cut_once(tiny_set, tmp_path):
    built = []
    threads = [threading.Thread(target=lambda: built.append(build(tiny_set, tmp_path).folder)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(built)) == 1
    assert len(visible(tmp_path)) == 1
