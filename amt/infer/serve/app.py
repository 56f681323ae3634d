"""The routes of the page, and who may use them.

``GET /`` is the page, ``POST /predict`` takes a file as its body and answers with JSON (a clip: a line of JSON a frame),
``GET /results/KEY/NAME`` gives a file of an answer. Whatever cannot be done is answered by ``{"error": LINE}``.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import shutil
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from amt.draw.viewer import asset, faces_data
from amt.errors import UserError
from amt.infer.engine import out_of_memory
from amt.infer.job import Job
from amt.infer.serve.answers import Answers, Clip, Sent
from amt.infer.serve.asked import Asked, object_names
from amt.infer.serve.jobs import Closed, Places, Replaced, Worker
from amt.infer.serve.measures import joint_names
from amt.infer.serve.results import KINDS, Results
from amt.infer.serve.uploads import CLIP, Limits, Refused, Upload, check_length, receive

BUSY = "busy: {} uploads are worked on already; try again in a moment"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ASSETS = {
    "page.js": "text/javascript",
    "viewer.js": "text/javascript",
    "page.css": "text/css",
    "viewer.css": "text/css",
}


class Page:
    """The page of one predictor.

    Args:
        base: the run's settings.
        root: a folder for uploads and results; whoever made it removes it.
        name: of the checkpoint, as the page shows it.
        hosts: names by which the page may be asked for; None: any.
    """

    def __init__(
        self, base: Job, root: Path, name: str, hosts: tuple[str, ...] | None = LOOPBACK, limits: Limits | None = None
    ):
        self.root, self.name, self.hosts, self.limits = root, name, hosts, limits or Limits()
        self.results = Results(root)
        self.answers = Answers(base, self.results, self.limits)
        self.worker = Worker(base.predictor.batch_size, 2 * self.limits.picture_pixels)
        self.places = Places(self.limits.at_once)
        model = base.predictor.model
        self._about = {
            "checkpoint": name,
            "device": str(base.predictor.device),
            "faces": faces_data(model.mano.faces.cpu().numpy()),
            "joints": joint_names(),
            "objects": object_names(),
            "most_bytes": {"picture": self.limits.picture_bytes, "clip": self.limits.clip_bytes},
        }
        assets = files("amt.infer.serve").joinpath("assets")
        self._index = assets.joinpath("index.html").read_text(encoding="utf-8")
        self._assets = {
            asked: asset(asked) if asked.startswith("viewer") else assets.joinpath(asked).read_text(encoding="utf-8")
            for asked in ASSETS
        }

    def app(self) -> Guard:
        """The ASGI application."""
        routes = [
            Route("/", self.index),
            Route("/about", self.about),
            Route("/assets/{name}", self.asset),
            Route("/predict", self.predict, methods=["POST"]),
            Route("/results/{key}/{name}", self.result),
        ]
        return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _http_error}), self.hosts)

    def close(self) -> None:
        """Ends the worker."""
        self.worker.close()

    async def index(self, _: Request) -> Response:
        """The page."""
        return Response(self._index, media_type="text/html")

    async def about(self, _: Request) -> Response:
        """What the page has to know: triangles, names, limits."""
        return JSONResponse(self._about)

    async def asset(self, request: Request) -> Response:
        """One of :data:`ASSETS`."""
        name = request.path_params["name"]
        if name not in ASSETS:
            return line(404, "no such file; the page is at /")
        return Response(self._assets[name], media_type=ASSETS[name])

    async def result(self, request: Request) -> Response:
        """A file of an answer."""
        key, name = request.path_params["key"], request.path_params["name"]
        path = self.results.find(key, name)
        if path is None or not path.is_file():
            return line(404, "this result is not kept any longer; send the file again")
        headers = {} if name == "shown.jpg" else {"Content-Disposition": f'attachment; filename="{name}"'}
        return FileResponse(path, media_type=KINDS[path.suffix], headers=headers)

    async def predict(self, request: Request) -> Response:
        """An answer about the file that is the request's body; its fields are in the query."""
        if not self.places.take():
            return line(503, BUSY.format(self.places.most))
        folder, kept = self.root / f"upload-{secrets.token_hex(8)}", False

        def leave() -> None:
            shutil.rmtree(folder, ignore_errors=True)
            self.places.give_back()

        try:
            folder.mkdir()
            asked = Asked.read(request.query_params)
            length = check_length(request.headers.get("content-length"), self.limits)
            upload = await receive(request.stream(), length, folder, asked.name, self.limits)
            if upload.kind == CLIP:
                response = await self._clip(upload, asked, leave)
                kept = True
                return response
            work = self.answers.pictures if asked.stream is None else self.answers.frames
            future = self.worker.submit(work, Sent(upload, asked), upload.pixels, asked.stream)
            return JSONResponse(await asyncio.wrap_future(future))
        except ClientDisconnect:
            return line(400, "the upload was broken off")
        except Exception as error:
            return told(error)
        finally:
            if not kept:
                leave()

    async def _clip(self, upload: Upload, asked: Asked, leave: Callable[[], None]) -> Response:
        """The answer about a clip; from here on it is this answer that leaves the upload's place."""
        if asked.stream is not None:
            raise Refused(415, "stream: a webcam's frames are pictures; send JPEG or PNG")
        clip = Clip(self.answers, Sent(upload, asked))
        try:
            head = await asyncio.to_thread(clip.open)
        except BaseException:
            self.worker.call(clip.close)
            raise
        loop = asyncio.get_running_loop()

        def leave_soon(_) -> None:
            with suppress(RuntimeError):  # the server has ended, and its folder with it
                loop.call_soon_threadsafe(leave)

        def done() -> None:  # on the worker's thread, behind the frame that it may be at
            self.worker.call(clip.close).add_done_callback(leave_soon)

        return Lines(self._lines(head, clip), done, self.limits.patience_s)

    async def _lines(self, head: dict, clip: Clip) -> AsyncIterator[str]:
        yield json.dumps(head) + "\n"
        try:
            while True:
                await asyncio.to_thread(clip.fetch)
                frame = await asyncio.wrap_future(self.worker.call(clip.next))
                if frame is None:
                    return
                yield json.dumps(frame, allow_nan=False) + "\n"
        except Exception as error:
            yield told(error).body.decode() + "\n"


class Lines(StreamingResponse):
    """Lines of JSON, as they come; ``done`` is called at the end, whatever ends it.

    Args:
        patience_s: how long a reader may leave a line untaken.
    """

    def __init__(self, lines: AsyncIterator[str], done: Callable[[], None], patience_s: float):
        super().__init__(lines, media_type="application/x-ndjson")
        self.done, self.patience_s = done, patience_s

    async def __call__(self, scope, receive, send) -> None:
        async def send_soon(message) -> None:
            await asyncio.wait_for(send(message), self.patience_s)

        try:
            await super().__call__(scope, receive, send_soon)
        except* (TimeoutError, ClientDisconnect):
            pass  # the reader has gone, or takes nothing
        finally:
            self.done()


class Guard:
    """Answers only who asks for the page by one of ``hosts``, and no page of another site; adds the headers of all answers."""

    def __init__(self, app, hosts: tuple[str, ...] | None):
        self.app, self.hosts = app, hosts

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                given = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = message | {"headers": [*message["headers"], *given]}
            await send(message)

        problem = self._problem({name: value.decode("latin-1") for name, value in scope["headers"]})
        app = self.app if problem is None else line(403, problem)
        await app(scope, receive, send_with_headers)

    def _problem(self, headers: dict[bytes, str]) -> str | None:
        host = headers.get(b"host", "")
        if self.hosts is not None and re.sub(r":\d+$", "", host) not in self.hosts:
            return f"this page is not {host[:80]!r}; ask for it by its own address"
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            return "a page of another site asks; open this page by its own address"
        return None


def line(status: int, text: str) -> JSONResponse:
    """An answer of one line that says what was wrong."""
    headers = {"Retry-After": "1"} if status == 503 else {"Connection": "close"} if status == 408 else {}
    return JSONResponse({"error": " ".join(text.split())}, status, headers)


def told(error: Exception) -> JSONResponse:
    """The answer about an error; a fault of the code goes to the terminal with its traceback."""
    if isinstance(error, Refused):
        return line(error.status, str(error))
    if isinstance(error, UserError):
        return line(400, str(error))
    if isinstance(error, Replaced):
        return line(409, "a newer frame took this one's place")
    if isinstance(error, Closed):
        return line(503, "the server ends")
    if isinstance(error, OSError):
        return line(507, "the server cannot store the upload; free space where its temporary files are")
    if isinstance(error, (MemoryError, RuntimeError)) and out_of_memory(error):
        return line(503, "busy: the memory is used up; try again in a moment")
    traceback.print_exception(error, file=sys.stderr)
    return line(500, "a fault of the server; its terminal says more")


async def _http_error(_: Request, error: HTTPException) -> Response:
    return line(error.status_code, f"{error.detail}; the page is at /")
