"""A user's meshes: what the YAML file beside them says holds from rendering to reading; what cannot be used is one line."""

import json
import os

import numpy as np
import pytest

from amt.data.dexycb import DexYCB
from amt.data.errors import DataError
from amt.data.mass import DENSITY, YCB_MASSES, object_mass
from amt.data.object_card import card_of, read_card
from amt.data.synthetic import objects
from amt.data.synthetic.__main__ import main
from amt.data.synthetic.objects import load_shapes

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")


@pytest.fixture
def folder(tmp_path):
    """A box in millimetres, a cup of a user's own name, and a tin that nothing is said about."""
    given = tmp_path / "objects"
    given.mkdir()
    trimesh.creation.box((50, 60, 120)).export(given / "carton.stl")
    (given / "carton.yaml").write_text("unit: mm\nmass: 0.25\nsymmetry: {}\n")
    trimesh.creation.cylinder(0.035, 0.09).export(given / "a.ply")
    (given / "a.yml").write_text("name: cup\nsymmetry: {z: 0}\n")
    trimesh.creation.cylinder(0.03, 0.1).export(given / "tin.obj")
    (given / "notes.txt").write_text("not a mesh")
    return given


def test_a_folder_of_meshes_is_rendered_and_read_back(folder, tmp_path, capsys):
    out = tmp_path / "set"
    assert main([str(out), "--objects", str(folder), "--independent", "3", "--workers", "1", "--quiet"]) == 0
    assert "3 grasps" in capsys.readouterr().out
    names = json.loads((out / "synthetic.json").read_text())["object_names"]
    assert names == {"1": "cup", "2": "carton", "3": "tin"}
    reader = DexYCB(out, "s0", "train")
    assert {reader[i].sequence.class_id for i in range(len(reader))} == {1, 2, 3}
    np.testing.assert_allclose(np.ptp(reader.objects.points(2, 512), axis=0), (0.05, 0.06, 0.12), atol=0.004)
    assert [reader.objects.symmetric(c) for c in (1, 2, 3)] == [True, False, True]  # nothing known: it may be
    card = read_card(out / "models" / "carton" / "object.yml")
    assert (card.name, card.scale, card.mass, card.symmetry) == (None, 1.0, 0.25, ())
    assert object_mass(out / "models" / "carton") == 0.25
    (folder / "carton.yaml").write_text("unit: mm\nmass: 0.3\n")
    assert main([str(out), "--objects", str(folder), "--independent", "3", "--workers", "1", "--quiet"]) == 2
    assert "object_digest" in capsys.readouterr().err


def test_meshes_without_a_file_beside_them_are_in_metres(folder):
    card = card_of(folder / "tin.obj")
    assert (card.name, card.scale, card.mass, card.symmetry) == (None, 1.0, None, None)
    assert [s.name for s in load_shapes((str(folder),)).values()] == ["cup", "carton", "tin"]
    assert [s.name for s in load_shapes((str(folder / "tin.obj"), str(folder / "a.ply"))).values()] == ["tin", "cup"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unit: ft\n", r"carton\.yaml: the unit 'ft' is unknown; use m, cm, mm, inch"),
        ("unit: mm\nscale: 0.001\n", r"carton\.yaml: gives both unit and scale"),
        ("scale: big\n", r"carton\.yaml: scale is 'big'; give a number"),
        ("unit: mm\nmass: -1\n", r"carton\.yaml: mass is -1; give a number"),
        ("unit: mm\nweight: 1\n", r"carton\.yaml: the key 'weight' is unknown; use name, unit"),
        ("unit: mm\nname: ../up\n", r"carton\.yaml: name is '\.\./up'"),
        ("unit: mm\nsymmetry: {w: 180}\n", r"carton\.yaml: symmetry is \{'w': 180\}; give degrees by axis"),
        ("unit: mm\nsymmetry: {z: 400}\n", r"carton\.yaml: symmetry\.z is 400"),
        ("unit: mm\nsymmetry: {z: 170}\n", r"symmetry\.z is 170; give degrees that divide 360, as 180, 120 or 90"),
        ("unit: mm\nname: 12\n", r'name is 12; give the name of a folder, in quotes: name: "12"'),
        ("unit: mm\nmass: [1,\n", r"carton\.yaml: is not YAML \(ParserError\); mend line \d"),
        ("unit: mm\nname: tin\n", r"carton\.stl, .*tin\.obj: have the same name 'tin'"),
        ("mass: 1\n", r"carton\.stl: is 120 m long; .* if its unit is mm, say so in carton\.yaml \(unit: mm\)"),
        ("scale: 1.0e-6\n", r"carton\.stl: is 0\.00012 m long"),
    ],
)
def test_what_cannot_be_used_is_one_line(folder, tmp_path, capsys, text, message):
    (folder / "carton.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_shapes((str(folder),))
    assert main([str(tmp_path / "set"), "--objects", str(folder), "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_an_open_mesh_one_with_too_many_triangles_and_an_empty_folder_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "MOST_FACES", 5000)
    trimesh.creation.icosphere(subdivisions=4, radius=0.04).export(tmp_path / "ball.stl")
    with pytest.raises(DataError, match=r"ball\.stl: has 5120 triangles, at most 5000 are possible; simplify it"):
        load_shapes((str(tmp_path),))
    os.remove(tmp_path / "ball.stl")
    with pytest.raises(DataError, match="holds no mesh"):
        load_shapes((str(tmp_path),))
    box = trimesh.creation.box((0.05, 0.05, 0.05))
    trimesh.Trimesh(box.vertices, box.faces[:-1]).export(tmp_path / "open.ply")
    with pytest.raises(DataError, match=r"open\.ply: is not watertight"):
        load_shapes((str(tmp_path),))
    with pytest.raises(DataError, match="gone: cannot be read"):
        load_shapes((str(tmp_path / "gone"),))


def test_a_mass_is_the_card_s_or_ycb_s_or_a_density_times_the_volume(folder, tmp_path):
    assert object_mass(folder / "carton.stl") == 0.25
    assert object_mass(folder / "tin.obj") == pytest.approx(DENSITY * np.pi * 0.03**2 * 0.1, rel=0.02)
    (folder / "carton.yaml").write_text("unit: mm\n")
    assert object_mass(folder / "carton.stl") == pytest.approx(DENSITY * 0.05 * 0.06 * 0.12, rel=1e-4)
    (folder / "carton.yaml").write_text("unit: mm\nname: 003_cracker_box\n")
    assert object_mass(folder / "carton.stl") == YCB_MASSES[2]
    model = tmp_path / "models" / "021_bleach_cleanser"
    model.mkdir(parents=True)
    assert object_mass(model) == YCB_MASSES[12]
    (model / "object.yml").write_text("unit: m\nmass: 0.3\n")
    assert object_mass(model) == 0.3
    open_box = trimesh.creation.box((0.1, 0.1, 0.1))
    trimesh.Trimesh(open_box.vertices, open_box.faces[:-2]).export(tmp_path / "open.ply")
    assert object_mass(tmp_path / "open.ply") == pytest.approx(DENSITY * 1e-3, rel=1e-4)
    (tmp_path / "models" / "mine").mkdir()
    with pytest.raises(DataError, match="mine: holds no mesh to weigh"):
        object_mass(tmp_path / "models" / "mine")
