"""Which bodies of an MJCF file are which fingers: by their names, or by a text of the file that says so.

``<custom><text name="amt_fingers" data="thumb=BODY index=BODY middle=BODY"/></custom>`` names the last body of each finger.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amt.hand.skeleton import FINGERS
from amt.robot.extra import RobotError

if TYPE_CHECKING:
    import mujoco

TEXT = "amt_fingers"
_PREFIX = re.compile(r"^(.*[:/])?((rh|lh|right|left|r|l|hand|finger)_)*")
_LEFT = re.compile(r"^(.*[:/])?(lh|left|l)_")
_NAMES = {
    "thumb": re.compile(r"th(?!ird|igh|e_)"),
    "index": re.compile(r"ff|if|index|fore(?!arm)"),
    "middle": re.compile(r"mf|middle"),
    "ring": re.compile(r"rf|ring"),
    "little": re.compile(r"lf|little|pinky"),
}


@dataclass(frozen=True)
class Given:
    """The fingers' last bodies as the file names them; empty: names of bodies tell."""

    tips: dict[str, str]  # body -> one of FINGERS

    def finger_of(self, body: str) -> str | None:
        """The finger that a body belongs to."""
        return self.tips.get(body) if self.tips else finger_of(body)


def finger_of(body: str) -> str | None:
    """The finger that a body's name tells."""
    rest = body.lower()[_PREFIX.match(body.lower()).end() :]
    return next((finger for finger, pattern in _NAMES.items() if pattern.match(rest)), None)


def given_fingers(spec: mujoco.MjSpec) -> Given:
    """What the text ``amt_fingers`` of a file says. Raises RobotError where it cannot be."""
    text = next((t.data for t in spec.texts if t.name == TEXT), None)
    if text is None:
        return Given({})
    bodies, found = {body.name for body in spec.bodies}, {}
    for word in text.replace(",", " ").split():
        finger, equals, body = word.partition("=")
        if finger not in FINGERS or not equals:
            raise RobotError(f"the text {TEXT} holds {word!r}; expected FINGER=BODY of {', '.join(FINGERS)}")
        if body not in bodies:
            raise RobotError(f"the text {TEXT} names the body {body!r}, which the file does not have")
        if body in found or finger in found.values():
            raise RobotError(f"the text {TEXT} names {word!r} and the same body or finger before; name each once")
        found[body] = finger
    return Given(found)


def chains_of(model: mujoco.MjModel, given: Given) -> dict[str, list[int]]:
    """Of each finger its bodies, from the last one up to the model's trunk.

    Raises:
        RobotError: there are too few fingers, or two of them have one name.
    """
    found: dict[str, list[list[int]]] = {}
    parents = set(model.body_parentid.tolist())
    for body in range(1, model.nbody):
        finger = given.finger_of(model.body(body).name)
        if finger is not None and (given.tips or body not in parents):
            found.setdefault(finger, []).append(ancestors(model, body))
    if "thumb" not in found or len(found) < 3:
        raise RobotError(
            "expected a thumb and two or more fingers by the names of their bodies (th..., ff or index..., mf or middle..., "
            f"rf or ring..., lf or little...) or by the text {TEXT}, found {', '.join(found) or 'none'}"
        )
    longest = {finger: max(chains, key=len) for finger, chains in found.items()}
    for finger, chains in found.items():
        others = {body for name, chain in longest.items() if name != finger for body in chain}
        for chain in chains:
            if _is_another(model, chain, longest[finger], others):
                names = " and ".join(model.body(c[0]).name for c in (longest[finger], chain))
                raise RobotError(f"{names} are both called {finger}; say by the text {TEXT} which one it is")
    return longest


def _is_another(model: mujoco.MjModel, chain: list[int], finger: list[int], others: set[int]) -> bool:
    """Whether a chain is a finger of its own, and not a part of ``finger``: it leaves the palm by itself, and moves."""
    shared = next((body for body in chain if body in finger), 0)
    own = chain[: chain.index(shared)] if shared else chain
    return (not shared or shared in others) and any(model.body_jntnum[body] for body in own)


def check_right(model: mujoco.MjModel, chains: Iterable[list[int]]) -> None:
    """Raises RobotError where the names of all fingers say that it is a left hand."""
    names = [model.body(chain[0]).name.lower() for chain in chains]
    if all(_LEFT.match(name) for name in names):
        raise RobotError(
            f"its bodies ({names[0]}, ...) are those of a left hand; give the right one, whose mirror image follows left hands"
        )


def ancestors(model: mujoco.MjModel, body: int) -> list[int]:
    """The body and all that it hangs on, without the world."""
    chain = []
    while body:
        chain.append(body)
        body = int(model.body_parentid[body])
    return chain
