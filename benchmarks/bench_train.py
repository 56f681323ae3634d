"""A whole training step (forward, loss, backward, clipping, optimiser) at each size: images/s, MFU and peak memory.

The matrix share of a record is the MFU: counted operations of forward and backward over the bf16 matrix rate.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator

import torch

from benchmarks import model_inputs
from benchmarks.harness import Case, Incorrect

PART = "train"
LARGEST_DIFFERENCE = 0.02  # of the losses that ours and plain PyTorch give for one batch, bf16 against bf16


@functools.lru_cache(maxsize=1)
def _trainer(size: str, side: int | None, batch: int, device: torch.device):
    from amt.config import KernelsConfig
    from amt.data.config import CropConfig, DataConfig
    from amt.model.config import ModelConfig
    from amt.train.config import Config, TrainConfig
    from amt.train.trainer import Trainer

    train = TrainConfig(
        batch_size=batch, lr=1e-5, precision="bf16" if device.type == "cuda" else "float32", device=device.type
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are what is wanted here
        model = ModelConfig(size=size, crop_size=side)
        data = DataConfig(crop=CropConfig(size=model.crop_size))
        return Trainer(Config(model, data, train, KernelsConfig()))


def _case(size: str, count: int, device: torch.device, side: int | None = None) -> Case:
    """A step at a size; ``side`` (px) of its crops, None: the size's own."""
    from amt.model.config import ModelConfig

    side = ModelConfig(size=size, crop_size=side).crop_size

    def trainer():
        return _trainer(size, side, count, device)

    def ours(batch) -> None:
        trainer().train_step(batch)

    def plain(batch) -> None:
        with model_inputs.plain_pytorch():
            ours(batch)

    def draw(generator: torch.Generator, size: int = count):
        return model_inputs.batch(side, size, generator)

    def verify() -> dict[str, float]:
        """The first step's loss from the same weights, batch and noise, by both."""
        batch = draw(torch.Generator(device).manual_seed(0))
        _trainer.cache_clear()
        loss = float(trainer().train_step(batch)["loss"])
        _trainer.cache_clear()
        with model_inputs.plain_pytorch():
            expected = float(trainer().train_step(batch)["loss"])
        difference = abs(loss - expected) / abs(expected)
        if not difference <= LARGEST_DIFFERENCE:
            raise Incorrect(f"training at size {size}: loss {loss:.6g}, plain PyTorch's {expected:.6g}")
        return {"ours": difference, "eager": 0.0}

    one = draw(torch.Generator(device).manual_seed(0), 2)  # batch norm needs two
    parameters = sum(p.nbytes for p in trainer().model.parameters())
    return Case(
        op="training step",
        shape={"size": model_inputs.SIZES[size], "px": side, "B": count},
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        device=device,
        inputs=lambda generator: (draw(generator),),
        ours=ours,
        eager=plain,
        verify=verify,
        flops=count / 2 * model_inputs.flops(ours, one),
        bytes=float(8 * parameters),  # weights, gradients and two moments, each read and written
        samples=count,
        compile=False,
        graph=False,
    )


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    model_inputs.need("amt.train.trainer", "amt.train.config")
    if quick:
        yield _case("tiny", 2, device, side=32)
        return
    if device.type == "cuda":
        sizes = {"small": 128, "base": 64, "large": 32}
    else:
        sizes = {"tiny": 32}
    for size, count in sizes.items():
        if model_inputs.has_size(size):
            yield _case(size, count, device)


def test_training_step(case, measured):
    measured(case)
