"""JPEG files: what their headers say, and a decoder that stops below the rows that are wanted.

``pip install amt[jpeg]`` brings simplejpeg, a thin layer over libjpeg-turbo: the same pixels as OpenCV's, in less time. What it
does not read (CMYK, damaged files), or reads otherwise (EXIF's orientation), is left to OpenCV.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from amt.data.errors import ImageError

START, END = b"\xff\xd8", b"\xff\xd9"
BREAKS_OFF = "the picture breaks off before its end (truncated file)"
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # markers between 0xC0 and 0xCF that begin no frame
MOST_PIXELS = 1 << 28  # a damaged header can ask for more memory than there is
_SLACK = 16  # rows below the wanted ones that are decoded, too: the highest block, whose edge has other colours
_SCAN, _STOP = 0xDA, 0xD9
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)  # kinds of frames
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # no stuffed byte, restart or fill byte of a scan


@dataclass(frozen=True)
class Header:
    """What stands before the first scan."""

    size: tuple[int, int] | None  # (height, width), px; None where there is none
    size_at: int  # where the height stands in the file
    channels: int
    scan_at: int  # where the first scan begins
    one_scan: bool  # it holds the whole picture
    exif: bool


def read_header(data: bytes) -> Header:
    """The header of a file that begins with ``START``, as far as it goes."""
    # Segment by segment: a thumbnail within them has a header and an end marker of its own.
    at, size, size_at, channels, sequential, exif = len(START), None, 0, 0, False, False
    while at + 9 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME and size is None:
            size_at, channels, sequential = at + 5, data[at + 9] if at + 9 < len(data) else 0, marker in (0xC0, 0xC1)
            size = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        exif = exif or (marker == 0xE1 and data[at + 4 : at + 8] == b"Exif")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    one_scan = sequential and 0 < channels == (data[at + 4] if at + 4 < len(data) else 0)
    return Header(size, size_at, channels, at, one_scan, exif)


def has_end(data: bytes) -> bool:
    """Whether an end marker follows the picture."""
    return END in data[-64:] or END in data[read_header(data).scan_at :]


def has_all_scans(data: bytes) -> bool:
    """Whether a file that has an end marker holds each channel, and each coefficient that it begins down to its last bit.

    Decoders take a channel whose scan is missing for grey, without a word. A progressive file ends with its finest scans.
    """
    header = read_header(data)
    if header.one_scan or header.size is None:
        return True
    progressive = data[header.size_at - 4] in _PROGRESSIVE
    channels = data[header.size_at + 5 : header.size_at + 5 + 3 * header.channels : 3]
    missing_bits = {}  # by channel and coefficient
    at = header.scan_at
    while at + 5 <= len(data) and data[at + 1] == _SCAN:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        count = data[at + 4]
        first, last, bits = data[end - 3 : end] if progressive and end <= len(data) else (0, 0, 0)
        for channel in data[at + 5 : at + 5 + 2 * count : 2]:
            missing_bits |= {(channel, k): bits & 15 for k in range(first, last + 1)}
        found = _NEXT_MARKER.search(data, end)
        at = found.start() if found else len(data)
        while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (_SCAN, _STOP):  # tables
            at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return not any(missing_bits.values()) and all((channel, 0) in missing_bits for channel in channels)


def with_end(data: bytes, path: Path) -> bytes:
    """A file without its end marker, with one; raises ImageError where a part of the picture is missing, too.

    The decoder goes on with whatever bytes follow as long as pixels are missing. So the picture is whole if bytes that are
    added behind the file do not change it. Files of several scans (progressive ones) are refused: a whole scan can be missing.
    """
    from PIL import Image

    whole = False
    if read_header(data).one_scan and not data.endswith(bytes(16)):  # a run of zeros is what broken copies leave
        data = data.rstrip(b"\xff")
        pictures = []
        for added in (b"", bytes(range(1, 255)), bytes([0xA5] * 256)):
            try:
                with Image.open(io.BytesIO(data + added + END)) as picture:
                    pictures.append(np.asarray(picture))
            except Exception:  # what a damaged file holds can raise almost anything
                break
        whole = len(pictures) == 3 and all(np.array_equal(pictures[0], other) for other in pictures[1:])
    if not whole:
        raise ImageError(path, BREAKS_OFF, "copy or export it again")
    return data + END


def decode(data: bytes, rows: int | None = None) -> np.ndarray | None:
    """uint8 [H, W, 3], RGB; None where OpenCV has to decode the file.

    Args:
        rows: the upper rows that are wanted; where that saves time, those below are black. None: all.
    """
    simplejpeg, header = _simplejpeg(), read_header(data)
    if simplejpeg is None or header.size is None or header.exif or header.channels not in (1, 3):
        return None
    height, width = header.size
    if not 0 < height * width <= MOST_PIXELS:
        return None
    # A smaller height in the header of a picture in one scan makes a decoder stop there.
    upper = height if rows is None or not header.one_scan else min(height, -(-max(rows, 1) // 16) * 16 + _SLACK)
    if upper < height:
        data = bytearray(data)
        data[header.size_at : header.size_at + 2] = upper.to_bytes(2, "big")
    image = np.empty((height, width, 3), np.uint8)
    image[upper:] = 0
    try:
        simplejpeg.decode_jpeg(data, buffer=image[:upper], strict=upper == height)  # strict: no bytes may be left over
    except ValueError:
        return None
    return image


@cache
def _simplejpeg():
    """The module, or None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg
