"""The network without Python: its operations, recorded for one size of batch and run one after the other by TorchScript.

A batch of one crop through ``tiny`` takes more time in Python and in the folding of constants than in arithmetic. Tracing takes
two seconds and needs no compiler. Batch norms are folded into the convolutions before them.
"""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable

import torch

from amt.hand.batch import Inputs
from amt.model.amt import AMT
from amt.model.outputs import Prediction

LARGEST = 20_000_000  # parameters of a model that engine=auto traces; a trace holds the weights a second time
PATIENCE = 30  # batches of one size after which engine=auto traces: a run of a few pictures would not gain two seconds
MOST_KINDS = 4  # of batches that are traced: of one size, with or without the look of an object
COMMON = 0.25  # least share of the batches that are of a kind which engine=auto traces: a trace keeps some 50 MB
TRIED = ("poses.",)  # what is not compared: of poses with like scores, rounding decides which is tried next
TOLERANCE = 1e-4  # between the network's answers and its trace's, absolute and relative


class Tracer:
    """Runs a model on crops; by a trace from the ``patience``-th batch of a kind on. Thread-safe.

    With patience, rare kinds have no trace. While one thread traces, others go on without. A trace whose answer is not the
    network's is not used, and that is warned of.
    """

    def __init__(self, model: AMT, patience: int = 0):
        self.model, self.patience = model, patience
        self._traces: dict[tuple[int, bool], Callable[[Inputs], Prediction] | None] = {}
        self._seen: Counter[tuple[int, bool]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, inputs: Inputs) -> Prediction:
        """The prediction. Call it in inference mode."""
        kind = inputs.batch_size, inputs.object_look is None
        self._seen[kind] += 1
        trace = self._traces.get(kind)
        if trace is not None:
            return trace(inputs)
        wanted = kind not in self._traces and len(self._traces) < MOST_KINDS and self._seen[kind] > self.patience
        common = not self.patience or self._seen[kind] >= COMMON * self._seen.total()
        if wanted and common and self._lock.acquire(blocking=False):
            try:
                self._traces[kind], prediction = self._trace(inputs)
                return prediction
            finally:
                self._lock.release()
        return self.model(inputs)

    def _trace(self, inputs: Inputs) -> tuple[Callable[[Inputs], Prediction] | None, Prediction]:
        """The trace, None where it cannot be used, and the network's own prediction."""
        expected = self.model(inputs)
        example = tuple(tensor for _, tensor in inputs.named_tensors())

        def run(inputs: Inputs) -> Prediction:
            found = iter(frozen(*(tensor for _, tensor in inputs.named_tensors())))
            return expected.map(lambda _: next(found))

        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # TorchScript is no longer developed; shapes become constants, as they should
                module = _Flat(self.model, inputs).eval()
                frozen = torch.jit.freeze(torch.jit.trace(module, example, check_trace=False))
                answers = [run(inputs) for _ in range(3)]  # the second one is optimised
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(f"the network cannot be traced ({reason}); it goes on without", stacklevel=2)
            return None, expected
        for answer in answers:
            for (name, tensor), (_, own) in zip(answer.named_tensors(), expected.named_tensors(), strict=True):
                if not name.startswith(TRIED) and not torch.allclose(
                    tensor.float(), own.float(), TOLERANCE, TOLERANCE, equal_nan=True
                ):
                    warnings.warn(f"the trace of the network differs in {name}; it goes on without", stacklevel=2)
                    return None, expected
        return run, expected


class _Flat(torch.nn.Module):
    """The model from tensors to tensors, as torch.jit.trace wants it."""

    def __init__(self, model: AMT, example: Inputs):
        super().__init__()
        self.model = model
        self._example = example

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = iter(tensors)
        return tuple(tensor for _, tensor in self.model(self._example.map(lambda _: next(given))).named_tensors())
