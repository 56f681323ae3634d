"""What a small YAML file beside a mesh says about it: name, unit, mass and symmetry.

    name: mug            # the model's folder; else the mesh file's stem
    unit: mm             # of the mesh: m (without the file), cm, mm or inch; or scale: metres per unit
    mass: 0.118          # kg
    symmetry: {z: 180}   # degrees about an axis after which it looks the same; 0: any rotation; {}: none

The file is called as the mesh, with the ending .yaml or .yml. A rendered set holds the same as ``object.yml`` in the folder of
the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amt.data.errors import FileError
from amt.data.files import read_yaml

CARD = "object.yml"  # in a model's folder of a rendered set
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001, "inch": 0.0254}  # metres
_KEYS = ("name", "unit", "scale", "mass", "symmetry")


@dataclass(frozen=True)
class ObjectCard:
    """What is known about an object beside its mesh."""

    name: str | None = None
    scale: float = 1.0  # metres per unit of the mesh
    mass: float | None = None  # kg; None: unknown
    symmetry: tuple[tuple[str, float], ...] | None = None  # axis and degrees (0: any rotation); (): none; None: unknown

    def content(self) -> dict[str, Any]:
        """What :func:`read_card` of a mesh in metres reads back."""
        found: dict[str, Any] = {"unit": "m"}
        if self.name is not None:
            found["name"] = self.name
        if self.mass is not None:
            found["mass"] = self.mass
        if self.symmetry is not None:
            found["symmetry"] = dict(self.symmetry)
        return found


def card_of(mesh: Path) -> ObjectCard:
    """The card beside a mesh file, or one that knows nothing. Raises FileError."""
    for suffix in (".yaml", ".yml"):
        if mesh.with_suffix(suffix).is_file():
            return read_card(mesh.with_suffix(suffix))
    return ObjectCard()


def read_card(path: Path) -> ObjectCard:
    """Raises FileError, which names the key and what is possible."""
    content = read_yaml(path)
    for key in content:
        if key not in _KEYS:
            raise FileError(path, f"the key {key!r} is unknown", f"use {', '.join(_KEYS)}")
    if "unit" in content and "scale" in content:
        raise FileError(path, "gives both unit and scale", "leave one of them out")
    unit, name = content.get("unit", "m"), content.get("name")
    if unit not in UNITS:
        raise FileError(path, f"the unit {unit!r} is unknown", f"use {', '.join(UNITS)}, or scale: metres per unit")
    if name is not None and not (
        isinstance(name, str) and name and name == Path(name).name and name not in (".", "..")
    ):
        quoted = f'give the name of a folder, in quotes: name: "{name}"'  # YAML reads 12 and yes as other things
        remedy = "give the name of a folder" if isinstance(name, str) else quoted
        raise FileError(path, f"name is {name!r}", remedy)
    symmetry = content.get("symmetry")
    if symmetry is not None:
        if not isinstance(symmetry, dict) or not set(symmetry) <= set("xyz"):
            raise FileError(path, f"symmetry is {symmetry!r}", "give degrees by axis, as {z: 180}, or {} for none")
        symmetry = tuple((axis, _angle(path, axis, angle)) for axis, angle in symmetry.items())
    return ObjectCard(
        name,
        _number(path, "scale", content["scale"], 1e-6, 1e3) if "scale" in content else UNITS[unit],
        _number(path, "mass", content["mass"], 1e-4, 100) if content.get("mass") is not None else None,
        symmetry,
    )


def _angle(path: Path, axis: str, value: object) -> float:
    """An object that looks the same after 170 degrees does so after 10, too: only parts of a whole rotation are angles."""
    angle = _number(path, f"symmetry.{axis}", value, 0, 180)
    if angle and abs(360 / angle - round(360 / angle)) > 1e-3:
        remedy = "give degrees that divide 360, as 180, 120 or 90, or 0 for any rotation"
        raise FileError(path, f"symmetry.{axis} is {value!r}", remedy)
    return angle


def _number(path: Path, name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise FileError(path, f"{name} is {value!r}", f"give a number from {low:g} to {high:g}")
    return float(value)
