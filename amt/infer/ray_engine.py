"""``--engine ray``: Ray Data gives the parts of a collection to workers, each with a predictor of its own.

A worker that dies is started again, and gets the part that it had: a part is written whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from amt.infer.checks import InputError
from amt.infer.collection import Part, predict_part


class Worker:
    """Holds the predictor of a command line; a call predicts parts by their keys, and says how many pictures they have."""

    def __init__(self, arguments: list[str], folder: str, working: str, parts: dict[str, Part]):
        os.chdir(working)  # the command line's paths may be relative
        from amt.config import choose_device, set_threads
        from amt.infer.__main__ import job_of
        from amt.infer.command import read_command

        command = read_command(arguments)
        self.folder, self.parts, self.kernels = Path(folder), parts, command.settings["kernels"].use
        set_threads(command.settings["infer"].threads)
        self.job = job_of(command, command.checkpoint, choose_device(command.options.device, "--device"))

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        from amt.kernels import use

        chosen = [self.parts[str(key)] for key in rows["key"]]
        with use(self.kernels):
            for part in chosen:
                predict_part(self.job, part, self.folder)
        return {"pictures": [len(part.items) for part in chosen]}


def map_parts(
    arguments: list[str], parts: Sequence[Part], folder: Path, workers: int | None, on_gpu: bool
) -> Iterator[int]:
    """The number of pictures of each part, once it is done.

    Args:
        arguments: the command line, which each worker reads for itself.
        workers: how many; None: one for each CPU of the cluster, or for each GPU.

    Raises:
        InputError: Ray cannot start.
    """
    import ray
    from ray.data import ActorPoolStrategy

    try:
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS", "local")  # local: no cluster that somebody left running here
            local = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
            ray.init(address, log_to_driver=False, **local)
    except Exception as error:  # connection, memory and version errors have no common base
        raise InputError(f"--engine ray: Ray cannot start ({str(error).splitlines()[0]}); see RAY_ADDRESS") from error
    resource = "GPU" if on_gpu else "CPU"
    count = workers or max(1, int(ray.cluster_resources().get(resource, 1)))
    ray.data.DataContext.get_current().enable_progress_bars = False
    keys = ray.data.from_items([{"key": part.key} for part in parts], override_num_blocks=len(parts))
    done = keys.map_batches(
        Worker,
        fn_constructor_args=(arguments, str(folder.absolute()), os.getcwd(), {part.key: part for part in parts}),
        batch_size=1,
        compute=ActorPoolStrategy(size=min(count, len(parts))),
        num_gpus=1 if on_gpu else 0,
        num_cpus=0 if on_gpu else 1,
        max_restarts=-1,
        max_task_retries=-1,
    )
    for row in done.iter_rows():
        yield int(row["pictures"])
