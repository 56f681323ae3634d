"""``python -m tools.converted CHECKPOINT DATA``: what bf16 and FP8 products (emulated on a CPU) change in a trained model.

A row a precision, beside float32 on the same test frames: the wrist-aligned error and its change with the standard error over
frames, how far joints move, and the cosine of the fusion's tokens. A second row takes float32's coarse scene and the poses that
its search found: where a picture leaves the object's rotation open, any rounding may choose another one, and the tokens then
describe another scene.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from amt.config import compose
from amt.data.loader import make_loader
from amt.evaluate.config import PROGRAM
from amt.hand.batch import Batch
from amt.metrics import wrist_aligned_error_mm
from amt.model import AMT
from amt.model.checkpoint import read_record
from amt.model.fp8 import use_fp8
from amt.model.loading import load_checkpoint
from amt.startup import run_program
from benchmarks.video import verdict

DRIFT_MM, COSINE = 0.1, 0.999  # the goals: at most, at least
BATCH = 32
FORMS = {"bf16": False, "FP8, rest float32": True, "FP8, rest bf16": True}  # whether with FP8 products


class Answers(NamedTuple):
    """Of N frames with a hand."""

    errors_mm: Tensor  # [N]: wrist-aligned, means over joints
    joints: Tensor  # [N, 21, 3], m
    tokens: Tensor  # [N, T, hidden]: the fusion's


class Fixed(nn.Module):
    """A module that answers what another one answered, call by call."""

    def __init__(self, answers: list):
        super().__init__()
        self.answers = iter(answers)

    def forward(self, *_):
        return next(self.answers)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.converted", description=__doc__.split("\n\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path, help="a set in DexYCB's layout")
    parser.add_argument("--frames", type=int, default=256, help="test frames at most (default %(default)s)")
    options = parser.parse_args(arguments)
    return run_program("tools.converted", lambda: measure(options))


def measure(options: argparse.Namespace) -> int:
    words = [f"data.root={options.data}", f"data.limit={options.frames}"]
    data = compose(PROGRAM, words, read_record(options.checkpoint))["data"]
    batches = list(make_loader(data, "test", BATCH, augment=False, shuffle=False))
    scenes: list = []
    poses: list = []

    def answers(fp8: bool, bf16: bool, change: Callable[[AMT], object]) -> Answers:
        model, _ = load_checkpoint(options.checkpoint)
        if fp8:
            use_fp8(model)
        change(model)
        return answered(model, batches, bf16)

    print(use_fp8(load_checkpoint(options.checkpoint)[0]))

    def remembered(model: AMT) -> None:
        model.scene_solver.register_forward_hook(lambda *a: scenes.append(a[2]))
        if model.pose_search is not None:
            model.pose_search.register_forward_hook(lambda *a: poses.append(a[2]))

    def fixed(model: AMT) -> None:
        model.scene_solver = Fixed(scenes)
        if model.pose_search is not None:
            model.pose_search = Fixed(poses)

    plain = answers(False, False, remembered)
    print(f"float32: {plain.errors_mm.mean():.3f} mm wrist-aligned on {len(plain.errors_mm)} test frames")
    print("| products | wrist-aligned, mm | change, mm | joints move, mm | cosine: mean | worst | below 0.99 |")
    print("| --- |" + " --- |" * 6)
    found = {}
    for name, fp8 in FORMS.items():
        for scene in ("", ", float32's coarse scene"):
            found[name + scene] = answers(fp8, "bf16" in name, fixed if scene else (lambda model: None))
            print(row(name + scene, plain, found[name + scene]), flush=True)
    drift = abs((found["FP8, rest bf16"].errors_mm.mean() - plain.errors_mm.mean()).item())
    mean = cosines(plain, found["FP8, rest bf16"]).mean().item()
    print(f"FP8, rest bf16: error moves by {drift:.3f} mm{verdict(drift, -DRIFT_MM)}")
    print(f"FP8, rest bf16: mean cosine {mean:.5f}{verdict(mean, COSINE)}")
    return 0


def answered(model: AMT, batches: list[Batch], bf16: bool) -> Answers:
    tokens, errors, joints = [], [], []
    hook = model.fusion.register_forward_hook(lambda module, given, fused: tokens.append(joined(fused)))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for batch in batches:
            prediction, valid = model(batch.inputs), batch.targets.hand_valid
            errors.append(wrist_aligned_error_mm(prediction.joints, batch.targets.joints).mean(1)[valid])
            joints.append(prediction.joints[valid])
            tokens[-1] = tokens[-1][valid]
    hook.remove()
    return Answers(torch.cat(errors), torch.cat(joints), torch.cat(tokens))


def joined(groups: tuple) -> Tensor:
    return torch.cat([group for group in groups if group is not None], dim=1).float()


def cosines(plain: Answers, other: Answers) -> Tensor:
    return torch.cosine_similarity(plain.tokens, other.tokens, dim=-1)


def row(name: str, plain: Answers, other: Answers) -> str:
    change = other.errors_mm - plain.errors_mm
    moved = (other.joints - plain.joints).norm(dim=-1) * 1e3
    cosine = cosines(plain, other)
    cells = [
        name,
        f"{other.errors_mm.mean():.3f}",
        f"{change.mean():+.3f} ± {change.std() / len(change) ** 0.5:.3f}",
        f"{moved.mean():.2f}",
        f"{cosine.mean():.5f}",
        f"{cosine.min():.4f}",
        f"{100 * (cosine < 0.99).double().mean():.2f} %",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
