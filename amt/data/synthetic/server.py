"""The process that rendering processes are forked from: it loads once what all need, while the program loads its own part."""

from __future__ import annotations

from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext


def start_server() -> ForkServerContext:
    """Starts the server, unless this process has one, and does not wait for it. Imports neither PyTorch nor NumPy.

    Its processes are forks of a process that has one thread and no tensor yet; a fork of the program would copy PyTorch's thread
    pool in whatever state it is. The server ends with the program.
    """
    forkserver.set_forkserver_preload(["amt.data.synthetic.renderer"])
    forkserver.ensure_running()
    return get_context("forkserver")
