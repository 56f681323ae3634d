"""Cuts the frames of a reader into the shards of a cache, by several processes where there are many frames."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from pathlib import Path

from amt.data import shards
from amt.data.config import CropConfig
from amt.data.crops import add_meshes, cut_frame
from amt.data.errors import BrokenFrame, DataError
from amt.data.processes import end_with_parent
from amt.data.reader import Reader
from amt.data.threads import ahead

MOST_PROCESSES = 32
WORTH_A_PROCESS = 4096  # frames; a process needs some seconds to start
_progress = _job = None  # in a process: how many frames all have looked at; reader, configuration and folder


def cut_shards(
    reader: Reader, config: CropConfig, folder: Path, wanted: dict[int, range], told: Callable[[int], None]
) -> None:
    """Makes shards in a folder.

    Args:
        wanted: the frames of each shard, by its number.
        told: called now and then with the number of frames that were looked at since.

    Raises:
        DataError: a process died.
        OSError: the folder cannot be written, or the disk is full.
    """
    processes = min(len(os.sched_getaffinity(0)), len(wanted), MOST_PROCESSES)
    if processes > 1 and sum(len(frames) for frames in wanted.values()) >= WORTH_A_PROCESS:
        _by_processes(reader, config, folder, wanted, told, processes)
        return
    with ThreadPoolExecutor(2) as pool:
        for number, frames in wanted.items():
            _cut_shard(reader, config, folder, number, frames, partial(ahead, pool, 64), told)


def _cut_shard(
    reader: Reader, config: CropConfig, folder: Path, number: int, frames: range, each: Callable, told: Callable
) -> None:
    before, left_out = shards.broken_now(reader.broken), Counter()
    chunks = _chunks(reader, config, frames, each, left_out)
    kinds = shards.layout(config, reader.num_vertices)
    rows = shards.write_shard(folder, number, kinds, chunks, len(frames), told)
    shards.finish_shard(folder, number, frames, rows, left_out, shards.broken_since(before, reader.broken))


def _chunks(
    reader: Reader, config: CropConfig, frames: range, each: Callable, left_out: Counter
) -> Iterator[tuple[int, list]]:
    """(frames looked at, their rows); what is left out is counted in ``left_out`` and in the reader."""
    outcomes = each(lambda index: cut_frame(reader, config, index), frames)
    for chunk in shards.chunks_of(frames):
        rows = []
        for outcome in islice(outcomes, len(chunk)):
            if isinstance(outcome, BrokenFrame):
                reader.note_broken(outcome)
            elif isinstance(outcome, str):
                left_out[outcome] += 1
            else:
                rows.append(outcome)
        if rows:
            add_meshes(reader, config, rows)
        yield len(chunk), rows


def _by_processes(
    reader: Reader, config, folder: Path, wanted: dict[int, range], told: Callable, processes: int
) -> None:
    context = multiprocessing.get_context("spawn")  # a fork would copy the thread pools of PyTorch and OpenCV
    progress, seen = context.Value("q", 0), 0
    with ProcessPoolExecutor(processes, context, _start, (progress, pickle.dumps(reader), config, folder)) as pool:
        waiting = {pool.submit(_in_process, *item) for item in wanted.items()}
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                told(progress.value - seen)
                seen = progress.value
                for future in done:
                    future.result()
        except BrokenProcessPool as error:
            raise DataError(
                f"{folder.parent}: a process that cut frames died, perhaps for want of memory; start again, and the cut goes on"
            ) from error
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _start(progress, reader: bytes, config: CropConfig, folder: Path) -> None:
    global _progress, _job
    import cv2
    import torch

    end_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    logging.disable(logging.WARNING)  # the process that waits tells what is broken
    _progress, _job = progress, (pickle.loads(reader), config, folder)


def _in_process(number: int, frames: range) -> None:
    def told(count: int) -> None:
        with _progress.get_lock():
            _progress.value += count

    _cut_shard(*_job, number, frames, map, told)
