"""How the network is run: eager, traced or compiled, in float32 or bfloat16, and what happens where memory does not suffice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext

import torch

from amt.hand.batch import Inputs
from amt.infer.checks import InputError
from amt.infer.config import ENGINES
from amt.infer.traced import LARGEST, PATIENCE, Tracer
from amt.model.amt import AMT
from amt.model.lean import with_narrow_convolutions
from amt.model.outputs import Prediction


class Engine:
    """Runs a model on crops. Thread-safe.

    Args:
        model: in evaluation mode, on ``device``.
        device: where it lies.
        name: "eager"; "trace": recorded for each size of batch (:mod:`amt.infer.traced`), at its first one; "auto": on a CPU,
            in float32, a small model is traced from the 31st batch of a size on, anything else is eager; "compile":
            ``torch.compile`` for batches of two sizes, 1 and ``batch_size``, whose first batch takes some minutes.
        bfloat16: run under autocast; coordinates stay float32.
        narrow: the convolutions compute in bfloat16 (:func:`amt.model.lean.with_narrow_convolutions`).
        batch_size: crops at once, at most. What does not fit into memory is tried once in halves.
    """

    def __init__(
        self,
        model: AMT,
        device: torch.device,
        name: str = "eager",
        bfloat16: bool = False,
        batch_size: int = 16,
        narrow: bool = False,
    ):
        if name not in ENGINES:
            raise InputError(f"engine: expected one of {', '.join(ENGINES)}; got {name!r}")
        self.model, self.device, self.name, self.bfloat16, self.batch_size = model, device, name, bfloat16, batch_size
        self.halved, self.narrow = False, narrow
        model = with_narrow_convolutions(model) if narrow else model
        self._forward: Callable[[Inputs], Prediction] = model
        if name == "auto":
            gains = device.type == "cpu" and not bfloat16 and sum(p.numel() for p in model.parameters()) <= LARGEST
            self._forward = Tracer(model, PATIENCE) if gains else model
        if name == "trace":
            self._forward = Tracer(model)
        if name == "compile":
            self._forward = torch.compile(model, dynamic=False)

    @torch.inference_mode()
    def __call__(self, inputs: Inputs) -> Prediction:
        """The prediction, on the CPU, for at most ``batch_size`` crops."""
        count = inputs.batch_size
        with torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext():
            found = self._forward(self._padded(inputs).to(self.device)).to("cpu")
        return found if found.joints.shape[0] == count else found[:count]

    def hurry(self) -> None:
        """Traces at the next batch of each size, where it would trace at all: for a benchmark."""
        if isinstance(self._forward, Tracer):
            self._forward.patience = 0

    def _padded(self, inputs: Inputs) -> Inputs:
        """The same crops, the last one repeated up to a size that was compiled."""
        count = inputs.batch_size
        if self.name != "compile" or count in (1, self.batch_size):
            return inputs
        return inputs[torch.arange(self.batch_size).clamp(max=count - 1)]

    def halve(self, error: BaseException, count: int) -> bool:
        """Whether a batch of ``count`` crops that failed is to be tried again in halves: once, where memory did not suffice."""
        if self.halved or count < 2 or not out_of_memory(error):
            return False
        self.halved, self.batch_size = True, max(1, min(self.batch_size, count) // 2)
        warnings.warn(
            f"the memory of {self.device} does not hold {count} crops at once; it goes on with {self.batch_size}",
            stacklevel=2,
        )
        return True


def out_of_memory(error: BaseException) -> bool:
    """Whether memory was used up, the device's or the machine's."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )
