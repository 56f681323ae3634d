"""Hands and objects in three dimensions, for a pointer to turn: in reports and in notebooks, without a network.

View([Shown("mine", result), Shown("beside the label", result, truth)])  # as the last line of a notebook's cell
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import numpy as np

from amt.draw.hand_object import CONTACT_THRESHOLD, HandObject

TENTHS = 10_000  # of a millimetre in a metre
MOST = 32_767  # what 16 bits hold
PARTS = {
    "predicted": "predicted hand",
    "truth": "true hand",
    "predictedObject": "predicted object",
    "trueObject": "true object",
}
HEIGHT = 540  # px of a view in a notebook


@dataclass(frozen=True)
class Shown:
    """One scene of a view: a prediction, the truth, or both on each other. All meshes of a view are of one hand model."""

    title: str
    scene: HandObject | None = None
    truth: HandObject | None = None

    def points(self) -> dict[str, np.ndarray]:
        """By part, float [N, 3], m, around the middle of the true joints, or of the predicted ones without a truth."""
        found: dict[str, np.ndarray] = {}
        for one, hand, held in (
            (self.scene, "predicted", "predictedObject"),
            (self.truth, "truth", "trueObject"),
        ):
            if one is not None and one.vertices is not None:
                found[hand] = one.vertices
            if one is not None and one.has_object:
                found[held] = one.in_camera(one.object_points)
        middle = (self.truth or self.scene).joints.mean(0)
        return {name: points - middle for name, points in found.items()}

    def touching(self) -> dict[str, np.ndarray]:
        """By part, bool [N]: the points of the prediction that touch; parts whose contact nobody knows are left out."""
        if self.scene is None:
            return {}
        contacts = {"predicted": self.scene.hand_contact, "predictedObject": self.scene.object_contact}
        there = self.points()
        return {
            name: np.asarray(contact) > CONTACT_THRESHOLD
            for name, contact in contacts.items()
            if contact is not None and name in there
        }


class View:
    """Scenes, one shown at a time. A notebook shows it where it is the last line of a cell.

    Args:
        scenes: of hands of one model, those of left hands among them.

    Raises:
        ValueError: there is no scene, or none has a mesh.
    """

    def __init__(self, scenes: Sequence[Shown]):
        hands = [one for shown in scenes for one in (shown.scene, shown.truth) if one is not None]
        meshes = [one for one in hands if one.vertices is not None and one.faces is not None]
        if not meshes:
            raise ValueError("View: expected scenes of which one has the vertices and faces of a hand")
        self.faces = np.asarray(meshes[0].faces)
        self.scenes = list(scenes)

    def controls(self) -> str:
        """HTML: a button a scene, a box a part, and the canvas."""
        there = {name for shown in self.scenes for name in shown.points()}
        titles = [f"{k}: {shown.title.partition(':')[0]}" for k, shown in enumerate(self.scenes, 1)]
        buttons = "".join(
            f'<button type="button" data-scene="{k}" aria-pressed="false">{escape(title)}</button>'
            for k, title in enumerate(titles)
        )
        boxes = "".join(
            f'<label><input type="checkbox" data-part="{name}" checked> <i class="part {name}"></i>{text}</label>'
            for name, text in PARTS.items()
            if name in there
        )
        return (
            f'<div class="tools">{buttons}</div><div class="tools">{boxes}</div><p class="note" id="said"></p>'
            '<canvas id="viewer" tabindex="0" aria-label="hands and objects; drag or press arrow keys to turn"></canvas>'
            '<p class="note">Drag or press arrow keys to turn, wheel or + and - to zoom. Red touches.</p>'
        )

    def script(self) -> str:
        """HTML: the points, and what draws them."""
        data = {"faces": faces_data(self.faces), "scenes": [scene_data(shown) for shown in self.scenes]}
        text = json.dumps(data).replace("<", "\\u003c")
        return f'<script type="application/json" id="scenes">{text}</script>\n<script>{asset("viewer.js")}</script>'

    @staticmethod
    def style() -> str:
        """CSS of what :meth:`controls` makes."""
        return asset("viewer.css")

    def html(self) -> str:
        """A page of its own."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f"<title>AMT: {escape(self.scenes[0].title)}</title>"
            "<style>body { margin: 8px; font: 15px/1.5 system-ui, sans-serif; color: #1d2127; }\n"
            f"{self.style()}</style></head>\n<body>{self.controls()}{self.script()}</body></html>\n"
        )

    def _repr_html_(self) -> str:
        """A frame, so that two views of one notebook do not meet."""
        return (
            f'<iframe title="hands and objects in three dimensions" srcdoc="{escape(self.html())}" '
            f'style="width: 100%; height: {HEIGHT}px; border: 0"></iframe>'
        )


def scene_data(shown: Shown) -> dict[str, str]:
    """A scene as viewer.js takes it: the title, and in base64 the points (int16, tenths of a millimetre) and what touches."""
    points = {name: _base64(_tenths(found)) for name, found in shown.points().items()}
    touching = {f"{name}Touches": _base64(found.astype(np.uint8)) for name, found in shown.touching().items()}
    return {"title": shown.title} | points | touching


def faces_data(faces: np.ndarray) -> str:
    """The triangles of the hand, int [F, 3], as viewer.js takes them: base64 of uint16."""
    return _base64(np.asarray(faces).astype("<u2"))


def asset(name: str) -> str:
    """The text of viewer.js or viewer.css."""
    return files("amt.draw").joinpath("assets", name).read_text(encoding="utf-8")


def _tenths(points: np.ndarray) -> np.ndarray:
    return np.clip(np.nan_to_num(np.asarray(points, np.float64) * TENTHS), -MOST, MOST).round().astype("<i2")


def _base64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
