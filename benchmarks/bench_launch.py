"""What the host costs: ops with backward, once with autograd's worker thread and once on the caller's, single calls and graphs.

A graph has no host in it: single calls less the graph is the host's part. Every contestant is measured both ways.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks import bench_frames, bench_refine
from benchmarks.harness import Case

PART = "launch"


def cases(device: torch.device, quick: bool) -> Iterator[Case]:
    if quick:
        found = [bench_frames.frames_case(16, device, backward=True)]
    else:
        batch = 512 if device.type == "cuda" else 8
        found = [
            bench_refine.case(batch, "pyramid", 256, torch.bfloat16, device, backward=True),
            bench_refine.case(batch, "single", 256, torch.bfloat16, device, backward=True),
            bench_frames.frames_case(512, device, backward=True),
            bench_frames.pointnet_case(batch, 778, torch.float32, device, backward=True),
        ]
    for case in found:
        yield case
        yield replace(case, autograd_thread=False)


def test_launch(case, measured):
    measured(case)
