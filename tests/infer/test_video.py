"""Videos: every frame at its container's time, in the records and in the film; a full disk is told."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from infer_files import set_frame_times, small_disk, write_video

from amt.infer.checks import InputError
from amt.infer.output import OutputError, OutputFolder
from amt.infer.video import FASTEST, Clock, Video, VideoFile, film_rate


def shades(count: int) -> list[np.ndarray]:
    """Pictures that tell which one they are, after lossy compression too."""
    return [np.full((64, 64, 3), 20 * i + 10, np.uint8) for i in range(count)]


def shown(path) -> list[int]:
    """Index in :func:`shades` of every frame of a film."""
    capture, found = cv2.VideoCapture(str(path)), []
    while True:
        read, image = capture.read()
        if not read:
            return found
        found.append(round((float(image[:64, :64].mean()) - 10) / 20))


def test_a_video_gives_its_frames(tmp_path, photo):
    frames = [np.roll(photo, 5 * i, 1) for i in range(5)]
    video = Video(write_video(tmp_path / "v.mp4", frames))
    assert (len(video), video.film_rate) == (5, 12.0)
    read = list(video)
    assert [p.frame for p in read] == list(range(5))
    assert [p.time_s for p in read] == pytest.approx([i / 12 for i in range(5)])
    assert np.abs(read[3].image.astype(int) - frames[3]).mean() < 12  # lossy, but this frame and its colours
    assert np.abs(read[3].image.astype(int) - frames[0]).mean() > 24


def test_times_of_a_variable_rate_are_the_containers(tmp_path):
    durations = [33, 33, 500, 40, 100, 700, 33, 50, 33]  # ms
    path = write_video(tmp_path / "v.mp4", shades(9))
    set_frame_times(path, durations)
    video = Video(path)
    read = list(video)
    assert [p.time_s for p in read] == pytest.approx(np.cumsum([0, *durations[:-1]]) / 1000, abs=1e-3)
    assert [round((float(p.image.mean()) - 10) / 20) for p in read] == list(range(9))
    assert video.film_rate == pytest.approx(1 / 0.033, rel=0.05)
    assert not video.ends_early(read[-1].time_s)


def test_a_film_keeps_the_pace_of_its_frames(tmp_path):
    durations = [0.04, 0.2, 0.04, 0.4, 0.04]
    times = 7.0 + np.cumsum([0, *durations])
    with VideoFile(OutputFolder(tmp_path), "v.mp4", 25) as film:
        for picture, time_s in zip(shades(6), times):
            film.add(picture, time_s)
    assert shown(tmp_path / "v.mp4") == [0, *[1] * 5, 2, *[3] * 10, 4, 5]


def test_a_film_at_the_videos_own_rate_shows_each_frame_once(tmp_path):
    with VideoFile(OutputFolder(tmp_path), "v.mp4", 29.97) as film:
        for i, picture in enumerate(shades(10)):
            film.add(picture, round(i / 29.97, 3))  # some containers round to milliseconds
    assert shown(tmp_path / "v.mp4") == list(range(10))


def test_a_picture_of_another_size_is_scaled_into_the_film(tmp_path):
    wide = np.full((64, 128, 3), 210, np.uint8)
    with VideoFile(OutputFolder(tmp_path), "v.mp4", 25) as film:
        for i, picture in enumerate((shades(1)[0], wide, np.full((32, 32, 3), 110, np.uint8))):
            film.add(picture, i / 25)
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    read = [capture.read()[1] for _ in range(3)]
    assert read[1][32, 32].mean() == pytest.approx(210, abs=4)
    assert read[1][4, 32].mean() == pytest.approx(0, abs=8)  # a border
    assert read[2][4, 4].mean() == pytest.approx(110, abs=4)


def test_a_video_of_odd_size_is_written_and_readable(tmp_path, photo):
    out = OutputFolder(tmp_path)
    with VideoFile(out, "v.mp4", 10) as video:
        for shift in range(4):
            video.add(np.roll(photo[:201, :301], shift, 0), shift / 10)
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    read = [capture.read()[1] for _ in range(4)]
    assert read[3].shape == (200, 300, 3)
    assert np.abs(read[0][..., ::-1].astype(int) - photo[:200, :300]).mean() < 12
    assert out.written == [tmp_path / "v.mp4"]


def test_a_film_that_a_full_disk_cuts_is_told_and_leaves_nothing(tmp_path):
    rng = np.random.default_rng(0)

    def write() -> None:
        with VideoFile(OutputFolder(tmp_path), "v.mp4", 10) as film:
            for i in range(20):
                film.add(rng.integers(0, 255, (128, 128, 3), np.uint8), i / 10)

    with small_disk(20_000), pytest.raises(OutputError, match=r"v\.mp4: cannot be written whole; free space"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_frames_without_usable_times_follow_at_the_nominal_interval():
    clock = Clock(0.04)
    given = [0, 0, 0, 120, 0, float("nan"), 400]
    assert [clock.time(ms) for ms in given] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.4])


def test_the_rate_of_a_film_is_that_of_the_closest_frames():
    assert film_rate(np.arange(9) / 30 + 5, 1 / 30) == pytest.approx(30)
    assert film_rate(np.array([0, 0.04, 0.5, 0.54]), 1 / 30) == pytest.approx(25)
    assert film_rate(np.array([0, 0.001, 0.5]), 1 / 30) == FASTEST
    assert film_rate(np.array([0.0]), 1 / 24) == pytest.approx(24)


def test_an_unreadable_video_is_named(tmp_path, photo, capfd):
    whole = write_video(tmp_path / "v.mp4", [photo] * 5)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[:2000])
    for path in (cut, tmp_path / "none.mp4"):
        with pytest.raises(InputError, match=rf"{path.name}: .*(not a video|no such)"):
            Video(path)
