"""The fields of the page's form, checked: which hand, what it holds, the camera, a box, and whose frame it is.

Fields are texts of a stranger. None of them is taken for a path: of objects, YCB names, class ids and boxes are known here, of
cameras, numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from amt.data.layout import CLASS_NAMES
from amt.infer.checks import InputError, check_fov
from amt.infer.request import SIDES

FIELDS = ("name", "side", "object", "intrinsics", "fov", "box", "stream")
LONGEST = 400  # characters of a field


@dataclass(frozen=True)
class Asked:
    """What the form says; None: nothing, which leaves it to the command line or to the default."""

    name: str | None = field(default=None, compare=False)  # of the file
    side: str | None = None  # "right" or "left"
    object: str | None = None  # as amt.infer.objects.resolve_object takes it, never a file
    intrinsics: tuple[float, ...] | None = None  # px: fx, fy, cx, cy, or nine numbers
    fov: float | None = None  # degrees, horizontal
    box: tuple[float, ...] | None = None  # px: cx, cy, side
    stream: str | None = None  # of a webcam: its frames follow each other

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> Asked:
        """Checks the fields of a request's query; empty ones count as left out.

        Raises:
            InputError: an unknown field, or a value that cannot be; the message names it.
        """
        given = {name: value.strip() for name, value in fields.items() if value.strip()}
        for name, value in given.items():
            if name not in FIELDS:
                raise InputError(f"{name[:40]}: no such field; {', '.join(FIELDS)} are known")
            if len(value) > LONGEST:
                raise InputError(f"{name}: longer than {LONGEST} characters")
        side, stream, fov = given.get("side"), given.get("stream"), given.get("fov")
        if side is not None and side not in SIDES:
            raise InputError(f"side: expected 'right' or 'left', got {side!r}")
        if stream is not None and not re.fullmatch(r"[A-Za-z0-9_-]{8,64}", stream):
            raise InputError("stream: expected 8 to 64 letters and digits")
        intrinsics = _numbers("intrinsics", given.get("intrinsics"), "fx, fy, cx, cy or nine numbers, in px", (4, 9))
        degrees = _numbers("fov", fov, "degrees", (1,))
        if degrees is not None:
            if intrinsics is not None:
                raise InputError("fov: stands in for intrinsics; give one of the two")
            check_fov(degrees[0])
        return cls(
            name=given.get("name"),
            side=side,
            object=_object(given.get("object")),
            intrinsics=intrinsics,
            fov=None if degrees is None else degrees[0],
            box=_numbers("box", given.get("box"), "cx, cy, side in px", (3,)),
            stream=stream,
        )


def object_names() -> list[str]:
    """The objects that the form offers."""
    return list(CLASS_NAMES.values())


def _object(given: str | None) -> str | None:
    if given is None:
        return None
    names = {name: name for name in CLASS_NAMES.values()} | {n.split("_", 1)[1]: n for n in CLASS_NAMES.values()}
    name = given.lower().replace(" ", "_")
    if name in names:
        return names[name]
    if given.isdecimal() and len(given) <= 3 and int(given) in CLASS_NAMES:
        return str(int(given))
    if re.fullmatch(r"box:[\d.]+x[\d.]+x[\d.]+", given):
        return given
    raise InputError(
        f"object: expected a YCB name such as {CLASS_NAMES[5]}, a class id 1-{max(CLASS_NAMES)} or its box, "
        f"box:0.1x0.05x0.2 (metres); got {given[:60]!r}"
    )


def _numbers(name: str, given: str | None, form: str, counts: tuple[int, ...]) -> tuple[float, ...] | None:
    if given is None:
        return None
    try:
        numbers = tuple(float(word) for word in re.split(r"[\s,;]+", given.strip(" ,;[]()")))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts or not all(math.isfinite(n) for n in numbers):
        raise InputError(f"{name}: expected {form}, got {given[:60]!r}")
    return numbers
