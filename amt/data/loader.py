"""Batches for training and evaluation: ``for batch in make_loader(DataConfig(root=...), "train")``.

A whole batch is put together at once from the memory-mapped crop cache. That is quick enough to feed a small model from the
training process itself; with workers, each of them puts whole batches together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from amt.data.augment import Cuts, change_camera, vary
from amt.data.backgrounds import read_backgrounds
from amt.data.cache import CROPS
from amt.data.config import AugmentConfig, CropConfig, DataConfig, say_once
from amt.data.crop_cache import CropCache, build_cache, say_on_stderr
from amt.data.dexycb import DexYCB
from amt.data.draws import draw
from amt.data.errors import DataError
from amt.data.ho3d import HO3D
from amt.data.placement import Resident, make_resident, prefetched
from amt.data.protocols import admitted_rows, find_protocol
from amt.data.reader import Reader, check_broken
from amt.data.some_frames import SomeFrames
from amt.data.synthetic.config import unfinished
from amt.data.windows import find_windows, tile
from amt.data.workers import Workers
from amt.hand.batch import Batch, Inputs, Targets

READERS = {"dexycb": DexYCB, "ho3d": HO3D}  # by data.layout


class CropDataset:
    """Batches by row numbers of a crop cache.

    Args:
        augment: None shows every crop as it was cut, in its true box.
        seed: of the augmentation, together with the epoch and the frame's index.
        window: so many rows that follow each other are frames of one camera, and are varied in the same way.
    """

    def __init__(
        self,
        cache: CropCache,
        config: CropConfig,
        augment: AugmentConfig | None = None,
        seed: int = 0,
        window: int = 1,
    ):
        self.cache, self.config, self.augment, self.seed, self.window = cache, config, augment, seed, window
        self.class_points, self.class_looks = map(torch.from_numpy, (cache.class_points, cache.class_looks))
        self.pictures: Tensor | None = None
        if augment is not None and augment.background:
            self.pictures = read_backgrounds(augment.backgrounds, config.cut_size)
        self.resident: Resident | None = None

    def __reduce__(self):
        # A worker makes its own tensors: pickled ones would pass through shared memory.
        return CropDataset, (self.cache, self.config, self.augment, self.seed, self.window)

    def __len__(self) -> int:
        return len(self.cache)

    def place(self, device: torch.device, share: float, say: Callable[[str], None]) -> None:
        """Puts on a device what its batches are made of, the cuts themselves if they take at most ``share`` of its memory."""
        names = ("image",) if self.pictures is None else ("image", "alpha")
        self.resident = make_resident(self.cache, device, share, names, say)
        self.pictures = None if self.pictures is None else self.pictures.to(device)

    def batch(self, rows: np.ndarray, epoch: int = 0) -> Batch:
        """The batch of cache rows [B], varied as (seed, epoch, index) say. On the CPU."""
        cuts = self.cuts(rows, epoch, with_pixels=False)
        alpha = None if cuts.look is None or cuts.look.background is None else self.cache.mapped(rows, "alpha")
        return vary(cuts, self.config.size, self.pictures, self.cache.mapped(rows), alpha)

    def cuts(self, rows: np.ndarray, epoch: int = 0, with_pixels: bool = True) -> Cuts:
        """Cache rows [B] and what is drawn for them, before pixels and labels are varied. On the CPU."""
        rows, size = np.ascontiguousarray(rows, np.int64), self.config.size
        labels = self.cache.take(rows)

        def take(name: str) -> Tensor:
            return torch.from_numpy(labels[name].copy())  # records are packed: a view need not be aligned

        def pixels(name: str, side: int | None = None) -> Tensor | None:
            return torch.from_numpy(self.cache.pixels(rows, side, name)) if with_pixels else None

        index, object_class = take("index"), take("object_class")
        inputs = Inputs(
            image=pixels("image", None if self.augment else size),
            intrinsics=take("intrinsics"),
            box=take("box"),
            frame_intrinsics=take("frame_intrinsics"),
            frame_size=take("frame_size"),
            right=take("right"),
            object_class=object_class,
            object_points=self.class_points[object_class],
            object_look=self.class_looks[object_class],
        )
        targets = Targets(**{name: take(name) for name in Targets.__dataclass_fields__ if name in self.cache.names})
        window = torch.arange(len(rows)) // self.window if self.window > 1 else None
        batch, places = Batch(inputs, targets, index, window), torch.from_numpy(rows)
        if self.augment is None:
            inputs.intrinsics[:, :2, 2] -= (self.config.cut_size - size) // 2
            return Cuts(batch, places, None, None, None)
        number = index.numpy()
        key = number.reshape(-1, self.window)[:, :1].repeat(self.window, 1).reshape(-1)
        backgrounds = 0 if self.pictures is None else len(self.pictures)
        view, look = draw(self.augment, self.seed, epoch, key, number, size, backgrounds)
        inputs, change = change_camera(inputs, view, size, self.config.cut_size)
        alpha = None if look.background is None else pixels("alpha")
        return Cuts(replace(batch, inputs=inputs), places, alpha, change, look)

    def finish(self, cuts: Cuts) -> Batch:
        """The batch of cuts on their device, which has the pixels if they do not."""
        if cuts.batch.inputs.image is None:
            size = self.config.size if cuts.change is None else None
            image = self.resident.take("image", cuts.rows, size)
            alpha = self.resident.take("alpha", cuts.rows) if "alpha" in self.resident.arrays else None
            batch = replace(cuts.batch, inputs=replace(cuts.batch.inputs, image=image))
            cuts = replace(cuts, batch=batch, alpha=alpha)
        return vary(cuts, self.config.size, self.pictures)


class Loader:
    """Iterates over an epoch's batches; call :meth:`set_epoch` before each.

    The order derives from (seed, epoch) alone, what a sample looks like from (seed, epoch, index): the batches are the same
    for any number of workers. With ``world_size`` ranks, rank r takes every batch's r-th share.

    With windows, a batch of B frames holds B / window of them, one after the other, and ``Batch.window`` tells them apart. A
    shuffled epoch takes as many windows as its frames fill, from all that there are; otherwise windows share no frame.

    Args:
        batch_size: frames, of this rank.
        stride: frames from one of a window to the next.
        device: of the batches. They are put together there: on a GPU while the step before is running.
        chosen: int64: the rows of the cache that are shown; None: all.
    """

    def __init__(
        self,
        dataset: CropDataset,
        batch_size: int,
        shuffle: bool = False,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        chosen: np.ndarray | None = None,
        stride: int = 1,
        device: torch.device | str = "cpu",
    ):
        self.chosen = np.arange(len(dataset)) if chosen is None else np.asarray(chosen)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be 0-{world_size - 1}; got {rank}")
        if batch_size % dataset.window:
            raise DataError(f"batch_size must be a multiple of data.window={dataset.window}; got {batch_size}")
        self.dataset, self.batch_size, self.shuffle, self.workers = dataset, batch_size, shuffle, workers
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self.windows = self._windows(stride)
        if shuffle and len(self) < 1:
            frames = f"{len(self.chosen)} frames" if dataset.window == 1 else f"{len(self.windows)} windows"
            remedy = "take a smaller train.batch_size, or more frames (data.limit)"
            raise DataError(f"{frames} do not fill one batch of {batch_size} x {world_size}; {remedy}")
        self._pool: Workers | None = None  # the processes live from the first epoch on
        self.epoch = self.first_batch = 0

    def _windows(self, stride: int) -> np.ndarray:
        """Cache rows [N, window]."""
        length = self.dataset.window
        if length == 1:
            return self.chosen[:, None]
        run, number = (self.dataset.cache[name][self.chosen] for name in ("run", "number"))
        windows = find_windows(run, number, length, stride)
        if not len(windows):
            raise DataError(
                f"no camera has {length} frames, {stride} apart, without a gap; take a smaller data.window or data.stride"
            )
        return self.chosen[windows if self.shuffle else tile(windows, len(run))]

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Chooses the epoch; ``first_batch`` leaves out its beginning, for a run that resumes in the middle of it."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Batches an epoch: whole ones only where shuffled, else all frames."""
        step = self.batch_size // self.dataset.window * self.world_size
        return len(self.windows) // self.dataset.window // step if self.shuffle else -(-len(self.windows) // step)

    def digest(self) -> str:
        """Of the frames' numbers and joints, in the order of the cache: the same set has the same one on any machine."""
        digest = hashlib.sha256()
        for name in ("index", "joints"):
            digest.update(np.ascontiguousarray(self.dataset.cache[name]))
        return digest.hexdigest()

    def rows(self) -> list[np.ndarray]:
        """This rank's cache rows of every batch of the epoch."""
        order = np.arange(len(self.windows))
        if self.shuffle:
            order = np.random.default_rng([self.dataset.seed, self.epoch]).permutation(order)
        step = self.batch_size // self.dataset.window * self.world_size
        batches = [order[k * step : (k + 1) * step] for k in range(len(self))]
        return [self.windows[windows[self.rank :: self.world_size]].reshape(-1) for windows in batches]

    def __iter__(self) -> Iterator[Batch]:
        plan = [(rows, self.epoch) for rows in self.rows()[self.first_batch :]]
        if self.device.type == "cpu":
            return self._made(self.dataset.batch, plan)
        make = partial(self.dataset.cuts, with_pixels=self.dataset.resident is None)
        return prefetched(self._made(make, plan), self.dataset.finish, self.device)

    def _made(self, make: Callable, plan: list[tuple[np.ndarray, int]]) -> Iterator:
        """What ``make`` gives for each (rows, epoch), by the worker processes if there are any."""
        if not self.workers:
            return (make(*item) for item in plan)
        if self._pool is None:
            self._pool = Workers(make, self.workers)
        return self._pool.batches(plan)


def open_reader(config: DataConfig, subset: str) -> Reader:
    """The reader of a subset of the configured set, rendered first if no root is named. Raises DataError."""
    reader = READERS[config.layout](config.root_folder(), config.split, subset, config.mano)
    incomplete = unfinished(reader.root)
    if incomplete:
        say_once(incomplete)
    if subset == "train":
        reader.most_broken = config.most_broken
    if config.limit is not None:
        return SomeFrames(reader, config.limit, (config.window - 1) * config.stride + 1)
    return reader


def make_loader(
    config: DataConfig,
    subset: str,
    batch_size: int = 32,
    *,
    augment: bool | None = None,
    shuffle: bool | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Loader:
    """A loader of ``Batch`` over a subset ("train", "val", "test"); makes the crop cache on first use.

    Training data are shuffled and augmented, others come in order and as they are, unless ``augment`` or ``shuffle`` say
    otherwise. Only shuffled loaders give windows (``config.window``); others give each frame once.

    Args:
        device: of the batches.

    Raises:
        TooManyBroken: more of the training frames cannot be read than ``config.most_broken`` allows.
        DataError: the set cannot be used (see :class:`DexYCB`, :class:`HO3D`).
    """
    if config.protocol is not None:
        find_protocol(config.protocol, config.split)  # before anything is cut
    reader = open_reader(config, subset)
    cache = build_cache(reader, config.crop, config.cache_folder() / CROPS, progress)
    check_broken(reader, cache.lost, cache.report())
    training = subset == "train"
    varied = training if augment is None else augment
    mixed = training if shuffle is None else shuffle
    window = config.window if mixed else 1
    dataset = CropDataset(cache, config.crop, config.augment if varied else None, seed, window)
    dataset.place(torch.device(device), config.on_device, say_on_stderr if progress else lambda line: None)
    chosen = config.protocol and admitted_rows(config.protocol, config.split, cache, reader.objects)
    return Loader(dataset, batch_size, mixed, config.workers, rank, world_size, chosen, config.stride, device)
