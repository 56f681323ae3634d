"""The arithmetic of ``hand_frames`` in Triton: a block of hands by eight lanes, one for each finger.

The same steps as csrc/hand_frames/math.h, where the derivation of the backward stands. A vector is a tuple of three blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl

LANES = tl.constexpr(8)  # five fingers; the other lanes repeat the thumb and count for nothing
FINGERS = tl.constexpr(5)
WRIST_FRAME = tl.constexpr(20)
PALM_FRAME = tl.constexpr(21)
FLAT = tl.constexpr(1e-6)
REVERSED = tl.constexpr(1e-6)
SMALLEST_SIZE = tl.constexpr(1e-37)


@triton.jit
def add(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@triton.jit
def subtract(a, b):
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


@triton.jit
def times(a, s):
    return a[0] * s, a[1] * s, a[2] * s


@triton.jit
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@triton.jit
def select(mask, a, b):
    return tl.where(mask, a[0], b[0]), tl.where(mask, a[1], b[1]), tl.where(mask, a[2], b[2])


@triton.jit
def size_of(a):
    return tl.abs(a[0]) + tl.abs(a[1]) + tl.abs(a[2])


@triton.jit
def scale_for(size):
    return 1.0 / tl.where(size < SMALLEST_SIZE, SMALLEST_SIZE, size)


@triton.jit
def load3(at, mask):
    x = tl.load(at, mask=mask, other=0.0)
    y = tl.load(at + 1, mask=mask, other=0.0)
    return x, y, tl.load(at + 2, mask=mask, other=0.0)


@triton.jit
def load_joint(at, mask, EXACT: tl.constexpr):
    """EXACT: in float64, as csrc/hand_frames/math.h says why."""
    a = load3(at, mask)
    if EXACT:
        a = (a[0].to(tl.float64), a[1].to(tl.float64), a[2].to(tl.float64))
    return a


@triton.jit
def store3(at, a, mask):
    tl.store(at, a[0], mask=mask)
    tl.store(at + 1, a[1], mask=mask)
    tl.store(at + 2, a[2], mask=mask)


@triton.jit
def store_columns(at, x, y, z, mask):
    for row in tl.static_range(3):
        tl.store(at + 3 * row, x[row], mask=mask)
        tl.store(at + 3 * row + 1, y[row], mask=mask)
        tl.store(at + 3 * row + 2, z[row], mask=mask)


@triton.jit
def load_torque(at, x, y, z, mask):
    """Sum of r x dL/dr over the columns r of a frame whose gradient is at ``at``."""
    grad_x = load_column(at, mask)
    grad_y = load_column(at + 1, mask)
    grad_z = load_column(at + 2, mask)
    return add(add(cross(x, grad_x), cross(y, grad_y)), cross(z, grad_z))


@triton.jit
def load_column(at, mask):
    a = tl.load(at, mask=mask, other=0.0)
    b = tl.load(at + 3, mask=mask, other=0.0)
    return a, b, tl.load(at + 6, mask=mask, other=0.0)


@triton.jit
def palm_of(joints, mask, EXACT: tl.constexpr):
    wrist = load_joint(joints, mask, EXACT)
    index = subtract(load_joint(joints + 15, mask, EXACT), wrist)
    little = subtract(load_joint(joints + 51, mask, EXACT), wrist)
    scale = scale_for(size_of(index) + size_of(little))
    index, little = times(index, scale), times(little, scale)
    normal, middle = cross(index, little), add(index, little)
    length = tl.sqrt(dot(normal, normal))
    flat = length <= tl.sqrt(dot(index, index) * dot(little, little)) * FLAT
    per_normal = 1.0 / tl.where(flat, 1.0, length)
    per_middle = 1.0 / tl.where(flat, 1.0, tl.sqrt(dot(middle, middle)))
    z = times(middle, per_middle)
    x = cross(z, times(normal, per_normal))
    zero = tl.zeros_like(scale)
    x = select(flat, (zero + 1.0, zero, zero), x)
    z = select(flat, (zero, zero, zero + 1.0), z)
    return wrist, x, cross(z, x), z, index, little, scale, per_normal, per_middle, flat


@triton.jit
def transport(x, y, z, bone):
    """The frame at the end of the bone, and what backward needs of the bone: b, h, 1 / |bone|, 2 / h.h, still."""
    size = size_of(bone)
    scale = scale_for(size)
    none = size <= 0.0
    scaled = times(bone, scale)
    per_scaled = 1.0 / tl.sqrt(tl.where(none, 1.0, dot(scaled, scaled)))
    b = select(none, z, times(scaled, per_scaled))
    h = add(z, b)
    back = (tl.abs(h[0]) <= REVERSED) & (tl.abs(h[1]) <= REVERSED) & (tl.abs(h[2]) <= REVERSED)
    h = select(back, z, h)
    two_over_hh = 2.0 / dot(h, h)
    still = none | back
    carried = subtract(x, times(h, dot(h, x) * two_over_hh))
    carried = subtract(carried, times(b, dot(b, carried)))
    carried = times(carried, 1.5 - 0.5 * dot(carried, carried))
    new_x = select(still, x, carried)
    new_z = select(none, z, select(back, (-z[0], -z[1], -z[2]), b))
    new_y = select(none, y, cross(new_z, new_x))
    return new_x, new_y, new_z, b, h, scale * per_scaled, two_over_hh, still


@triton.jit
def transport_backward(torque, z, b, h, per_length, two_over_hh, still):
    along = dot(torque, b) * two_over_hh
    grad_bone = times(subtract(cross(torque, b), times(cross(z, h), along)), per_length)
    zero = tl.zeros_like(along)
    return select(still, torque, times(h, along)), select(still, (zero, zero, zero), grad_bone)


@triton.jit
def over_fingers(a, finger):
    """The sum over a hand's fingers, back in every lane."""
    counts = finger < FINGERS
    x = tl.sum(tl.where(counts, a[0], 0.0), axis=1)[:, None]
    y = tl.sum(tl.where(counts, a[1], 0.0), axis=1)[:, None]
    z = tl.sum(tl.where(counts, a[2], 0.0), axis=1)[:, None]
    zero = tl.zeros_like(a[0])
    return zero + x, zero + y, zero + z


@triton.jit
def forward_kernel(joints, origins, rotations, hands, BLOCK: tl.constexpr):
    hand = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)[:, None]
    finger = tl.arange(0, LANES)[None, :]
    there = (hand < hands) & (finger >= 0)
    counts = there & (finger < FINGERS)
    lane = tl.where(finger < FINGERS, finger, 0)
    joints += hand * 63 + lane * 0
    origins += hand * 66 + lane * 0
    rotations += hand * 198 + lane * 0
    wrist, x, y, z, _, _, _, _, _, _ = palm_of(joints, there, True)
    once = there & (finger == 0)
    store3(origins + 3 * WRIST_FRAME, wrist, once)
    store_columns(rotations + 9 * WRIST_FRAME, x, y, z, once)
    store_columns(rotations + 9 * PALM_FRAME, x, y, z, once)
    base = joints + 3 + 12 * lane
    center = over_fingers(load_joint(base, counts, True), finger)
    store3(origins + 3 * PALM_FRAME, times(add(center, wrist), 1.0 / 6.0), once)
    start = wrist
    for i in tl.static_range(4):
        end = load_joint(base + 3 * i, there, True)
        x, y, z, _, _, _, _, _ = transport(x, y, z, subtract(end, start))
        frame = lane if i == 3 else (lane + FINGERS if i == 0 else lane * 2 + (2 * FINGERS + i - 1))
        store3(origins + 3 * frame, end, counts)
        store_columns(rotations + 9 * frame, x, y, z, counts)
        start = end


@triton.jit
def backward_kernel(grad_origins, grad_rotations, joints, grad_joints, hands, BLOCK: tl.constexpr):
    hand = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)[:, None]
    finger = tl.arange(0, LANES)[None, :]
    there = (hand < hands) & (finger >= 0)
    counts = there & (finger < FINGERS)
    lane = tl.where(finger < FINGERS, finger, 0)
    joints += hand * 63 + lane * 0
    grad_joints += hand * 63 + lane * 0
    grad_origins += hand * 66 + lane * 0
    grad_rotations += hand * 198 + lane * 0
    wrist, x0, y0, z0, index, little, scale, per_normal, per_middle, flat = palm_of(joints, there, False)
    base = joints + 3 + 12 * lane
    j1, j2 = load3(base, there), load3(base + 3, there)
    j3, j4 = load3(base + 6, there), load3(base + 9, there)
    x1, y1, z1, b1, h1, l1, t1, s1 = transport(x0, y0, z0, subtract(j1, wrist))
    x2, y2, z2, b2, h2, l2, t2, s2 = transport(x1, y1, z1, subtract(j2, j1))
    x3, y3, z3, b3, h3, l3, t3, s3 = transport(x2, y2, z2, subtract(j3, j2))
    x4, y4, z4, b4, h4, l4, t4, s4 = transport(x3, y3, z3, subtract(j4, j3))

    base_frame, first, second = lane + FINGERS, lane * 2 + 2 * FINGERS, lane * 2 + (2 * FINGERS + 1)
    out = grad_joints + 3 + 12 * lane
    torque = load_torque(grad_rotations + 9 * lane, x4, y4, z4, counts)
    torque, grad_bone4 = transport_backward(torque, z3, b4, h4, l4, t4, s4)
    store3(out + 9, add(load3(grad_origins + 3 * lane, counts), grad_bone4), counts)
    torque = add(torque, load_torque(grad_rotations + 9 * second, x3, y3, z3, counts))
    torque, grad_bone3 = transport_backward(torque, z2, b3, h3, l3, t3, s3)
    store3(out + 6, subtract(add(load3(grad_origins + 3 * second, counts), grad_bone3), grad_bone4), counts)
    torque = add(torque, load_torque(grad_rotations + 9 * first, x2, y2, z2, counts))
    torque, grad_bone2 = transport_backward(torque, z1, b2, h2, l2, t2, s2)
    store3(out + 3, subtract(add(load3(grad_origins + 3 * first, counts), grad_bone2), grad_bone3), counts)
    torque = add(torque, load_torque(grad_rotations + 9 * base_frame, x1, y1, z1, counts))
    torque, grad_bone1 = transport_backward(torque, z0, b1, h1, l1, t1, s1)
    center = times(load3(grad_origins + 3 * PALM_FRAME, there), 1.0 / 6.0)
    grad_base = subtract(add(add(load3(grad_origins + 3 * base_frame, counts), center), grad_bone1), grad_bone2)

    palm_torque = over_fingers(torque, finger)
    palm_torque = add(palm_torque, load_torque(grad_rotations + 9 * WRIST_FRAME, x0, y0, z0, there))
    palm_torque = add(palm_torque, load_torque(grad_rotations + 9 * PALM_FRAME, x0, y0, z0, there))
    grad_middle = times(cross(palm_torque, z0), per_middle)
    grad_normal = times(x0, dot(palm_torque, z0) * per_normal)
    zero = tl.zeros_like(scale)
    nothing = (zero, zero, zero)
    grad_index = select(flat, nothing, times(add(grad_middle, cross(little, grad_normal)), scale))
    grad_little = select(flat, nothing, times(add(grad_middle, cross(grad_normal, index)), scale))
    grad_base = add(grad_base, select(lane == 1, grad_index, select(lane == 4, grad_little, nothing)))
    store3(out, grad_base, counts)
    grad_wrist = subtract(add(load3(grad_origins + 3 * WRIST_FRAME, there), center), over_fingers(grad_bone1, finger))
    store3(grad_joints, subtract(subtract(grad_wrist, grad_index), grad_little), there & (finger == 0))
