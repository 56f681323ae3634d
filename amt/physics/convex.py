"""An object as convex parts, found once by CoACD and kept on the disk by the mesh's digest."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np

from amt.data.config import default_cache_folder
from amt.files import write_bytes
from amt.physics.extra import package
from amt.physics.solids import digest_of

THRESHOLD = 0.03  # CoACD's concavity: of half the object's longest side
# A search with fewer nodes than CoACD's own choice takes a third of the time and leaves some more parts.
SEARCH = {"seed": 0, "resolution": 1000, "mcts_nodes": 10, "mcts_iterations": 60, "mcts_max_depth": 2}
VERSION = 2  # of what is kept


def convex_parts(vertices: np.ndarray, faces: np.ndarray, cache: Path | None = None) -> list[np.ndarray]:
    """Vertices float64 [N, 3] (m) of the parts, whose hulls together fill the object. An open mesh is closed by CoACD first.

    Wei et al., "Approximate Convex Decomposition for 3D Meshes with Collision-Aware Concavity and Tree Search" (SIGGRAPH 2022).

    Args:
        cache: folder of the parts; None: ``physics`` in $XDG_CACHE_HOME/amt or ~/.cache/amt.
    """
    coacd = package("coacd")
    folder = default_cache_folder() / "physics" if cache is None else Path(cache)
    path = folder / f"parts-{VERSION}-{THRESHOLD:g}-{digest_of(vertices, faces)}.npz"
    known = _read(path)
    if known is not None:
        return known
    coacd.set_log_level("off")
    mesh = coacd.Mesh(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.int32))
    parts = [np.asarray(part[0], np.float64) for part in coacd.run_coacd(mesh, threshold=THRESHOLD, **SEARCH)]
    written = io.BytesIO()
    np.savez_compressed(written, vertices=np.concatenate(parts), counts=[len(part) for part in parts])
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        write_bytes(path, written.getvalue())
    return parts


def _read(path: Path) -> list[np.ndarray] | None:
    """The parts of a file; None where it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as kept:
            vertices, ends = kept["vertices"], np.cumsum(kept["counts"])
    except (OSError, ValueError, KeyError, EOFError):
        return None
    except Exception as error:  # zipfile and zlib raise their own
        if type(error).__module__ in ("zipfile", "zlib"):
            return None
        raise
    if vertices.ndim != 2 or not len(ends) or ends[-1] != len(vertices) or not np.isfinite(vertices).all():
        return None
    return np.split(vertices, ends[:-1])
