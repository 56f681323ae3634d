"""What the machine itself can do, measured in the same run as everything that is held against it.

Copy rate: bytes read plus bytes written of a large device-to-device copy. Matrix rate: a large product of random matrices
for each dtype, FP8 through ``torch._scaled_mm``. Random data, never zeros: a GPU runs products of zeros faster.
"""

from __future__ import annotations

import torch

from benchmarks.timing import interleaved, seconds

GIGA, TERA = 1e9, 1e12
LEAST_SIZE = 256
LONGEST_PRODUCT = 0.5  # s: a CPU without instructions for a dtype needs minutes for what others do in milliseconds


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def measure(device: torch.device, quick: bool = False) -> dict:
    """{"copy_gb_s": ..., "matrix_tflop_s": {dtype name: ...}, "unavailable": {dtype name: reason}}."""
    cuda = device.type == "cuda"
    rounds, limit = (3, 2.0) if quick else (15, 10.0)
    size = (2 << 30) if cuda else (256 << 20)
    if quick:
        size //= 8
    result = {
        "copy_gb_s": round(2 * size / _seconds_of_copy(size, device, rounds, limit) / GIGA, 2),
        "copy_bytes": size,
        "matrix_tflop_s": {},
        "matrix_size": (2048 if quick else 8192) if cuda else (512 if quick else 2048),
        "smaller_matrices": {},
        "unavailable": {},
    }
    runs, sizes = {}, {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn):
        name = name_of(dtype)
        try:
            sizes[name] = _affordable(result["matrix_size"], dtype, device)
            runs[name] = _product(sizes[name], dtype, device)
            runs[name]()
        except RuntimeError as error:
            runs.pop(name, None)
            result["unavailable"][name] = str(error).strip().splitlines()[0][:200]
    if cuda:
        sizes["tf32"] = sizes["float32"]
        runs["tf32"] = _with_tf32(_product(sizes["tf32"], torch.float32, device))
        runs["tf32"]()
    for name, spread in interleaved(runs, device, rounds, limit).items():
        result["matrix_tflop_s"][name] = round(2 * sizes[name] ** 3 / (spread.median / 1e3) / TERA, 4)
    result["smaller_matrices"] = {name: sizes[name] for name in runs if sizes[name] < result["matrix_size"]}
    return result


def _affordable(size: int, dtype: torch.dtype, device: torch.device) -> int:
    """The largest of ``size``, half of it and so on whose product should take no longer than ``LONGEST_PRODUCT``."""
    least = min(size, LEAST_SIZE)
    run = _product(least, dtype, device)
    run()
    once = min(seconds(run, 1, device) for _ in range(2))
    while size > least and once * (size / least) ** 3 > LONGEST_PRODUCT:
        size //= 2
    return size


def _seconds_of_copy(size: int, device: torch.device, rounds: int, limit: float) -> float:
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return interleaved({"copy": lambda: target.copy_(source)}, device, rounds, limit)["copy"].median / 1e3


def _product(n: int, dtype: torch.dtype, device: torch.device):
    if dtype == torch.float8_e4m3fn:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        one = torch.ones((), device=device)
        # b.t(): the second operand has to be column-major
        return lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def _with_tf32(run):
    def wrapped():
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            return run()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return wrapped
