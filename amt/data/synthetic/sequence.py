"""One sequence, from its numbers to its pictures and labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch

from amt.data.layout import SERIALS
from amt.data.synthetic import appearance, scene
from amt.data.synthetic.arm import Clothes, PosedHand, hand_bodies
from amt.data.synthetic.cameras import DEFAULT, CameraConfig
from amt.data.synthetic.config import SequenceSpec
from amt.data.synthetic.distance import SignedDistance
from amt.data.synthetic.grasps import find_grasp
from amt.data.synthetic.lens import draw_shot
from amt.data.synthetic.lift import block, lift
from amt.data.synthetic.objects import Shape
from amt.data.synthetic.occluders import faceted, occluder
from amt.data.synthetic.person_hand import Hand
from amt.data.synthetic.render import Body, BodyTree, Camera, Picture, draw, static_layer
from amt.data.synthetic.rests import rests
from amt.data.synthetic.skin import make_skin
from amt.data.synthetic.table import lit_table, shade
from amt.data.synthetic.touch import distances_to_mesh
from amt.data.synthetic.visible import View, Visible, visibility
from amt.hand.mano import HandModel
from amt.hand.rotations import axis_angle_to_matrix, matrix_to_axis_angle

CONTACT = 0.005  # m: the contact labels' threshold, that of amt.hand.contact
MODEL_POINTS = 2048  # points of points.xyz
LIFT_ROUNDS = 12  # of candidates for a grasp that the table leaves room for


@dataclass
class Sequence:
    """Poses of hand and objects in the table's frame for every frame; renders on demand.

    Attributes:
        class_ids: objects in the scene, sorted as DexYCB's ``ycb_ids``; ``held`` is the grasped one's index.
        object_poses: float64 [F, O, 3, 4], m.
        hand_pose: float64 [F, 48], axis-angle: wrist, then 15 joints.
        hand_rotations: float64 [F, 3, 3]: the wrist's rotation as a matrix.
        hand_translation: float64 [F, 3], m.
        vertices: float64 [F, V, 3], m; joints: float64 [F, 21, 3], m.
        hand_distance: float32 [F, V], m: signed distance of the hand's vertices to the object, negative inside.
        object_distance: float32 [F, MODEL_POINTS], m: of the points of points.xyz to the hand.
        hand_contact: bool [F, V]; object_contact: bool [F, MODEL_POINTS]: nearer than :data:`CONTACT`.
    """

    spec: SequenceSpec
    shapes: dict[int, Shape]
    model: HandModel
    cameras: list[Camera]
    numbers: tuple[int, ...] = tuple(range(len(SERIALS)))  # which of the rig's the cameras are
    effects: CameraConfig = DEFAULT
    scenes: tuple[Path, ...] = ()  # pictures to stand behind the table; () for made ones
    surfaces: tuple[Path, ...] = ()  # pictures to lie upon it
    class_ids: list[int] = field(init=False)

    def __post_init__(self):
        spec = self.spec
        classes = [c for c in sorted(self.shapes) if c != 19] or sorted(self.shapes)
        place = (spec.subject, spec.sequence) if spec.scene is None else (0, spec.scene)
        held_class = scene.sequence_class(spec.seed, *place, spec.sequences, classes)
        self.rng = scene.sequence_rng(spec.seed, spec.subject, spec.sequence)
        self.person = scene.person(spec.seed, spec.person)
        self.hand = Hand(self.model, self.person.betas)
        shape = self.shapes[held_class]
        distance = _distance(shape)
        if spec.lift:
            self.grasp = find_grasp(self.hand, shape, distance, self.rng, rounds=LIFT_ROUNDS, resting=rests(shape))
            self.motion = lift(self.grasp, shape, distance, self._held_vertices, spec.frames, self.rng)
        else:
            self.grasp = find_grasp(self.hand, shape, distance, self.rng)
            closed = self._in_object_frame(np.zeros(1), *np.zeros((2, 1, 3)))
            self.motion = scene.move(self.grasp, shape, closed[0][0], spec.frames, self.rng)
        self._pose_hand()

        reach = np.linalg.norm(self.motion.translations[:, :2], axis=1).max() + np.linalg.norm(shape.extent) / 2
        self.clutter = scene.clutter(held_class, self.shapes, min(reach + 0.04, 0.34), self.rng)
        if spec.lift:
            self.clutter = scene.untouched(self.clutter, self.shapes, self.vertices[:, ::5].reshape(-1, 3))
        poses = {c.class_id: np.concatenate([c.rotation, c.translation[:, None]], 1) for c in self.clutter}
        held_poses = np.concatenate([self.motion.rotations, self.motion.translations[..., None]], 2)
        self.class_ids = sorted([held_class, *poses])
        self.held = self.class_ids.index(held_class)
        frames = spec.frames
        self.object_poses = np.stack(
            [held_poses if c == held_class else np.broadcast_to(poses[c], (frames, 3, 4)) for c in self.class_ids], 1
        )
        self._find_contact(shape, distance)
        self._dress()

    def _in_object_frame(self, openness: np.ndarray, offsets: np.ndarray, bends: np.ndarray):
        """Vertices [F, V, 3], fingers [F, 45], wrist's rotations [F, 3, 3] and places [F, 3] in the held object's frame.

        The arguments are those of :class:`amt.data.synthetic.scene.Motion`.
        """
        grasp, hand = self.grasp, self.hand
        fingers = grasp.fingers + openness[:, None] * (grasp.open_fingers - grasp.fingers)
        rotations = axis_angle_to_matrix(torch.from_numpy(fingers.reshape(-1, 15, 3)).float())
        rotations = torch.cat([torch.eye(3).expand(len(rotations), 1, 3, 3), rotations], 1)
        wrists = axis_angle_to_matrix(torch.from_numpy(bends)).numpy() @ grasp.rotation
        places = grasp.translation + offsets
        local = hand.vertices(rotations) - hand.root
        return local @ wrists.transpose(0, 2, 1) + (hand.root + places)[:, None], fingers, wrists, places

    def _held_vertices(self, *at: np.ndarray) -> np.ndarray:
        return self._in_object_frame(*at)[0]

    def _pose_hand(self):
        hand, motion = self.hand, self.motion
        at = motion.openness, motion.offsets, motion.bends
        self.vertices_in_object, fingers, wrists, places = self._in_object_frame(*at)
        self.hand_rotations = motion.rotations @ wrists
        wrist = matrix_to_axis_angle(torch.from_numpy(self.hand_rotations)).numpy()
        self.hand_pose = np.concatenate([wrist, fingers], 1)
        carried = np.einsum("fij,fj->fi", motion.rotations, hand.root + places) + motion.translations
        self.hand_translation = carried - hand.root
        betas = torch.from_numpy(self.person.betas).float()[None].expand(len(wrist), -1)
        with torch.no_grad():
            pose, translation = (torch.from_numpy(a).float() for a in (self.hand_pose, self.hand_translation))
            mesh = hand.layer(pose, betas, translation)
        self.vertices, self.joints = (x.double().numpy() for x in mesh)

    def _find_contact(self, shape: Shape, distance: SignedDistance):
        self.hand_distance = distance.exact(self.vertices_in_object)
        points = model_points(shape)
        self.object_distance = np.stack([distances_to_mesh(points, v, self.model.f) for v in self.vertices_in_object])
        self.hand_contact, self.object_contact = (d < CONTACT for d in (self.hand_distance, self.object_distance))

    def _dress(self):
        """Draws what else a picture shows: lamp, table, clothes."""
        rng = self.rng
        self.light = scene.lamp(rng)
        self.table_size = rng.uniform([0.9, 0.7], [2.2, 2.0])
        self.still = [self._object_body(c.class_id, c.rotation, c.translation) for c in self.clutter]
        if self.spec.lift:
            pose = self.object_poses[0, self.held]
            shape = self.shapes[self.class_ids[self.held]]
            points = np.concatenate((shape.mesh()[0], model_points(shape))) @ pose[:, :3].T + pose[:, 3]
            under = block(points, self.vertices.reshape(-1, 3))
            if under is not None:
                self.still.append(faceted(under, appearance.random_colour(rng)))
        self.clothes = Clothes(appearance.sleeve(rng), float(rng.uniform(0.03, 0.2)), rng.normal(0, 0.25, 3))
        self.skin = make_skin(self.model, self.person.tone, self.person.warmth)
        if len(self.joints) > 1:
            self.velocities = np.gradient(self.joints, scene.SECONDS / len(self.joints), axis=0)  # [F, 21, 3], m/s
        else:
            self.velocities = np.broadcast_to(rng.normal(0, 0.25, 3), self.joints.shape)
        self.shots, self.occluders = [], []
        for number, camera in zip(self.numbers, self.cameras, strict=True):
            draws = self._stream(number)
            depth = self.joints @ camera.rotation[2] + camera.translation[2]
            shot = draw_shot(self.effects, float(depth.mean()), draws)
            self.shots.append(shot)
            self.occluders.append(occluder(camera, self.joints, draws) if shot.occluded else None)

    def _stream(self, *numbers: int) -> np.random.Generator:
        """Random numbers of a camera, or of a camera and a frame, whatever else is rendered."""
        return scene.picture_rng(self.spec.seed, self.spec.person, self.spec.sequence, *numbers)

    def moving(self, frame: int) -> list[Body]:
        """Hand, forearm, sleeve and the held object in a frame."""
        pose = self.object_poses[frame, self.held]
        held = self._object_body(self.class_ids[self.held], pose[:, :3], pose[:, 3])
        posed = PosedHand(self.vertices[frame], self.joints[frame], self.hand_rotations[frame])
        return [*hand_bodies(self.hand, posed, self.skin, self.clothes), held]

    def render(self) -> Iterator[tuple[int, int, Picture, Visible]]:
        """Yields (camera, frame, picture, what of the hand is visible) for every camera and frame."""
        rng, light, still = self.rng, self.light, BodyTree(self.still)
        top = lit_table(appearance.table_top(rng, self.surfaces), still, light)
        moving = [BodyTree(self.moving(frame)) for frame in range(self.spec.frames)]
        shades = [shade(tree, light) for tree in moving]
        brightness = float((light.colour + light.ambient).mean())
        for index, (camera, shot, hidden) in enumerate(zip(self.cameras, self.shots, self.occluders, strict=True)):
            draws = self._stream(self.numbers[index], 0)
            size = camera.height, camera.width
            around = appearance.backdrop(draws, *size, self.scenes, brightness, float(draws.uniform(0.5, 4.0)))
            layer = static_layer(camera, still, light, top, self.table_size, around, hidden, shot, draws)
            standing = [View(camera, body) for body in (*self.still, hidden) if body is not None]
            for frame, (tree, shadow) in enumerate(zip(moving, shades, strict=True)):
                draws = self._stream(self.numbers[index], 1, frame)
                joints, step = self.joints[frame], 0.001 * self.velocities[frame]
                motion = (camera.pixels(joints + step) - camera.pixels(joints)).mean(0) / 0.001
                picture = draw(camera, tree, layer, light, shadow, shot, motion, draws)
                hand, *others = tree.bodies
                others = [*(View(camera, body) for body in others), *standing]
                yield index, frame, picture, visibility(camera, hand, others, joints, self.model.tip_vertices)

    def _object_body(self, class_id: int, rotation: np.ndarray, translation: np.ndarray) -> Body:
        shape = self.shapes[class_id]
        vertices, faces, normals = _shaded(shape)

        def painter(points):
            own = np.ascontiguousarray(points - translation.astype(np.float32)) @ rotation.astype(np.float32)
            return appearance.paint(class_id, np.asfortranarray(own), shape.extent)

        return Body(vertices @ rotation.T + translation, faces, normals @ rotation.T, None, class_id, 0.18, painter)


@cache
def _distance(shape: Shape) -> SignedDistance:
    return SignedDistance.of(shape)


@cache
def _shaded(shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices, faces and normals of a shape with its sharp edges split."""
    import trimesh

    pieces = [trimesh.Trimesh(p.vertices, p.faces, process=False) for p in shape.parts]
    pieces = [trimesh.graph.smooth_shade(p, angle=0.7) for p in pieces]
    starts = np.cumsum([0, *(len(p.vertices) for p in pieces[:-1])])
    faces = np.concatenate([p.faces + s for p, s in zip(pieces, starts, strict=True)])
    normals = np.concatenate([p.vertex_normals for p in pieces])
    return np.concatenate([p.vertices for p in pieces]), faces, normals


@cache
def model_points(shape: Shape) -> np.ndarray:
    """float32 [MODEL_POINTS, 3], m: the points of the shape's points.xyz."""
    return np.round(shape.surface_points(MODEL_POINTS)[0], 6).astype(np.float32)


def model_look(shape: Shape) -> np.ndarray:
    """float32 [MODEL_POINTS, 6]: outward unit normal and colour (sRGB, 0 to 1) of each of :func:`model_points`."""
    normals = shape.surface_points(MODEL_POINTS)[1]
    colours = appearance.to_srgb(appearance.paint(shape.class_id, model_points(shape), shape.extent)) / 255
    return np.hstack((normals, colours)).astype(np.float32)
