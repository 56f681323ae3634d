"""The socket of the page, and the folder that its files are in while it runs."""

from __future__ import annotations

import socket
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from amt.infer.checks import InputError
from amt.infer.job import Job
from amt.infer.serve.app import LOOPBACK, Page

CONNECTIONS = 128  # at once; more are answered 503
KEPT_S = 15  # s: a connection without a whole request


class Patient(H11Protocol):
    """A connection that ends where the head of a request does not come whole in :data:`KEPT_S`.

    uvicorn waits for it without end, and as many such connections as may be open would shut everybody else out.
    """

    _timer = None

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(KEPT_S, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def serve(job: Job, name: str, host: str, port: int) -> None:
    """Shows the page until Ctrl-C, which raises KeyboardInterrupt.

    Args:
        job: the settings of what is looked at; ``out`` is not used.
        name: of the checkpoint, as the page shows it.
        host: the address to listen on; anything but a loopback address is warned of on stderr.
        port: 0 takes a free one.

    Raises:
        InputError: the address or the port cannot be had.
    """
    listening = listen(host, port)
    port = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    if not is_loopback(host):
        print(
            f"--host {host}: everybody who reaches port {port} of this machine can send pictures and see the results that they "
            "are told of; there is no password and no encryption, and browsers give a webcam to https or localhost alone. "
            f"ssh -L {port}:localhost:{port} MACHINE is safer",
            file=sys.stderr,
        )
    warnings.filterwarnings("ignore", module="PIL")  # about what strangers' files hold; each of them has its answer
    with TemporaryDirectory(prefix="amt-serve-", ignore_cleanup_errors=True) as root:
        page = Page(job, Path(root), name, hosts_of(host))
        server = uvicorn.Server(config_of(page))
        print(f"page at http://{shown}:{port}/, until Ctrl-C", flush=True)
        try:
            server.run(sockets=[listening])
        finally:
            page.close()


def config_of(page: Page) -> uvicorn.Config:
    """How uvicorn runs the page: no logs of requests, no other protocols."""
    return uvicorn.Config(
        page.app(),
        log_level="error",
        access_log=False,
        http=Patient,
        ws="none",
        loop="asyncio",
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=KEPT_S,
        timeout_graceful_shutdown=2,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises InputError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a name"
        raise InputError(f"--host {host}: cannot be used ({reason}); leave it out for this machine alone") from None
    try:
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot be used ({error.strerror}); give another one") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host == "localhost" or host == "::1" or host.startswith("127.")


def hosts_of(host: str) -> tuple[str, ...] | None:
    """The names by which the page may be asked for: on loopback these of loopback, elsewhere any."""
    return (*LOOPBACK, host) if is_loopback(host) else None
