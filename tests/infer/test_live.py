"""``--live``: a page of this machine alone shows a camera's newest picture; nothing is written unless a folder is named."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import closing

import cv2
import numpy as np
import pytest
from infer_files import write_image, write_video

from amt.infer.__main__ import main
from amt.infer.checks import InputError
from amt.infer.live import MOST_VIEWERS, LiveView
from amt.infer.stages import background

LENS = ["--intrinsics", "310,305,158,121", "--box", "180,110,120"]


def ask(view: LiveView, path: str, **headers) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", int(view.url.split(":")[2].strip("/")), timeout=20)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def next_picture(stream: http.client.HTTPResponse) -> np.ndarray:
    """uint8 [H, W, 3], RGB: the next part of a multipart answer."""
    assert stream.readline() == b"--picture\r\n"
    assert stream.readline() == b"Content-Type: image/jpeg\r\n"
    size = int(stream.readline().split(b":")[1])
    assert stream.readline() == b"\r\n"
    data = stream.read(size)
    assert stream.readline() == b"\r\n"
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def keep_showing(view: LiveView, picture: np.ndarray, stop: threading.Event) -> threading.Thread:
    def work():
        while not stop.is_set():
            view.show(picture, [{"hand_found": False}], time.monotonic() - 0.25)
            time.sleep(0.01)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_page_shows_the_newest_picture_and_what_was_found(photo):
    stop = threading.Event()
    with LiveView(0) as view:
        assert json.load(ask(view, "/latest")) is None
        thread = keep_showing(view, photo, stop)
        try:
            page = ask(view, "/")
            assert page.getheader("Content-Type") == "text/html"
            assert b"src=stream" in page.read()
            stream = ask(view, "/stream")
            for _ in range(3):
                assert np.abs(next_picture(stream).astype(int) - photo).mean() < 6
            found = json.load(ask(view, "/latest"))
            assert found["hands"] == [{"hand_found": False}]
            assert found["pictures_per_s"] > 1
            assert found["delay_ms"] == pytest.approx(250, abs=50)
            assert ask(view, "/other").status == 404
            assert ask(view, "/latest", Host="evil.example").status == 403
            stream.close()
        finally:
            stop.set()
            thread.join()
    with pytest.raises(ConnectionError):
        ask(view, "/")


def test_viewers_that_go_make_room_and_too_many_are_refused(photo):
    stop = threading.Event()
    with LiveView(0) as view:
        thread = keep_showing(view, photo, stop)
        try:
            streams = [ask(view, "/stream") for _ in range(MOST_VIEWERS)]
            for stream in streams:
                next_picture(stream)
            assert ask(view, "/stream").status == 503
            streams.pop().close()
            end = time.monotonic() + 20
            while view._viewers == MOST_VIEWERS and time.monotonic() < end:
                time.sleep(0.02)
            assert ask(view, "/stream").status == 200
        finally:
            stop.set()
            thread.join()


def test_a_port_that_is_taken_is_one_line():
    with LiveView(0) as view:
        port = view.url.split(":")[2].strip("/")
        with pytest.raises(
            InputError, match=rf"--port {port}: cannot be used \(Address already in use\); give another"
        ):
            LiveView(int(port))


@pytest.mark.parametrize("written", [False, True])
def test_a_video_stands_for_a_camera(checkpoint, photo, tmp_path, monkeypatch, capsys, written):
    """It is played at its pace: a second of it takes a second, and the page shows film frames while it plays."""
    seen, show = [], LiveView.show

    def look(self, picture, records, taken_s):
        show(self, picture, records, taken_s)
        seen.append((ask(self, "/latest"), picture.shape, len(records)))

    monkeypatch.setattr(LiveView, "show", look)
    monkeypatch.chdir(tmp_path)
    source = write_video(tmp_path / "v.mp4", [photo] * 10, rate=10)
    out = ["--out", str(tmp_path / "out")] if written else []
    start = time.monotonic()
    assert main([str(checkpoint), str(source), *LENS, "--live", "--port", "0", *out]) == 0
    assert time.monotonic() - start >= 0.9
    assert "live at http://127.0.0.1:" in capsys.readouterr().out
    assert 2 <= len(seen) <= 10
    assert {(shape, count) for _, shape, count in seen} == {((240, 320 + 240, 3), 1)}
    assert json.load(seen[-1][0])["hands"][0]["frame"] > json.load(seen[0][0])["hands"][0]["frame"]
    assert sorted(p.name for p in tmp_path.iterdir()) == (["out", "v.mp4"] if written else ["v.mp4"])
    if written:
        assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == len(seen)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no-draw"], "--live: does not go with --no-draw"),
        (["--benchmark"], "--live: does not go with --benchmark"),
        (["--csv"], "--csv: with --live nothing is written unless --out names a folder"),
        (["--port", "70000"], "--port: expected 0 to 65535, got 70000"),
        ([], "--live: expected camera:0, a video, or pictures with --video FPS"),
    ],
)
def test_what_does_not_go_with_live_is_one_line(checkpoint, photo, tmp_path, capsys, words, message):
    picture = write_image(tmp_path / "a.png", photo)
    assert main([str(checkpoint), str(picture), *LENS, "--live", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_newest_item_is_taken_and_the_last_one_is_never_left_out():
    def items():
        for i in range(50):
            yield i
            time.sleep(0.004)

    with closing(background(items(), depth=1, newest=True)) as stage:
        taken = []
        for item in stage:
            taken.append(item)
            time.sleep(0.02)
    assert taken == sorted(set(taken))
    assert len(taken) < 30
    assert taken[-1] == 49
