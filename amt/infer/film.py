"""The film of a run: with PyAV each picture at its own time and with the video's sound, with OpenCV alone at a constant rate.

PyAV (``pip install amt[video]``) writes the film in pieces that can be played, however the run ends, and puts them together with
the sound at the end. The sound is copied, not encoded again.
"""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from amt.infer.output import OutputError, OutputFolder
from amt.infer.video import VideoFile, fitted_into

TICKS = 90_000  # a second: of a film's times
PIECES = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof",
    "flush_packets": "1",
}  # each is on disk when it is whole
ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that PyAV's FFmpeg has


def open_film(
    out: OutputFolder, name: str, rate: float, video: Path | None, say: Callable[[str], None]
) -> TimedFilm | VideoFile:
    """The file that a run's pictures are added to, a context manager.

    Args:
        rate: frames/s at which the pictures are expected.
        video: the file whose sound belongs to the pictures; None: there is none.
        say: takes a line about what is lost.
    """
    if find_spec("av") is not None:
        return TimedFilm(out, name, rate, video, say)
    if video is not None:
        say(
            f"{name}: without sound and at a constant rate; pip install amt[video] brings PyAV, which keeps sound and times"
        )
    return VideoFile(out, name, rate)


class TimedFilm:
    """An mp4 (H.264 where PyAV has it) that shows each picture at its time; the first one decides its size, made even.

    A context manager: what was added stays on an error, and no file is left where nothing was added.
    """

    def __init__(self, out: OutputFolder, name: str, rate: float, sound: Path | None, say: Callable[[str], None]):
        self.out, self.name, self.rate, self.sound, self.say = out, name, rate, sound, say
        self.temporary = out.claim(name)
        self.pieces = self.temporary.with_name(f".pieces-{name}")
        self.container = None

    def __enter__(self) -> TimedFilm:
        return self

    def add(self, picture: np.ndarray, time_s: float) -> None:
        """Adds a picture, uint8 [H, W, 3], RGB, that is shown from ``time_s`` on; times increase. Raises OutputError."""
        import av

        try:
            if self.container is None:
                self._open(picture.shape[1] // 2 * 2, picture.shape[0] // 2 * 2, time_s)
            frame = av.VideoFrame.from_ndarray(fitted_into(picture, *self.size), format="rgb24")
            frame.pts, frame.time_base = max(round((time_s - self.start) * TICKS), self.next), Fraction(1, TICKS)
            self.next, self.last, self.count = frame.pts + 1, time_s, self.count + 1
            for packet in self.stream.encode(frame):
                self.container.mux(packet)
        except (av.FFmpegError, OSError) as error:
            raise self._error(error) from error

    def _open(self, width: int, height: int, time_s: float) -> None:
        import av

        self.size, self.start, self.next, self.count = (width, height), time_s, 0, 0
        self.container = av.open(str(self.pieces), "w", format="mp4", options=PIECES)
        codec = next(name for name in ENCODERS if name in av.codecs_available)
        self.stream = self.container.add_stream(codec, rate=Fraction(self.rate).limit_denominator(1001))
        self.stream.width, self.stream.height, self.stream.pix_fmt = width, height, "yuv420p"
        self.stream.codec_context.time_base = Fraction(1, TICKS)
        self.stream.codec_context.thread_count = 1  # the network needs the cores
        self.stream.codec_context.gop_size = max(1, round(2 * self.rate))
        if codec == "libx264":
            self.stream.options = {"preset": "ultrafast", "crf": "22", "bf": "0", "x264-params": "no-deblock=0"}
        elif codec == "mpeg4":
            self.stream.codec_context.time_base = Fraction(1, 60_000)  # MPEG-4 has no finer one
            self.stream.bit_rate = 6 * width * height

    def __exit__(self, kind, *_) -> None:
        if self.container is None:
            return
        import av

        try:
            for packet in self.stream.encode(None):
                self.container.mux(packet)
            self.container.close()
            self._join()
            if self._count() != self.count:  # FFmpeg does not tell every write that failed
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.out.finish(self.name)
        except (av.FFmpegError, OSError) as error:
            self.temporary.unlink(missing_ok=True)
            if kind is None:  # an error that is on its way says more
                raise self._error(error) from error
        finally:
            self.pieces.unlink(missing_ok=True)

    def _count(self) -> int:
        """Pictures in the film."""
        import av

        with av.open(str(self.temporary)) as film:
            return sum(packet.size > 0 for packet in film.demux(film.streams.video[0]))

    def _join(self) -> None:
        """The film in one piece, with as much of the sound as it has pictures."""
        import av

        if self.sound is not None:
            try:
                with av.open(str(self.sound)) as sound:
                    if sound.streams.audio:
                        self._write(sound)
                        return
            except (av.FFmpegError, ValueError) as error:
                reason = " ".join(str(error).split())
                self.say(f"{self.name}: without sound, which does not fit into an mp4 ({reason})")
        self._write(None)

    def _write(self, sound) -> None:
        import av

        with (
            av.open(str(self.pieces)) as pieces,
            av.open(str(self.temporary), "w", format="mp4", options={"movflags": "faststart"}) as film,
        ):
            streams = [film.add_stream_from_template(pieces.streams.video[0])]
            packets = [_timed(pieces, pieces.streams.video[0], 0.0, float("inf"), 0)]
            if sound is not None:
                streams.append(film.add_stream_from_template(sound.streams.audio[0]))
                shown = self.last + 1 / self.rate
                packets.append(_timed(sound, sound.streams.audio[0], self.start, shown, 1))
            for _, which, packet in heapq.merge(*packets, key=lambda item: item[:2]):
                packet.stream = streams[which]
                film.mux(packet)

    def _error(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        return OutputError(f"{self.out.folder / self.name}: cannot be written ({reason}); free space on the disk")


def _timed(container, stream, start: float, end: float, which: int) -> Iterator[tuple]:
    """(time, which, packet) of a stream between two times (s), which then begin at 0."""
    shift = round(start / stream.time_base)
    for packet in container.demux(stream):
        if packet.dts is None or packet.pts is None:
            continue
        time_s = float(packet.pts * stream.time_base)
        if time_s < start:
            continue
        if time_s >= end:
            return
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        yield float(packet.dts * stream.time_base), which, packet
