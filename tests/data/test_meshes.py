"""Mesh files: all that exporters write is read, and what cannot be used is one line that names it."""

import os

import numpy as np
import pytest

from amt.data.errors import DataError, FileError
from amt.data.meshes import box_mesh, read_mesh, read_obj, sample_surface
from amt.data.objects import ObjectModels
from amt.data.synthetic.objects import from_file

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
TWO = [[0, 1, 2], [0, 2, 3]]


@pytest.mark.parametrize(
    ("content", "faces"),
    [
        (SQUARE + "f 1 2 3 4\n", TWO),
        (SQUARE.replace(" ", "\t") + "f\t1\t2 3\t 4\n", TWO),
        ("# Gr\u00f6\u00dfe in m\no K\u00e4se\n" + SQUARE + "f 1 2 3 4\n", TWO),
        (SQUARE + "f 1 2 \\\n3 4\n", TWO),
        ("v 0 0 \\\n 0\n" + SQUARE[8:] + "f 1 2 3 4", TWO),
        (SQUARE + "f 1/1/1 2/2/2 3//3 4 # a square\n", TWO),
        (SQUARE + "vn 0 0 1\nvt 0 0\nusemtl m\ns off\nl 1 2\nf -4 -3 -2\n", TWO[:1]),
        (SQUARE.replace("\n", " 0.5 0.5 0.5\n") + "f 1 2 3\n", TWO[:1]),  # colours
        (SQUARE.replace("\n", "\r\n") + "f 1 2 3 4\r\n", TWO),
    ],
    ids=["plain", "tabs", "latin-1", "continued", "continued vertex", "comment", "negative", "colours", "dos"],
)
def test_obj_files_are_read_as_they_are_written(tmp_path, content, faces):
    path = tmp_path / "a.obj"
    path.write_bytes(content.encode("latin-1"))
    vertices, found = read_mesh(path)
    np.testing.assert_array_equal(vertices, CORNERS)
    np.testing.assert_array_equal(found, faces)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_obj_files_in_any_encoding(tmp_path, encoding):
    path = tmp_path / "a.obj"
    path.write_bytes(("# \u6570\u636e\n" + SQUARE + "f 1 2 3 4\n").encode(encoding))
    np.testing.assert_array_equal(read_obj(path)[1], TWO)


def test_negative_numbers_count_from_the_last_vertex_so_far(tmp_path):
    path = tmp_path / "a.obj"
    path.write_text(SQUARE + "f -4 -3 -2\n" + SQUARE.replace("v 0", "v 5") + "f -4 -3 -2\nf 1 2 3\n")
    np.testing.assert_array_equal(read_obj(path)[1], [[0, 1, 2], [4, 5, 6], [0, 1, 2]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SQUARE, r"cannot be read \(no triangles\)"),
        ("", r"cannot be read \(no triangles\)"),
        (SQUARE + "f 1 2 9\n", r"cannot be read \(a triangle names a vertex that is not among the 4\)"),
        (SQUARE + "f 0 1 2\n", r"cannot be read \(a triangle names a vertex that is not among the 4\)"),
        (SQUARE + "f -9 -2 -1\n", r"cannot be read \(a triangle names a vertex that is not among the 4\)"),
        (SQUARE.replace("1 1", "nan 1") + "f 1 2 3\n", r"vertex 3 is not finite \(nan, 1, 0\); repair"),
        (SQUARE.replace("1 1", "1 -inf") + "f 1 2 3\n", r"vertex 3 is not finite \(1, -inf, 0\); repair"),
        (SQUARE.replace("1 1 0", "0,1 0 0") + "f 1 2 3\n", r"line 3 cannot be read \(v 0,1 0 0\)"),
        (SQUARE + "f 1 2 x\n", r"line 5 cannot be read \(f 1 2 x\)"),
        ("v 0 0\n", r"line 1 cannot be read \(v 0 0\)"),
        (SQUARE + "f 1 2 2\n", "its triangles have no area"),
    ],
)
def test_an_obj_that_cannot_be_used_is_named(tmp_path, content, message):
    path = tmp_path / "a.obj"
    path.write_text(content)
    with pytest.raises(FileError, match=rf"a\.obj: {message}") as error:
        read_mesh(path)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=rf"a\.obj: {message}"):
        from_file(path, 1)  # the synthetic writer's objects


@pytest.mark.parametrize("suffix", ["ply", "stl", "glb", "off"])
def test_other_formats_give_the_same_surface(tmp_path, suffix):
    import trimesh

    vertices, faces = box_mesh((0.1, 0.05, 0.2))
    trimesh.Trimesh(vertices, faces, process=False).export(tmp_path / f"a.{suffix}")
    found = read_mesh(tmp_path / f"a.{suffix}")
    np.testing.assert_allclose(found[0][found[1]], vertices[faces], atol=1e-6)
    np.testing.assert_allclose(sample_surface(*found, 50), sample_surface(vertices, faces, 50), atol=1e-6)


@pytest.mark.parametrize("suffix", ["ply", "stl", "glb", "xyz7"])
@pytest.mark.parametrize("content", [b"", b"no mesh at all", bytes(range(256)) * 20])
def test_other_files_that_cannot_be_used_are_named(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(FileError, match=rf"a\.{suffix}: .*; export a triangle mesh") as error:
        read_mesh(path)
    assert "\n" not in str(error.value)


def test_nan_in_other_formats_is_named(tmp_path):
    head = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
    head += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    (tmp_path / "a.ply").write_text(head + "0 0 0\nnan 0 0\n0 1 0\n3 0 1 2\n")
    with pytest.raises(FileError, match=r"a\.ply: vertex 2 is not finite \(nan, 0, 0\)"):
        read_mesh(tmp_path / "a.ply")


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
def test_a_fifo_is_refused_and_not_waited_for(tmp_path, suffix):
    path = tmp_path / f"pipe.{suffix}"
    os.mkfifo(path)
    with pytest.raises(FileError, match=r"cannot be read \(is a fifo, not a file\); check the path"):
        read_mesh(path)


def test_a_damaged_stl_does_not_ask_for_a_package(tmp_path):
    path = tmp_path / "a.stl"
    path.write_bytes(np.random.default_rng(0).bytes(3000))
    with pytest.raises(FileError) as error:
        read_mesh(path)
    assert "No module" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    for name in ("a.obj", "a.ply"):
        with pytest.raises(FileError, match=rf"{name}: cannot be read"):
            read_mesh(tmp_path / name)


@pytest.mark.parametrize("content", [b"1 2\n", b"1 2 nan\n", b"a b c\n", b"", "1 2 3 \u00df\n".encode("latin-1")])
def test_points_that_cannot_be_used_are_named(tmp_path, content):
    folder = tmp_path / "models" / "025_mug"
    folder.mkdir(parents=True)
    (folder / "points.xyz").write_bytes(content)
    with pytest.raises(DataError, match=r"points\.xyz: ") as error:
        ObjectModels(tmp_path).points(14, 32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl"])
def test_any_mesh_stands_for_a_class(tmp_path, suffix):
    trimesh = pytest.importorskip("trimesh")
    folder = tmp_path / "models" / "025_mug"
    folder.mkdir(parents=True)
    trimesh.creation.box((0.1, 0.05, 0.2)).export(folder / f"nontextured.{suffix}")
    points = ObjectModels(tmp_path).points(14, 300)
    np.testing.assert_allclose(np.ptp(points, axis=0), (0.1, 0.05, 0.2), atol=0.003)
    np.testing.assert_array_equal(points, ObjectModels(tmp_path).points(14, 300))  # sampled the same at every call
    trimesh.creation.box((0.02, 0.02, 0.02)).export(folder / "textured.obj")
    assert np.ptp(ObjectModels(tmp_path).points(14, 300)) < 0.03  # YCB's own name comes first
    assert ObjectModels(tmp_path).class_points(32)[14].any()


def test_a_model_that_cannot_be_used_is_named(tmp_path):
    folder = tmp_path / "models" / "025_mug"
    folder.mkdir(parents=True)
    for text, message in (
        (None, r"025_mug: has neither points\.xyz nor a mesh \(textured_simple\.obj, textured\.obj, or any \*\.obj"),
        ("v 0 0 0\n", r"mug\.obj: cannot be read \(no triangles\)"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", r"mug\.obj: cannot be read \(a triangle names a vertex"),
        ("v 0 0 0\nv 90 0 0\nv 0 120 0\nf 1 2 3\n", r"mug\.obj: is 1.* m long; .*rescale it to metres"),
    ):
        if text is not None:
            (folder / "mug.obj").write_text(text)
        with pytest.raises(DataError, match=message):
            ObjectModels(tmp_path).points(14, 32)
