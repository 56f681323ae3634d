"""A backbone that is trained in stages: which of its blocks stand still at which step."""

from __future__ import annotations

from amt.model import AMT


class FreezeSchedule:
    """Freezes and unfreezes DINOv2's embeddings and first blocks, as ``train.freeze`` declares it.

    The optimizers hold all blocks from the start: a block that is frozen has no gradient, so that its weights, moments and
    count of steps stay as they are. What is frozen follows from the step alone, in a resumed run too.

    Args:
        points: [step, blocks], steps growing; before the first one ``model.backbone.frozen_layers`` holds.
    """

    def __init__(self, model: AMT, points: list[list[int]]):
        self.model, self.points = model, points
        self.first = getattr(model.backbone, "frozen_layers", 0)

    def blocks_at(self, step: int) -> int:
        """How many first blocks are frozen."""
        return next((blocks for start, blocks in reversed(self.points) if start <= step), self.first)

    def apply(self, step: int) -> None:
        """Brings the model to its state at ``step``; nothing where it is in it already."""
        if self.points and self.blocks_at(step) != self.model.backbone.frozen_layers:
            self.model.backbone.freeze(self.blocks_at(step))
