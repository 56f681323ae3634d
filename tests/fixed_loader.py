"""Loaders over batches that are made, not read."""

import numpy as np
import torch

SMALL = {  # the settings of a model that trains in milliseconds, on crops of 32 px
    "hidden": 64, "crop_size": 32, "map_size": 8, "map_channels": 16, "decoder_depth": 1, "mlp_ratio": 1, "latent": 16,
    "point_hidden": 8, "point_features": 8, "refine_hidden": 8, "refine_steps": 1,
}  # fmt: skip


class FixedLoader:
    """A loader's interface; the rows depend on (seed, epoch) as in the real one."""

    def __init__(self, batch, batch_size):
        self.all, self.batch_size, self.epoch, self.first_batch = batch, batch_size, 0, 0

    def __len__(self):
        return self.all.inputs.batch_size // self.batch_size

    def digest(self):
        return f"{self.all.targets.joints.double().sum():.9f}"

    def set_epoch(self, epoch, first_batch=0):
        self.epoch, self.first_batch = epoch, first_batch

    def __iter__(self):
        order = np.random.default_rng([0, self.epoch]).permutation(self.all.inputs.batch_size)
        for k in range(self.first_batch, len(self)):
            yield self.all[order[k * self.batch_size : (k + 1) * self.batch_size]]


class Varied:
    """A data set of made frames for the real loader: what a frame looks like derives from (epoch, index)."""

    seed, window = 0, 1

    def __init__(self, batch):
        self.all = batch
        self.cache = {"index": batch.index.numpy(), "joints": batch.targets.joints.numpy()}

    def __len__(self):
        return len(self.all.index)

    def batch(self, rows, epoch=0):
        batch = self.all[torch.from_numpy(rows)].map(torch.clone)
        for image, row in zip(batch.inputs.image, rows):
            image += torch.from_numpy(np.random.default_rng([epoch, row]).integers(0, 9, image.shape, np.uint8))
        return batch
