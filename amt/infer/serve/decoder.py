"""Decodes a clip in a process of its own: ``python -m amt.infer.serve.decoder FILE MOST_PIXELS MOST_FRAMES``.

A file of a stranger may crash a decoder, hold it, or make it ask for all memory. Here that ends this process, whose memory and
time are bounded, and not the server. :mod:`amt.infer.serve.clips` starts it and reads its output.

On stdout: the length (4 bytes) of a JSON object and the object, ``{"rate": frames/s, "frames": claimed or 0}``, ``{"error":
LINE}``, or ``{"size": [width, height]}`` of frames that are too large; then each frame as :data:`FRAME` and its pixels.
"""

from __future__ import annotations

import json
import resource
import struct
import sys

import cv2

from amt.data.images import quiet
from amt.infer.checks import InputError
from amt.infer.video import Video

FRAME = struct.Struct("<qdII")  # number, time in s, height, width
MEMORY = 4 << 30  # bytes of addresses
CPU_S = 900


def main(path: str, most_pixels: int, most_frames: int) -> None:
    """Writes the clip to stdout, as far as it is read."""
    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))
    out = sys.stdout.buffer

    def head(told: dict) -> None:
        data = json.dumps(told).encode()
        out.write(len(data).to_bytes(4, "little") + data)
        out.flush()

    width, height = _size(path)
    if width * height > most_pixels:
        return head({"size": [width, height]})
    try:
        video = Video(path)
    except InputError as error:
        return head({"error": str(error)})
    head({"rate": video.film_rate, "frames": len(video)})
    for count, picture in enumerate(video):
        if count == most_frames or picture.image.shape[0] * picture.image.shape[1] > most_pixels:
            break
        out.write(FRAME.pack(picture.frame, picture.time_s, *picture.image.shape[:2]))
        out.write(picture.image.data)
        out.flush()


def _size(path: str) -> tuple[int, int]:
    """Width and height, px, as the container says; (0, 0) of what is no video."""
    with quiet():
        capture = cv2.VideoCapture(path)
        size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        capture.release()
    return size


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
