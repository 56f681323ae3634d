"""What a rendering process is before its first task. The server that forks them (server.py) imports this, and nobody else.

Pools of noise, which every process needs, are drawn here as well.
"""

# ruff: noqa: E402

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the program answers it

import cv2
import torch

from amt.data.synthetic import appearance, lens, render

torch.set_num_threads(1)
cv2.setNumThreads(1)
appearance.noise_pool()
lens.noise_pool()
render.directions_pool()
