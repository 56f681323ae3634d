"""``python -m amt.model.tune_blocks``: measures every form of a transformer block, and FP8 products, on this card.

A product is measured with what follows it in a block: its bias; after fc1's, GELU and the e4m3 numbers that fc2 reads.

It writes the table that ``blocks=auto`` and FP8 layers choose by (:mod:`amt.kernels.block.choice`). A form that fails, that a
CUDA graph cannot capture, or whose result breaks the error rule, is left out and named.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from amt.errors import UsageError
from amt.kernels import _table, fp8_linear
from amt.kernels._timing import median_ms
from amt.kernels.attention.fp8 import quantize
from amt.kernels.block import Operand, choice, gelu_quantize
from amt.kernels.fp8_linear import epilogue
from amt.kernels.testing import error_rule
from amt.model.fused_blocks import use_blocks
from amt.model.layers import Block
from amt.startup import Parser, run_program

WIDTHS = (384, 768, 1024)  # of DINOv2 S, B and L
IMAGES = ((1, 257), (16, 257), (64, 257), (1, 1370), (16, 1370))  # and tokens: 224 px and 518 px
QUICK = ((2, 17),)
REPEATS = 30


def main(arguments: Sequence[str] = ()) -> int:
    """Measures; 0, or 2 after one line that names a wrong word."""
    return run_program("amt.model.tune_blocks", lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> int:
    parser = Parser(prog="python -m amt.model.tune_blocks", description=__doc__)
    parser.add_argument("--output", type=Path, help="the table's file (default: the card's, in the user's cache)")
    parser.add_argument("--dry", action="store_true", help="one small shape, on the CPU where there is no card")
    options = parser.parse_args(arguments)

    if not (torch.cuda.is_available() or options.dry):
        raise UsageError("tune_blocks: no CUDA card to measure; --dry shows on the CPU that it runs")
    written = _tune(torch.device("cuda" if torch.cuda.is_available() else "cpu"), options)
    print(f"written: {written}" if written else "nothing written: name a file with --output")
    return 0


def _tune(device: torch.device, options: Namespace) -> Path | None:
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    output = options.output
    if output is None and not options.dry:
        output = choice.user_folder() / _table.file_name(card)
    if output is not None:
        _table.check_output(output)
    repeats, widths = (3, (64,)) if options.dry else (REPEATS, WIDTHS)
    rows, earlier = [], _table.earlier_rows(output, card)
    for width in widths:
        for images, tokens in QUICK if options.dry else IMAGES:
            for backward in (False, True):
                for row in _measured(images, tokens, width, backward, device, repeats):
                    rows.append(row)
                    times = sorted(row["ms"].items(), key=lambda item: item[1])
                    what = f"{width} to {row['units']}" if row["units"] else f"block of {width}"
                    said = ", ".join(f"{name} {ms * 1e3:.1f}" for name, ms in times)
                    print(f"{row['rows']} rows, {what}{' with backward' if backward else ''}: {said} µs")
                if output is not None:  # at once: what is cut off keeps what it has
                    _table.write(output, card, _table.merged(earlier, rows))
    return output


def _measured(images: int, tokens: int, width: int, backward: bool, device: torch.device, repeats: int) -> list[dict]:
    """The table's rows of one shape: the block's, and those of its three sizes of linear layers."""
    count = images * tokens
    shape = {"rows": count, "dtype": "bfloat16", "backward": backward}
    found = [{**shape, "channels": width, "units": 0, "ms": _block(images, tokens, width, backward, device, repeats)}]
    for channels, units in ((width, width), (width, 4 * width), (4 * width, width)):
        times = _linear(count, channels, units, backward, device, repeats)
        found.append({**shape, "channels": channels, "units": units, "ms": times})
    return found


def _block(
    images: int, tokens: int, width: int, backward: bool, device: torch.device, repeats: int
) -> dict[str, float]:
    """Milliseconds of a block under bf16 autocast, by form."""
    torch.manual_seed(0)
    block = Block(width, 4).to(device).train(backward)
    x = torch.randn(images, tokens, width, device=device, requires_grad=backward)
    with torch.no_grad():
        truth = block.double()(x[:1].double())
        block.float()

    def step():
        with torch.set_grad_enabled(backward), torch.autocast(device.type, torch.bfloat16):
            out = block(x)
        return torch.autograd.grad(out.sum(), (x, *block.parameters())) if backward else out

    def result(form: str) -> Tensor:
        use_blocks(block, form)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            return block(x[:1])

    peer = result("stock")
    times = {}
    for form in choice.FORMS[: -1 if backward else None]:
        try:
            error, allowed = error_rule(result(form), truth, peer)
            if error > allowed:
                raise AssertionError(f"its error is {error:.2g}, allowed {allowed:.2g}")
            times[form] = median_ms(step, device, repeats)
        except Exception as problem:  # whatever a kernel raises must not end the tuning
            _leave_out(f"{form} at {images} x {tokens} x {width}", problem)
    return times


def _linear(
    count: int, channels: int, units: int, backward: bool, device: torch.device, repeats: int
) -> dict[str, float]:
    """Milliseconds of a product and what follows it, in bf16 and in FP8, where the kernel before has quantised what it reads."""
    torch.manual_seed(0)
    x = torch.randn(count, channels, device=device, dtype=torch.bfloat16).requires_grad_(backward)
    weight = torch.randn(units, channels, device=device, dtype=torch.bfloat16).mul_(channels**-0.5)
    weight.requires_grad_(backward)
    bias = torch.randn(units, device=device, dtype=torch.bfloat16)
    wide = bias.float()
    fc1 = units > channels
    operand = Operand(x, *(t.detach() for t in quantize(x.detach().float(), dim=1)))
    kept = fp8_linear.quantized_weight(weight)
    factor = torch.ones(1, 1, device=device) if fc1 else None

    def bf16() -> Tensor:
        out = F.linear(x, weight, bias)
        return F.gelu(out) if fc1 else out

    def fp8() -> Tensor:
        e4m3 = fp8_linear.quantized_weight(weight) if backward else kept  # in training at every step
        out = fp8_linear.linear(operand, weight, e4m3, torch.bfloat16)
        return gelu_quantize(out, bias).plain if fc1 else out + bias

    def cutlass() -> Tensor:
        return epilogue.fused(operand[1:], kept, wide, gelu=fc1, factor=factor)

    runs = {"bf16": bf16, "fp8": fp8}
    if not backward and epilogue.reason(device) is None:
        runs["cutlass"] = cutlass
    times: dict[str, float] = {}
    for name, run in runs.items():

        def step(run=run):
            with torch.set_grad_enabled(backward):
                out = run()
            return torch.autograd.grad(out.sum(), (x, weight)) if backward else out

        try:
            times[name] = median_ms(step, device, repeats)
        except Exception as problem:
            _leave_out(f"{name} at {count} x {channels} x {units}", problem)
    return times


def _leave_out(what: str, problem: Exception) -> None:
    print(f"  {what} is left out: {(str(problem).strip().splitlines() or [type(problem).__name__])[0]}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
