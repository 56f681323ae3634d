"""A hand and an object as bodies: closed surfaces, convex pieces, and for the hand the fingers that close."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from amt.data.mass import DENSITY
from amt.hand.mano import NUM_MANO_JOINTS, HandModel
from amt.hand.skeleton import FINGERS, MANO_FINGER_JOINTS
from amt.physics.convex import convex_parts
from amt.physics.distance import Surface
from amt.physics.solids import MeshError, Solid, check_mesh, close_holes, closed, digest_of, filled, united_hulls

BOXES = {f"{sign}{axis}": tuple(s * np.eye(3)[k]) for k, axis in enumerate("xyz") for sign, s in (("+", 1), ("-", -1))}
SMALLEST = 0.002  # m: the inertia of less is none to MuJoCo
THUMB_STRENGTH = 2.0  # it opposes several fingers
PALM_COLUMNS = ("index", "middle", "ring", "little")
PALM_ROWS = 3


class Hinge(NamedTuple):
    """A finger that can close: it turns as a whole about an axis."""

    parts: tuple[int, ...]  # that move
    anchor: np.ndarray  # [3], m
    axis: np.ndarray  # [3], unit: a right-handed rotation about it closes
    reach: float  # m from the axis to where the finger presses
    strength: float = 1.0  # its force over that of a finger


@dataclass(frozen=True, eq=False)
class HandBody:
    """A hand at one pose. :meth:`of` makes it of a hand model's vertices; any other gripper can be given by its parts.

    Raises MeshError where the surface is open, a number is not finite, or a vertex is metres away from the others.
    """

    vertices: np.ndarray  # float64 [V, 3], m
    faces: np.ndarray  # int64 [F, 3]: a closed surface
    parts: tuple[str, ...]  # names
    part_of: np.ndarray  # int64 [V]: the part of each vertex; -1: none, as of those that close the wrist
    pieces: tuple[
        tuple[int, np.ndarray], ...
    ] = ()  # part, and vertices whose convex hull is a piece of it; (): a hull a part
    hinges: tuple[Hinge, ...] = ()
    directions: dict[str, np.ndarray] = field(
        default_factory=lambda: dict(BOXES)
    )  # unit, by name: where gravity points

    def __post_init__(self):
        vertices, faces = check_mesh(self.vertices, self.faces, "hand")
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
        if not self.pieces:
            pieces = tuple((k, np.flatnonzero(self.part_of == k)) for k in range(len(self.parts)))
            object.__setattr__(self, "pieces", pieces)

    @classmethod
    def of(cls, vertices: np.ndarray, model: HandModel) -> HandBody:
        """The hand of a model's vertices [V, 3] (m), in any frame.

        The wrist is closed by a fan. The parts are the palm and the 15 phalanges, by the largest skinning weight; the palm is
        divided further into convex pieces. A finger closes about its base joint; the thumb toward the tips of index and middle.
        """
        vertices = np.asarray(vertices, np.float64)
        if vertices.shape != (model.num_vertices, 3):
            raise MeshError(f"hand: expected vertices [{model.num_vertices}, 3] (m), got shape {list(vertices.shape)}")
        topology = _topology(model)
        middles = [vertices[ring].mean(0) for ring in topology.rings]
        joints, tips = model.J_regressor @ vertices, vertices[model.tip_vertices]
        return cls(
            np.concatenate([vertices, *(middle[None] for middle in middles)]),
            topology.faces,
            PARTS,
            topology.part_of,
            topology.pieces,
            _hinges(joints, tips, model.side),
            _directions(joints, model.side),
        )

    @cached_property
    def solid(self) -> Solid:
        """Raises MeshError where the surface is open."""
        solid = Solid(self.vertices, self.faces)
        if not solid.is_closed:
            raise MeshError("hand: its surface is open; give closed triangles")
        return solid

    def moved(self, rotation: np.ndarray, translation: np.ndarray) -> HandBody:
        """The hand with every vertex v at rotation @ v + translation (m)."""

        def turned(direction):
            return rotation @ np.asarray(direction)

        return replace(
            self,
            vertices=self.vertices @ rotation.T + translation,
            hinges=tuple(
                h._replace(anchor=rotation @ h.anchor + translation, axis=rotation @ h.axis) for h in self.hinges
            ),
            directions={name: turned(direction) for name, direction in self.directions.items()},
        )


@dataclass(frozen=True, eq=False)
class ObjectBody:
    """An object in its own frame, and where it is. Copies at other poses share what was computed.

    Raises MeshError where the mesh is empty, not finite, metres large or smaller than 2 mm, and for a mass that is not above 0.
    """

    vertices: np.ndarray  # float64 [V, 3], m
    faces: np.ndarray  # int64 [F, 3]
    known_mass: float | None = None  # kg; None: volume times amt.data.mass.DENSITY
    name: str = "object"
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))  # to the hand's frame
    translation: np.ndarray = field(default_factory=lambda: np.zeros(3))  # m
    cache: Path | None = None  # folder of the convex parts; None: the user's cache
    _shared: dict = field(default_factory=dict, repr=False)

    def __post_init__(self):
        vertices, faces = check_mesh(self.vertices, self.faces, self.name)
        object.__setattr__(self, "vertices", vertices)
        object.__setattr__(self, "faces", faces)
        size = float(np.ptp(vertices, axis=0).max())
        if size < SMALLEST:
            raise MeshError(
                f"{self.name}: is {size * 1000:.2g} mm large, less than {SMALLEST * 1000:g} mm; vertices are in metres"
            )
        if self.known_mass is not None and not 0 < self.known_mass < float("inf"):
            raise MeshError(f"{self.name}: expected a mass above 0 kg, or None, got {self.known_mass!r}")

    def at(self, rotation: np.ndarray, translation: np.ndarray) -> ObjectBody:
        """The object at a pose in the hand's frame: object point p at rotation [3, 3] @ p + translation [3] (m)."""
        rotation, translation = np.asarray(rotation, np.float64), np.asarray(translation, np.float64)
        wrong = rotation.shape != (3, 3) or translation.shape != (3,)
        if wrong or not (
            np.abs(rotation @ rotation.T - np.eye(3)).max() < 1e-3
            and np.linalg.det(rotation) > 0  # else it mirrors
            and np.isfinite(translation).all()
        ):
            raise MeshError(f"{self.name}: expected a rotation [3, 3] and a finite translation [3] (m) as its pose")
        u, _, vh = np.linalg.svd(rotation)  # float32 rounding
        return replace(self, rotation=u @ vh, translation=translation)

    @property
    def digest(self) -> str:
        """Tells its mesh from any other."""
        return self._once("digest", lambda: digest_of(self.vertices, self.faces))

    @property
    def solid(self) -> Solid:
        """In its own frame. What :attr:`treatment` says stands for an open mesh."""
        return self._once("closed", self._close)[0]

    @property
    def treatment(self) -> str:
        """What was done to have an inside: :data:`CLOSED` (nothing), :data:`FILLED` or :data:`REPLACED`."""
        return self._once("closed", self._close)[1]

    @property
    def surface(self) -> Surface:
        return self._once("surface", lambda: Surface(self.solid))

    @property
    def hulls(self) -> list[np.ndarray]:
        """Vertices [N, 3] (m) of its convex parts."""

        def find():
            solid = self.solid
            mesh = self if self.treatment == REPLACED else solid
            return convex_parts(mesh.vertices, mesh.faces, self.cache)

        return self._once("hulls", find)

    @property
    def inertia(self) -> tuple[float, np.ndarray, np.ndarray]:
        """Mass (kg), centre of mass [3] (m) and inertia about it [3, 3] (kg m²), of even density."""
        return self._once("inertia", self._inertia)

    def _close(self) -> tuple[Solid, str]:
        found = closed(self.vertices, self.faces)
        if found is not None:
            return found, CLOSED
        found = closed(*filled(self.vertices, self.faces))
        if found is not None:
            return found, FILLED
        return united_hulls(convex_parts(self.vertices, self.faces, self.cache)), REPLACED

    def _inertia(self) -> tuple[float, np.ndarray, np.ndarray]:
        import trimesh

        mesh = trimesh.Trimesh(self.solid.vertices, self.solid.faces, process=False)
        mass = DENSITY * self.solid.volume if self.known_mass is None else self.known_mass
        mesh.density = mass / self.solid.volume
        return mass, np.array(mesh.center_mass), np.array(mesh.moment_inertia)

    def _once(self, name: str, find):
        if name not in self._shared:
            self._shared[name] = find()
        return self._shared[name]


CLOSED = "closed"
FILLED = "open: each hole is closed by a fan around its middle"
REPLACED = "no surface with an inside: the union of its convex parts (CoACD) stands for it"
_BONES = {"thumb": ("metacarpal", "proximal", "distal")}
PARTS = tuple(  # in MANO's order of joints
    {
        0: "palm",
        **{
            joint: f"{finger} {bone}"
            for finger, joints in MANO_FINGER_JOINTS.items()
            for joint, bone in zip(joints, _BONES.get(finger, ("proximal", "middle", "distal")))
        },
    }[k]
    for k in range(NUM_MANO_JOINTS)
)


class _Topology(NamedTuple):
    """What all poses of a hand model have in common."""

    faces: np.ndarray  # int64 [F, 3], the wrist closed
    rings: list[np.ndarray]  # the border of each hole, whose mean is a new vertex
    part_of: np.ndarray  # int64 [V + holes]; -1 for the new vertices
    pieces: tuple[tuple[int, np.ndarray], ...]


@lru_cache(maxsize=8)
def _topology(model: HandModel) -> _Topology:
    count, faces = model.num_vertices, np.asarray(model.f, np.int64)
    fan, rings = close_holes(faces, count)
    part_of = np.concatenate([model.weights.argmax(1), [-1] * len(rings)]).astype(np.int64)
    rest = model.v_template.astype(np.float64)
    group = np.where(part_of[:count] == 0, -1 - _palm_cell(model, rest), part_of[:count])
    pieces = []
    for number in np.unique(group):
        inside = (group[faces] == number).sum(1) >= 2
        some = np.unique(faces[inside]) if inside.any() else np.flatnonzero(group == number)
        if len(some) >= 4:
            pieces.append((max(int(number), 0), some))
    return _Topology(np.concatenate([faces, fan]), rings, part_of, tuple(pieces))


def _palm_cell(model: HandModel, rest: np.ndarray) -> np.ndarray:
    """int64 [V]: a cell of the palm for each vertex, by the nearest metacarpal and its third."""
    joints = model.J_regressor @ rest
    distance, along = [], []
    for finger in PALM_COLUMNS:
        bone = joints[MANO_FINGER_JOINTS[finger][0]] - joints[0]
        share = (rest - joints[0]) @ bone / (bone @ bone)
        distance.append(np.linalg.norm(rest - joints[0] - np.clip(share, 0, 1)[:, None] * bone, axis=1))
        along.append(np.clip((share * PALM_ROWS).astype(np.int64), 0, PALM_ROWS - 1))
    column = np.argmin(distance, axis=0)
    return column * PALM_ROWS + np.take_along_axis(np.array(along), column[None], axis=0)[0]


def _hinges(joints: np.ndarray, tips: np.ndarray, side: str) -> tuple[Hinge, ...]:
    knuckles = joints[MANO_FINGER_JOINTS["index"][0]] - joints[MANO_FINGER_JOINTS["little"][0]]
    across = knuckles if side == "right" else -knuckles
    opposed = (tips[FINGERS.index("index")] + tips[FINGERS.index("middle")]) / 2
    found = []
    for number, finger in enumerate(FINGERS):
        parts = MANO_FINGER_JOINTS[finger]
        base, tip = joints[parts[0]], tips[number]
        length = tip - base
        if finger == "thumb":
            axis = np.cross(length, opposed - tip)
        else:
            bone = joints[parts[1]] - base
            axis = across - bone * (across @ bone) / (bone @ bone)
        size = np.linalg.norm(axis)
        if size > 1e-9:
            axis = axis / size
            reach = np.linalg.norm(length - axis * (length @ axis))
            strength = THUMB_STRENGTH if finger == "thumb" else 1.0
            found.append(Hinge(parts, base, axis, max(float(reach), 0.02), strength))
    return tuple(found)


def _directions(joints: np.ndarray, side: str) -> dict[str, np.ndarray]:
    """Anatomical directions of the palm, unit and orthogonal."""
    index, middle, little = (joints[MANO_FINGER_JOINTS[finger][0]] for finger in ("index", "middle", "little"))
    distal = middle - joints[0]
    distal = distal / np.linalg.norm(distal)
    radial = index - little
    radial = radial - distal * (radial @ distal)
    radial = radial / np.linalg.norm(radial)
    palmar = np.cross(distal, -radial) if side == "right" else np.cross(distal, radial)
    return {
        "distal": distal, "proximal": -distal, "palmar": palmar, "dorsal": -palmar, "radial": radial, "ulnar": -radial,
    }  # fmt: skip
