"""What the design asks of each op, to stand beside what was measured.

A goal names the records it is about; where several match, the worst one is shown. Without a matching record the figure is
"not yet measured".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.compare import GRAPH, like_with_like

Metric = Callable[[dict, list[dict]], float | None]


def _field(name: str) -> Metric:
    return lambda record, records: record.get(name)


def _memory(record: dict, records: list[dict]) -> float | None:
    peak = record.get("peak_memory_mb", {})
    return peak["eager"] / peak["ours"] if peak.get("eager") and peak.get("ours") else None


def _over_float32(record: dict, records: list[dict]) -> float | None:
    """The fastest rival in float32 or in the record's own dtype, over ours."""
    wanted = {**{key: record[key] for key in ("op", "pass", "shape", "device")}, "dtype": "float32"}
    twins = [r for r in records if all(r[key] == value for key, value in wanted.items())] or [{}]
    found = [c for r in (record, twins[0]) if (c := like_with_like(r)) is not None]
    return min(c.rival_ms for c in found) / found[0].ours_ms if len(found) == 2 else None


def _ms_a_sample(record: dict, records: list[dict]) -> float | None:
    return 1e3 / record["samples_s"] if record.get("samples_s") else None


def _over_bf16(record: dict, records: list[dict]) -> float | None:
    """The best bf16 time of the same op without its " fp8" suffix, ours or a rival's, over this record's."""
    op = record["op"].removesuffix(" fp8")
    same = [r for r in records if r["op"] == op and all(r[k] == record[k] for k in ("pass", "shape", "device"))]
    times = [spread["median"] for r in same for spread in r.get("times_ms", {}).values()]
    return min(times) / record["ours_ms"] if times else None


def _over_best(record: dict, records: list[dict]) -> float | None:
    found = like_with_like(record)
    return found and found.ratio


def _fastest(record: dict, *names: str) -> float | None:
    """The median of the fastest of these, single calls or graphs, in milliseconds."""
    times = [t["median"] for name, t in record.get("times_ms", {}).items() if name.removesuffix(GRAPH) in names]
    return min(times) if times else None


def _triton_over_best(record: dict, records: list[dict]) -> float | None:
    """The attention kernel of this package; before it was there, a record held PyTorch's."""
    return _over_best(record, records) if "ours triton" in record.get("times_ms", {}) else None


def _triton_over_cudnn(record: dict, records: list[dict]) -> float | None:
    ours, cudnn = _fastest(record, "ours", "ours triton"), _fastest(record, "sdpa cudnn")
    return cudnn / ours if cudnn and _triton_over_best(record, records) is not None else None


def _graph_ms(record: dict, records: list[dict]) -> float | None:
    return record.get("times_ms", {}).get("ours graph", {}).get("median")


def _host_ms(record: dict, records: list[dict]) -> float | None:
    """A single call less the same work in a graph."""
    graph = _graph_ms(record, records)
    return None if graph is None else record["ours_plain_ms"] - graph


def _fused(metric: Metric) -> Metric:
    """Of records in which fused blocks ran."""
    return lambda record, records: metric(record, records) if "ours fused_gelu" in record.get("times_ms", {}) else None


TIMES_EAGER, TIMES_BEST = _field("ratio_eager"), _over_best


@dataclass(frozen=True)
class Goal:
    """``metric`` of every record that matches must be at least ``least``, or at most ``most``."""

    text: str  # what is compared, as the table says it
    device: str  # "cuda" or "cpu"
    op: str
    metric: Metric
    least: float | None = None
    most: float | None = None
    label: str = "forward"
    shape: dict[str, int | str] = field(default_factory=dict)
    dtype: str | None = None
    unit: str = "×"

    def records(self, records: list[dict]) -> list[dict]:
        return [
            r
            for r in records
            if r["op"] == self.op
            and r["device"] == self.device
            and r["pass"] == self.label
            and (self.dtype is None or r["dtype"] == self.dtype)
            and all(r["shape"].get(name) == size for name, size in self.shape.items())
        ]

    def furthest(self, records: list[dict]) -> tuple[float, dict] | None:
        """The figure furthest from the goal and its record, or ``None`` where nothing was measured."""
        found = [(v, r) for r in self.records(records) if (v := self.metric(r, records)) is not None]
        if not found:
            return None
        return (min if self.least is not None else max)(found, key=lambda pair: pair[0])

    def met(self, value: float) -> bool:
        return value >= self.least if self.least is not None else value <= self.most

    def target(self) -> str:
        return f"≥ {self.least:,g} {self.unit}" if self.least is not None else f"≤ {self.most:,g} {self.unit}"


BOTH = "forward+backward"
CALLER = "forward+backward, autograd on the caller's thread"
PYRAMID, SINGLE = {"maps": "pyramid", "C": 256}, {"maps": "single", "C": 256}
GOALS = [
    Goal("refine B 512, over eager", "cuda", "refine", TIMES_EAGER, 8, shape=PYRAMID | {"B": 512}, dtype="bfloat16"),
    Goal("refine B 512, over the best of torch.compile and graph", "cuda", "refine", TIMES_BEST, 3,
         shape=PYRAMID | {"B": 512}, dtype="bfloat16"),
    Goal("refine B 512 with backward, over eager", "cuda", "refine", TIMES_EAGER, 3.5, label=BOTH,
         shape=PYRAMID | {"B": 512}, dtype="bfloat16"),
    Goal("refine B 512, one 16×16 map, over eager", "cuda", "refine", TIMES_EAGER, 5, shape=SINGLE | {"B": 512},
         dtype="bfloat16"),
    Goal("refine B 512, one 16×16 map with backward, over eager", "cuda", "refine", TIMES_EAGER, 5, label=BOTH,
         shape=SINGLE | {"B": 512}, dtype="bfloat16"),
    Goal("hand_frames B 512, over eager", "cuda", "hand_frames", TIMES_EAGER, 15, shape={"B": 512}),
    Goal("hand_frames B 512 with backward, over eager", "cuda", "hand_frames", TIMES_EAGER, 25, label=BOTH,
         shape={"B": 512}),
    Goal("frame_pointnet B 512, 778 points, over eager", "cuda", "frame_pointnet", TIMES_EAGER, 8,
         shape={"B": 512, "N": 778}),
    Goal("frame_pointnet B 512, 778 points, peak memory under eager's", "cuda", "frame_pointnet", _memory, 20,
         shape={"B": 512, "N": 778}),
    Goal("pose_scores B 16, 600 poses, over eager", "cuda", "pose_scores", TIMES_EAGER, 5, shape={"B": 16}),
    Goal("pose_scores B 16, 600 poses, over the best of torch.compile and graph", "cuda", "pose_scores", TIMES_BEST, 1.5,
         shape={"B": 16}),
    Goal("pose_scores B 16, 225 poses with backward, over eager", "cuda", "pose_scores", TIMES_EAGER, 3, label=BOTH,
         shape={"B": 16}),
    Goal("refine B 512 with backward on the caller's thread, over eager", "cuda", "refine", TIMES_EAGER, 8, label=CALLER,
         shape=PYRAMID | {"B": 512}, dtype="bfloat16"),
    Goal("refine B 512 with backward, as a graph", "cuda", "refine", _graph_ms, most=0.8, label=BOTH,
         shape=PYRAMID | {"B": 512}, dtype="bfloat16", unit="ms"),
    Goal("refine B 512 with backward on the caller's thread, the host's part", "cuda", "refine", _host_ms, most=0.3,
         label=CALLER, shape=PYRAMID | {"B": 512}, dtype="bfloat16", unit="ms"),
    Goal("attention 257 tokens, batch 16, over cuDNN", "cuda", "attention", _triton_over_cudnn, 1.5,
         shape={"N": 257, "B": 16}),
    Goal("attention 257 tokens, batch 16, over the best back end", "cuda", "attention", _triton_over_best, 1.3,
         shape={"N": 257, "B": 16}),
    Goal("attention 257 tokens with backward, batch 16, over the best back end", "cuda", "attention", _triton_over_best, 1.3,
         label=BOTH, shape={"N": 257, "B": 16}),
    Goal("attention 261 tokens, over cuDNN", "cuda", "attention", _triton_over_cudnn, 1.5, shape={"N": 261}),
    Goal("attention 261 tokens, over the best back end", "cuda", "attention", _triton_over_best, 1.3, shape={"N": 261}),
    Goal("attention 577 tokens, over the best back end", "cuda", "attention", _triton_over_best, 1.15, shape={"N": 577}),
    Goal("attention 1,025 tokens, over the best back end", "cuda", "attention", _triton_over_best, 1.15, shape={"N": 1025}),
    Goal("attention at every length, over the best back end", "cuda", "attention", _triton_over_best, 1.0),
    Goal("encoder L 224 px, batch 16, over the best bf16", "cuda", "encoder", _fused(TIMES_BEST), 1.15,
         shape={"size": "L", "px": 224, "B": 16}),
    Goal("encoder L 224 px, one image", "cuda", "encoder", _fused(_field("ours_ms")), most=0.7,
         shape={"size": "L", "px": 224, "B": 1}, unit="ms"),
    Goal("encoder L 224 px in FP8, batch 16, over the best bf16", "cuda", "encoder fp8", _over_bf16, 1.35,
         shape={"size": "L", "px": 224, "B": 16}),
    Goal("encoder L 518 px in FP8, batch 16, over the best bf16", "cuda", "encoder fp8", _over_bf16, 1.25,
         shape={"size": "L", "px": 518, "B": 16}),
    Goal("model L, one image", "cuda", "model", _field("ours_ms"), most=5, shape={"size": "L", "B": 1}, unit="ms"),
    Goal("model L, batch 16, an image", "cuda", "model", _ms_a_sample, most=1, shape={"size": "L", "B": 16}, unit="ms"),
    Goal("video 640×480 with drawing, `amt-tiny`", "cuda", "video", _field("samples_s"), 200, label="frames to film",
         unit="frames/s"),
    Goal("crops from the cache, varied", "cuda", "crops", _field("samples_s"), 10_000, label="cache, varied",
         unit="crops/s"),
    Goal("training S", "cuda", "training step", _field("samples_s"), 10_000, shape={"size": "S"}, unit="images/s"),
    Goal("training, share of the bf16 matrix rate (MFU)", "cuda", "training step", _field("matrix_share"), 0.5, unit=""),
    Goal("refine B 256 float32, over the fastest rival", "cpu", "refine", TIMES_BEST, 2, shape=PYRAMID | {"B": 256},
         dtype="float32"),
    Goal("refine B 256 bf16, over the fastest float32 or bf16 rival", "cpu", "refine", _over_float32, 5,
         shape=PYRAMID | {"B": 256}, dtype="bfloat16"),
    Goal("refine B 256 float32 with backward, over the fastest rival", "cpu", "refine", TIMES_BEST, 2.5, label=BOTH,
         shape=PYRAMID | {"B": 256}, dtype="float32"),
    Goal("refine B 1, over eager", "cpu", "refine", TIMES_EAGER, 3, shape=PYRAMID | {"B": 1}, dtype="float32"),
    Goal("refine B 256 with backward, peak memory under eager's", "cpu", "refine", _memory, round(1 / 0.6, 2), label=BOTH,
         shape=PYRAMID | {"B": 256}, dtype="float32"),
    Goal("hand_frames B 512, over eager", "cpu", "hand_frames", TIMES_EAGER, 15, shape={"B": 512}),
    Goal("hand_frames B 512, over the fastest rival", "cpu", "hand_frames", TIMES_BEST, 3, shape={"B": 512}),
    Goal("hand_frames B 512 with backward, over eager", "cpu", "hand_frames", TIMES_EAGER, 15, label=BOTH,
         shape={"B": 512}),
    Goal("frame_pointnet B 16 float32, over the fastest rival", "cpu", "frame_pointnet", TIMES_BEST, 3,
         shape={"B": 16, "N": 778}, dtype="float32"),
    Goal("frame_pointnet B 16 bf16, over the fastest float32 or bf16 rival", "cpu", "frame_pointnet", _over_float32, 6,
         shape={"B": 16, "N": 778}, dtype="bfloat16"),
    Goal("frame_pointnet B 16 with backward, over the fastest rival", "cpu", "frame_pointnet", TIMES_BEST, 4, label=BOTH,
         shape={"B": 16, "N": 778}, dtype="float32"),
    Goal("frame_pointnet B 16, peak memory under eager's", "cpu", "frame_pointnet", _memory, 20,
         shape={"B": 16, "N": 778}, dtype="float32"),
]  # fmt: skip
