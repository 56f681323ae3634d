"""What the design asks of each op, to stand beside what was measured.

A goal names the records it is about; where several match, the worst one is shown. Without a matching record the figure is
"not yet measured".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.compare import like_with_like

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

    def worst(self, records: list[dict]) -> float | None:
        """The figure furthest from the goal, or ``None`` where nothing was measured."""
        values = [v for r in self.records(records) if (v := self.metric(r, records)) is not None]
        if not values:
            return None
        return min(values) if self.least is not None else max(values)

    def met(self, value: float) -> bool:
        return value >= self.least if self.least is not None else value <= self.most

    def target(self) -> str:
        return f"≥ {self.least:,g} {self.unit}" if self.least is not None else f"≤ {self.most:,g} {self.unit}"


BOTH = "forward+backward"
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
    Goal("attention 257 tokens, over SDPA's best back end", "cuda", "attention", TIMES_BEST, 1.3, shape={"N": 257}),
    Goal("attention at every length, over SDPA's best back end", "cuda", "attention", TIMES_BEST, 1.0),
    Goal("encoder L in FP8, over the best bf16", "cuda", "encoder fp8", _over_bf16, 1.4, shape={"size": "L", "B": 16}),
    Goal("model L, one image", "cuda", "model", _field("ours_ms"), most=5, shape={"size": "L", "B": 1}, unit="ms"),
    Goal("model L, batch 16, an image", "cuda", "model", _ms_a_sample, most=1, shape={"size": "L", "B": 16}, unit="ms"),
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
