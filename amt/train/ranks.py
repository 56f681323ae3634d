"""The processes that train one model together, one for each GPU ("ranks"). torchrun starts them; alone, all here is the identity.

Host messages (numbers, objects) go through gloo, tensors on a GPU through NCCL.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from amt.errors import UserError
from amt.model.config import ConfigError

T = TypeVar("T")
_blocks = itertools.count()  # that this process has joined: each has names of its own
PATIENCE = timedelta(minutes=30)  # of a message: a rank that reads data or writes the checkpoint lets the others wait
CONNECT = timedelta(seconds=10)  # until a port counts as nobody's
HARMLESS = (  # warnings of PyTorch that say nothing to a user, by their beginnings
    # DDP: a gradient has another stride in a dimension of length 1. It is copied into the bucket; the numbers are the same
    "Grad strides do not match bucket view strides",
    # FSDP2: an operation in place on the model's answer would skip a message. Losses and metrics only read it
    "FSDP2-wrapped module .* returned a view tensor",
)


class RankLost(UserError):
    """Another rank has ended in the middle of a message."""


class Echo(UserError):
    """The run ended on another rank, which has told why."""


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def number() -> int:
    """Of this rank, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first() -> bool:
    """Whether this rank writes logs, pictures and files."""
    return number() == 0


def own_device(device: torch.device) -> torch.device:
    """This rank's, where ``device`` is what the run was given. Raises ConfigError where there are more ranks than GPUs."""
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    index, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if device.index is not None and os.environ.get("LOCAL_WORLD_SIZE") != "1":
        raise ConfigError(f"train.device={device} is one GPU, and torchrun started several processes; take cuda")
    if device.index is None and index >= there:
        raise ConfigError(f"torchrun started process {index} here, counted from 0, and there are {there} GPUs")
    return device if device.index is not None else torch.device("cuda", index)


@contextmanager
def joined(parallel: str, device: torch.device) -> Iterator[None]:
    """A block in which this process is one of those that torchrun started; ``parallel="none"`` changes nothing.

    An error in the block is raised by the rank where it came first; where other ranks have it too, it is an :class:`Echo`.
    Only the first rank tells what is no error.

    Raises:
        RankLost: another rank has ended.
    """
    if parallel == "none":
        yield
        return
    store, rank = dist.PrefixStore(f"amt{next(_blocks)}", _connected(device)), number()
    try:
        with _quiet() if rank else _without_harmless_warnings():
            yield
    except Exception as error:
        if not _is_first(store):
            raise Echo(str(error)) from error
        if isinstance(error, RuntimeError) and _is_lost(error):
            where = f"rank {rank} on {socket.gethostname()}"
            raise RankLost(
                f"{where}: another rank has ended; the same command continues from the newest state"
            ) from error
        raise


@functools.cache
def _connected(device: torch.device) -> dist.Store:
    """Connects this process with the others until it ends. Returns their common table of names and values."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    meeting, rank, world = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
    store = _table_of_this_start(meeting, rank, world)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    atexit.register(dist.destroy_process_group)
    return store


def _table_of_this_start(meeting: dist.Store, rank: int, world: int) -> dist.Store:
    """Names and values that only the ranks of this start know; torchrun's outlive a restart, and gloo hangs with them."""
    host, key = os.environ["MASTER_ADDR"], f"amt/port/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    if rank == 0:
        store = dist.TCPStore(host, 0, world, True, PATIENCE, wait_for_workers=False)
        meeting.set(key, str(store.port))
        return store
    until = time.monotonic() + PATIENCE.total_seconds()
    while True:
        port = int(meeting.get(key))
        try:
            store = dist.TCPStore(host, port, world, False, CONNECT, wait_for_workers=False)
        except dist.DistError:
            # where a machine joins or leaves, torchrun counts no restart: the port may be that of ranks which have ended
            if time.monotonic() > until:
                raise
        else:
            store.set_timeout(PATIENCE)
            return store


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("amt")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _without_harmless_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for beginning in HARMLESS:
            warnings.filterwarnings("ignore", beginning)
        yield


def _is_first(store: dist.Store) -> bool:
    try:
        return store.add("errors", 1) == 1
    except RuntimeError:  # the rank that held the store is gone
        return False


def _is_lost(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def lead(work: Callable[..., T], *arguments: Any) -> T:
    """What ``work`` returns or raises on the first rank, which alone does it, on every rank."""
    if size() == 1:
        return work(*arguments)
    box: list[Any] = [None, None]
    if first():
        try:
            box[0] = work(*arguments)
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    if box[1] is not None:
        raise box[1]
    return box[0]


def most(*numbers: float) -> list[float]:
    """The greatest of all ranks for each of some numbers on the host; the devices are not waited for."""
    if size() == 1:
        return list(numbers)
    values = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.tolist()


def gathered(value: T) -> list[T]:
    """An object of each rank, in their order, on every rank."""
    if size() == 1:
        return [value]
    values: list[Any] = [None] * size()
    dist.all_gather_object(values, value)
    return values


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor, alike: bool) -> Tensor:
        ctx.alike = alike
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.alike:
            return grad * size(), None
        grad = grad.contiguous().clone()
        dist.all_reduce(grad)
        return grad, None


def summed(*values: Tensor) -> tuple[Tensor, ...]:
    """Sums over the ranks, of all ``values`` in one message, as numbers of the first one's type.

    Every rank must go on with them in the same way: their gradients are then the same everywhere and need no message. They are
    multiplied by the number of ranks, because data-parallel training takes the mean of the ranks' gradients.
    """
    if size() == 1:
        return values
    packed = torch.cat([value.reshape(-1).to(values[0].dtype) for value in values])
    parts = _Sum.apply(packed, True).split([value.numel() for value in values])
    return tuple(part.view(value.shape) for part, value in zip(parts, values))


def summed_for_each(value: Tensor) -> Tensor:
    """The sum over the ranks, where each goes on with it in its own way: the gradients are summed, too."""
    return value if size() == 1 else _Sum.apply(value, False)


def averaged(value: Tensor) -> Tensor:
    """The mean over the ranks, under the condition of :func:`summed`."""
    return value if size() == 1 else summed(value)[0] / size()
