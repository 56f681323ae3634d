"""Messages of Foxglove's well-known schemas as JSON, and the parts of these schemas that they use.

Source: https://docs.foxglove.dev/docs/sdk/schemas. A viewer knows a schema by its name; times are {sec, nsec}.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from amt.draw.paint import BOX_EDGES, JOINT_COLOURS
from amt.hand.skeleton import BONES
from amt.infer.result import Result

FRAME = "camera"
_LINE_LIST = 2  # LinePrimitive.type: pairs of points


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _list(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


_NUMBER, _INTEGER, _TEXT, _BOOLEAN = ({"type": kind} for kind in ("number", "integer", "string", "boolean"))
_TIME = _object(sec=_INTEGER, nsec=_INTEGER)
_VECTOR = _object(x=_NUMBER, y=_NUMBER, z=_NUMBER)
_POSE = _object(position=_VECTOR, orientation=_object(x=_NUMBER, y=_NUMBER, z=_NUMBER, w=_NUMBER))
_COLOUR = _object(r=_NUMBER, g=_NUMBER, b=_NUMBER, a=_NUMBER)
_HEAD = {"timestamp": _TIME, "frame_id": _TEXT}
_LINES = _object(
    type=_INTEGER,
    pose=_POSE,
    thickness=_NUMBER,
    scale_invariant=_BOOLEAN,
    points=_list(_VECTOR),
    color=_COLOUR,
    colors=_list(_COLOUR),
    indices=_list(_INTEGER),
)
_ENTITY = _object(
    **_HEAD,
    id=_TEXT,
    lifetime=_TIME,
    frame_locked=_BOOLEAN,
    metadata=_list(_object(key=_TEXT, value=_TEXT)),
    lines=_list(_LINES),
    spheres=_list(_object(pose=_POSE, size=_VECTOR, color=_COLOUR)),
)
SCHEMAS = {
    "foxglove.CompressedImage": _object(**_HEAD, data={"type": "string", "contentEncoding": "base64"}, format=_TEXT),
    "foxglove.CameraCalibration": _object(
        **_HEAD,
        width=_INTEGER,
        height=_INTEGER,
        distortion_model=_TEXT,
        D=_list(_NUMBER),
        K=_list(_NUMBER),
        R=_list(_NUMBER),
        P=_list(_NUMBER),
    ),
    "foxglove.PosesInFrame": _object(**_HEAD, poses=_list(_POSE)),
    "foxglove.SceneUpdate": _object(
        deletions=_list(_object(timestamp=_TIME, type=_INTEGER, id=_TEXT)), entities=_list(_ENTITY)
    ),
}


def stamp(nanoseconds: int) -> dict[str, int]:
    """A time."""
    return {"sec": nanoseconds // 10**9, "nsec": nanoseconds % 10**9}


def image(time: dict, picture: np.ndarray, quality: int = 85) -> dict[str, Any]:
    """CompressedImage of ``picture``, uint8 [H, W, 3], RGB."""
    import cv2

    data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return {"timestamp": time, "frame_id": FRAME, "data": base64.b64encode(data).decode(), "format": "jpeg"}


def calibration(time: dict, result: Result, height: int, width: int) -> dict[str, Any]:
    """CameraCalibration; ROS's names for the distortion."""
    lens = None if result.lens is None else result.lens.record()
    fisheye = lens is not None and lens["model"] == "fisheye"
    k = np.asarray(result.intrinsics, np.float64)
    return {
        "timestamp": time,
        "frame_id": FRAME,
        "width": width,
        "height": height,
        "distortion_model": "kannala_brandt" if fisheye else "plumb_bob" if lens is None else "rational_polynomial",
        "D": [] if lens is None else [float(x) for x in lens["coefficients"]],
        "K": k.ravel().tolist(),
        "R": np.eye(3).ravel().tolist(),
        "P": np.pad(k, ((0, 0), (0, 1))).ravel().tolist(),
    }


def poses(time: dict, transforms: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """PosesInFrame of (rotation [3, 3], position [3] in m)."""
    return {"timestamp": time, "frame_id": FRAME, "poses": [_pose(*transform) for transform in transforms]}


def scene(time: dict, hands: dict[str, Result], gone: Sequence[str]) -> dict[str, Any]:
    """SceneUpdate: bones, joints and the object's box of each hand by its name; the hands in ``gone`` are removed."""
    return {
        "deletions": [{"timestamp": time, "type": 0, "id": name} for name in gone],
        "entities": [_entity(time, name, hand) for name, hand in hands.items()],
    }


def _entity(time: dict, name: str, hand: Result) -> dict[str, Any]:
    colours = [_colour(JOINT_COLOURS[joint]) for _, joint in BONES]
    lines = [_lines(hand.joints[np.array(BONES)].reshape(-1, 3), [c for c in colours for _ in range(2)], 0.004)]
    if hand.has_object:
        corners = hand.object_box[np.array(BOX_EDGES)].reshape(-1, 3)
        lines.append(_lines(corners, [_colour((0, 214, 201))] * len(corners), 0.002))
    size = {axis: 0.012 for axis in "xyz"}
    spheres = [
        {"pose": _pose(None, joint), "size": size, "color": _colour(colour)}
        for joint, colour in zip(hand.joints, JOINT_COLOURS)
    ]
    about = {"side": hand.side, "object_class": str(int(hand.object_class)) if hand.has_object else ""}
    return {
        "timestamp": time,
        "frame_id": FRAME,
        "id": name,
        "lifetime": stamp(0),
        "frame_locked": False,
        "metadata": [{"key": key, "value": value} for key, value in about.items()],
        "lines": lines,
        "spheres": spheres,
    }


def _lines(points: np.ndarray, colours: list[dict], thickness: float) -> dict[str, Any]:
    return {
        "type": _LINE_LIST,
        "pose": _pose(None, np.zeros(3)),
        "thickness": thickness,
        "scale_invariant": False,
        "points": [_vector(point) for point in points],
        "color": colours[0],
        "colors": colours,
        "indices": [],
    }


def _pose(rotation: np.ndarray | None, position: np.ndarray) -> dict[str, Any]:
    from scipy.spatial.transform import Rotation

    x, y, z, w = (0.0, 0.0, 0.0, 1.0) if rotation is None else Rotation.from_matrix(rotation).as_quat().tolist()
    return {"position": _vector(position), "orientation": {"x": x, "y": y, "z": z, "w": w}}


def _vector(point: np.ndarray) -> dict[str, float]:
    return dict(zip("xyz", np.round(np.asarray(point, np.float64), 6).tolist()))


def _colour(colour: Sequence[int]) -> dict[str, float]:
    return dict(zip("rgba", (*(round(c / 255, 4) for c in colour), 1.0)))
