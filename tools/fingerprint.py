"""``python -m tools.fingerprint [FILE]`` writes a digest of every op's results, to compare two states of the code bit by bit.

Each op runs forward and backward on inputs drawn from a fixed seed, in every dtype that it takes. It does so once for each
instruction set of this machine, with one and with two threads. A refactoring must leave every line as it is::

    python -m tools.fingerprint before.txt
    git switch my-change && pip install -e . --no-build-isolation
    python -m tools.fingerprint after.txt && diff before.txt after.txt

The digests belong to one machine: other instruction sets and other versions of PyTorch round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

INSTRUCTION_SETS = {"0": "baseline", "1": "AVX2", "2": "AVX-512", "3": "AMX"}  # AMT_CPU_ISA, csrc's cpu_isa.h
THREADS = ("1", "2")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.fingerprint", description=__doc__.split("\n\n")[0])
    parser.add_argument("file", nargs="?", type=Path, help="where the digests go; without it they are printed")
    parser.add_argument("--here", action="store_true", help="this process's instruction set and threads only")
    options = parser.parse_args(arguments)
    if options.here:
        lines = list(_digests())
    else:
        lines = [line for isa in INSTRUCTION_SETS for threads in THREADS for line in _run(isa, threads)]
    text = "\n".join(lines) + "\n"
    if options.file is None:
        print(text, end="")
    else:
        options.file.write_text(text)
    return 0


def _run(isa: str, threads: str) -> list[str]:
    """The digests of a process of its own; none for an instruction set that this machine lacks."""
    environment = os.environ | {"AMT_CPU_ISA": isa, "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "tools.fingerprint", "--here"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"tools.fingerprint: AMT_CPU_ISA={isa} failed: {done.stderr.strip().splitlines()[-1]}")
    first, *lines = done.stdout.splitlines()
    if first != isa:
        return []
    return [f"{INSTRUCTION_SETS[isa]} {threads} threads: {line}" for line in lines]


def _digests() -> Iterator[str]:
    import torch

    import amt.kernels

    amt.kernels.hand_frames(torch.zeros(1, 21, 3))  # loads the native library
    yield str(torch.ops.amt.cpu_isa())
    for name, function, inputs in _cases():
        inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        seeds = [_drawn(o.shape, seed=9).to(o.dtype) for o in outputs]
        gradients = torch.autograd.grad(outputs, inputs, seeds, allow_unused=True)
        with torch.no_grad():
            alone = function(*inputs)
        alone = alone if isinstance(alone, tuple) else (alone,)
        yield f"{name} forward {_digest(outputs)} without a graph {_digest(alone)} gradients {_digest(gradients)}"


def _cases():
    """Name, function and inputs of every op, shape and dtype."""
    import torch

    from amt.kernels import RefineWeights, attention, frame_pointnet, hand_frames, pose_scores, refine

    half, single, double = torch.bfloat16, torch.float32, torch.float64
    for batch in (1, 3, 70):
        for dtype in (single, double):
            yield f"hand_frames B{batch} {dtype}", hand_frames, [_hands(batch).to(dtype)]
    for batch, points in ((1, 778), (5, 33)):
        for dtype in (half, torch.float16, single):
            with torch.no_grad():
                origins, rotations = hand_frames(_hands(batch))
            weights = [_drawn(size, seed=i) * 0.3 for i, size in enumerate(((64, 3), (22, 64), (128, 64), (128,)))]
            cloud = _drawn((batch, points, 3), seed=5) * 0.05
            mixed = [cloud, origins, rotations, *(w.to(dtype) for w in weights)]
            yield f"frame_pointnet B{batch} N{points} {dtype}", frame_pointnet, mixed
    for batch, points, poses in ((1, 128, 385), (3, 17, 33)):
        for dtype in (single, double):
            yield _pose_case(batch, points, poses, dtype, pose_scores)
    for batch, channels in ((1, (32, 64, 160)), (3, (71,)), (40, (32, 64, 160))):
        for maps_dtype, dtype in (
            (half, half),
            (half, single),
            (torch.float16, single),
            (single, single),
            (double, double),
        ):
            for detach in (True, False):
                yield _refine_case(batch, channels, maps_dtype, dtype, detach, refine, RefineWeights)
    for dtype in (half, single):
        qkv = [_drawn((2, 3, 65, 64), seed=i).to(dtype) for i in range(3)]
        yield f"attention {dtype}", attention, qkv
        yield f"attention fp8 {dtype}", lambda q, k, v: attention(q, k, v, precision="fp8"), qkv


def _refine_case(batch, channels, maps_dtype, dtype, detach, refine, weights_type):
    import torch

    coordinates = torch.float64 if dtype == torch.float64 else torch.float32
    total, hidden, steps, joints = sum(channels), 72, 3, 21
    intrinsics = torch.tensor([[240.0, 0, 112], [0, 250, 110], [0, 0, 1]]).expand(batch, 3, 3)
    maps = [_drawn((batch, 8 * 2**i, 8 * 2**i, c), seed=20 + i).to(maps_dtype) for i, c in enumerate(channels)]
    sizes = ((steps, hidden, total + 3), (steps, joints, hidden), (steps, 3, hidden), (steps, 3))
    weights = [
        (_drawn(size, seed=30 + i) * s).to(dtype) for i, (size, s) in enumerate(zip(sizes, (0.05, 0.1, 0.01, 0.01)))
    ]

    def run(points, camera, *rest):
        return refine(
            points, camera, rest[: len(maps)], weights_type(*rest[len(maps) :]), image_size=(224, 224), detach=detach
        )

    name = f"refine B{batch} C{total} maps {maps_dtype} weights {dtype} detach {detach}"
    return name, run, [_hands(batch).to(coordinates), intrinsics.to(coordinates), *maps, *weights]


def _pose_case(batch, points, poses, dtype, pose_scores):
    import torch

    intrinsics = torch.tensor([[240.0, 0, 55], [0, 250, 57], [0, 0, 1]]).expand(batch, 3, 3)
    sizes = ((batch, points, 28, 28), (batch, 4, 28, 28), (batch, points, 3), (batch, points, 3), (batch, poses, 3, 3))
    colour, surface, cloud, normals, rotation = (_drawn(size, seed=40 + i) for i, size in enumerate(sizes))
    places = _drawn((batch, poses, 3), seed=45) * 0.05 + torch.tensor([0.0, 0.0, 0.6])
    geometry = [x.to(dtype) for x in (cloud * 0.05, normals, torch.linalg.qr(rotation)[0], places, intrinsics)]

    def run(colour, surface):
        return pose_scores(colour, surface, *geometry, image_size=(112, 112))

    return f"pose_scores B{batch} N{points} K{poses} {dtype}", run, [colour.to(dtype), surface.to(dtype)]


def _hands(batch: int):
    import torch

    return _drawn((batch, 21, 3), seed=1) * 0.06 + torch.tensor([0.0, 0.0, 0.6])


def _drawn(shape, seed: int):
    import torch

    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed))


def _digest(tensors) -> str:
    import torch

    digest = hashlib.sha256()
    for tensor in tensors:
        if tensor is not None:
            digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main())
