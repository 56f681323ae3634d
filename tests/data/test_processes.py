"""Worker processes end with their program, however it ends."""

import signal
import subprocess
import sys

import pytest

# The worker itself holds the end of the pipe on which it waits for tasks. It keeps the program's stdout open while it lives.
PROGRAM = """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from amt.data.processes import end_with_parent

if __name__ == "__main__":
    context = multiprocessing.get_context(%r)
    with ProcessPoolExecutor(1, context, end_with_parent) as pool:
        print(pool.submit(pow, 2, 3).result(), flush=True)
        input()
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_ends_with_a_killed_program(method):
    command = [sys.executable, "-c", PROGRAM % method]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "8\n"
    process.send_signal(signal.SIGKILL)
    # read() returns when nobody holds the pipe's other end any more; else the time limit ends it
    assert process.communicate(timeout=60)[0] == ""
