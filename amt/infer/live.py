"""``--live``: what is drawn and found, on a page of this machine, while a camera or a video goes on.

The page shows a stream of JPEG pictures (multipart/x-mixed-replace), which every browser plays. It is served on the loopback
address alone; from elsewhere a tunnel reaches it: ssh -L 8765:localhost:8765 MACHINE.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np

from amt.infer.checks import InputError

if TYPE_CHECKING:
    from amt.infer.job import Question

MOST_VIEWERS = 8
QUALITY = 80  # of a JPEG picture, 0-100
SHOWN = 60  # pictures over which rate and delay are averaged
_HOSTS = ("127.0.0.1", "localhost")
_BOUNDARY = "picture"
_PAGE = b"""<!doctype html><html lang=en><meta charset=utf-8><title>AMT live</title>
<style>body{margin:0;background:#15171c;color:#dde;font:15px sans-serif;text-align:center}
img{max-width:100%;max-height:92vh}</style>
<img src=stream alt="the camera's picture with hands and objects"><p id=said>waiting for the first picture</p>
<script>
setInterval(async () => {
  const now = await (await fetch("latest")).json().catch(() => null);
  if (!now) return;
  const hands = now.hands.filter(h => h.hand_found).map(h => h.side + " hand at " + (100 * h.joints_m[0][2]).toFixed(1) + " cm");
  document.getElementById("said").textContent = now.pictures_per_s.toFixed(1) + " pictures/s, " + now.delay_ms.toFixed(0) +
    " ms from camera to answer; " + (hands.join(", ") || "no hand found");
}, 500);
</script></html>
"""


class LiveView:
    """A page on 127.0.0.1 that shows the newest picture. A context manager.

    ``/`` is the page, ``/stream`` the pictures, and ``/latest`` what was found in the newest one, as JSON: ``hands`` (the
    records of predictions.jsonl), ``pictures_per_s`` and ``delay_ms`` (from the camera to the answer).

    Args:
        port: 0 takes a free one.

    Raises:
        InputError: the port cannot be had.
    """

    def __init__(self, port: int):
        self._changed = threading.Condition()
        self._jpeg, self._found, self._number, self._viewers, self._closed = b"", b"null", 0, 0, False
        self._shown: deque[tuple[float, float]] = deque(maxlen=SHOWN)  # when, and how long after the camera, s
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(self))
        except OSError as error:
            raise InputError(f"--port {port}: cannot be used ({error.strerror}); give another one") from None
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def __enter__(self) -> LiveView:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def show(self, picture: np.ndarray, records: list[dict], taken_s: float) -> None:
        """Shows a picture, uint8 [H, W, 3], RGB, and the records of its hands; it was taken at ``time.monotonic()`` = taken_s."""
        import cv2

        now = time.monotonic()
        self._shown.append((now, now - taken_s))
        found = json.dumps({"hands": records, **self.pace()}).encode()
        jpeg = b""
        if self._viewers:
            colours = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
            jpeg = cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
        with self._changed:
            self._jpeg, self._found, self._number = jpeg, found, self._number + 1
            self._changed.notify_all()

    def pace(self) -> dict[str, float]:
        """Pictures a second, and the mean delay in ms, over the last 60 pictures."""
        times = [when for when, _ in self._shown]
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        return {"pictures_per_s": rate, "delay_ms": 1000 * float(np.mean([delay for _, delay in self._shown]))}

    def _next(self, seen: int) -> tuple[bytes, int]:
        """The first picture after number ``seen``, and its number; b"" where there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._number > seen and self._jpeg))
            return (b"" if self._closed else self._jpeg), self._number


def _handler_of(view: LiveView) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # s: a viewer that takes no picture for so long is left

        def do_GET(self) -> None:
            if self.headers.get("Host", "").partition(":")[0] not in _HOSTS:  # a page of another site asks
                self.send_error(403)
            elif self.path == "/":
                self._answer("text/html", _PAGE)
            elif self.path == "/latest":
                self._answer("application/json", view._found)
            elif self.path == "/stream":
                self._stream()
            else:
                self.send_error(404)

        def _answer(self, kind: str, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            self.wfile.write(content)

        def _stream(self) -> None:
            if view._viewers >= MOST_VIEWERS:
                self.send_error(503)
                return
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            view._viewers += 1
            try:
                jpeg, number = view._next(0)
                while jpeg:
                    head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                    jpeg, number = view._next(number)
            except OSError:
                pass  # the viewer has gone
            finally:
                view._viewers -= 1

        def log_message(self, *_) -> None:
            """Says nothing: the program's own lines are on this terminal."""

    return Handler


def as_taken(questions: Iterator[tuple[int, Question]], wait: bool) -> Iterator[tuple[int, Question]]:
    """The questions with the time at which each picture was taken.

    Args:
        wait: for each picture's time in its video, which so stands for a camera.
    """
    start = time.monotonic()
    with closing(questions):
        for i, question in questions:
            if wait:
                time.sleep(max(0.0, start + (question.picture.time_s or 0.0) - time.monotonic()))
            yield i, replace(question, taken_s=time.monotonic())
