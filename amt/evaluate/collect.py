"""Runs a model over a loader and measures every sample: what is kept is a row of errors, not the meshes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from amt import metrics
from amt.hand.batch import Batch, Inputs, Targets
from amt.hand.tensors import TensorFields
from amt.model import AMT
from amt.model.mean_pose import MeanPose
from amt.model.outputs import Prediction
from amt.model.scene import posed_points

NAN = float("nan")


@dataclass(frozen=True)
class Answer:
    """What is scored of a batch: a model's prediction, the mean pose, or the truth itself."""

    joints: Tensor  # [B, 21, 3], m
    object_rotation: Tensor  # [B, 3, 3]
    object_translation: Tensor  # [B, 3], m
    hand_contact: Tensor  # bool [B, V]
    object_contact: Tensor | None = None  # bool [B, P]
    vertices: Tensor | None = None  # [B, V, 3], m

    @classmethod
    def of(cls, p: Prediction) -> Answer:
        return cls(
            p.joints, p.object_rotation, p.object_translation, p.hand_contact > 0, p.object_contact > 0, p.vertices
        )

    @classmethod
    def true(cls, t: Targets) -> Answer:
        return cls(t.joints, t.object_rotation, t.object_translation, t.hand_contact, t.object_contact, t.vertices)

    @classmethod
    def mean(cls, mean_pose: MeanPose, inputs: Inputs) -> Answer:
        """The mean hand and object of the training set, placed by each crop's box and K."""
        joints, rotation, translation = mean_pose.predict(inputs)
        return cls(joints, rotation, translation, mean_pose.hand_contact.expand(len(joints), -1))


@dataclass(frozen=True)
class Errors(TensorFields):
    """The errors of N samples; NaN where the answer says nothing of it. What the labels do not tell is marked in Samples."""

    absolute_mm: Tensor  # float64 [N, 21]
    aligned_mm: Tensor  # [N, 21]: wrist on wrist
    procrustes_mm: Tensor  # [N, 21]
    vertex_mm: Tensor  # [N, 3]: means over vertices, absolute, wrist on wrist, after Procrustes
    f_score: Tensor  # [N, 4]: at 5 and 15 mm, absolute, then after Procrustes
    object_mm: Tensor  # [N, 6]: OBJECT
    object_deg: Tensor  # [N]: rotation, over the object's symmetries
    mspd_px: Tensor  # [N]
    contact: Tensor  # int64 [N, 3]: vertices rightly found, found, true
    object_contact: Tensor  # int64 [N, 3]: of the object's points
    touching: Tensor  # int64 [N, 3]: whether anything touches


OBJECT = ("add", "adds", "adi", "oce", "mce", "mssd")  # columns of Errors.object_mm


@dataclass(frozen=True)
class Samples(TensorFields):
    """N samples: what the picture is like, and how far off the model and the mean pose are."""

    index: Tensor  # int64 [N]: in the reader
    right: Tensor  # bool [N]
    object_class: Tensor  # int64 [N]
    hand_valid: Tensor  # bool [N]
    object_valid: Tensor
    contact_valid: Tensor  # False, too, where the model's hand is not the set's
    visible: Tensor  # bool [N, 21]
    visible_known: Tensor  # bool [N]
    distance_m: Tensor  # float64 [N]: of the true wrist
    view_deg: Tensor  # float64 [N]: horizontal field of view of the full picture
    missed: Tensor  # bool [N]: no hand was found; the mean hand at the true box stands for it
    joints: Tensor  # float32 [N, 21, 3], m
    true_joints: Tensor
    baseline_joints: Tensor
    stages_mm: Tensor  # float64 [N, 2 + S]: wrist-aligned means of the coarse, the decoded and each refined joints
    model: Errors
    baseline: Errors
    vertices: int = 0  # of the hand's mesh
    points: int = 0  # of the object

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Beliefs:
    """What the model says of its own certainty, summed over samples."""

    contact: metrics.Reliability
    visible: metrics.Reliability | None  # None: the model does not say, or nobody knows
    sums: metrics.Sums  # "coverage" [9, 21] of the joints' scales, where the model has such

    def __add__(self, other: Beliefs) -> Beliefs:
        self.sums.__iadd__(other.sums)
        seen = [part for part in (self.visible, other.visible) if part is not None]
        return Beliefs(self.contact + other.contact, sum(seen[1:], seen[0]) if seen else None, self.sums)


@torch.no_grad()
def collect(
    model: AMT,
    batches: Iterable[Batch],
    mean_pose: MeanPose,
    device: torch.device | str = "cpu",
    symmetries: Mapping[int, Tensor] | None = None,
    missed: Set[int] = frozenset(),
    told: Callable[[Answer, Batch], None] | None = None,
) -> tuple[Samples, Beliefs]:
    """The samples of all ``batches``; the model is put into evaluation mode.

    Args:
        symmetries: rotations by object class (see :mod:`amt.metrics.objects`); a class that is not there has no rotation error.
        missed: indices of frames in which no hand was found; looked at after each batch.
        told: gets every batch with what the model says of it.

    Raises:
        ValueError: there is no batch.
    """
    model.eval()
    rows, beliefs = [], None
    for batch in batches:
        prediction = model(batch.inputs.to(device)).to("cpu")
        batch = batch.to("cpu")
        mean, answer = Answer.mean(mean_pose, batch.inputs), Answer.of(prediction)
        lost = torch.tensor([int(index) in missed for index in batch.index], dtype=torch.bool)
        answer = _without(answer, mean, lost) if lost.any() else answer
        rows.append(measure(prediction, answer, mean, batch, symmetries or {}, lost))
        if told is not None:
            told(answer, batch)
        said = _beliefs(prediction, batch)
        beliefs = said if beliefs is None else beliefs + said
    if not rows:
        raise ValueError("there is nothing to evaluate: the loader gave no batch")
    return joined(rows), beliefs


def measure(
    p: Prediction, answer: Answer, mean: Answer, batch: Batch, symmetries: Mapping[int, Tensor], lost: Tensor
) -> Samples:
    """The samples of one batch, on the CPU: what the model said stage by stage, its answer, and the mean pose's."""
    inputs, targets = batch.inputs, batch.targets
    unknown = torch.zeros_like(targets.hand_valid)
    stages = (p.coarse.joints, p.unrefined.joints, *p.steps.unbind(1))
    return Samples(
        index=batch.index,
        right=inputs.right,
        object_class=inputs.object_class,
        hand_valid=targets.hand_valid,
        object_valid=targets.object_valid & targets.hand_valid,
        contact_valid=targets.contact_valid & (answer.hand_contact.shape == targets.hand_contact.shape),
        visible=torch.zeros_like(targets.joints[..., 0], dtype=torch.bool)
        if targets.joint_visible is None
        else targets.joint_visible,
        visible_known=unknown if targets.visibility_valid is None else targets.visibility_valid,
        distance_m=targets.joints[:, 0].double().norm(dim=-1),
        view_deg=torch.rad2deg(
            2 * torch.atan(inputs.frame_size[:, 1].double() / 2 / inputs.frame_intrinsics[:, 0, 0].double())
        ),
        missed=lost,
        joints=answer.joints.float(),
        true_joints=targets.joints,
        baseline_joints=mean.joints,
        stages_mm=torch.stack(
            [metrics.wrist_aligned_error_mm(joints, targets.joints).mean(dim=1) for joints in stages], 1
        ),
        model=errors(answer, batch, symmetries),
        baseline=errors(mean, batch, symmetries),
        vertices=targets.hand_contact.shape[1],
        points=targets.object_contact.shape[1],
    )


def errors(answer: Answer, batch: Batch, symmetries: Mapping[int, Tensor]) -> Errors:
    """How far an answer is off."""
    inputs, t = batch.inputs, batch.targets
    points, count = inputs.object_points, len(t.joints)
    posed = posed_points(points, answer.object_rotation, answer.object_translation)
    true = posed_points(points, t.object_rotation, t.object_translation)
    poses = answer.object_rotation, answer.object_translation, t.object_rotation, t.object_translation
    degrees, mssd, mspd = (torch.full((count,), NAN, dtype=torch.float64) for _ in range(3))
    for kind in inputs.object_class.unique().tolist():
        if kind in symmetries:
            mine, turns = inputs.object_class == kind, symmetries[kind]
            own = [x[mine] for x in poses]
            degrees[mine] = metrics.rotation_error_deg(own[0], own[2], turns)
            mssd[mine] = metrics.mssd_mm(*own, points[mine], turns)
            mspd[mine] = metrics.mspd_px(*own, points[mine], inputs.frame_intrinsics[mine], turns)
    adds, adi = metrics.adds_mm(posed, true)
    centre = metrics.oce_mm(answer.object_translation, t.object_translation)
    object_mm = (metrics.add_mm(posed, true), adds, adi, centre, metrics.mce_mm(posed, true), mssd)
    vertex_mm, f_score = _mesh_errors(answer, t)
    return Errors(
        absolute_mm=metrics.absolute_error_mm(answer.joints, t.joints),
        aligned_mm=metrics.wrist_aligned_error_mm(answer.joints, t.joints),
        procrustes_mm=metrics.procrustes_error_mm(answer.joints, t.joints),
        vertex_mm=vertex_mm,
        f_score=f_score,
        object_mm=torch.stack(object_mm, 1),
        object_deg=degrees,
        mspd_px=mspd,
        contact=_counts(answer.hand_contact, t.hand_contact),
        object_contact=_counts(answer.object_contact, t.object_contact),
        touching=_counts(metrics.touching(answer.hand_contact)[:, None], metrics.touching(t.hand_contact)[:, None]),
    )


def joined(parts: list):
    """One of many: the tensors of all, one after the other."""

    def one(values: list):
        if isinstance(values[0], Tensor):
            return torch.cat(values)
        return joined(values) if isinstance(values[0], TensorFields) else values[0]

    return type(parts[0])(**{f.name: one([getattr(part, f.name) for part in parts]) for f in fields(parts[0])})


def _mesh_errors(answer: Answer, t: Targets) -> tuple[Tensor, Tensor]:
    """Means over vertices [B, 3] and F-scores [B, 4]; NaN where there is no mesh, or one of another hand model."""
    count = len(t.joints)
    if answer.vertices is None or answer.vertices.shape != t.vertices.shape:
        return torch.full((count, 3), NAN, dtype=torch.float64), torch.full((count, 4), NAN, dtype=torch.float64)
    predicted, true = answer.vertices, t.vertices
    aligned = metrics.procrustes_aligned(predicted, true)
    on_wrist = (predicted - answer.joints[:, :1], true - t.joints[:, :1])
    pairs = ((predicted, true), on_wrist, (aligned, true))
    vertex_mm = torch.stack([metrics.absolute_error_mm(*pair).mean(dim=1) for pair in pairs], 1)
    return vertex_mm, torch.cat((metrics.f_score(predicted, true), metrics.f_score(aligned, true)), 1)


def _without(answer: Answer, mean: Answer, lost: Tensor) -> Answer:
    """The answer with the mean hand and object where no hand was found; such a hand touches nothing and has no mesh."""
    there = ~lost
    return Answer(
        joints=metrics.with_missed(answer.joints, there, mean.joints),
        object_rotation=metrics.with_missed(answer.object_rotation, there, mean.object_rotation),
        object_translation=torch.where(there[:, None], answer.object_translation, mean.object_translation),
        hand_contact=answer.hand_contact & there[:, None],
        object_contact=answer.object_contact & there[:, None],
        vertices=answer.vertices.masked_fill(lost[:, None, None], NAN),
    )


def _counts(said: Tensor | None, true: Tensor) -> Tensor:
    """int64 [B, 3]: hits, said and true of each sample's booleans; nothing is said where there is no answer of this shape."""
    said = torch.zeros_like(true) if said is None or said.shape != true.shape else said
    return torch.stack([x.sum(dim=1) for x in (said & true, said, true)], 1)


def _beliefs(p: Prediction, batch: Batch) -> Beliefs:
    t, sums, visible = batch.targets, metrics.Sums(), None
    labelled = t.contact_valid if p.hand_contact.shape == t.hand_contact.shape else torch.zeros_like(t.contact_valid)
    contact = metrics.reliability(p.hand_contact[labelled].sigmoid().flatten(), t.hand_contact[labelled].flatten())
    if p.joint_visible is not None and t.joint_visible is not None and t.visibility_valid is not None:
        known = t.visibility_valid
        visible = metrics.reliability(p.joint_visible[known].sigmoid(), t.joint_visible[known])
        sums.add("visibility", ((p.joint_visible > 0) == t.joint_visible)[known])
        sums.add("visible", t.joint_visible[known])
    if p.joint_scale is not None and t.hand_valid.any():
        hand = t.hand_valid
        error = (p.joints - t.joints)[hand]
        error = torch.cat(
            (error[:, :1], error[:, 1:] - error[:, :1]), 1
        )  # the wrist's in the camera's frame, others from it
        sums.add("coverage", metrics.laplace_coverage(error, p.joint_scale[hand]))
    return Beliefs(contact, visible, sums)
