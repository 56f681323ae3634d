"""The image encoder and the whole model at each size, batch 1 and 16: with this package's kernels and without.

"eager" is the same network in plain PyTorch (references, SDPA), both under bf16 autocast on a GPU. Latency is that of decoded
crops in, result out.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields

import torch
from torch import Tensor, nn

from benchmarks import model_inputs
from benchmarks.compare import AUTOTUNED
from benchmarks.harness import AUTOTUNE, Case

PART = "model"


@functools.cache
def _model(size: str, device: torch.device) -> nn.Module:
    from amt.model import AMT
    from amt.model.config import ModelConfig

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are what is wanted here
        return AMT(ModelConfig(size=size)).to(device).eval()


def _autocast(device: torch.device, enabled: bool = True):
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and device.type == "cuda")


def _encoder(model: nn.Module, exact: bool = False) -> Callable:
    def run(image: Tensor) -> Tensor:
        with torch.no_grad(), _autocast(image.device, not exact):
            return model.backbone(model.normalize(image)).tokens

    return run


def _whole(model: nn.Module, exact: bool = False) -> Callable:
    from amt.hand.batch import Inputs

    names = [field.name for field in fields(Inputs)]

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        values = {name: t.float() if t.dtype == torch.float64 else t for name, t in zip(names, tensors, strict=True)}
        with torch.no_grad(), _autocast(tensors[0].device, not exact):
            prediction = model(Inputs(**values))
        return prediction.joints, prediction.vertices, prediction.object_translation

    return run


def _plain(function: Callable) -> Callable:
    def run(*inputs):
        with model_inputs.plain_pytorch():
            return function(*inputs)

    return run


def _case(what: str, size: str, batch: int, device: torch.device) -> Case:
    from amt.hand.batch import Inputs
    from amt.model.config import ModelConfig

    side = ModelConfig(size=size).crop_size
    make = _encoder if what == "encoder" else _whole

    def inputs(generator: torch.Generator) -> tuple:
        drawn = model_inputs.inputs(side, batch, generator)
        return (drawn.image,) if what == "encoder" else tuple(getattr(drawn, f.name) for f in fields(Inputs))

    gpu = device.type == "cuda"
    network = _model(size, device)
    run = make(network)
    rivals, variants = {}, {}
    if gpu:
        rivals = {
            "compiled": _plain(torch.compile(make(network), dynamic=False)),
            AUTOTUNED: _plain(torch.compile(make(network), dynamic=False, mode=AUTOTUNE)),
        }
        variants = {"ours compiled": torch.compile(run, dynamic=False)}
    one = model_inputs.inputs(side, 1, torch.Generator(device).manual_seed(0))
    arguments = (one.image,) if what == "encoder" else tuple(getattr(one, f.name) for f in fields(Inputs))
    parameters = sum(p.nbytes for p in network.parameters())
    return Case(
        op=what,
        shape={"size": model_inputs.SIZES[size], "px": side, "B": batch},
        dtype=torch.bfloat16 if gpu else torch.float32,
        device=device,
        inputs=inputs,
        ours=run,
        eager=_plain(run),
        truth=_plain(make(network, exact=True)),
        rivals=rivals,
        variants=variants,
        flops=batch * model_inputs.flops(run, *arguments),
        bytes=float(parameters + one.image.nbytes * batch),
        samples=batch,
        compile=False,
    )


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    model_inputs.need()
    if quick:
        sizes, batches = ["tiny"], [2]
    elif device.type == "cuda":
        sizes, batches = ["small", "base", "large"], [1, 16]
    else:
        sizes, batches = ["tiny", "small"], [1]
    for size in filter(model_inputs.has_size, sizes):
        for batch in batches:
            for what in ("encoder", "model"):
                yield _case(what, size, batch, device)


def test_model(case, measured):
    measured(case)
