"""Random images, cameras and labels of the right shapes and units, for the benchmarks of the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from benchmarks.harness import Unavailable

if TYPE_CHECKING:
    from amt.hand.batch import Batch, Inputs

NUM_POINTS = 256  # of the object, as amt.data gives them
SIZES = {"tiny": "tiny", "small": "S", "base": "B", "large": "L"}


def need(*modules: str) -> None:
    """Raises :class:`Unavailable` where the model, or a package that it imports, is not there."""
    import importlib

    for module in ("amt.model", *modules):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise Unavailable(f"{module} does not import: {error}") from error


def has_size(size: str) -> bool:
    from amt.model.config import SIZES as known

    if size in known and known[size]["backbone"].startswith("dinov2"):
        import importlib.util

        return importlib.util.find_spec("transformers") is not None
    return size in known


def inputs(size: int, batch: int, generator: torch.Generator) -> Inputs:
    """Noise crops of ``size`` px, a hand half a metre away, both sides, objects of 10 cm."""
    from amt.hand.batch import Inputs
    from amt.hand.objects import NUM_CLASSES

    device = generator.device
    focal = float(size) * 2
    intrinsics = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], device=device)
    image = torch.randint(0, 256, (batch, 3, size, size), generator=generator, device=device, dtype=torch.uint8)
    points = torch.nn.functional.normalize(
        torch.randn(batch, NUM_POINTS, 3, generator=generator, device=device), dim=-1
    )
    colours = torch.rand(batch, NUM_POINTS, 3, generator=generator, device=device)
    return Inputs(
        image=image,
        intrinsics=intrinsics.repeat(batch, 1, 1),
        box=torch.tensor([320.0, 240.0, 300.0], device=device).repeat(batch, 1),
        frame_intrinsics=intrinsics.repeat(batch, 1, 1),
        frame_size=torch.tensor([480.0, 640.0], device=device).repeat(batch, 1),
        right=torch.arange(batch, device=device) % 4 != 1,
        object_class=torch.arange(batch, device=device) % NUM_CLASSES,
        object_points=0.05 * points,
        object_look=torch.cat((points, colours, torch.ones_like(points[..., :1])), dim=-1),
    )


def batch(size: int, count: int, generator: torch.Generator) -> Batch:
    """:func:`inputs` with the labels of a rest hand somewhere in view."""
    from amt.hand.batch import Batch, Targets
    from amt.hand.mano import ManoLayer
    from amt.hand.rotations import axis_angle_to_matrix
    from amt.hand.shipped import shipped_hand

    device = generator.device
    pose = 0.2 * torch.randn(count, 48, generator=generator, device=device)
    betas = torch.randn(count, 10, generator=generator, device=device)
    translation = torch.tensor([0.0, 0.0, 0.6], device=device).repeat(count, 1)
    layer = ManoLayer(shipped_hand("right")).to(device)
    hand = layer(axis_angle_to_matrix(pose.unflatten(1, (16, 3))), betas, translation)
    yes = torch.ones(count, dtype=torch.bool, device=device)
    targets = Targets(
        joints=hand.joints,
        pose=pose,
        betas=betas,
        translation=translation,
        vertices=hand.vertices,
        object_rotation=torch.eye(3, device=device).repeat(count, 1, 1),
        object_translation=translation + 0.05,
        hand_contact=torch.rand(count, layer.num_vertices, generator=generator, device=device) < 0.1,
        object_contact=torch.rand(count, NUM_POINTS, generator=generator, device=device) < 0.1,
        hand_valid=yes,
        object_valid=yes,
        contact_valid=yes,
    )
    right = replace(inputs(size, count, generator), right=yes)
    return Batch(right, targets, torch.arange(count, device=device))


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Every op as its reference and attention as SDPA: the model that a user would write without this package's kernels."""
    from amt.kernels import _backend
    from amt.kernels.attention import sdpa

    implementations, resolved = dict(_backend._implementations), dict(_backend._resolved)
    as_reference = _backend.Implementation("reference", lambda: sdpa.attention, _backend.runs_everywhere)
    try:
        _backend._resolved.clear()
        _backend.register("attention", [as_reference])
        with _backend.use("reference"):
            yield
    finally:
        _backend._implementations.clear()
        _backend._implementations.update(implementations)
        _backend._resolved.clear()
        _backend._resolved.update(resolved)


def flops(call, *arguments) -> float:
    """Floating-point operations of the matrix products, convolutions and attention in ``call``, written in plain PyTorch."""
    from torch.utils.flop_counter import FlopCounterMode

    with plain_pytorch(), FlopCounterMode(display=False) as counter:
        call(*arguments)
    return float(counter.get_total_flops())
