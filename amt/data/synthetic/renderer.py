"""What a rendering process is before its first task. The server that forks them (server.py) imports this, and nobody else.

It imports also what others look up where they use it, and draws the pools of noise that every process needs.
"""

# ruff: noqa: E402, F401

from __future__ import annotations

import os
import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the program answers it
os.environ.setdefault(
    "OPENBLAS_NUM_THREADS", "1"
)  # NumPy's; read when it loads. Idle threads spin on the others' cores

import cv2
import embreex.mesh_construction
import embreex.rtcore_scene
import scipy.interpolate
import scipy.optimize
import torch
import trimesh

import amt.data.synthetic.write
from amt.data.synthetic import appearance, lens, render

torch.set_num_threads(1)
cv2.setNumThreads(1)
appearance.noise_pool()
lens.noise_pool()
render.directions_pool()
