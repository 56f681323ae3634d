"""DINOv2 by fused blocks and in FP8, beside every way to run it in bf16: eager, torch.compile, max-autotune, cuDNN's attention.

The forms of a block (:mod:`amt.kernels.block.choice`) are measured one by one; the fastest counts as ours.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import model_inputs
from benchmarks.compare import AUTOTUNED
from benchmarks.harness import AUTOTUNE, Case

PART = "encoder"
LARGEST_ERROR = 0.08  # of FP8 tokens against float64; bf16 has the error rule


@functools.lru_cache(maxsize=1)
def _encoder(size: str, side: int, device: torch.device) -> nn.Module:
    from amt.model import AMT
    from amt.model.config import ModelConfig

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are what is wanted here
        model = AMT(ModelConfig(size=size, crop_size=side))
    return nn.Sequential(model.normalize, model.backbone).to(device).eval()


def _run(encoder: nn.Module, exact: bool = False) -> Callable:
    def run(image: Tensor) -> Tensor:
        bf16 = image.device.type == "cuda" and not exact
        with torch.no_grad(), torch.autocast(image.device.type, torch.bfloat16, enabled=bf16):
            return encoder(image).tokens

    return run


def _plain(function: Callable) -> Callable:
    def run(image: Tensor) -> Tensor:
        with model_inputs.plain_pytorch():
            return function(image)

    return run


def _by_cudnn(function: Callable) -> Callable:
    def run(image: Tensor) -> Tensor:
        with model_inputs.plain_pytorch(), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return function(image)

    return run


def case(size: str, side: int, batch: int, device: torch.device, fp8: bool) -> Case:
    from amt.kernels.block import choice
    from amt.kernels.fp8_linear import epilogue
    from amt.model.fp8 import use_fp8
    from amt.model.fused_blocks import use_blocks

    stock = _encoder(size, side, device)

    @functools.cache
    def built(form: str) -> Callable:
        encoder = copy.deepcopy(stock)
        if fp8:
            use_fp8(encoder)
        use_blocks(encoder, form)
        return _run(encoder)

    def fused(form: str) -> Callable:
        return lambda image: built(form)(image)  # pytest makes every case, whichever it runs

    def inputs(generator: torch.Generator, batch: int = batch) -> tuple:
        return (model_inputs.inputs(side, batch, generator).image,)

    forms = {form: fused(form) for form in choice.FORMS[1:]}
    if fp8 and epilogue.reason(device) is None:
        forms[choice.CUTLASS] = fused(choice.CUTLASS)
    gpu, plain = device.type == "cuda", _plain(_run(stock))
    rivals = {}
    if gpu:
        rivals = {
            "compiled": _plain(torch.compile(_run(stock), dynamic=False)),
            AUTOTUNED: _plain(torch.compile(_run(stock), dynamic=False, mode=AUTOTUNE)),
            "cudnn": _by_cudnn(_run(stock)),
        }
    (one,) = inputs(torch.Generator(device).manual_seed(0), 1)
    return Case(
        op="encoder fp8" if fp8 else "encoder",
        shape={"size": model_inputs.SIZES[size], "px": side, "B": batch},
        dtype=torch.bfloat16 if gpu else torch.float32,
        device=device,
        inputs=inputs,
        check=lambda generator: inputs(generator, 1),
        ours=forms.pop("fused"),
        eager=plain,
        truth=_plain(_run(stock, exact=True)),
        rivals=rivals,
        variants={f"ours {form}": run for form, run in forms.items()},
        flops=batch * model_inputs.flops(_run(stock), one),
        bytes=float(sum(p.nbytes for p in stock.parameters()) + one.nbytes * batch),
        samples=batch,
        bound=LARGEST_ERROR if fp8 else None,
        matrix="float8_e4m3fn" if fp8 else None,
        compile=False,
    )


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    model_inputs.need()
    gpu = device.type == "cuda"
    shapes = [("large", 224, 16), ("large", 224, 1), ("large", 518, 16)] if gpu else [("small", 224, 1)]
    if quick:
        shapes = [("tiny", 112, 2)]
    for size, side, batch in shapes:
        if model_inputs.has_size(size):
            for fp8 in (False, True):
                yield case(size, side, batch, device, fp8)


def test_encoder(case, measured):
    measured(case)
