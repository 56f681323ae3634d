"""What the cameras of a set do to a picture. Imports neither PyTorch nor NumPy: a command line is checked before they load."""

from __future__ import annotations

from dataclasses import dataclass, replace

from amt.data.errors import DataError

Range = tuple[float, float]


@dataclass(frozen=True)
class CameraConfig:
    """Ranges of even draws: of focal to distortion one draw for each camera, of the others one for each camera and sequence.

    :data:`FIELDS` has the unit, the largest range and a line of text for each.
    """

    focal: Range = (600.0, 626.0)
    aspect: Range = (0.996, 1.004)
    offset: Range = (-12.0, 12.0)
    radial: Range = (-0.12, 0.06)
    tangential: Range = (-0.002, 0.002)
    exposure_time: Range = (1.0, 12.0)
    shake: Range = (0.0, 0.0)
    aperture: Range = (0.2, 2.0)
    softness: Range = (0.45, 0.75)
    shot_noise: Range = (0.5, 3.0)
    read_noise: Range = (0.3, 1.5)
    exposure: Range = (-0.4, 0.4)
    white_balance: Range = (-0.12, 0.12)
    jpeg_quality: Range = (82.0, 96.0)
    occluded: float = 0.1
    distorted: bool = False

    def __post_init__(self):
        for name, (unit, (low, high), _) in FIELDS.items():
            value = getattr(self, name)
            ends = value if isinstance(value, tuple) else (value, value)
            if not low <= ends[0] <= ends[1] <= high:
                raise DataError(
                    f"camera {name} must be LOW,HIGH within {low:g},{high:g} {unit}".rstrip() + f"; got {_text(value)}"
                )

    def changed(self, words: list[str]) -> CameraConfig:
        """This configuration with words like ``exposure_time=0,8`` or ``occluded=0`` applied. Raises DataError."""
        values = {}
        for word in words:
            name, _, text = word.partition("=")
            if name not in FIELDS:
                raise DataError(f"--camera knows {', '.join(FIELDS)}; got {name!r}")
            try:
                numbers = [float(x) for x in text.split(",")]
            except ValueError:
                numbers = []
            single = isinstance(getattr(self, name), float)
            if len(numbers) not in ((1,) if single else (1, 2)):
                raise DataError(
                    f"--camera {name} needs {'a number' if single else 'LOW,HIGH or one number'}; got {text!r}"
                )
            values[name] = numbers[0] if single else (numbers[0], numbers[-1])
        return replace(self, **values)

    def words(self) -> list[str]:
        """The options of the command line that make this configuration of the default one."""
        changed = [f"{n}={_text(getattr(self, n))}" for n in FIELDS if getattr(self, n) != getattr(DEFAULT, n)]
        return ["--distorted"] * self.distorted + (["--camera", *changed] if changed else [])


# Field -> unit, largest range, meaning.
FIELDS: dict[str, tuple[str, Range, str]] = {
    "focal": ("px", (200.0, 3000.0), "fx of a picture 640 px wide"),
    "aspect": ("", (0.5, 2.0), "fy / fx"),
    "offset": ("px", (-150.0, 150.0), "principal point from the middle of the picture, x and y"),
    "radial": ("", (-0.3, 0.3), "k1 of Brown and Conrady's model with --distorted; k2 follows it"),
    "tangential": ("", (-0.01, 0.01), "p1 and p2 of that model"),
    "exposure_time": ("ms", (0.0, 100.0), "motion blur along the projected velocity of hand and object"),
    "shake": ("px/s", (0.0, 5000.0), "speed of the picture from the camera's own motion; DexYCB's cameras stand still"),
    "aperture": ("mm", (0.0, 30.0), "diameter of the lens's opening; it focuses on the hand"),
    "softness": ("px", (0.0, 5.0), "standard deviation of the blur of lens and sensor"),
    "shot_noise": ("grey levels", (0.0, 40.0), "standard deviation at white; it grows with the root of the light"),
    "read_noise": ("grey levels", (0.0, 40.0), "standard deviation at black"),
    "exposure": ("stops", (-3.0, 3.0), "brighter or darker than the lamp"),
    "white_balance": ("", (-0.6, 0.6), "gain of red up and of blue down"),
    "jpeg_quality": ("", (10.0, 100.0), "of color_*.jpg"),
    "occluded": ("", (0.0, 1.0), "share of cameras with something between them and the hand"),
}


DEFAULT = CameraConfig()


def table() -> str:
    """The fields, their defaults and meanings: one line a field."""
    rows = ((name, _text(getattr(DEFAULT, name)), unit, text) for name, (unit, _, text) in FIELDS.items())
    return "\n".join(f"  {name:14} {value:12} {unit + ': ' if unit else ''}{text}" for name, value, unit, text in rows)


def _text(value: object) -> str:
    return ",".join(f"{x:g}" for x in value) if isinstance(value, tuple) else f"{value:g}"
