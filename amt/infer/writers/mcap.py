"""predictions.mcap: a recording for Foxglove and every other reader of MCAP (https://mcap.dev), all messages as JSON."""

from __future__ import annotations

import json
from typing import Any, Self

import numpy as np

from amt.infer.output import OutputError
from amt.infer.writers import foxglove
from amt.infer.writers.entry import Entry, Setup
from amt.infer.writers.rows import is_seen

CHUNK = 1 << 16  # bytes: a killed run loses at most the last such chunk
TOPICS = {
    "/camera/image": "foxglove.CompressedImage",
    "/camera/calibration": "foxglove.CameraCalibration",
    "/hands": "foxglove.SceneUpdate",
    "/hands/wrists": "foxglove.PosesInFrame",
    "/objects": "foxglove.PosesInFrame",
    "/amt/hands": "amt.Hands",
    "/amt/robot": "amt.RobotHands",
}
OWN_SCHEMAS = {
    "amt.Hands": {
        "type": "object",
        "properties": {"hands": {"type": "array", "items": {"type": "object", "description": "predictions.jsonl"}}},
    },
    "amt.RobotHands": {
        "type": "object",
        "properties": {
            "hands": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "hand": {"type": "integer"},
                        "names": {"type": "array", "items": {"type": "string"}},
                        "positions_rad": {"type": "array", "items": {"type": "number"}},
                        "palm": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
                    },
                },
            }
        },
    },
}


class Mcap:
    """``predictions.mcap`` with the topics :data:`TOPICS`; ``about`` is a metadata record.

    While the run lasts, and after a kill, ``.part-predictions.mcap`` holds all chunks that are full; a reader that does not need
    the index at the end, such as ``mcap recover``, reads them.
    """

    name = "predictions.mcap"

    def __init__(self, setup: Setup):
        self.setup = setup
        self.temporary = setup.out.claim(self.name)
        self.shown: set[str] = set()
        self.count = 0

    def __enter__(self) -> Self:
        from mcap.writer import Writer

        self.file = open(self.temporary, "wb")
        self.writer = Writer(self.file, chunk_size=CHUNK)
        self.writer.start(profile="", library="amt.infer")
        about = {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.setup.about.items()}
        self.writer.add_metadata("about", about)
        schemas = {
            name: self.writer.register_schema(name, "jsonschema", json.dumps(schema).encode())
            for name, schema in (foxglove.SCHEMAS | OWN_SCHEMAS).items()
        }
        self.channels = {
            topic: self.writer.register_channel(topic, "json", schemas[schema])
            for topic, schema in TOPICS.items()
            if topic != "/amt/robot" or self.setup.robot is not None
        }
        return self

    def add(self, entry: Entry) -> None:
        picture = entry.picture
        time = round(1e9 * (entry.index if picture.time_s is None else picture.time_s))
        stamp = foxglove.stamp(time)
        seen = [k for k, result in enumerate(entry.results) if is_seen(result)]
        hands = {f"hand {k if entry.numbers[k] is None else entry.numbers[k]}": entry.results[k] for k in seen}
        held = [result for result in hands.values() if result.has_object]
        messages = {
            "/camera/image": foxglove.image(stamp, picture.image),
            "/camera/calibration": foxglove.calibration(stamp, entry.results[0], *picture.image.shape[:2]),
            "/hands": foxglove.scene(stamp, hands, sorted(self.shown - set(hands))),
            "/hands/wrists": foxglove.poses(stamp, [(None, result.joints[0]) for result in hands.values()]),
            "/objects": foxglove.poses(stamp, [(r.object_rotation, r.object_translation) for r in held]),
            "/amt/hands": {"hands": list(entry.records)},
        }
        if self.setup.robot is not None:
            messages["/amt/robot"] = self._robot(entry)
        self.shown = set(hands)
        try:
            for topic, message in messages.items():
                data = json.dumps(message, allow_nan=False).encode()
                self.writer.add_message(self.channels[topic], time, data, time, self.count)
            self.file.flush()
        except OSError as error:
            raise self._error(error) from None
        self.count += 1

    def _robot(self, entry: Entry) -> dict[str, Any]:
        robot = self.setup.robot
        return {
            "hands": [
                {
                    "hand": -1 if number is None else number,
                    "names": list(robot.joint_names),
                    "positions_rad": np.round(motion.angles, 6).tolist(),
                    "palm": np.round(motion.palm, 6).tolist(),
                }
                for motion, number in zip(entry.robots, entry.numbers)
                if motion is not None
            ]
        }

    def __exit__(self, kind, *_) -> None:
        try:
            if self.count:
                self.writer.finish()
            self.file.close()
        except OSError as error:
            if kind is None:  # an error that is on its way says more
                raise self._error(error) from None
            return
        if not self.count:
            self.temporary.unlink()
            return
        self.setup.out.finish(self.name)

    def _error(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.setup.out.folder / self.name}: cannot be written ({error.strerror}); free space or choose another --out"
        )
