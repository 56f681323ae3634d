"""From a photograph and its camera to hand, object and contact in metres.

predictor = amt.load("checkpoint")
result = predictor(image, intrinsics, side="right", object="006_mustard_bottle")
result.joints      # [21, 3], m, in the camera's frame
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amt.config import choose_device
from amt.data.config import CropConfig
from amt.data.crops import cut
from amt.data.meshes import LOOK
from amt.hand.batch import Inputs
from amt.hand.camera import crop_camera, project
from amt.hand.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from amt.hand.skeleton import NUM_JOINTS
from amt.infer.checks import InputError
from amt.infer.config import LOCATORS, MAX_SPREAD
from amt.infer.engine import Engine
from amt.infer.finder import choose_finder
from amt.infer.hands import located_hands
from amt.infer.lens import cut_through, project_through
from amt.infer.locate import FOLLOWED, ROUNDS, SEARCHED, spread, windows
from amt.infer.objects import HeldObject, ObjectLike, resolve_object
from amt.infer.request import Request, requests_of
from amt.infer.result import Result
from amt.infer.uncertainty import joint_sigmas
from amt.locate import Finder
from amt.locate.squares import SETTLED, moved, next_box
from amt.model.amt import AMT
from amt.model.checkpoint import CONFIG, WEIGHTS, CheckpointError
from amt.model.hub import local_folder
from amt.model.loading import load_checkpoint
from amt.model.outputs import Prediction


class Predictor:
    """A trained model with all that surrounds it: cutting, looking for the hand, un-cutting.

    Args:
        model: put into evaluation mode.
        record: what else the checkpoint's config.json says.
        device: None takes the GPU where there is one.
        models: folder of object models for YCB names and class ids (see :func:`resolve_object`).
        batch_size: crops that go through the model at once.
        max_spread: share of the crop that a joint's keypoint map may cover; above it no hand is found, above three quarters
            of it in a search (``amt.infer.locate``). 1 finds one everywhere.
        engine, bfloat16, narrow: how the network is run (:class:`amt.infer.engine.Engine`).
        finder: finds hands in whole pictures; None searches one hand by windows.

    Thread-safe: threads may call one predictor at once, and get what one thread gets.
    """

    def __init__(
        self,
        model: AMT,
        record: dict[str, Any] | None = None,
        device: torch.device | str | None = None,
        models: str | Path | None = None,
        batch_size: int = 16,
        max_spread: float = MAX_SPREAD,
        engine: str = "eager",
        bfloat16: bool = False,
        finder: Finder | None = None,
        narrow: bool = False,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
        if not max_spread > 0:
            raise ValueError(f"max_spread: expected a share above 0, got {max_spread}")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.eval().to(self.device)
        self.engine = Engine(self.model, self.device, engine, bfloat16, batch_size, narrow)
        self.record, self.models, self.max_spread, self.finder = record or {}, models, max_spread, finder
        self.stage: Callable[[str], AbstractContextManager] = no_clock  # a benchmark puts a clock here
        trained = crop_config(self.record)
        self.num_points, self.box_scale = trained.num_points, trained.box_scale

    def __call__(
        self,
        image: Any,
        intrinsics: Any = None,
        boxes: Any = None,
        side: Any = None,
        object: ObjectLike = None,
        distortion: Any = None,
        *,
        box: Any = None,
    ) -> Result | list:
        """Predicts hands and the object that they hold, in one image or many.

        Args:
            image: an array [H, W, C], a tensor [C, H, W] or a PIL image; uint8 or floats in 0-1; RGB, RGBA or grey. A list of
                such, or a batch [B, ...], gives a list of answers (:func:`amt.infer.arrays.as_pictures`).
            intrinsics: K of the image, px: [3, 3], nine numbers, (fx, fy, cx, cy), a :class:`amt.infer.cameras.Camera`, or the
                path of a calibration file; for many images one for all, or one for each. Metric depth is only as good as K
                is. None assumes a field of view of 75 degrees over the diagonal; ``result.intrinsics_assumed`` then says so.
            boxes: (cx, cy, side), px: a square around the hand, 1.5 times as wide as the joints' bounding box is long. A list
                of squares, or of what a locator found, gives a list of results, one a hand. For many images one entry for
                each. None takes every hand that the finder sees, and gives a list; without a finder it looks for one hand,
                which costs some eighty crops (``amt.infer.locate``).
            side: "right" or "left", or one for each box. None: what a locator said, else "right".
            object: None where unknown; a YCB name or class id; a mesh file in metres; points [N, 3] in metres; a box
                ("box:0.1x0.05x0.2" or (0.1, 0.05, 0.2), metres). One for all hands and images; ``predict_many`` takes others.
            distortion: of the lens, for all images: k1, k2, p1, p2[, k3[, k4, k5, k6]] in OpenCV's order, or
                ("fisheye", (k1, k2, k3, k4)); see :class:`amt.infer.lens.Lens`. Boxes and ``joints_2d`` are in px of the
                distorted image.
            box: ``boxes`` under the name of earlier versions.

        Returns:
            A :class:`Result`; a list of them where ``boxes`` is a list; a list of either where there are many images.

        Raises:
            ValueError: an image, camera, box, side or object that cannot be; the message names it.
        """
        if box is not None:
            if boxes is not None:
                raise InputError("box: stands for boxes; give one of the two")
            boxes = box
        requests, single, alone = requests_of(image, intrinsics, boxes, side, object, distortion)
        if boxes is None and self.finder is not None:
            asked = [request for (request,) in requests]
            for request in asked:
                request.check()
            with self.stage("locate"):
                found = self.finder.locate_many([request.image for request in asked])
            sides = [side] * len(asked) if alone or side is None or isinstance(side, str) else list(side)
            answers = located_hands(self, list(zip(asked, found, sides)))
            return answers[0] if alone else answers
        if boxes is not None and not alone and any(of_image is None for of_image in boxes):
            raise InputError("boxes: an image has None; give boxes for every image, or for none")
        flat = iter(self.predict_many([request for of_image in requests for request in of_image]))
        answers = [[next(flat) for _ in of_image] for of_image in requests]
        answers = [hands[0] if one else hands for hands, one in zip(answers, single)]
        return answers[0] if alone else answers

    @property
    def batch_size(self) -> int:
        """Crops that go through the model at once; less than was asked for where memory did not suffice."""
        return self.engine.batch_size

    def predict_many(self, requests: Sequence[Request]) -> list[Result]:
        """Predicts for many images, ``batch_size`` crops at once; images may differ in size, camera, side and object.

        Raises ValueError as :meth:`__call__` does, before anything is predicted.
        """
        asked = []
        for request in requests:
            request.check()
            asked.append(replace(request, object=resolve_object(request.object, self.num_points, self.models)))
        results: list[Result] = []
        size = self.batch_size
        for start in range(0, len(asked), size):
            results += self._predict(asked[start : start + size])
        return results

    def _predict(self, requests: list[Request]) -> list[Result]:
        """Follows one or more squares for each request until they rest; the surest one is its answer."""
        with self.stage("locate"):
            tracks = [(i, square) for i, request in enumerate(requests) for square in self._starts(request)]
        boxes = [square for _, square in tracks]
        results: list[Result | None] = [None] * len(tracks)
        moving = list(range(len(tracks)))
        for look in range(ROUNDS):
            looked = self._look([(requests[tracks[k][0]], boxes[k]) for k in moving])
            following = {}
            for k, fields in zip(moving, looked):
                request, box = requests[tracks[k][0]], boxes[k]
                source = "given" if request.box is not None else "found" if request.near is None else "tracked"
                after = box if request.box is not None else self._next(request, fields)
                settled = moved(box, after) < SETTLED
                results[k] = Result(
                    **fields,
                    box=box.astype(np.float32),
                    box_source=source,
                    box_settled=settled,
                    hand_found=fields["spread"] <= self.spread_limit(source)
                    and bool(np.isfinite(fields["joints"]).all()),
                )
                if not settled and look + 1 < ROUNDS:
                    following[k] = after
            moving = list(following)
            if not moving:
                break
            for k, after in following.items():
                boxes[k] = after
        surest: list[Result | None] = [None] * len(requests)
        for (i, _), result in zip(tracks, results):
            if surest[i] is None or result.doubt < surest[i].doubt or np.isnan(surest[i].doubt):
                surest[i] = result
        return surest

    def spread_limit(self, box_source: str) -> float:
        """The largest spread that counts as a hand, in a square from this source: less in a search."""
        return self.max_spread * (SEARCHED if box_source == "found" and self.max_spread < 1 else 1)

    def _starts(self, request: Request) -> list[np.ndarray]:
        """The squares to begin with: the given one, or where the surest windows of a search see the hand."""
        for square in (request.box, request.near):
            if square is not None:
                return [np.asarray(square, np.float64)]
        squares = windows(*request.image.shape[:2])
        looked = self._look([(request, square) for square in squares])
        doubt = np.nan_to_num([fields["doubt"] for fields in looked[:-1]], nan=np.inf)
        chosen = [*np.argsort(doubt, kind="stable")[:FOLLOWED], -1]
        return [self._next(request, looked[k]) for k in chosen]

    def _next(self, request: Request, fields: dict) -> np.ndarray:
        return next_box(fields["joints_2d"], *request.image.shape[:2], self.box_scale)

    def _look(self, crops: list[tuple[Request, np.ndarray]]) -> list[dict]:
        """Passes crops through the model: the fields of each one's Result, but those that tell about its box."""
        fields: list[dict] = []
        while len(fields) < len(crops):
            part = crops[len(fields) : len(fields) + self.batch_size]
            with self.stage("crop"):
                inputs, rotations = self._inputs(part)
            try:
                with self.stage("model"):
                    prediction = self.engine(inputs)
            except (MemoryError, RuntimeError) as error:
                if not self.engine.halve(error, len(part)):
                    raise
                continue
            with self.stage("unpack"):
                fields += self._fields([request for request, _ in part], inputs, prediction, rotations)
        return fields

    def _fields(
        self, requests: list[Request], inputs: Inputs, prediction: Prediction, rotations: list[np.ndarray | None]
    ) -> list[dict]:
        pose = matrix_to_axis_angle(prediction.pose).flatten(1)
        intrinsics = torch.from_numpy(np.stack([np.asarray(r.intrinsics, np.float32) for r in requests]))
        joints_2d = project(prediction.joints, intrinsics)
        hand_contact, object_contact = prediction.hand_contact.sigmoid(), prediction.object_contact.sigmoid()
        class_seen = prediction.object_class.argmax(1)
        doubt, cells = prediction.keypoints.doubt(NUM_JOINTS), prediction.keypoints.log_maps[0, 0].numel()
        visibility = None if prediction.joint_visible is None else prediction.joint_visible.sigmoid().numpy()
        sigma = joint_sigmas(prediction, inputs.intrinsics, self.model.config.crop_size).numpy()
        rows = []
        for i, request in enumerate(requests):
            placed = {}
            if request.object.known:
                placed = {
                    "object_points": request.object.points,
                    "object_rotation": prediction.object_rotation[i].numpy(),
                    "object_translation": prediction.object_translation[i].numpy(),
                    "object_contact": object_contact[i].numpy(),
                }
            rows.append(
                {
                    "side": request.side,
                    "intrinsics": intrinsics[i].numpy(),
                    "joints": prediction.joints[i].numpy(),
                    "joints_2d": joints_2d[i].numpy(),
                    "vertices": prediction.vertices[i].numpy(),
                    "faces": self._faces[request.side],
                    "pose": pose[i].numpy(),
                    "betas": prediction.betas[i].numpy(),
                    "translation": prediction.translation[i].numpy(),
                    "mano_joints": prediction.decoded.joints[i].numpy(),
                    "mano_vertices": prediction.decoded.vertices[i].numpy(),
                    "mano_model": "right" if request.side == "right" else "mirrored right",
                    "steps": prediction.steps[i].numpy(),
                    "coarse_joints": prediction.coarse.joints[i].numpy(),
                    "hand_contact": hand_contact[i].numpy(),
                    "object_class": request.object.class_id,
                    "object_class_seen": int(class_seen[i]),
                    "doubt": float(doubt[i]),
                    "spread": spread(float(doubt[i]), cells),
                    "visibility": None if visibility is None else visibility[i],
                    "sigma_mm": sigma[i],
                    "lens": request.lens,
                    "intrinsics_assumed": request.intrinsics_assumed,
                    **placed,
                }
            )
            if request.lens is not None:
                rows[-1] = _in_picture(rows[-1], rotations[i])
        return rows

    def _inputs(self, crops: list[tuple[Request, np.ndarray]]) -> tuple[Inputs, list[np.ndarray | None]]:
        """What the model sees, and the rotation from each picture's camera to its crop's; None: there is none."""
        size = self.model.config.crop_size
        requests, boxes = [request for request, _ in crops], np.stack([box for _, box in crops])
        frame_intrinsics = np.stack([np.asarray(r.intrinsics, np.float64) for r in requests])
        intrinsics, warps = crop_camera(frame_intrinsics, boxes, size)
        images: list[np.ndarray] = []
        rotations: list[np.ndarray | None] = []
        for i, (request, warp) in enumerate(zip(requests, warps.numpy())):
            if request.lens is None:
                images.append(cut(request.image, warp, size))
                rotations.append(None)
                continue
            seen = cut_through(request.image, frame_intrinsics[i], request.lens, boxes[i], size)
            images.append(seen.image)
            rotations.append(seen.rotation)
            intrinsics[i] = torch.from_numpy(seen.intrinsics)
        inputs = Inputs(
            image=torch.from_numpy(np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))),
            intrinsics=intrinsics.float(),
            box=torch.from_numpy(boxes).float(),
            frame_intrinsics=torch.from_numpy(frame_intrinsics).float(),
            frame_size=torch.tensor([r.image.shape[:2] for r in requests], dtype=torch.float32),
            right=torch.tensor([r.side == "right" for r in requests]),
            object_class=torch.tensor([r.object.class_id for r in requests]),
            object_points=torch.from_numpy(np.stack([r.object.points for r in requests])),
            object_look=_looks([r.object for r in requests]),
        )
        return inputs, rotations

    @cached_property
    def _faces(self) -> dict[str, np.ndarray]:
        """Triangles of both hands: the network's left hand is its right one mirrored, which reverses their order."""
        right = self.model.mano.faces.cpu().numpy()
        return {"right": right, "left": np.ascontiguousarray(right[:, ::-1])}


def _looks(held: Sequence[HeldObject]) -> torch.Tensor | None:
    """[B, P, 7]; None where no object's look is known: the model then leaves out the pose search, which would find nothing."""
    if all(one.look is None for one in held):
        return None
    unknown = np.zeros((len(held[0].points), LOOK), np.float32)
    return torch.from_numpy(np.stack([unknown if one.look is None else one.look for one in held]))


def no_clock(stage: str) -> AbstractContextManager:
    """Times nothing."""
    return nullcontext()


_POINTS = ("joints", "vertices", "mano_joints", "mano_vertices", "steps", "coarse_joints")


def _in_picture(fields: dict, rotation: np.ndarray) -> dict:
    """The fields of a crop through a lens, in the picture's camera: rotated back, and projected through the lens."""
    back = rotation.astype(np.float32)  # points are rows: p = R^T p'
    rest = fields["mano_joints"][0] - fields["translation"]  # MANO's wrist, about which its global rotation turns
    moved = {name: fields[name] @ back for name in _POINTS}
    pose = torch.from_numpy(fields["pose"].copy())
    pose[:3] = matrix_to_axis_angle(torch.from_numpy(back.T.copy()) @ axis_angle_to_matrix(pose[:3]))
    moved |= {"pose": pose.numpy(), "translation": moved["mano_joints"][0] - rest}
    if "object_points" in fields:
        moved["object_rotation"] = back.T @ fields["object_rotation"]
        moved["object_translation"] = fields["object_translation"] @ back
    pixels = project_through(moved["joints"], fields["intrinsics"], fields["lens"])
    return fields | moved | {"joints_2d": pixels.astype(np.float32)}


def crop_config(record: dict[str, Any]) -> CropConfig:
    """How the training cut its crops, as a checkpoint's record says; the defaults where it says nothing.

    Raises ValueError for a section that is not one, or for values that cannot be.
    """
    trained: Any = record
    for name in ("data", "crop"):
        trained = trained.get(name) or {}
        if not isinstance(trained, dict):
            raise ValueError(f'section "{name}" is not an object')
    known = {field.name: trained[field.name] for field in dataclasses.fields(CropConfig) if field.name in trained}
    for name, value in known.items():
        if not isinstance(value, (int, float)):
            raise ValueError(f"data.crop.{name} must be a number; got {value!r}")
    return CropConfig(**known)


def load(
    folder: str | Path,
    device: torch.device | str | None = None,
    *,
    models: str | Path | None = None,
    batch_size: int = 16,
    max_spread: float = MAX_SPREAD,
    engine: str = "eager",
    bfloat16: bool = False,
    narrow: bool = False,
    locator: str = "model",
    mediapipe: str | Path | None = None,
    **overrides: Any,
) -> Predictor:
    """The predictor of a checkpoint folder (model.safetensors and config.json).

    Args:
        folder: what ``python -m amt.train`` leaves; "amt-tiny", which comes with the package; or a name on the Hugging Face
            Hub, "owner/model".
        device: "cpu", "cuda" or "cuda:N"; None or "auto" takes the GPU where there is one.
        models: folder of object models for YCB names and class ids.
        batch_size: crops that go through the model at once.
        max_spread, engine, bfloat16, narrow: see :class:`Predictor`.
        locator, mediapipe: what finds hands (:func:`amt.infer.finder.choose_finder`).
        overrides: model settings that replace the saved ones, such as ``hand=PATH`` of MANO_RIGHT.pkl on this machine.

    Raises:
        CheckpointError: the folder or a file of it is missing or broken; the message names it and the remedy.
        ConfigError: the device or an override cannot be had.
        InputError, UsageError: the locator or the folder is no such name.
    """
    if locator not in LOCATORS:
        raise InputError(f"locator: expected one of {', '.join(LOCATORS)}; got {locator!r}")
    device = choose_device("auto" if device is None else str(device), "device")
    folder = local_folder(folder)
    model, record = load_checkpoint(folder, **overrides)
    broken = next((name for name, tensor in model.state_dict().items() if not tensor.isfinite().all()), None)
    if broken is not None:
        raise CheckpointError(f"{Path(folder, WEIGHTS)}: {broken} holds numbers that are not finite; train it again")
    try:
        crop_config(record)
    except ValueError as error:
        raise CheckpointError(f"{Path(folder, CONFIG)}: {error}; copy the folder again") from error
    finder = choose_finder(locator, folder, crop_config(record).box_scale, device, mediapipe)
    return Predictor(model, record, device, models, batch_size, max_spread, engine, bfloat16, finder, narrow)
