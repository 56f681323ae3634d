"""Films keep times and sound with PyAV; a run that is interrupted or killed leaves readable files; memory stays flat."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import weakref
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from infer_files import small_disk, write_video

from amt.infer import run, video
from amt.infer.film import TimedFilm, open_film
from amt.infer.inputs import Picture
from amt.infer.job import Job
from amt.infer.output import OutputError, OutputFolder, together
from amt.infer.stages import DEPTH
from amt.infer.video import LiveCamera, Video, VideoFile

av = pytest.importorskip("av")


def shades(count: int) -> list[np.ndarray]:
    return [np.full((64, 64, 3), 20 * i + 10, np.uint8) for i in range(count)]


def shown(path: Path) -> list[tuple[float, int]]:
    """(time in s, index in :func:`shades`) of every frame."""
    with av.open(str(path)) as film:
        frames = film.decode(video=0)
        return [(frame.time, round((frame.to_ndarray(format="gray").mean() - 10) / 20)) for frame in frames]


def with_sound(path: Path, frames, rate: int = 10) -> Path:
    """A video with a tone of 440 Hz."""
    with av.open(str(path), "w") as file:
        pictures, sound = file.add_stream("mpeg4", rate=rate), file.add_stream("aac", rate=44100)
        pictures.width, pictures.height, pictures.pix_fmt = frames[0].shape[1], frames[0].shape[0], "yuv420p"
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, rate)
            file.mux(pictures.encode(picture))
        tone = np.sin(2 * np.pi * 440 * np.arange(44100 * len(frames) // rate) / 44100).astype(np.float32)
        for start in range(0, len(tone) - 1024, 1024):
            part = av.AudioFrame.from_ndarray(tone[None, start : start + 1024], format="fltp", layout="mono")
            part.sample_rate, part.pts = 44100, start
            file.mux(sound.encode(part))
        file.mux(pictures.encode(None))
        file.mux(sound.encode(None))
    return path


def test_every_picture_has_its_own_time(tmp_path):
    times = 7.0 + np.array([0, 0.033, 0.066, 0.566, 0.606, 1.306])
    with open_film(OutputFolder(tmp_path), "v.mp4", 30, None, pytest.fail) as film:
        assert isinstance(film, TimedFilm)
        for picture, time_s in zip(shades(6), times):
            film.add(picture, time_s)
    found = shown(tmp_path / "v.mp4")
    assert [index for _, index in found] == list(range(6))
    np.testing.assert_allclose([time_s for time_s, _ in found], times - 7, atol=1e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.mp4", "written-by-amt-infer.jsonl"]


def test_the_sound_goes_along_from_where_the_pictures_begin(tmp_path):
    source = with_sound(tmp_path / "source.mp4", shades(10) * 2)
    out = OutputFolder(tmp_path / "out")
    with open_film(out, "v.mp4", 10, source, pytest.fail) as film:
        for i, picture in enumerate(shades(10)):  # from 0.5 s to 1.5 s
            film.add(picture, 0.5 + i / 10)
    with av.open(str(out.folder / "v.mp4")) as film:
        (sound,) = film.streams.audio
        samples = np.concatenate([frame.to_ndarray()[0] for frame in film.decode(sound)])
        assert sound.codec.name == "aac"
    assert len(samples) / 44100 == pytest.approx(1.0, abs=0.08)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    assert spectrum.argmax() * 44100 / len(samples) == pytest.approx(440, abs=3)
    assert [index for _, index in shown(out.folder / "v.mp4")] == list(range(10))


def test_without_pyav_the_film_says_what_it_loses(tmp_path, monkeypatch):
    monkeypatch.setattr("amt.infer.film.find_spec", lambda name: None)
    told = []
    film = open_film(OutputFolder(tmp_path), "v.mp4", 10, tmp_path / "source.mp4", told.append)
    assert isinstance(film, VideoFile)
    assert told == [
        "v.mp4: without sound and at a constant rate; pip install amt[video] brings PyAV, which keeps sound and times"
    ]


def test_a_full_disk_is_told(tmp_path):
    rng = np.random.default_rng(0)

    def write() -> None:
        with open_film(OutputFolder(tmp_path), "v.mp4", 10, None, pytest.fail) as film:
            for i in range(20):
                film.add(rng.integers(0, 255, (128, 128, 3), np.uint8), i / 10)

    with small_disk(20_000), pytest.raises(OutputError, match=r"v\.mp4: cannot be written .*free space"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_is_to_be_turned_is_read_upright(tmp_path, photo):
    path = write_video(tmp_path / "v.mp4", [photo] * 3)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the matrix of the track's header
    struct.pack_into(">9i", data, at, 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # a quarter turn clockwise
    path.write_bytes(data)
    image = next(iter(Video(path))).image
    assert image.shape == (photo.shape[1], photo.shape[0], 3)
    assert np.abs(image.astype(int) - np.rot90(photo, -1)).mean() < 12


def test_every_nth_frame_has_its_number_and_time(tmp_path):
    source = Video(write_video(tmp_path / "v.mp4", shades(10), rate=10), every=3)
    read = list(source)
    assert len(source) == 4
    assert [p.frame for p in read] == [0, 3, 6, 9]
    assert [p.time_s for p in read] == pytest.approx([0, 0.3, 0.6, 0.9])
    assert [round((float(p.image.mean()) - 10) / 20) for p in read] == [0, 3, 6, 9]


def test_a_camera_is_read_until_it_ends(tmp_path, monkeypatch):
    path, opened = str(write_video(tmp_path / "v.mp4", shades(6))), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: opened(path if number == 0 else "/nowhere"))
    read = list(LiveCamera(0, every=2))
    assert [p.frame for p in read] == [0, 2, 4]
    assert read[0].time_s == 0
    assert read[1].time_s < read[2].time_s
    with pytest.raises(ValueError, match="camera:1: no such camera"):
        LiveCamera(1)


class Follows:
    """In the follower's place: the same hand in every frame."""

    result = None

    def __init__(self, *_):
        pass

    def next(self, request, time):
        return (Follows.result,), (None,)


def test_pictures_in_memory_do_not_grow_with_the_video(predictor, result, tmp_path, monkeypatch):
    alive, most = weakref.WeakSet(), []

    class Counted(Picture):
        __hash__, __eq__ = object.__hash__, object.__eq__

        def __init__(self, *fields):
            super().__init__(*fields)
            alive.add(self)
            most.append(len(alive))

    monkeypatch.setattr(video, "Picture", Counted)
    monkeypatch.setattr(run, "Follower", Follows)
    monkeypatch.setattr(Follows, "result", result)
    source = Video(write_video(tmp_path / "v.mp4", shades(10) * 4))
    done, failed = run.run(Job(predictor, OutputFolder(tmp_path / "out"), fov=60), source)
    assert (done, failed) == (40, 0)
    assert max(most) <= 3 * (DEPTH + 2) + 1  # three stages, with one in hand and one on its way in each
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 40


@pytest.mark.parametrize(("settings", "seen"), [({}, 2), ({"threads": 3}, 3), ({"draw": False}, 3)])
def test_a_film_leaves_a_core_to_drawing_unless_a_number_was_chosen(
    predictor, result, tmp_path, monkeypatch, settings, seen
):
    during, before = [], torch.get_num_threads()

    class Counts(Follows):
        def next(self, request, time):
            during.append(torch.get_num_threads())
            return super().next(request, time)

    monkeypatch.setattr(run, "Follower", Counts)
    monkeypatch.setattr(Follows, "result", result)
    torch.set_num_threads(3)
    try:
        source = Video(write_video(tmp_path / "v.mp4", shades(3)))
        run.run(Job(predictor, OutputFolder(tmp_path / "out"), fov=60, **settings), source)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert during == [seen] * 3


def test_ctrl_c_between_two_files_waits_until_both_have_the_frame(predictor, tmp_path, monkeypatch):
    add, added = TimedFilm.add, []

    def interrupted(film, picture, time_s) -> None:
        add(film, picture, time_s)
        added.append(time_s)
        if len(added) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(TimedFilm, "add", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run.run(Job(predictor, OutputFolder(out), fov=60), Video(write_video(tmp_path / "v.mp4", shades(10))))
    assert len(shown(out / "overlay.mp4")) == len((out / "predictions.jsonl").read_text().splitlines()) == 3


def test_a_second_ctrl_c_is_not_held_off():
    done = []

    def work() -> None:
        with together():
            for i in range(2):
                os.kill(os.getpid(), signal.SIGINT)
                done.append(i)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [0]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_readable_files(checkpoint, photo, tmp_path, how):
    source = write_video(tmp_path / "v.mp4", [np.ascontiguousarray(photo[::4, ::4])] * 5000)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "amt.infer", str(checkpoint), str(source), "--fov", "60", "--box", "40,30,40"]
    running = subprocess.Popen([*command, "--out", str(out)], stderr=subprocess.PIPE, text=True)
    records = out / ".part-predictions.jsonl"
    for _ in range(1200):
        if running.poll() is not None or (records.is_file() and records.read_bytes().count(b"\n") >= 40):
            break
        time.sleep(0.1)
    os.kill(running.pid, how)
    said = running.communicate(timeout=60)[1]
    killed = how == signal.SIGKILL
    assert running.returncode == (-signal.SIGKILL if killed else 130), said
    lines = (records if killed else out / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines[: -1 if killed else None]] == list(range(len(lines) - killed))
    film = len(shown(out / (".pieces-overlay.mp4" if killed else "overlay.mp4")))
    assert film >= 20 if killed else film == len(lines)
    assert killed or not list(out.glob(".p*"))
