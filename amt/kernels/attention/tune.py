"""``python -m amt.kernels tune``: measures every attention back end on this card and writes the table that ``auto`` reads.

Times are medians of CUDA graphs: launches from Python would hide a kernel of 20 microseconds. A back end that fails, that a
graph cannot capture, or whose result breaks the error rule, is left out and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from amt.kernels._table import check_output, earlier_rows, merged
from amt.kernels._timing import median_ms
from amt.kernels.attention import dispatch, reference
from amt.kernels.attention.back_ends import BACK_ENDS
from amt.kernels.attention.dispatch import Shape
from amt.kernels.testing import error_rule

# tokens, heads (B H) and head size: ViTs at 224, 336, 448 and 518 px with and without registers, and the fusion's tokens
SHAPES = [
    *((n, h, 64) for n in (256, 257, 261, 321, 577, 581, 1025, 1029, 1370, 1374) for h in (16, 192, 256, 1024)),
    *((n, h, 64) for n in (2048, 4096) for h in (16, 64)),
    *((n, h, 128) for n in (257, 577, 1025, 2048) for h in (8, 128)),
]
QUICK = [(17, 2, 64), (33, 2, 64)]
REPEATS = 30


def tune(device: torch.device, output: Path | None, quick: bool, say: Callable[[str], None] = print) -> Path | None:
    """Measures, and writes the table of the card, or nothing where ``quick`` and no output is named.

    Args:
        output: the file; None: the card's file in the user's cache.
        quick: two small shapes, to see that everything runs.

    Raises:
        UsageError: no file can be written there; nothing was measured.
    """
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    if output is None and not quick:
        output = dispatch.user_folder() / dispatch.file_name(card)
    if output is not None:
        check_output(output)
    rows, earlier = [], earlier_rows(output, card)
    for shape in _shapes(device, quick):
        row = measure(shape, device, 3 if quick else REPEATS, say)
        rows.append(row)
        times = ", ".join(f"{name} {ms * 1e3:.1f}" for name, ms in sorted(row["ms"].items(), key=lambda item: item[1]))
        say(f"N {shape.tokens} BH {shape.heads} D {shape.size}{' with backward' if shape.backward else ''}: {times} µs")
        if output is not None:  # at once: what is cut off keeps what it has
            dispatch.write(output, card, merged(earlier, rows))
    return output


def _shapes(device: torch.device, quick: bool) -> Iterable[Shape]:
    for tokens, heads, size in QUICK if quick else SHAPES:
        for backward in (False, True):
            yield Shape(tokens, heads, size, "bfloat16", backward)


def measure(shape: Shape, device: torch.device, repeats: int, say: Callable[[str], None]) -> dict:
    """One row of the table: the shape and ``ms``, milliseconds by back end."""
    batch = max(1, shape.heads // 16)
    generator = torch.Generator().manual_seed(0)
    draw = (batch, shape.tokens, 3, shape.heads // batch, shape.size)
    packed = torch.randn(draw, generator=generator).to(
        device, getattr(torch, shape.dtype)
    )  # as a projection leaves them
    inputs = [packed[:, :, i].transpose(1, 2).detach().requires_grad_(shape.backward) for i in range(3)]
    scale = shape.size**-0.5
    truth = reference.attention(*(x[:1].detach().double() for x in inputs), scale)
    peer = reference.attention(*(x[:1].detach() for x in inputs), scale)
    times: dict[str, float] = {}
    for name, back_end in BACK_ENDS.items():
        reason = back_end.reason(inputs[0], inputs[1])
        if reason is None:
            try:
                run = dispatch.loaded(name)
                error, allowed = error_rule(run(*inputs, scale)[:1].detach(), truth, peer)
                if error <= allowed:
                    times[name] = median_ms(_step(run, inputs, scale, shape.backward), device, repeats)
                    continue
                reason = f"its error is {error:.2g}, allowed {allowed:.2g}"
            except Exception as problem:  # whatever a foreign library raises must not end the tuning
                reason = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
            say(f"  {name} is left out: {reason}")
    return {**shape._asdict(), "ms": times}


def _step(run: Callable, inputs: list[Tensor], scale: float, backward: bool) -> Callable[[], object]:
    if not backward:
        return lambda: run(*inputs, scale)
    seed = torch.ones_like(inputs[0])
    return lambda: torch.autograd.grad(run(*inputs, scale), inputs, seed)
