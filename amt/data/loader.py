"""Batches for training and evaluation: ``for batch in make_loader(DataConfig(root=...), "train")``.

A whole batch is put together at once from the memory-mapped crop cache. That is quick enough to feed a small model from the
training process itself; with workers, each of them puts whole batches together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from amt.data.augment import Cuts, change_camera, vary
from amt.data.backgrounds import read_backgrounds
from amt.data.cache import CROPS
from amt.data.config import AugmentConfig, CropConfig, DataConfig
from amt.data.crop_cache import CropCache, build_cache
from amt.data.dexycb import DexYCB
from amt.data.draws import draw
from amt.data.errors import DataError
from amt.data.ho3d import HO3D
from amt.data.protocols import admitted_rows, find_protocol
from amt.data.reader import Reader, check_broken
from amt.data.workers import Workers
from amt.hand.batch import Batch, Inputs, Targets

READERS = {"dexycb": DexYCB, "ho3d": HO3D}  # by data.layout


class CropDataset:
    """Batches by row numbers of a crop cache.

    Args:
        augment: None shows every crop as it was cut, in its true box.
        seed: of the augmentation, together with the epoch and the frame's index.
    """

    def __init__(self, cache: CropCache, config: CropConfig, augment: AugmentConfig | None = None, seed: int = 0):
        self.cache, self.config, self.augment, self.seed = cache, config, augment, seed
        self.class_points = torch.from_numpy(cache.class_points)
        self.pictures: Tensor | None = None
        if augment is not None and augment.background:
            self.pictures = read_backgrounds(augment.backgrounds, config.cut_size)

    def __reduce__(self):
        # A worker makes its own tensors: pickled ones would pass through shared memory.
        return CropDataset, (self.cache, self.config, self.augment, self.seed)

    def __len__(self) -> int:
        return len(self.cache)

    def batch(self, rows: np.ndarray, epoch: int = 0) -> Batch:
        """The batch of cache rows [B], varied as (seed, epoch, index) say."""
        return vary(self.cuts(rows, epoch), self.config.size, self.pictures)

    def cuts(self, rows: np.ndarray, epoch: int = 0) -> Cuts:
        """Cache rows [B] and what is drawn for them, before pixels and labels are varied. On the CPU."""
        rows, size = np.asarray(rows, np.int64), self.config.size
        labels = self.cache.take(rows)

        def take(name: str) -> Tensor:
            return torch.from_numpy(labels[name].copy())  # records are packed: a view need not be aligned

        index, object_class = take("index"), take("object_class")
        inputs = Inputs(
            image=torch.from_numpy(self.cache.pixels(rows, None if self.augment else size)),
            intrinsics=take("intrinsics"),
            box=take("box"),
            frame_intrinsics=take("frame_intrinsics"),
            frame_size=take("frame_size"),
            right=take("right"),
            object_class=object_class,
            object_points=self.class_points[object_class],
        )
        targets = Targets(**{name: take(name) for name in Targets.__dataclass_fields__ if name in self.cache.names})
        if self.augment is None:
            inputs.intrinsics[:, :2, 2] -= (self.config.cut_size - size) // 2
            return Cuts(Batch(inputs, targets, index), None, None, None)
        number = index.numpy()
        view, look = draw(
            self.augment, self.seed, epoch, number, number, size, 0 if self.pictures is None else len(self.pictures)
        )
        inputs, change = change_camera(inputs, view, size)
        alpha = None
        if look.background is not None:
            alpha = torch.from_numpy(self.cache.pixels(rows, name="alpha"))
        return Cuts(Batch(inputs, targets, index), alpha, change, look)


class Loader:
    """Iterates over an epoch's batches; call :meth:`set_epoch` before each.

    The order derives from (seed, epoch) alone, what a sample looks like from (seed, epoch, index): the batches are the same
    for any number of workers. With ``world_size`` ranks, rank r takes every batch's r-th share.

    Args:
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
    ):
        self.chosen = np.arange(len(dataset)) if chosen is None else np.asarray(chosen)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be 0-{world_size - 1}; got {rank}")
        if shuffle and len(self.chosen) < batch_size * world_size:
            raise DataError(
                f"{len(self.chosen)} frames do not fill one batch of {batch_size} x {world_size}; take smaller batches"
            )
        self.dataset, self.batch_size, self.shuffle, self.workers = dataset, batch_size, shuffle, workers
        self.rank, self.world_size = rank, world_size
        self._pool: Workers | None = None  # the processes live from the first epoch on
        self.epoch = self.first_batch = 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Chooses the epoch; ``first_batch`` leaves out its beginning, for a run that resumes in the middle of it."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        """Batches an epoch: whole ones only where shuffled, else all frames."""
        step = self.batch_size * self.world_size
        return len(self.chosen) // step if self.shuffle else -(-len(self.chosen) // step)

    def digest(self) -> str:
        """Of the frames' numbers and joints, in the order of the cache: the same set has the same one on any machine."""
        digest = hashlib.sha256()
        for name in ("index", "joints"):
            digest.update(np.ascontiguousarray(self.dataset.cache[name]))
        return digest.hexdigest()

    def rows(self) -> list[np.ndarray]:
        """This rank's cache rows of every batch of the epoch."""
        order = self.chosen
        if self.shuffle:
            order = np.random.default_rng([self.dataset.seed, self.epoch]).permutation(order)
        step = self.batch_size * self.world_size
        batches = [order[k * step : (k + 1) * step] for k in range(len(self))]
        return [rows[self.rank :: self.world_size] for rows in batches]

    def __iter__(self) -> Iterator[Batch]:
        plan = [(rows, self.epoch) for rows in self.rows()[self.first_batch :]]
        if not self.workers:
            return (self.dataset.batch(*item) for item in plan)
        if self._pool is None:
            self._pool = Workers(self.dataset.batch, self.workers)
        return self._pool.batches(plan)


def open_reader(config: DataConfig, subset: str) -> Reader:
    """The reader of a subset of the configured set, rendered first if no root is named. Raises DataError."""
    reader = READERS[config.layout](config.root_folder(), config.split, subset, config.mano)
    if subset == "train":
        reader.most_broken = config.most_broken
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
    progress: bool = True,
) -> Loader:
    """A loader of ``Batch`` over a subset ("train", "val", "test"); makes the crop cache on first use.

    Training data are shuffled and augmented, others come in order and as they are, unless ``augment`` or ``shuffle`` say
    otherwise.

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
    dataset = CropDataset(cache, config.crop, config.augment if varied else None, seed)
    mixed = training if shuffle is None else shuffle
    chosen = config.protocol and admitted_rows(config.protocol, config.split, cache, reader.objects)
    return Loader(dataset, batch_size, mixed, config.workers, rank, world_size, chosen)
