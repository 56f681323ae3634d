"""A robot's hand in MJCF, made here, and a person's hand in motion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from amt.hand.mano import ManoLayer
from amt.hand.shipped import shipped_hand

KNUCKLES = {"ff": (0.033, 0.095), "mf": (0.011, 0.099), "rf": (-0.011, 0.095), "lf": (-0.033, 0.088)}
PHALANGES = (0.045, 0.025, 0.026)  # m
CAPSULE = '<geom type="capsule" fromto="0 0 0 0 0 0.04" size="0.008"/>'


def write_hand(path: Path) -> Path:
    """A right hand with five fingers on a wrist with a joint, a table beside it, an actuator and a sensor."""
    fingers = "".join(_finger(name, x, z) for name, (x, z) in KNUCKLES.items())
    path.write_text(
        f"""<mujoco><compiler angle="radian" autolimits="true"/><worldbody>
        <body name="table"><freejoint/><geom size="0.1"/></body>
        <body name="r:forearm"><geom size="0.01"/>
        <body name="r:palm" pos="0 0 0.1"><joint name="r:WRJ0" axis="1 0 0" range="-0.5 0.5"/>
        <geom type="box" size="0.04 0.01 0.045" pos="0 0 0.05"/>{fingers}{THUMB}</body></body></worldbody>
        <actuator><position joint="r:ffJ1" kp="1"/></actuator><sensor><jointpos joint="r:ffJ0"/></sensor></mujoco>"""
    )
    return path


def _finger(name: str, x: float, z: float) -> str:
    a, b, c = PHALANGES
    return f"""<body name="r:{name}knuckle" pos="{x} 0 {z}"><joint name="r:{name}J3" axis="0 1 0" range="-0.35 0.35"/>
        <geom size="0.001"/>
        <body name="r:{name}proximal"><joint name="r:{name}J2" axis="1 0 0" range="0 1.57"/>
        <geom type="capsule" fromto="0 0 0 0 0 {a}" size="0.008"/>
        <body name="r:{name}middle" pos="0 0 {a}"><joint name="r:{name}J1" axis="1 0 0" range="0 1.57"/>
        <geom type="capsule" fromto="0 0 0 0 0 {b}" size="0.008"/>
        <body name="r:{name}distal" pos="0 0 {b}"><joint name="r:{name}J0" axis="1 0 0" range="0 1.57"/>
        <geom type="capsule" fromto="0 0 0 0 0 {c}" size="0.007"/><site name="r:{name}tip" pos="0 0 {c}"/>
        </body></body></body></body>"""


THUMB = """<body name="r:thbase" pos="0.034 -0.009 0.029" quat="0.924 0 0.383 0">
    <joint name="r:thJ4" axis="0 0 -1" range="-1.05 1.05"/>
    <geom size="0.001"/>
    <body name="r:thproximal"><joint name="r:thJ3" axis="1 0 0" range="0 1.22"/>
    <geom type="capsule" fromto="0 0 0 0 0 0.038" size="0.01"/>
    <body name="r:thmiddle" pos="0 0 0.038"><joint name="r:thJ2" axis="1 0 0" range="-0.21 0.21"/>
    <joint name="r:thJ1" axis="0 1 0" range="-0.52 0.52"/><geom type="capsule" fromto="0 0 0 0 0 0.032" size="0.01"/>
    <body name="r:thdistal" pos="0 0 0.032"><joint name="r:thJ0" axis="0 1 0" range="-1.57 0"/>
    <geom type="capsule" fromto="0 0 0 0 0 0.0275" size="0.009"/><site name="r:thtip" pos="0 0 0.0275"/>
    </body></body></body></body>"""


def grasping(frames: int) -> np.ndarray:
    """float32 [T, 21, 3], m: AMT's own hand closes and opens, while the wrist moves and turns."""
    layer = ManoLayer(shipped_hand("right"))
    time = torch.linspace(0, 1, frames)[:, None]
    closed = 0.5 - 0.5 * torch.cos(2 * torch.pi * time)
    curl = layer.hands_components[0].float()
    curl = curl * (1.0 / curl.abs().max())
    pose = torch.zeros(frames, 48)
    pose[:, :3] = torch.tensor((0.4, 0.3, 0.1)) + time * torch.tensor((0.3, 0.5, -0.2))
    pose[:, 3:] = layer.hands_mean.float() + closed * curl * _closing(layer, curl)
    moved = torch.tensor((0.02, 0.0, 0.55)) + time * torch.tensor((0.05, -0.03, 0.1))
    return layer(pose, torch.zeros(frames, 10), moved).joints.numpy()


def _closing(layer: ManoLayer, curl: torch.Tensor) -> float:
    """1 or -1: the sign that brings the fingertips to the palm."""
    away = []
    for sign in (1.0, -1.0):
        pose = torch.zeros(1, 48)
        pose[:, 3:] = layer.hands_mean.float() + sign * curl
        joints = layer(pose, torch.zeros(1, 10), torch.zeros(1, 3)).joints[0]
        away.append(float((joints[[8, 12, 16, 20]] - joints[0]).norm(dim=-1).mean()))
    return 1.0 if away[0] < away[1] else -1.0


def claw(
    *names: str, limits: str = 'range="-0.5 1.6"', shape: str = CAPSULE, tip: str = "tip", prefix: str = ""
) -> str:
    """A user's file: a palm with one finger of four joints for each name, the first of them opposite to the others."""
    fingers = []
    for k, name in enumerate(names):
        place = 'pos="0.03 0 0.03" quat="0.92 0 0.38 0"' if k == 0 else f'pos="{0.05 - 0.025 * k} 0 0.09"'
        links = [("base", place, "0 1 0"), ("proximal", 'pos="0 0 0.002"', "1 0 0")]
        links += [("middle", 'pos="0 0 0.04"', "1 0 0"), ("distal", 'pos="0 0 0.03"', "1 0 0")]
        opened = [
            f'<body name="{prefix}{name}_{link}" {at}><joint name="{prefix}{name}_{j}" axis="{axis}" {limits}/>{shape}'
            for j, (link, at, axis) in enumerate(links)
        ]
        fingers.append("".join(opened) + f'<site name="{prefix}{name}_{tip}" pos="0 0 0.04"/>' + "</body>" * 4)
    return f"""<mujoco><compiler angle="radian"/><worldbody><body name="{prefix}palm">
        <geom type="box" size="0.04 0.01 0.045" pos="0 0 0.045"/>{"".join(fingers)}</body></worldbody></mujoco>"""
