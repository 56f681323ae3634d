"""Depth, volume and hold of bodies whose answers can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the extra physics is not installed")
pytest.importorskip("coacd", reason="the extra physics is not installed")
pytest.importorskip("manifold3d", reason="the extra physics is not installed")

import trimesh

from amt import physics
from amt.data.meshes import box_mesh
from amt.hand.shipped import shipped_hand
from amt.physics.bodies import PARTS
from amt.physics.distance import Surface
from amt.physics.hold import hold
from amt.physics.overlap import TOLERANCE, deepest, overlap
from amt.physics.solids import closed

BALL = 0.02  # m
SLACK = 0.0005  # m: how far the capsules reach into the ball


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("parts")


@pytest.fixture(scope="module")
def ball(cache):
    mesh = trimesh.creation.icosphere(3, BALL)
    return physics.ObjectBody(mesh.vertices, mesh.faces, known_mass=0.05, name="ball", cache=cache)


def box_hand(*extents_and_places):
    """A gripper of boxes, without hinges."""
    meshes = [(np.add(box_mesh(extent)[0], place), box_mesh(extent)[1]) for extent, place in extents_and_places]
    vertices = np.concatenate([v for v, _ in meshes])
    faces = np.concatenate([f + 8 * k for k, (_, f) in enumerate(meshes)])
    part_of = np.repeat(np.arange(len(meshes)), 8)
    return physics.HandBody(vertices, faces, tuple(f"jaw {k}" for k in range(len(meshes))), part_of)


def box_object(extent, cache, mass=None):
    return physics.ObjectBody(*box_mesh(extent), known_mass=mass, name="box", cache=cache)


def cage(radius=0.008, length=0.08):
    """Five capsules around the z axis that close on the ball; each turns inward about its lower end."""
    vertices, faces, part_of, hinges = [], [], [], []
    for k in range(5):
        angle = 2 * np.pi * k / 5
        out = np.array([np.cos(angle), np.sin(angle), 0])
        capsule = trimesh.creation.capsule(length, radius, count=[12, 12])
        place = (BALL + radius - SLACK) * out
        faces.append(np.array(capsule.faces) + sum(map(len, vertices)))
        vertices.append(np.array(capsule.vertices) - (0, 0, capsule.vertices[:, 2].mean()) + place)
        part_of += [k] * len(capsule.vertices)
        # a rotation about cross(out, z) takes z toward -out
        hinges.append(physics.Hinge((k,), place - (0, 0, length / 2), np.cross(out, (0, 0, 1.0)), length / 2))
    names = tuple(f"capsule {k}" for k in range(5))
    return physics.HandBody(
        np.concatenate(vertices), np.concatenate(faces), names, np.array(part_of), hinges=tuple(hinges)
    )


def test_a_ball_in_five_capsules_holds_and_a_ball_beside_them_does_not(ball):
    inside = physics.judge(cage(), ball)
    assert inside.holds
    assert not inside.slips
    assert max(inside.moved_mm.values()) < 2
    assert {press.part for press in inside.presses if press.force_n > 0} == {f"capsule {k}" for k in range(5)}
    assert "holds under gravity from every side" in str(inside)
    beside = physics.judge(cage(), ball.at(np.eye(3), (0.12, 0, 0)))
    assert not beside.holds
    assert beside.slips == ("+x", "-x", "+y", "-y", "+z", "-z")
    assert not beside.touches
    assert beside.depth_mm == beside.volume_cm3 == 0
    assert "no part presses; slips under gravity +x" in str(beside)


def test_coulombs_limit_decides(ball):
    """Five capsules press with 5 N each and 0.25 N for 0.5 mm of overlap: with a friction of 0.3 they carry 7.9 N, or 0.80 kg."""
    test = physics.HoldTest(friction=0.3)

    def held_along_the_axis(mass):
        verdict = physics.judge(cage(), replace(ball, known_mass=mass, _shared={}), test)
        assert sum(press.force_n for press in verdict.presses) == pytest.approx(5 * 5.25, rel=0.05)
        return verdict.held["+z"], verdict.held["-z"]

    assert held_along_the_axis(0.5) == (True, True)
    assert held_along_the_axis(1.2) == (False, False)


def test_the_parts_that_press_are_named_whatever_moves(cache):
    """A fixed jaw, another one far away, and a hinged jaw that presses a cube against the first."""
    jaws = box_hand(
        ((0.02, 0.04, 0.04), (0.0299, 0, 0)), ((0.02, 0.04, 0.04), (0.3, 0, 0)), ((0.02, 0.04, 0.04), (-0.0299, 0, 0))
    )
    hinge = physics.Hinge((0,), np.array([0.0299, 0, -0.1]), np.array([0, -1.0, 0]), 0.1)
    verdict = physics.judge(replace(jaws, hinges=(hinge,)), box_object((0.04,) * 3, cache))
    pressed = {press.part: press.force_n for press in verdict.presses if press.force_n}
    assert set(pressed) == {"jaw 0", "jaw 2"}
    assert pressed["jaw 0"] == pytest.approx(5, rel=0.1)
    assert pressed["jaw 2"] == pytest.approx(5, rel=0.1)


def test_two_boxes_overlap_by_their_exact_depth_and_volume(cache):
    """Two cubes of 60 mm, 4 mm into each other along x and 5 and 10 mm beside: 4 x 55 x 50 mm."""
    hand, held = box_hand(((0.06,) * 3, (0, 0, 0))), box_object((0.06,) * 3, cache)
    verdict = physics.judge(hand, held.at(np.eye(3), (0.056, 0.005, 0.010)), physics.HoldTest(seconds=0.02))
    assert verdict.volume_cm3 == pytest.approx(0.4 * 5.5 * 5.0, abs=1e-9)
    assert verdict.hand_depth_mm == pytest.approx(4, abs=1e-9)
    assert verdict.object_depth_mm == pytest.approx(4, abs=1e-9)


def test_depths_differ_where_one_body_is_pierced():
    """A rod of 10 x 10 mm through a cube of 60 mm: the rod's surface is 30 mm deep, the cube's at most 5 mm."""
    cube, rod = closed(*box_mesh((0.06,) * 3)), closed(*box_mesh((0.2, 0.01, 0.01)))
    found = overlap(rod, cube)
    assert found.volume == pytest.approx(0.06 * 0.01**2, abs=1e-12)
    assert found.first_depth == pytest.approx(0.030 - 0.005, abs=5e-5)  # its side, 5 mm off the axis
    assert found.second_depth == pytest.approx(0.005, abs=5e-5)
    swapped = overlap(cube, rod)
    assert swapped.volume == pytest.approx(found.volume, abs=1e-12)
    assert (swapped.first_depth, swapped.second_depth) == pytest.approx((found.second_depth, found.first_depth))


def test_the_deepest_place_is_that_of_a_fine_grid():
    """A ball that is pierced by a tilted slab: branch and bound against every place of a grid on its triangles."""
    ball = trimesh.creation.icosphere(3, 0.03)
    surface = Surface(closed(ball.vertices, ball.faces))
    rng = np.random.default_rng(0)
    corners = rng.uniform(-0.015, 0.015, (40, 1, 3)) + rng.uniform(-0.004, 0.004, (40, 3, 3))
    steps = np.linspace(0, 1, 15)
    weights = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9])
    grid = np.einsum("pk,nkc->npc", weights, corners).reshape(-1, 3)
    expected = float(surface.distances(grid).max())
    found = deepest(surface, corners)
    assert expected - 1e-12 <= found + TOLERANCE
    assert found <= expected + 0.008 / 14  # the grid's own step
    many = np.concatenate([corners] * 50)  # ties everywhere
    assert deepest(surface, many) == pytest.approx(found, abs=TOLERANCE)


def test_signed_distances_are_those_of_a_box(cache):
    surface = Surface(closed(*box_mesh((0.1, 0.06, 0.02))))
    points = np.random.default_rng(0).uniform(-0.08, 0.08, (400, 3))
    points[:40] = np.sign(points[:40]) * (0.05, 0.03, 0.01)  # its corners
    beyond = np.abs(points) - (0.05, 0.03, 0.01)
    true = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(1), 0)
    np.testing.assert_allclose(surface.signed(points), true, atol=1e-12)
    np.testing.assert_allclose(surface.distances(points), np.abs(true), atol=1e-12)
    assert surface.farthest_outside(points) == pytest.approx(true.max())
    assert np.isnan(surface.farthest_outside(np.zeros((3, 3))))


def test_signed_distances_agree_with_another_implementation():
    """A torus: not convex, and the nearest place is a face, an edge or a corner. Against a brute force over its triangles."""
    mesh = trimesh.creation.torus(0.03, 0.01, major_sections=16, minor_sections=8)
    points = np.random.default_rng(1).uniform(-0.05, 0.05, (200, 3))
    tiled = np.repeat(points, len(mesh.faces), axis=0)
    places = trimesh.triangles.closest_point(np.tile(mesh.triangles, (len(points), 1, 1)), tiled)
    true = np.linalg.norm(places - tiled, axis=1).reshape(len(points), -1).min(1)
    true[np.abs(_winding(mesh.triangles, points)) > 0.5] *= -1
    np.testing.assert_allclose(Surface(closed(mesh.vertices, mesh.faces)).signed(points), true, atol=1e-12)
    assert (true < 0).sum() > 10


def _winding(triangles, points):
    """How often a closed mesh winds around points (van Oosterom and Strackee's solid angles)."""
    a, b, c = (triangles[None, :, k] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=2) for x in (a, b, c))
    volume = np.einsum("nfc,nfc->nf", a, np.cross(b, c))
    dots = [np.einsum("nfc,nfc->nf", x, y) for x, y in ((a, b), (b, c), (c, a))]
    return np.arctan2(volume, la * lb * lc + dots[0] * lc + dots[1] * la + dots[2] * lb).sum(1) / (2 * np.pi)


def test_a_verdict_does_not_depend_on_the_frame(ball):
    """Hand and object moved together: the same depths, and gravity is named in the hand's own axes."""
    from scipy.spatial.transform import Rotation

    rotation, translation = Rotation.from_rotvec((0.3, -1.1, 0.7)).as_matrix(), np.array([0.1, -0.2, 0.6])
    hand, heavy, test = cage(), replace(ball, known_mass=1.2, _shared={}), physics.HoldTest(friction=0.3)
    a = physics.judge(hand, heavy, test)
    b = physics.judge(hand.moved(rotation, translation), heavy.at(rotation, translation), test)
    assert a.held["+z"] == b.held["+z"] is False
    assert a.held["-z"] == b.held["-z"] is False
    for name in ("hand_depth_mm", "object_depth_mm", "volume_cm3", "contact_ratio"):
        assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-6)


def test_two_runs_give_the_same_bits(ball):
    assert physics.judge(cage(), ball).record() == physics.judge(cage(), ball).record()
    assert physics.judge_all([(cage(), ball)] * 2, workers=2)[1].record() == physics.judge(cage(), ball).record()


def test_pd_released_is_the_squared_distance_of_the_farthest_vertex_outside(cache):
    """A jaw whose farthest corner is 116 mm off a cube of 60 mm, and which does not touch it: 1,000 x 0.116² = 13.456."""
    held = box_object((0.06,) * 3, cache)
    hand = box_hand(((0.02, 0.02, 0.02), (0.03 + 0.116 - 0.01, 0, 0)))
    result = physics.deepsimho(hand, held)
    assert result.pd_released == pytest.approx(13.456, abs=1e-9)
    assert physics.judge(hand, held).depth_mm == 0  # the true depth
    assert not result.cp
    assert result.sd_mm == pytest.approx(1e3 * 0.5 * 9.8 * 0.2**2, rel=0.02)  # it falls freely for 0.2 s
    assert not result.sr


def test_deepsimho_glues_what_a_hand_touches(cache):
    """Two rigid jaws press a cube of its 128 g with 0.2 N and friction 1: too little for its weight. Adhesion holds it there."""
    held = box_object((0.04,) * 3, cache)
    hand = box_hand(((0.04,) * 3, (0.039999, 0, 0)), ((0.04,) * 3, (-0.039999, 0, 0)))
    glued = physics.deepsimho(hand, held)
    assert glued.cp
    assert glued.sr
    assert sum(press.force_n for press in physics.judge(hand, held).presses) < 0.5


def test_an_object_with_overlapping_closed_parts_is_united(cache):
    """Two boxes that share 20 x 20 x 20 mm: the volume counts it once, and a texture seam changes nothing."""
    a, f = box_mesh((0.04, 0.02, 0.02))
    vertices, faces = np.concatenate([a, np.add(a, (0.02, 0, 0))]), np.concatenate([f, f + 8])
    united = physics.ObjectBody(vertices, faces, cache=cache)
    assert united.treatment == "closed"
    assert united.solid.volume == pytest.approx(0.06 * 0.02**2)
    seams = physics.ObjectBody(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3), cache=cache)
    assert seams.solid.volume == pytest.approx(0.06 * 0.02**2)
    inside_out = physics.ObjectBody(a, f[:, ::-1], cache=cache)
    assert inside_out.solid.volume == pytest.approx(0.04 * 0.02**2)


def test_what_is_done_with_an_open_mesh_is_told(cache, monkeypatch):
    vertices, faces = box_mesh((0.06,) * 3)
    lidless = physics.ObjectBody(vertices, faces[2:], name="carton", cache=cache)
    assert lidless.treatment == "open: each hole is closed by a fan around its middle"
    assert lidless.solid.volume == pytest.approx(0.06**3)
    verdict = physics.judge(box_hand(((0.06,) * 3, (0, 0, 0))), lidless.at(np.eye(3), (0.2, 0, 0)))
    assert verdict.object_mesh == lidless.treatment
    assert str(verdict).endswith("; the object's mesh is open: each hole is closed by a fan around its middle")
    monkeypatch.setattr("amt.physics.bodies.convex_parts", lambda *_: [vertices])
    sheet = physics.ObjectBody(vertices, faces[:1], cache=cache)
    assert sheet.treatment == "no surface with an inside: the union of its convex parts (CoACD) stands for it"
    assert sheet.solid.volume == pytest.approx(0.06**3)


def test_holes_that_meet_in_a_vertex_are_closed_each(cache):
    ball = trimesh.creation.icosphere(2, 0.03)
    open_ball = physics.ObjectBody(ball.vertices, ball.faces[:-60], cache=cache)
    assert open_ball.treatment == "open: each hole is closed by a fan around its middle"
    assert 0.8 < open_ball.solid.volume / ball.volume < 1
    at_a_corner = [k for k, face in enumerate(ball.faces) if 0 in face][::2]  # two or more holes, one vertex
    pinched = physics.ObjectBody(ball.vertices, np.delete(ball.faces, at_a_corner, axis=0), cache=cache)
    assert pinched.treatment == open_ball.treatment
    assert pinched.solid.volume == pytest.approx(ball.volume, rel=0.02)


def test_convex_parts_are_kept_by_the_mesh_and_a_damaged_file_is_made_anew(tmp_path, monkeypatch):
    from amt.physics import convex

    vertices, faces = box_mesh((0.06, 0.04, 0.02))
    first = convex.convex_parts(vertices, faces, tmp_path)
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr(convex.package("coacd"), "run_coacd", lambda *_, **__: pytest.fail("looked for again"))
    again = convex.convex_parts(vertices, faces, tmp_path)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    monkeypatch.undo()
    for damage in (b"", b"PK\x03\x04 no zip", kept.read_bytes()[:-20]):
        kept.write_bytes(damage)
        assert len(convex.convex_parts(vertices, faces, tmp_path)) == len(first)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_shipped_hand_is_closed_and_its_fingers_close_toward_the_palm(side):
    model = shipped_hand(side)
    hand = physics.HandBody.of(model.v_template, model)
    assert hand.solid.volume > 1e-4
    assert hand.parts == PARTS
    assert set(np.unique(hand.part_of)) == {-1, *range(16)}
    palmar = hand.directions["palmar"]
    assert palmar[1] < -0.99  # the palm faces down at rest
    assert hand.directions["radial"][2] > 0.9  # the thumb is on the +z side of both hands
    for hinge in hand.hinges[1:]:
        tips = hand.vertices[np.isin(hand.part_of, hinge.parts[-1:])].mean(0)
        assert np.cross(hinge.axis, tips - hinge.anchor) @ palmar > 0.05
    covered = {int(vertex) for _, piece in hand.pieces for vertex in piece}
    assert len(covered) > 0.98 * model.num_vertices


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vertices": np.full((8, 3), np.nan)}, "expected finite vertices"),
        ({"faces": np.array([[0, 1, 99]])}, "a triangle names vertex 99"),
        ({"faces": np.zeros((0, 3), int)}, "expected vertices"),
        (
            {"vertices": box_mesh((60.0,) * 3)[0], "name": "mug"},
            r"mug: reaches 51\.96 m from its middle, more than 2 m; vertices are in metres: divide millimetres by 1000",
        ),
    ],
)
def test_a_mesh_that_cannot_be_judged_is_refused_in_one_line(change, message):
    vertices, faces = box_mesh((0.06,) * 3)
    with pytest.raises(physics.MeshError, match=message) as error:
        physics.ObjectBody(**{"vertices": vertices, "faces": faces, **change})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mass", [0.0, -0.1, float("nan"), float("inf")])
def test_a_mass_that_cannot_be_is_refused(mass):
    with pytest.raises(physics.MeshError, match="mug: expected a mass above 0 kg, or None, got"):
        physics.ObjectBody(*box_mesh((0.06,) * 3), known_mass=mass, name="mug")


def test_a_mesh_of_a_grain_of_sand_is_refused():
    with pytest.raises(physics.MeshError, match=r"mug: is 0\.6 mm large, less than 2 mm; vertices are in metres"):
        physics.ObjectBody(*box_mesh((0.0006,) * 3), name="mug")


def test_a_hold_test_that_makes_no_sense_is_refused():
    for change in ({"friction": -1}, {"friction": np.nan}, {"travel": 0}, {"seconds": np.inf}, {"most_turned": -1}):
        (name,) = change
        with pytest.raises(ValueError, match=f"HoldTest: {name} must .* finite, got"):
            physics.HoldTest(**change)
    physics.HoldTest(force=0, friction=0, settle=0)


def test_a_simulation_that_becomes_unstable_ends_and_holds_nothing(ball, monkeypatch):
    """MuJoCo puts it back to the beginning, time included: the loop would never end."""
    import mujoco

    monkeypatch.setattr(mujoco, "mj_step", lambda model, data, steps: mujoco.mj_resetData(model, data))
    result = hold(cage(), ball)
    assert not any(outcome.holds for outcome in result.by_gravity.values())


def test_a_table_is_judged_with_few_triangles(cache):
    """6 m² in triangles of 5 mm edges would be half a million."""
    table = box_object((2.0, 1.0, 0.3), cache)
    assert len(table.surface.faces) < 1_000_000
    hand = box_hand(((0.06,) * 3, (0, 0, 0.178)))
    verdict = physics.judge(hand, table, physics.HoldTest(seconds=0.02))
    assert verdict.hand_depth_mm == pytest.approx(2, abs=1e-6)
    assert verdict.volume_cm3 == pytest.approx(0.2 * 6 * 6, abs=1e-6)


def test_a_wrong_pose_and_an_open_hand_are_refused(cache):
    held = box_object((0.06,) * 3, cache)
    with pytest.raises(physics.MeshError, match="box: expected a rotation"):
        held.at(2 * np.eye(3), np.zeros(3))
    with pytest.raises(physics.MeshError, match="box: expected a rotation"):
        held.at(np.eye(3), np.full(3, np.nan))
    with pytest.raises(physics.MeshError, match="box: expected a rotation"):
        held.at(np.diag((-1.0, 1, 1)), np.zeros(3))  # a mirror
    hand = box_hand(((0.06,) * 3, (0, 0, 0)))
    with pytest.raises(physics.MeshError, match="its surface is open"):
        physics.judge(replace(hand, faces=hand.faces[1:]), held)
    with pytest.raises(physics.MeshError, match=rf"hand: expected vertices \[{shipped_hand().num_vertices}, 3\]"):
        physics.HandBody.of(np.zeros((778, 3)), shipped_hand())


def test_a_known_mass_counts_and_an_unknown_one_follows_from_the_volume(cache):
    assert box_object((0.1, 0.1, 0.1), cache).inertia[0] == pytest.approx(0.5)
    assert box_object((0.1, 0.1, 0.1), cache, mass=0.25).inertia[0] == pytest.approx(0.25)
