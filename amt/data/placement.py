"""Where a batch's pixels come from on a device: crops that lie there whole, or batches that are copied ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from amt.data.augment import Cuts
from amt.data.cache import in_words
from amt.data.crop_cache import CropCache
from amt.hand.batch import Batch

_PIECE = 256 << 20  # bytes that are staged at a time


class Resident:
    """All cuts of a cache on a device: a batch's pixels never cross the bus.

    Args:
        names: "image", and "alpha" where backgrounds are replaced.
    """

    def __init__(self, cache: CropCache, device: torch.device, names: tuple[str, ...] = ("image",)):
        self.arrays = {name: self._place(cache, device, name) for name in names}

    def take(self, name: str, rows: Tensor, size: int | None = None) -> Tensor:
        """Cuts of ``rows`` (int64 [B], on the device), or their middle ``size`` px."""
        array = self.arrays[name]
        rim = 0 if size is None else (array.shape[1] - size) // 2
        return array[:, rim : array.shape[1] - rim, rim : array.shape[1] - rim].index_select(0, rows)

    @staticmethod
    def _place(cache: CropCache, device: torch.device, name: str) -> Tensor:
        dtype = cache.shards.kinds[name]
        whole = torch.empty((len(cache), *dtype.shape), dtype=torch.uint8, device=device)
        step, start = max(1, _PIECE // dtype.itemsize), 0
        for mapped in cache.shards.mapped[name]:
            for first in range(0, len(mapped), step):
                piece = torch.from_numpy(mapped[first : first + step].copy())
                whole[start : start + len(piece)].copy_(piece)
                start += len(piece)
        return whole


def make_resident(
    cache: CropCache, device: torch.device, share: float, names: tuple[str, ...], say: Callable[[str], None]
) -> Resident | None:
    """The cuts on a CUDA device where they take at most ``share`` of its free memory; None where they do not."""
    if device.type != "cuda":
        return None
    need = len(cache) * sum(cache.shards.kinds[name].itemsize for name in names)
    free = torch.cuda.mem_get_info(device)[0]
    if need > share * free:
        say(
            f"crops ({in_words(need)}) are more than data.on_device={share:g} of the {in_words(free)} that are free on {device}: "
            "each batch is copied there ahead of time"
        )
        return None
    say(f"crops ({in_words(need)}) lie on {device}, where {in_words(free)} were free")
    return Resident(cache, device, names)


def prefetched(host: Iterable[Cuts], finish: Callable[[Cuts], Batch], device: torch.device) -> Iterator[Batch]:
    """Batches on a device, each copied and varied on a side stream while the one before it is used.

    Args:
        host: on the CPU.
        finish: makes the batch of cuts on the device.
    """
    module, stream = torch.get_device_module(device), _side_stream(device)
    pin = device.type == "cuda"
    stream.wait_stream(module.current_stream(device))  # cuts and backgrounds that lie there were put there by that one
    waiting: tuple[Batch, object] | None = None
    for cuts in host:
        if pin:
            cuts = cuts.map(Tensor.pin_memory)
        with module.stream(stream):
            # What the side stream allocates it may also reuse: not before the main stream is done with it (record_stream)
            batch = finish(cuts.to(device, non_blocking=True))
            made = stream.record_event()
        if waiting is not None:
            yield _handed_over(*waiting, module, device)
        waiting = batch, made
    if waiting is not None:
        yield _handed_over(*waiting, module, device)


@lru_cache
def _side_stream(device: torch.device):
    """One for all epochs: what the allocator holds for a stream is not given to another one."""
    module = torch.get_device_module(device)
    return module.Stream(device) if device.type == "cuda" else module.Stream()


def _handed_over(batch: Batch, made: object, module, device: torch.device) -> Batch:
    current = module.current_stream(device)
    current.wait_event(made)
    if device.type == "cuda":
        for _, tensor in batch.named_tensors():
            tensor.record_stream(current)
    return batch
