"""``refine`` in tests: the implementations that this run tries, the cases, and the error rule on them.

A plain run tries what this machine has. TRITON_INTERPRET=1 tries Triton's kernels in the interpreter, on the CPU; AMT_CPU_ISA
tries the native library with the vector instructions of an older CPU. Both must be set before the process starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
import torch
from torch import Tensor

from amt.kernels import RefineWeights, _native, _triton, refine, use
from amt.kernels.refine import reference
from amt.kernels.testing import assert_error_rule
from benchmarks.bench_refine import plain_refine

FLOAT32, FLOAT16, BFLOAT16, FLOAT64 = torch.float32, torch.float16, torch.bfloat16, torch.float64

PYRAMID = ((4, 5, 30), (7, 6, 17))
IMAGE_SIZE = (60, 64)


@dataclass(frozen=True)
class Implementation:
    """One way to run the op: ``function`` takes the reference's arguments."""

    name: str
    function: Callable[..., Tensor]
    chosen_by: str  # the name for amt.kernels.use
    device: str = "cpu"
    dtypes: tuple[torch.dtype, ...] = (FLOAT32, BFLOAT16, FLOAT16, FLOAT64)  # of maps
    marks: tuple = field(default=())

    def __str__(self) -> str:
        return self.name


def public(joints, intrinsics, maps, w1, b1, w2, b2, image_size, step_size, detach, *, name: str) -> Tensor:
    """The public function under ``use(name)``."""
    weights, options = RefineWeights(w1, b1, w2, b2), {"step_size": step_size, "detach": detach}
    with use(name):
        return refine(joints, intrinsics, maps, weights, image_size=image_size, **options)


def _triton_form(form: str) -> Callable[..., Tensor]:
    def function(*arguments) -> Tensor:
        from amt.kernels.refine import triton

        return triton.refine(*arguments, form=form)

    return function


def _implementations() -> list[Implementation]:
    """Those that this run tries; those for a GPU are skipped where there is none."""
    forms = {f"triton-{form}": _triton_form(form) for form in ("two_kernel", "single")}
    if _triton.INTERPRETED:  # it truncates where a GPU rounds to bfloat16
        on_cpu = {"dtypes": (FLOAT32, FLOAT16), "marks": (pytest.mark.interpreted,)}
        return [Implementation(n, f, "triton", **on_cpu) for n, f in forms.items()]
    native = Implementation("native", partial(public, name="native"), "native", marks=(pytest.mark.native,))
    if "AMT_CPU_ISA" in os.environ:
        return [native]
    found = [Implementation("reference", reference.refine, "reference")]
    if _native.missing("refine", "cpu") is None:
        found.append(native)
    no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    on_gpu = {"device": "cuda", "marks": (pytest.mark.gpu, no_gpu)}
    if _triton.INSTALLED:
        found += [
            Implementation(n, f, "triton", dtypes=(FLOAT32, BFLOAT16, FLOAT16), **on_gpu) for n, f in forms.items()
        ]
    found += [Implementation(name, partial(public, name=name), name, **on_gpu) for name in ("cuda", "auto")]
    return found


IMPLEMENTATIONS = _implementations()


def over(wanted: Callable[[Implementation], bool] = lambda implementation: True, dtypes: tuple = ()):
    """Parametrises a test over the implementations, and with ``dtypes`` over those of the maps that each of them takes."""
    chosen = [i for i in IMPLEMENTATIONS if wanted(i)]
    if not dtypes:
        return pytest.mark.parametrize("implementation", [pytest.param(i, marks=i.marks, id=i.name) for i in chosen])
    pairs = [
        pytest.param(i, dtype, marks=i.marks, id=f"{i.name}-{str(dtype).removeprefix('torch.')}")
        for i in chosen
        for dtype in dtypes
        if dtype in i.dtypes
    ]
    return pytest.mark.parametrize(("implementation", "dtype"), pairs)


def compiled(implementation: Implementation) -> bool:
    """Not the definition itself."""
    return implementation.name != "reference"


@dataclass(frozen=True)
class Case:
    joints: Tensor
    intrinsics: Tensor
    maps: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    detach: bool = True

    def inputs(self) -> list[Tensor]:
        return [self.joints, self.intrinsics, *self.maps, *self.weights]

    def to(self, device, dtype: torch.dtype | None = None) -> Case:
        """``dtype``: of maps and weights; float64 is that of the coordinates as well."""
        coordinates = torch.float64 if dtype == torch.float64 else self.joints.dtype
        return replace(
            self,
            joints=self.joints.to(device, coordinates),
            intrinsics=self.intrinsics.to(device, coordinates),
            maps=tuple(m.to(device, dtype) for m in self.maps),
            weights=tuple(w.to(device, dtype) for w in self.weights),
        )


def make(batch=2, joints=5, steps=2, hidden=40, sizes=PYRAMID, detach=True, seed=0) -> Case:
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g)

    inputs = sum(channels for _, _, channels in sizes) + 3
    return Case(
        joints=normal(batch, joints, 3) * 0.1 + torch.tensor([0.0, 0.0, 0.6]),
        intrinsics=torch.tensor([[200.0, 3, 30], [0, 180, 28], [0, 0, 1]]).repeat(batch, 1, 1),
        maps=tuple(normal(batch, *size) for size in sizes),
        weights=(
            normal(steps, hidden, inputs) / inputs**0.5,
            normal(steps, joints, hidden) * 0.2,
            normal(steps, 3, hidden) * 0.1 / hidden**0.5,
            normal(steps, 3) * 0.01,
        ),
        detach=detach,
    )


def behind_the_camera() -> Case:
    case = make(batch=4)
    inf, nan = float("inf"), float("nan")
    bad = [
        [0, 0, 0],
        [0, 0, -1],
        [nan, 0, 1],
        [0, inf, 1],
        [0, 0, nan],
        [1e30, 0, 1],
        [0, 0, 1e-3],
        [0, 0, inf],
        [nan] * 3,
    ]
    case.joints[:3, 1:4] = torch.tensor(bad).reshape(3, 3, 3)
    case.joints[3, 0] = nan  # a wrist
    return case


def on_cell_borders() -> Case:
    """Projections on a cell's centre, on the map's border and on its edge, through a camera that makes pixels exact."""
    case = make(sizes=((4, 8, 30),), joints=6, steps=1)
    height, width = IMAGE_SIZE
    cells = torch.tensor([[0.0, 0], [7, 3], [-0.5, 1], [7.5, 3.5], [-1, -1], [8, 4]])  # x, y of the map
    pixels = (cells + 0.5) * torch.tensor([width / 8, height / 4]) - 0.5
    case.joints[:] = torch.cat([pixels, torch.ones(6, 1)], dim=1)
    case.intrinsics[:] = torch.eye(3)
    return case


def views() -> Case:
    """Strided, sliced and expanded maps, w1 shared by the steps."""
    case = make(sizes=((4, 5, 30), (7, 6, 17), (3, 3, 4)))
    wide = torch.zeros(2, 8, 10, 40)
    wide[:, ::2, ::2, 3:33] = case.maps[0]
    shared = case.weights[0][:1].expand(2, -1, -1)
    maps = (
        wide[:, ::2, ::2, 3:33],
        case.maps[1].transpose(1, 2).contiguous().transpose(1, 2),
        case.maps[2][:1].expand(2, -1, -1, -1),
    )
    return replace(case, maps=maps, weights=(shared, *case.weights[1:]))


def scaled(scale: float) -> Case:
    case = make()
    case.joints.mul_(scale)
    return case


def coincident() -> Case:
    case = make(joints=7)
    case.joints[:] = case.joints[:, :1]
    return case


CASES = {
    "detached": make,
    "through-the-steps": lambda: make(detach=False),
    "one-step-three-hands": lambda: make(batch=1, joints=63, steps=1),
    "J26-S3": lambda: make(batch=1, joints=26, steps=3, hidden=33),
    "C1": lambda: make(sizes=((4, 5, 1),)),
    "C71-257": lambda: make(sizes=((4, 5, 71), (3, 2, 257)), hidden=16),
    "C64-D256": lambda: make(sizes=((4, 4, 64),), hidden=256),
    "1x1": lambda: make(sizes=((1, 1, 5), (1, 6, 16), (6, 1, 16), (2, 2, 3))),
    "behind-the-camera": behind_the_camera,
    "on-cell-borders": on_cell_borders,
    "views": views,
    "tiny": lambda: scaled(1e-20),
    "huge": lambda: scaled(1e20),
    "coincident": coincident,
}
LARGE = {"J21-B30": lambda: make(batch=30, joints=21), "J150": lambda: make(batch=2, joints=150, hidden=16)}
CASES |= LARGE
EMPTY = {"B0": lambda: make(batch=0), "J0": lambda: make(joints=0)}


# Cases in which plain PyTorch has NaN or infinities of its own: the definition at the same dtype takes its place.
BEYOND_PLAIN = ("behind-the-camera", "huge")


def run(function, case: Case) -> list[Tensor]:
    """The steps, then the gradients of joints, intrinsics, maps and weights for a fixed random gradient of the steps."""
    inputs = [x.detach().requires_grad_() for x in case.inputs()]
    last = 2 + len(case.maps)
    steps = function(*inputs[:2], inputs[2:last], *inputs[last:], IMAGE_SIZE, 1.0, case.detach)
    return [steps.detach(), *torch.autograd.grad(steps, inputs, gradient_of(steps))]


def gradient_of(steps: Tensor) -> Tensor:
    return torch.randn(steps.shape, generator=torch.Generator().manual_seed(1)).to(steps)


def forward(function, case: Case) -> Tensor:
    """The steps alone, as where no backward follows."""
    joints, intrinsics, *rest = case.inputs()
    maps, weights = rest[: len(case.maps)], rest[len(case.maps) :]
    with torch.no_grad():
        return function(joints, intrinsics, maps, *weights, IMAGE_SIZE, 1.0, case.detach)


def plain(joints, intrinsics, maps, *rest) -> Tensor:
    """Plain PyTorch as a user writes it, by the reference's arguments."""
    return plain_refine(joints, intrinsics, [m.permute(0, 3, 1, 2) for m in maps], *rest)


def check(function, case: Case, peer: Callable[..., Tensor] = plain) -> None:
    """The error rule on the steps and every gradient; NaN exactly where the definition has it."""
    truth = run(reference.refine, case.to(case.joints.device, torch.float64))
    _compare(run(function, case), truth, run(peer, case))


def check_forward(function, case: Case, peer: Callable[..., Tensor] = plain) -> None:
    """The same rule on the steps where no backward follows."""
    truth = forward(reference.refine, case.to(case.joints.device, torch.float64))
    _compare([forward(function, case)], [truth], [forward(peer, case)])


def _compare(ours: list[Tensor], truth: list[Tensor], peer: list[Tensor]) -> None:
    for i, (x, t) in enumerate(zip(ours, truth)):
        finite = torch.isfinite(t.to(x.dtype))
        assert torch.equal(torch.isnan(x), torch.isnan(t)), f"result {i} is NaN elsewhere than the definition"
        ours[i], truth[i], peer[i] = (torch.where(finite, y, 0.0) for y in (x, t, peer[i]))
    assert_error_rule(ours, truth, peer)
