"""The page of ``--serve`` on a free port of loopback, one who asks it, and a predictor that answers at once."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np

from amt.infer.job import Job
from amt.infer.result import Result


class Stub:
    """Finds the same hand in every picture.

    Attributes:
        asked: the requests so far.
        go: what a prediction waits for.
    """

    batch_size, num_points, box_scale, finder, models, device = 8, 64, 1.5, None, None, "stub"

    def __init__(self, result: Result):
        self.result, self.asked, self.calls = result, [], []
        self.go = threading.Event()
        self.go.set()
        mesh = SimpleNamespace(faces=SimpleNamespace(cpu=lambda: SimpleNamespace(numpy=lambda: result.faces)))
        mesh.v_template = result.vertices
        self.model = SimpleNamespace(mano=mesh, config=SimpleNamespace(hand="amt"), pose_search=None)

    def predict_many(self, requests: Sequence) -> list[Result]:
        assert self.go.wait(60)
        self.asked += requests
        self.calls.append(len(requests))
        return [
            replace(
                self.result, side=r.side, intrinsics=np.asarray(r.intrinsics), intrinsics_assumed=r.intrinsics_assumed
            )
            for r in requests
        ]


class Asking:
    """Asks a page; answers are (status, content), with JSON read."""

    def __init__(self, page, port: int):
        self.page, self.port, self.root = page, port, page.root

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def get(self, path: str, **headers: str) -> tuple[int, object]:
        connection = self.connect()
        connection.request("GET", path, headers=headers)
        return self.read(connection)

    def post(self, body: bytes, headers: dict[str, str] | None = None, **fields: str) -> tuple[int, object]:
        connection = self.connect()
        connection.request("POST", "/predict?" + urlencode(fields), body, headers or {})
        return self.read(connection)

    @staticmethod
    def read(connection: http.client.HTTPConnection) -> tuple[int, object]:
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        kind = answer.getheader("Content-Type", "")
        if kind.startswith("application/json"):
            return answer.status, json.loads(content)
        if kind == "application/x-ndjson" and answer.getheader("Content-Disposition") is None:
            return answer.status, [json.loads(line) for line in content.splitlines()]
        return answer.status, content

    def download(self, answer: dict, name: str) -> bytes:
        connection = self.connect()
        connection.request("GET", f"/results/{answer['result']}/{name}")
        got = connection.getresponse()
        content = got.read()
        connection.close()
        assert got.status == 200
        return content

    def settle(self) -> None:
        """Waits until no upload is worked on; its folder is then gone."""
        end = time.monotonic() + 30
        while (self.page.places.taken or list(self.root.glob("upload-*"))) and time.monotonic() < end:
            time.sleep(0.02)
        assert self.page.places.taken == 0
        assert list(self.root.glob("upload-*")) == []


@contextmanager
def served(predictor, root: Path, limits=None, **settings) -> Iterator[Asking]:
    import uvicorn

    from amt.infer.serve.app import Page
    from amt.infer.serve.server import config_of, listen

    root.mkdir(exist_ok=True)
    page = Page(Job(predictor=predictor, out=None, **settings), root, "a-checkpoint", limits=limits)
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(config_of(page))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    end = time.monotonic() + 30
    while not server.started and time.monotonic() < end:
        time.sleep(0.01)
    try:
        yield Asking(page, listening.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(timeout=30)
        page.close()
        assert not thread.is_alive()
