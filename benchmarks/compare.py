"""Which of a record's times stand beside each other: single calls beside single calls, CUDA graphs beside CUDA graphs."""

from __future__ import annotations

from typing import NamedTuple

AUTOTUNED = "compiled max-autotune"  # torch.compile with that mode, without its own graphs
GRAPH = " graph"  # ends the name of a time that was taken by replaying a CUDA graph


class Comparison(NamedTuple):
    """Ours beside the fastest rival, called the same way."""

    calls: str  # "CUDA graph" or "single calls"
    rival: str  # the rival's name, without how it was called
    ours_ms: float  # median
    rival_ms: float  # median

    @property
    def ratio(self) -> float:
        return self.rival_ms / self.ours_ms


def like_with_like(record: dict) -> Comparison | None:
    """Compares CUDA graphs where both sides have one, single calls otherwise; None where no rival ran.

    Our other implementations (``record["variants"]``) are no rivals; one whose name begins with "ours" counts as ours.
    """
    median = {name: spread["median"] for name, spread in record.get("times_ms", {}).items()}
    variants = record.get("variants", ())
    for calls, is_graph in (("CUDA graph", True), ("single calls", False)):
        times = {name.removesuffix(GRAPH): t for name, t in median.items() if name.endswith(GRAPH) == is_graph}
        ours = [t for name, t in times.items() if name.startswith("ours")]
        rivals = {name: t for name, t in times.items() if not name.startswith("ours") and name not in variants}
        if ours and rivals:
            rival = min(rivals, key=rivals.get)
            return Comparison(calls, rival, min(ours), rivals[rival])
    return None
