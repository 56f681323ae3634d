"""The page's parts by themselves: the line of tasks, results that are kept, numbers of a hand."""

from __future__ import annotations

import platform
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from infer_files import write_video

from amt.infer.checks import InputError
from amt.infer.serve.answers import shown
from amt.infer.serve.clips import DecodedClip
from amt.infer.serve.jobs import Closed, Places, Replaced, Worker
from amt.infer.serve.measures import measures
from amt.infer.serve.memory import release_memory
from amt.infer.serve.results import Results
from amt.infer.serve.uploads import Limits, shown_name
from amt.infer.video import Video


@pytest.fixture
def worker():
    worker = Worker(most=3, most_pixels=100)
    yield worker
    worker.close()


@pytest.fixture
def held_up(worker):
    """The worker waits until the event is set, so that tasks pile up."""
    go, begun = threading.Event(), threading.Event()

    def wait():
        begun.set()
        assert go.wait(20)

    worker.call(wait)
    assert begun.wait(20)
    yield go
    go.set()


def test_tasks_of_one_work_go_together_up_to_the_limits(worker, held_up):
    seen = []

    def double(items):
        seen.append(list(items))
        return [2 * item for item in items]

    sizes = (10, 10, 10, 10, 90, 500)
    futures = [worker.submit(double, k, pixels) for k, pixels in enumerate(sizes)]
    other = worker.call(lambda: "other")
    held_up.set()
    assert [future.result(20) for future in futures] == [0, 2, 4, 6, 8, 10]
    assert other.result(20) == "other"
    assert seen == [[0, 1, 2], [3, 4], [5]]  # three at most; 100 pixels at most; what is larger goes alone


def test_an_error_is_that_of_its_task(worker, held_up):
    def work(items):
        return [1, ValueError("two"), 3]

    one, two, three = (worker.submit(work, None) for _ in range(3))
    short = worker.submit(lambda items: [], None)
    held_up.set()
    assert (one.result(20), three.result(20)) == (1, 3)
    with pytest.raises(ValueError, match="two"):
        two.result(20)
    with pytest.raises(RuntimeError, match="0 results for 1 items"):
        short.result(20)
    assert worker.call(lambda: 5).result(20) == 5


def test_the_newest_frame_of_a_webcam_takes_the_place_of_the_one_that_waits(worker, held_up):
    def same(items):
        return items

    old, other, new = (worker.submit(same, k, key=key) for k, key in enumerate(("a", "b", "a")))
    with pytest.raises(Replaced):
        old.result(20)
    held_up.set()
    assert (new.result(20), other.result(20)) == (2, 1)


def test_who_gave_up_is_not_worked_for(worker, held_up):
    done = []
    gone = worker.submit(lambda items: done.extend(items) or items, "gone")
    assert gone.cancel()
    held_up.set()
    assert worker.call(lambda: 1).result(20) == 1
    assert done == []


def test_what_waits_at_the_end_is_told(worker, held_up):
    waiting = worker.call(lambda: 1)
    threading.Timer(0.1, held_up.set).start()
    worker.close()
    with pytest.raises(Closed):
        waiting.result(20)
    with pytest.raises(Closed):
        worker.call(lambda: 1).result(20)


def test_places_are_counted():
    places = Places(2)
    assert [places.take() for _ in range(3)] == [True, True, False]
    places.give_back()
    assert places.take()


def test_the_oldest_results_go(tmp_path):
    results = Results(tmp_path, most=3, most_bytes=100)

    def add(size: int) -> str:
        key, folder = results.folder()
        folder.mkdir()
        (folder / "a.npz").write_bytes(bytes(size))
        (folder / "notes.txt").write_bytes(b"")
        assert results.publish(key, [folder / "a.npz", folder / "notes.txt"]) == ["a.npz"]
        return key

    first, *others = [add(10) for _ in range(4)]
    assert results.find(first, "a.npz") is None
    assert all(results.find(key, "a.npz").is_file() for key in others)
    assert results.find(others[0], "notes.txt") is None
    large = add(500)  # more than may be kept: it stays alone
    assert results.find(large, "a.npz").is_file()
    assert [p.name for p in tmp_path.iterdir()] == [f"result-{large}"]


@pytest.fixture
def clip(photo, tmp_path):
    """The path of 40 frames, larger together than what a pipe holds."""
    return write_video(tmp_path / "v.mp4", [photo] * 40, rate=20)


def test_a_clip_is_decoded_by_another_process_as_by_this_one(clip):
    expected = list(Video(clip))
    decoded = DecodedClip(clip, Limits())
    try:
        found = list(decoded)
        assert (decoded.film_rate, decoded.frames, decoded.broken_off) == (20, 40, False)
    finally:
        decoded.close()
    assert [(p.name, p.frame, p.time_s) for p in found] == [(p.name, p.frame, p.time_s) for p in expected]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(found, expected))


def test_a_decoder_that_dies_or_stops_ends_its_clip_alone(clip):
    decoded = DecodedClip(clip, Limits())
    try:
        frames = iter(decoded)
        next(frames)
        decoded.limits = Limits(patience_s=0.5)  # from here on: a busy machine takes longer to start a process
        decoded.process.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match=r"v\.mp4: its decoder takes too long"):
            list(frames)
    finally:
        decoded.close()
    decoded = DecodedClip(clip, Limits())
    try:
        frames = iter(decoded)
        next(frames)
        decoded.process.kill()
        assert len(list(frames)) < 39
        assert decoded.broken_off
    finally:
        decoded.close()


def test_a_decoder_that_is_ended_while_it_is_waited_for_is_at_its_end(clip):
    decoded = DecodedClip(clip, Limits())
    frames = iter(decoded)
    next(frames)
    decoded.process.send_signal(signal.SIGSTOP)
    threading.Timer(0.2, decoded.close).start()
    assert len(list(frames)) < 39


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("hand.jpg", "hand.jpg"), ("../../etc/passwd", "passwd"), ("C:\\x\\a b.png", "a_b.png"), ("", "picture"),
        (None, "picture"), ("..", "picture"), (".hidden", "hidden"), ("a" * 200, "a" * 80), ("\r\nx: y", "x_y"),
    ],
)  # fmt: skip
def test_names_are_words(given, shown):
    assert shown_name(given, "picture") == shown


def test_numbers_of_a_hand_are_its_geometry(result):
    joints = result.joints.astype(np.float64)
    found = measures(result)
    chain = [np.linalg.norm(joints[b] - joints[a]) for a, b in ((0, 9), (9, 10), (10, 11), (11, 12))]
    assert found["length_mm"] == pytest.approx(1000 * sum(chain), abs=0.06)
    assert found["distance_mm"] == pytest.approx(1000 * np.linalg.norm(joints[0]), abs=0.06)
    assert found["touching_share"] == pytest.approx(100 / len(result.vertices), abs=1e-4)
    assert found["object"]["size_mm"] == pytest.approx(1000 * np.ptp(result.object_points, axis=0), abs=0.06)
    away = np.linalg.norm(result.vertices[:, None] - result.in_camera(result.object_points), axis=-1)
    assert found["object"]["gap_mm"] == pytest.approx(1000 * away.min(), abs=0.06)
    assert found["joints_seen"] is None


def test_the_fingers_that_touch_are_named(result):
    tip = np.linalg.norm(result.vertices - result.joints[8], axis=1) < 0.008
    assert tip.any()
    assert measures(replace(result, hand_contact=tip.astype(np.float32)))["touching"] == ["index"]
    none = np.zeros(len(tip), np.float32)
    assert measures(replace(result, hand_contact=none))["touching"] == []


def test_numbers_that_are_not_finite_are_null(result):
    broken = replace(result, joints=np.full_like(result.joints, np.nan), visibility=np.ones(21, np.float32))
    found = measures(broken)
    assert (found["distance_mm"], found["length_mm"], found["joints_seen"]) == (None, None, 21)


def test_contact_is_told_with_an_object_alone(result):
    alone = replace(result, object_points=None, object_rotation=None, object_translation=None)
    assert alone.hand_contact is not None
    assert shown(alone).hand_contact is None
    assert measures(shown(alone))["touching"] is None
    assert shown(result) is result


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give memory back by themselves")
def test_freed_memory_goes_back_to_the_system():
    """Blocks between which others live stay with glibc until it is told."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    blocks = [bytes(60_000) for _ in range(4000)]  # below glibc's threshold for pages of their own
    blocks = blocks[::50]
    before = resident()
    release_memory()
    assert before - resident() > 150 << 20
    assert len(blocks) == 80


def test_the_worker_releases_memory_between_its_work(monkeypatch):
    called = []
    monkeypatch.setattr("amt.infer.serve.jobs.RELEASE_S", 0.0)
    monkeypatch.setattr("amt.infer.serve.jobs.release_memory", lambda: called.append(True))
    worker = Worker(4, 100)
    assert [worker.call(lambda k=k: k).result(30) for k in range(3)] == [0, 1, 2]
    worker.close()
    assert len(called) >= 3
