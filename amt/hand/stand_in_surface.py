"""The surface of the procedural hand: bones, an implicit surface around them, and a mesh of 778 vertices on it.

Used by ``make_stand_in.py`` alone. The surface is a smooth union of tapered capsules along the finger bones, a padded
palm and a forearm stub. Marching cubes meshes it, quadric decimation brings it to 778 vertices, and every vertex then
slides back onto the surface. Design coordinates are anatomical, in mm: d toward the fingertips, h out of the back of
the hand, r toward the thumb; the wrist is the origin.
"""

from __future__ import annotations

import numpy as np

from amt.hand.skeleton import FINGERS, NUM_VERTICES

# (d, h, r) mm of the four points of each finger: MCP, PIP, DIP, tip (thumb: CMC, MCP, IP, tip), and the radius at each.
CUT = -25.0  # d, mm: where the forearm ends
WRIST = np.array((0.0, 0.0, 0.0))


def _ray(start, direction, lengths):
    direction = np.asarray(direction, float) / np.linalg.norm(direction)
    return np.array([np.asarray(start, float) + direction * x for x in np.cumsum((0.0, *lengths))])


BONES = {
    "thumb": np.array(((21.0, -9.0, 19.0), (54.0, -17.0, 46.0), (79.0, -21.0, 63.5), (104.5, -23.5, 77.5))),
    "index": _ray((89.0, 1.0, 25.0), (1.0, -0.05, 0.10), (41.0, 24.5, 22.5)),
    "middle": _ray((91.0, 3.0, 2.5), (1.0, -0.04, 0.00), (44.0, 27.5, 23.5)),
    "ring": _ray((84.0, 1.5, -18.5), (1.0, -0.05, -0.11), (40.5, 26.0, 23.5)),
    "little": _ray((75.0, -2.5, -37.0), (1.0, -0.07, -0.25), (32.0, 18.5, 21.0)),
}
RADII = {
    "thumb": (13.0, 11.5, 10.6, 8.6),
    "index": (10.6, 9.4, 8.3, 7.0),
    "middle": (10.8, 9.6, 8.5, 7.2),
    "ring": (10.2, 9.0, 7.9, 6.7),
    "little": (9.0, 7.9, 7.0, 5.9),
}
# The back of each finger (the nail's side), before it is made perpendicular to the bone.
BACKS = {"thumb": (-0.45, 0.62, 0.64), **{finger: (0.0, 1.0, 0.0) for finger in FINGERS[1:]}}


def finger_frame(finger):
    """Unit vectors of a finger at rest: along it, out of its back, and the axis about which it bends (design frame)."""
    points = BONES[finger]
    along = points[3] - points[0] if finger != "thumb" else points[3] - points[1]
    along = along / np.linalg.norm(along)
    back = np.array(BACKS[finger], float)
    back -= along * (back @ along)
    back /= np.linalg.norm(back)
    return along, back, np.cross(along, back)


def round_cone(p, a, b, ra, rb):
    """Signed distance of points to the hull of two spheres."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    axis = b - a
    length2 = axis @ axis
    rr = ra - rb
    a2 = length2 - rr * rr
    pa = p - a
    y = pa @ axis
    z = y - length2
    x2 = np.sum((pa * length2 - y[..., None] * axis) ** 2, -1)
    y2, z2 = y * y * length2, z * z * length2
    k = np.sign(rr) * rr * rr * x2
    body = (np.sqrt(x2 * a2 / length2) + y * rr) / length2 - ra
    far = np.sqrt(x2 + z2) / length2 - rb
    near = np.sqrt(x2 + y2) / length2 - ra
    return np.where(np.sign(z) * a2 * z2 > k, far, np.where(np.sign(y) * a2 * y2 < k, near, body))


def smooth_min(a, b, k):
    h = np.clip(0.5 + 0.5 * (b - a) / k, 0, 1)
    return b + (a - b) * h - k * h * (1 - h)


def squash(p, direction, factor, centre):
    """Points scaled by ``factor`` along ``direction``: a body made there becomes 1 / factor as thick."""
    offset = (p - centre) @ direction
    return p + np.outer(offset * (factor - 1), direction)


def finger_distance(p, finger):
    points, radii = BONES[finger], RADII[finger]
    along, back, _ = finger_frame(finger)
    q = squash(p, back, 1.10 if finger != "thumb" else 1.12, points[1])
    if finger == "thumb":  # the pad is flatter than the shaft
        reach = np.clip(((p - points[2]) @ along + 4) / 14, 0, 1)
        q = q + np.outer(reach * ((p - points[2]) @ back) * 0.18, back)
    tip = points[3] - along * radii[3]
    d = round_cone(q, points[0], points[1], radii[0], radii[1])
    d = smooth_min(d, round_cone(q, points[1], points[2], radii[1] * 0.97, radii[2]), 3.0)
    d = smooth_min(d, round_cone(q, points[2], tip, radii[2] * 0.98, radii[3]), 3.0)
    # Pulps: soft pads on the palmar side of each phalanx and of the fingertip.
    scale = radii[1] / 9.4
    spans = ((0, 1, 0.58), (1, 2, 0.5), (2, 3, 0.52)) if finger != "thumb" else ((1, 2, 0.5), (2, 3, 0.55))
    for a, b, at in spans:
        centre = points[a] * (1 - at) + points[b] * at
        half = (points[b] - points[a]) * 0.16
        pad = round_cone(
            q, centre - half - back * 2.6 * scale, centre + half - back * 2.6 * scale, 6.6 * scale, 6.2 * scale
        )
        d = smooth_min(d, pad, 4.0)
    # Knuckles: a slight swelling over the middle joint.
    knuckle = np.linalg.norm(q - points[1] - back * 1.6 * scale, axis=-1) - radii[1] * 0.93
    return smooth_min(d, knuckle, 4.0)


def hand_distance(p):
    """Signed distance (mm, negative inside; not exact in the blends) of points [N, 3] in the design frame."""
    index, ring, little = BONES["index"], BONES["ring"], BONES["little"]
    up = np.array((0.0, 1.0, 0.0))

    # The palm: a metacarpal a finger, reaching past the MCP joints to where the webs are, flattened.
    q = squash(p, up, 1.18, WRIST)
    palm = None
    carpals = ((8, 0, 11), (6, 0, 3), (6, -0.5, -6), (8, -1, -14))
    for finger, carpal, base, knuckle in zip(
        FINGERS[1:], carpals, (15, 15.5, 15, 14), (12.2, 12.6, 12.0, 10.6), strict=True
    ):
        points = BONES[finger]
        along = finger_frame(finger)[0]
        reach = points[0] + along * 9 - up * 2.0
        cone = round_cone(q, np.array(carpal, float) - up * 1.0, reach, base, knuckle)
        palm = cone if palm is None else smooth_min(palm, cone, 9.0)
    # The pad under the MCP joints, and the hypothenar on the little finger's side.
    pads = round_cone(q, index[0] + (-3, -8, -3), ring[0] + (-3, -8, 0), 10.5, 10.0)
    pads = smooth_min(pads, round_cone(q, ring[0] + (-3, -8, 0), little[0] + (-1, -6, 2), 10.0, 9.5), 6.0)
    palm = smooth_min(palm, pads, 9.0)
    palm = smooth_min(palm, round_cone(q, (14, -9, -19), (52, -8, -32), 14.0, 12.5), 10.0)

    # The thenar, and the web between thumb and index.
    thenar = round_cone(p, (14, -9, 13), (48, -17, 39), 14.5, 13.0)
    palm = smooth_min(palm, thenar, 10.0)
    web = round_cone(p, (46, -9, 26), (60, -7, 37), 11.0, 6.5)
    palm = smooth_min(palm, web, 11.0)

    # The forearm: an ellipse that widens toward the elbow.
    q = squash(p, up, 1.36, WRIST)
    arm = round_cone(q, (-60, -1, -2), (4, -1, -1), 28.5, 25.5)
    body = smooth_min(palm, arm, 14.0)

    # Fingers do not merge with each other, only with the palm.
    fingers = np.minimum.reduce([finger_distance(p, f) for f in FINGERS[1:]])
    body = smooth_min(body, fingers, 7.0)
    return smooth_min(body, finger_distance(p, "thumb"), 8.0)


def gradient(p, step=0.25):
    g = np.stack([hand_distance(p + e) - hand_distance(p - e) for e in np.eye(3) * step], -1)
    return g / np.linalg.norm(g, axis=-1, keepdims=True).clip(1e-9)


def make_mesh(spacing=1.8):
    """Vertices [778, 3] (design frame, mm) and faces [1552, 3], closed, wound outward in MANO's frame."""
    import fast_simplification
    import trimesh
    from scipy.spatial import cKDTree
    from skimage.measure import marching_cubes

    low, high = np.array((CUT, -44, -72)), np.array((196.0, 30, 100))
    axes = [np.arange(a, b, spacing) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    values = np.concatenate([hand_distance(slab.reshape(-1, 3)) for slab in grid]).reshape(grid.shape[:-1])
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=(spacing,) * 3)
    vertices = vertices + low
    mesh = close_wrist(trimesh.Trimesh(vertices, faces))

    # Decimation keeps detail where things are large: enlarged fingers and fingertips keep more vertices than the palm.
    dense = np.asarray(mesh.vertices)
    stretched = dense * (1 + 0.4 * smoothstep((dense[:, :1] - 40) / 150))
    for finger in FINGERS:
        centre = BONES[finger][3] - finger_frame(finger)[0] * 6
        near = np.exp(-np.sum((dense - centre) ** 2, -1, keepdims=True) / (2 * 13.0**2))
        stretched = stretched + 1.1 * near * (dense - centre)
    points, triangles = fast_simplification.simplify(
        stretched / 200, np.asarray(mesh.faces, np.int32), target_count=2 * NUM_VERTICES - 4, agg=5
    )
    points = relax(dense[cKDTree(stretched).query(points * 200)[1]], triangles)
    mesh = trimesh.Trimesh(points, triangles, process=False)
    if len(points) != NUM_VERTICES or not mesh.is_watertight or mesh.euler_number != 2:
        raise RuntimeError(f"decimation left {len(points)} vertices, Euler number {mesh.euler_number}")
    if (
        np.linalg.det(np.stack((points[triangles[:, 0]], points[triangles[:, 1]], points[triangles[:, 2]]), 1)).sum()
        > 0
    ):
        triangles = triangles[:, ::-1]  # the design frame is left-handed: inward there is outward in MANO's
    return points, triangles


def close_wrist(mesh):
    """The mesh, open where the grid ended, closed there by a fan around the middle of the cut."""
    import trimesh

    edges = mesh.edges[trimesh.grouping.group_rows(mesh.edges_sorted, require_count=1)]
    middle = mesh.vertices[np.unique(edges)].mean(0)
    fan = np.column_stack((edges[:, ::-1], np.full(len(edges), len(mesh.vertices))))
    return trimesh.Trimesh(np.vstack((mesh.vertices, middle)), np.vstack((mesh.faces, fan)))


def relax(points, triangles, rounds=30):
    """Slides vertices along the surface toward the middle of their neighbours, then drops them back onto it."""
    average = neighbour_average(len(points), triangles)
    rim = points[:, :1] < CUT + 0.5
    for _ in range(rounds):
        normal = gradient(points)
        pull = average @ points - points
        pull -= normal * np.sum(pull * normal, -1, keepdims=True)
        moved = points + 0.35 * pull
        moved = moved - gradient(moved) * hand_distance(moved)[:, None].clip(-1, 1)
        points = np.where(rim, points, moved)
    return points


def neighbour_average(count, triangles):
    from scipy.sparse import coo_matrix, diags

    i = np.concatenate([triangles[:, a] for a in (0, 1, 2, 1, 2, 0)])
    j = np.concatenate([triangles[:, a] for a in (1, 2, 0, 0, 1, 2)])
    adjacency = coo_matrix((np.ones(len(i)), (i, j)), shape=(count, count)).tocsr()
    adjacency.data[:] = 1
    return diags(1 / np.asarray(adjacency.sum(1))[:, 0]) @ adjacency


def smoothstep(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
