"""The network as one traced program of plain PyTorch ops, flat tensors in and a dictionary of tensors out."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from amt.export.formats import MOST_IMAGES, ExportError
from amt.export.signature import BY_PATH, INPUTS
from amt.hand.batch import Inputs
from amt.kernels import use
from amt.kernels._torch_private import OpOverload
from amt.model import AMT


class Flat(nn.Module):
    """``model`` with the inputs and outputs of :mod:`amt.export.signature`."""

    def __init__(self, model: AMT):
        super().__init__()
        self.model = model

    def forward(
        self,
        image: Tensor,
        intrinsics: Tensor,
        right: Tensor,
        object_class: Tensor,
        object_points: Tensor,
        object_look: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Every tensor of the prediction that has elements, by its name."""
        unread = torch.zeros_like(intrinsics)  # the network reads the crop's K alone, not where the crop comes from
        inputs = Inputs(
            image, intrinsics, unread[:, 0], unread, unread[:, 0, :2], right, object_class, object_points, object_look
        )  # fmt: skip
        return {BY_PATH[path].name: value for path, value in self.model(inputs).named_tensors() if value.numel()}


def trace(model: AMT, inputs: Mapping[str, Tensor], dynamic: bool = False) -> torch.export.ExportedProgram:
    """The program, of the reference ops alone: it runs where none of this package is installed.

    Args:
        model: in evaluation mode.
        inputs: example tensors by name; their sizes become the program's.
        dynamic: leave the number of images open. ``inputs`` must hold two or more.

    Raises:
        ExportError: the batch cannot be left open.
    """
    names = tuple(entry.name for entry in INPUTS if entry.name in inputs)
    batch = torch.export.Dim("batch", min=1, max=MOST_IMAGES)
    shapes: dict[str, Any] | None = {name: {0: batch} for name in names} if dynamic else None
    with torch.no_grad(), use("reference"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        try:
            return torch.export.export(
                Flat(model), (), {name: inputs[name] for name in names}, dynamic_shapes=shapes, strict=False
            )
        except Exception as error:
            if not dynamic:
                raise
            reason = " ".join(str(error).split())[:200]
            raise ExportError(f"--batch dynamic: this network cannot be traced so ({reason}); give a number") from error


def output_names(program: torch.export.ExportedProgram) -> list[str]:
    """The names of the program's outputs, in its order."""
    return list(program.call_spec.out_spec.context)


def custom_ops(program: torch.export.ExportedProgram) -> list[str]:
    """Ops of the program that PyTorch itself does not bring, those of nested graphs too."""
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    targets = {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}
    found = {str(t) for t in targets if isinstance(t, OpOverload) and t.namespace not in ("aten", "prims")}
    return sorted(found)
