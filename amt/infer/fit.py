"""MANO parameters for the answer: those nearest to the refined joints, for a left hand in MANO's own left file if asked."""

from __future__ import annotations

from dataclasses import replace

import torch

from amt.hand.fit import fit_joints
from amt.hand.mano import ManoLayer
from amt.hand.mirror import mirror_points, mirror_pose
from amt.hand.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from amt.infer.result import Result


def fitted(result: Result, right: ManoLayer, left: ManoLayer | None = None) -> Result:
    """The result with other ``pose``, ``betas`` and ``translation``: those that meet its ``joints`` best.

    The answer itself does not change. ``mano_joints`` and ``mano_vertices`` are the fitted parameters' own: on the demo's model
    they lie 1.3 mm from ``joints``, where those of the prediction lie 4.8 mm away (mean).

    Args:
        result: a hand that was found; without one it is returned as it is.
        right: the model's layer, ``predictor.model.mano``.
        left: a left hand's layer, for example of MANO_LEFT.pkl: a left hand's parameters then belong to it, and
            ``mano_model`` is "left". Without it they belong to the mirrored right one.
    """
    if not result.hand_found:
        return result
    direct = result.side == "right" or left is not None
    layer = left if result.side == "left" and left is not None else right
    device = layer.v_template.device
    joints, pose, betas, translation = (
        torch.from_numpy(array)[None].to(device)
        for array in (result.joints, result.pose, result.betas, result.translation)
    )
    if not direct:
        joints, pose, translation = mirror_points(joints), mirror_pose(pose), mirror_points(translation)
    fit = fit_joints(layer, joints, axis_angle_to_matrix(pose.unflatten(1, (16, 3))), betas, translation)
    vertices = layer(fit.pose, fit.betas, fit.translation).vertices
    pose = matrix_to_axis_angle(fit.pose).flatten(1)
    found = {"pose": pose, "translation": fit.translation, "mano_joints": fit.joints, "mano_vertices": vertices}
    if not direct:
        found = {name: (mirror_pose if name == "pose" else mirror_points)(value) for name, value in found.items()}
    return replace(
        result,
        **{name: value[0].cpu().numpy() for name, value in {**found, "betas": fit.betas}.items()},
        mano_model="left" if result.side == "left" and direct else result.mano_model,
        mano_fitted=True,
    )
