"""`python -m benchmarks.sanitize` runs every op once, small and oddly shaped, forward and backward, in every implementation.

It is what compute-sanitizer watches (benchmarks/gpu.sh sanitize): no timing, no comparison, few launches.
"""

from __future__ import annotations

import argparse
import sys

import torch

from amt.kernels import RefineWeights, _backend, attention, frame_pointnet, hand_frames, pose_scores, refine, use
from amt.kernels.attention.fp8 import quantize
from amt.kernels.block import add_norm, gelu_quantize, linear_gelu
from amt.kernels.fp8_linear import epilogue
from amt.kernels.normalize import normalize
from benchmarks.harness import default_device


def _draw(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=device).to(dtype).requires_grad_()


def _refine(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    batch, joints, hidden, steps, channels = 3, 21, 20, 2, (8, 24)
    maps = tuple(_draw(batch, 5 + c // 8, 7, c, device=device, dtype=dtype) for c in channels)
    sizes = (steps, hidden, sum(channels) + 3), (steps, joints, hidden), (steps, 3, hidden), (steps, 3)
    weights = RefineWeights(*(_draw(*size, device=device, dtype=dtype) for size in sizes))
    place = torch.tensor(
        [0.0, 0.0, 0.5], device=device
    )  # half a metre away; the joints spread beyond the image and behind
    intrinsics = torch.tensor([[100.0, 0, 32], [0, 100.0, 32], [0, 0, 1]], device=device).repeat(batch, 1, 1)
    return refine(_draw(batch, joints, 3, device=device) * 0.2 + place, intrinsics, maps, weights, image_size=(64, 64))


def _hand_frames(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    origins, rotations = hand_frames(_draw(33, 21, 3, device=device))
    return origins.sum() + rotations.sum()


def _frame_pointnet(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    joints = _draw(2, 21, 3, device=device)
    with use("auto"):
        frames = hand_frames(joints)
    sizes = (16, 3), (22, 16), (40, 16), (40,)
    weights = (_draw(*size, device=device, dtype=dtype) for size in sizes)
    return frame_pointnet(_draw(2, 71, 3, device=device), *frames, *weights)


def _pose_scores(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    maps = _draw(2, 13, 5, 7, device=device), _draw(2, 4, 5, 7, device=device)
    # around the camera, so that points lie behind it and beyond the image
    geometry = [torch.randn(2, *shape, device=device) for shape in ((13, 3), (13, 3), (41, 3, 3), (41, 3))]
    intrinsics = torch.tensor([[100.0, 0, 32], [0, 100.0, 32], [0, 0, 1]], device=device).repeat(2, 1, 1)
    return pose_scores(*maps, *geometry, intrinsics, image_size=(64, 64))


def _attention(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return attention(*(_draw(1, 2, 71, 64, device=device, dtype=dtype) for _ in range(3)))


def _attention_fp8(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return attention(*(_draw(1, 2, 71, 64, device=device, dtype=dtype) for _ in range(3)), precision="fp8")


def _fp8_linear(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    x, weight = _draw(71, 48, device=device), _draw(80, 48, device=device)  # the op has no gradient
    with torch.no_grad():
        operands, factor = [quantize(t, dim=1) for t in (x, weight)], torch.ones(1, 1, device=device)
        kinds = ({}, {"gelu": True}, {"gelu": True, "factor": factor})
        outs = [epilogue.fused(*operands, weight[:, 0].contiguous(), **kind) for kind in kinds]
    return x.sum() + sum(out.float().sum() for out in outs)


def _add_norm(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    x, branch = (_draw(3, 71, 40, device=device, dtype=dtype) for _ in range(2))
    scale, weight, bias = (_draw(40, device=device) for _ in range(3))
    total, normed = add_norm(x, branch, scale, weight, bias)
    with torch.no_grad():
        quantized = add_norm(x, None, None, weight, bias, fp8=True)[1]
    return total.float().sum() + normed.plain.float().sum() + quantized.scales.sum()


def _linear_gelu(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return linear_gelu(*(_draw(*size, device=device, dtype=dtype) for size in ((71, 48), (80, 48), (80,))))


def _gelu_quantize(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    operand = gelu_quantize(_draw(71, 80, device=device, dtype=dtype), _draw(80, device=device, dtype=dtype))
    return operand.plain.float().sum() + operand.scales.sum()


def _normalize(device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    image = torch.randint(0, 256, (3, 3, 13, 17), device=device, dtype=torch.uint8)
    mean, scale = torch.rand(2, 3, device=device, dtype=dtype)
    return normalize(image, mean, scale).requires_grad_()


OPS = {"refine": _refine, "hand_frames": _hand_frames, "frame_pointnet": _frame_pointnet, "pose_scores": _pose_scores,
       "attention": _attention, "attention_fp8": _attention_fp8, "fp8_linear": _fp8_linear, "add_norm": _add_norm,
       "linear_gelu": _linear_gelu, "gelu_quantize": _gelu_quantize, "normalize": _normalize}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sanitize", description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default=default_device().type, choices=("cpu", "cuda"))
    device = torch.device(parser.parse_args(arguments).device)
    torch.manual_seed(0)
    runs = 0
    for op, run in OPS.items():
        for dtype in (torch.float32, torch.bfloat16):
            for name, reason in _backend.explain(op, device, dtype):
                if name not in ("native", "triton", "cuda") or reason is not None:
                    continue  # PyTorch's own kernels are not ours to check
                with use(name):
                    run(device, dtype).float().sum().backward()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                print(f"{op} {name} {dtype}: ran", flush=True)
                runs += 1
    print(f"{runs} runs on {device.type}")
    return 1 if runs == 0 and device.type == "cuda" else 0  # a sanitizer that watched nothing has found nothing


if __name__ == "__main__":
    sys.exit(main())
