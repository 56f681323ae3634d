"""predictions.npz: everything as arrays, a row a hand."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from typing import Self

import numpy as np

from amt.infer.output import OutputError
from amt.infer.writers.entry import Entry, Setup
from amt.infer.writers.rows import Rows, row_of


class Npz:
    """``predictions.npz``: the columns of :func:`~amt.infer.writers.rows.row_of`, ``images`` and ``about``.

    ``images`` are paths, and ``image`` is a row's place among them. ``about`` is JSON: units, frames, names, the hand's mesh.

    While the run lasts, and after a kill, ``.part-predictions.npz-arrays/`` holds the columns as .npy files.
    """

    name = "predictions.npz"

    def __init__(self, setup: Setup):
        self.setup = setup
        self.temporary = setup.out.claim(self.name)
        self.rows = Rows(self.temporary.with_name(f"{self.temporary.name}-arrays"))
        self.images: dict[str, int] = {}

    def __enter__(self) -> Self:
        self.rows.__enter__()
        return self

    def add(self, entry: Entry) -> None:
        image = self.images.setdefault(str(entry.picture.path), len(self.images))
        for which in range(len(entry.results)):
            self.rows.append({"image": np.int64(image)} | row_of(entry, which, self.setup))

    def __exit__(self, *error: object) -> None:
        if len(self.rows):
            self._join()
        self.rows.__exit__(None)

    def _join(self) -> None:
        try:
            with zipfile.ZipFile(self.temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for name in self.rows.columns:
                    archive.write(self.rows.folder / f"{name}.npy", f"{name}.npy")
                for name, text in (("images", list(self.images)), ("about", json.dumps(self.setup.about))):
                    data = BytesIO()
                    np.save(data, np.array(text))
                    archive.writestr(f"{name}.npy", data.getvalue())
        except OSError as error:
            self.temporary.unlink(missing_ok=True)
            raise OutputError(
                f"{self.setup.out.folder / self.name}: cannot be written ({error.strerror}), its columns are in "
                f"{self.rows.folder}; free space"
            ) from None
        self.setup.out.finish(self.name)
