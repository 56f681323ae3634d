"""How much gradient reaches each layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amt.hand.autocast import no_autocast
from amt.hand.batch import Batch
from amt.model.outputs import Prediction
from amt.model.scene import posed_points

UNIT = 0.1  # m
LEAST_SCALE = 0.001  # m: of a joint's stated uncertainty
LEAST = 0.01  # root mean square of weights that a gradient is compared with: some begin at zero


@dataclass(frozen=True)
class LayerGradient:
    """The own parameters of one module, without those of its children."""

    name: str
    weight_norm: float
    count: int  # of weights
    grad_norm: float | None  # None: no gradient came
    finite: bool

    @property
    def ratio(self) -> float:
        """The gradient's norm over the weights', or over that of weights of :data:`LEAST`; 0 without a gradient."""
        return (self.grad_norm or 0.0) / max(self.weight_norm, LEAST * self.count**0.5)


def layer_gradients(model: nn.Module) -> list[LayerGradient]:
    """Of every module with parameters that are trained, in the model's order, after a backward pass."""
    found = []
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        if not own:
            continue
        grads = [p.grad for p in own if p.grad is not None]
        norm = float(_norm(grads)) if grads else None
        finite = all(bool(grad.isfinite().all()) for grad in grads)
        weights, count = float(_norm([p.detach() for p in own])), sum(p.numel() for p in own)
        found.append(LayerGradient(name or "model", weights, count, norm, finite))
    return found


def default_loss(p: Prediction, batch: Batch) -> Tensor:
    """A loss of about 1 at the start that every output has a part in: a stand-in for the run's own.

    Absolute differences in 0.1 m of joints, mesh and object at each stage, and cross entropies of contact, class and visibility.
    Samples whose labels are not valid do not count.
    """
    with no_autocast(batch.targets.joints.device.type):
        t, points = batch.targets, batch.inputs.object_points
        true_points = posed_points(points, t.object_rotation, t.object_translation)

        def mean(values: Tensor, valid: Tensor) -> Tensor:
            values = values.flatten(1).mean(dim=1)
            return torch.where(valid, values, 0.0).sum() / valid.sum().clamp(min=1)

        def far(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
            return mean((a - b).abs() / UNIT, valid)

        hand = [far(stage.joints, t.joints, t.hand_valid) for stage in (p.coarse, p.decoded, p.unrefined, p.refined)]
        hand += [far(stage.vertices, t.vertices, t.hand_valid) for stage in (p.decoded, p.refined)]
        held = [far(stage.posed(points), true_points, t.object_valid) for stage in (p.coarse, p.decoded)]
        touch = [
            mean(F.binary_cross_entropy_with_logits(logits.float(), true.float(), reduction="none"), t.contact_valid)
            for logits, true in ((p.hand_contact, t.hand_contact), (p.object_contact, t.object_contact))
        ]
        if p.joint_visible is not None and t.joint_visible is not None and t.visibility_valid is not None:
            seen = F.binary_cross_entropy_with_logits(p.joint_visible, t.joint_visible.float(), reduction="none")
            touch.append(mean(seen, t.visibility_valid))
        if p.joint_scale is not None:  # the likelihood of a Laplace distribution of that scale
            far_off = (p.refined.joints - t.joints).abs().mean(dim=-1).detach()
            scale = p.joint_scale.clamp(min=LEAST_SCALE)
            hand.append(mean(far_off / scale + (scale / UNIT).log(), t.hand_valid) / 10)
        named = F.cross_entropy(p.object_class.float(), batch.inputs.object_class)
        latents = p.hand_latent.kl().mean() + p.object_latent.kl().mean()
        return torch.stack([*hand, *held, *touch, named, 0.01 * latents]).mean()


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(t.float()) for t in tensors]).norm()
