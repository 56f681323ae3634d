"""``python -m amt.train --dry-run``: a run of three steps in a temporary folder, and what the real run would do.

Everything that a run does is done once: frames are read and cut, a state is saved and read back, a checkpoint is published and
opened. It is the real :func:`amt.train.trainer.run`, on the real set, with the real model and batch. Nothing is left behind.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from amt.config import choose_device
from amt.data.crop_cache import disk_need
from amt.data.loader import open_reader
from amt.data.synthetic.config import SetConfig
from amt.model import AMT
from amt.train.batch_size import with_batch_size
from amt.train.config import Config
from amt.train.precision import with_precision
from amt.train.records import STEPS, read_log
from amt.train.states import states
from amt.train.trainer import Trainer, run

DRY_STEPS = 3  # the first is slow: it makes moments and fills caches


def dry_run(config: Config) -> str:
    """Runs three steps and forgets them.

    Returns:
        The report: one line a part.

    Raises:
        What the real run would raise.
    """
    device = choose_device(config.train.device, "train.device")
    config = with_batch_size(with_precision(config, None, device), None, Trainer)
    with TemporaryDirectory(prefix="amt-dry-run-") as temporary:
        small = shrunk(config, Path(temporary))
        start = time.perf_counter()
        reader = open_reader(replace(small.data, limit=config.data.limit), "train")
        opened = time.perf_counter() - start
        trainer = Trainer(small)
        parameters, memory, device = trainer.model.num_parameters(), trainer.memory(), trainer.device
        del trainer
        folder = run(small, progress=False)
        output = Path(small.train.output)
        rows = read_log(output / STEPS)
        if run(small, progress=False) != folder or rows[-1]["step"] != DRY_STEPS - 1:  # the state is read back
            raise RuntimeError(f"{output}: the run did not continue from its own state")
        AMT.from_pretrained(folder)
        sizes = [_size(path) for path in (states(output / "states")[-1], folder)]
    seconds = min(row["seconds"] for row in rows[1:])
    lines = [
        _data_line(config, reader, opened),
        f"model: {config.model.size}, {config.model.backbone.name}, {parameters / 1e6:.1f} M trained parameters, on {device}",
        str(memory),
        f"a step of {config.train.batch_size} images: {seconds:.3g} s, {config.train.batch_size / seconds:.3g} images/s, loss "
        f"{rows[-1]['loss'] if rows[-1]['loss'] is None else format(rows[-1]['loss'], '.3g')}",
        f"a state of {_in_bytes(sizes[0])} and a checkpoint of {_in_bytes(sizes[1])} were written and read back",
        _plan(config, seconds, sizes),
    ]
    return "\n".join(f"  {line}" for line in lines)


def shrunk(config: Config, folder: Path) -> Config:
    """The run of three steps below ``folder``: the same model and batch, two batches of frames spread evenly over the set."""
    data, train = config.data, config.train
    frames = 2 * train.batch_size * ((data.window - 1) * data.stride + 1)
    frames = frames if data.limit is None else min(frames, data.limit)
    short = {"output": str(folder / "run"), "checkpoint": None, "steps": DRY_STEPS, "minutes": None, "resume": "same"}
    seldom = {"save_every": DRY_STEPS, "log_every": 1, "collapse_checks": 0, "logger": "none", "profile": None}
    if train.locator.steps:
        short["locator"] = replace(train.locator, steps=DRY_STEPS, frames=min(train.locator.frames, frames))
    rendered = {"render_sequences": 1, "render_frames": 1} if data.root is None else {}
    data = replace(data, limit=frames, cache=str(folder / "cache"), **rendered)
    return replace(config, data=data, train=replace(train, **short, **seldom))


def _data_line(config: Config, reader, opened: float) -> str:
    data = config.data
    if data.root is None:
        pictures = SetConfig(sequences=data.render_sequences, frames=data.render_frames).num_pictures
        return f"data: data.root is not given, a synthetic set of {pictures:,} frames would be rendered first"
    frames = len(reader)
    need = _in_bytes(disk_need(frames, data.crop, reader.num_vertices))
    return (
        f"data: {data.layout} {data.split} train, {frames:,} frames at {data.root}, opened in {opened:.1f} s; their crops take "
        f"{need} in {data.cache_folder()}, {_free(data.cache_folder())} are free"
    )


def _plan(config: Config, seconds: float, sizes: list[int]) -> str:
    train, output = config.train, Path(config.train.output).expanduser()
    whole = train.steps * seconds
    whole = whole if train.minutes is None else min(whole, 60 * train.minutes)
    found = states(output / "states")
    need = _in_bytes((train.keep + 1) * sizes[0])
    where = f"writes up to {train.keep + 1} states, {need}, into {output}, where {_free(output)}"
    more = f" and states up to {found[-1].name} lie: the same run continues from there" if found else ""
    plan = f"the real run: {train.steps:,} steps in about {_duration(whole)}; it {where} are free{more}"
    return f"{plan}; result: {config.checkpoint_folder()}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return (
        f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.0f} h"
        if minutes < 60 * 72
        else f"{minutes / 1440:.0f} days"
    )


def _in_bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _free(folder: Path) -> str:
    """The free bytes of the disk on which a folder is, or will be made."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return _in_bytes(shutil.disk_usage(folder).free)


def _size(folder: Path) -> int:
    return sum(os.path.getsize(path) for path in folder.rglob("*") if path.is_file())
