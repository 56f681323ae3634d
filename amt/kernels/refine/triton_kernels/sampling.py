"""Device functions that every Triton kernel of ``refine`` shares: projection, taps and bilinear samples.

Coordinates are float32 for maps of every dtype; offsets into a map are int64. Whether a tap lies inside its map is decided in
floating point, before its coordinate becomes an address.
"""

from __future__ import annotations

import triton
import triton.language as tl

NEAREST_DEPTH = tl.constexpr(1e-3)  # m, as in reference.py
RELATIVE_UNIT = tl.constexpr(0.1)  # m
LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def is_finite(x):
    return tl.abs(x) <= LARGEST  # false for NaN as well


@triton.jit
def load_joint(entering, offset, valid):
    x = tl.load(entering + offset, mask=valid, other=0.0)
    y = tl.load(entering + offset + 1, mask=valid, other=0.0)
    z = tl.load(entering + offset + 2, mask=valid, other=0.0)
    return x, y, z


@triton.jit
def load_camera(intrinsics, image, valid):
    """The first two rows of K of each row's image."""
    camera = intrinsics + image * 9
    k00 = tl.load(camera, mask=valid, other=0.0)
    k01 = tl.load(camera + 1, mask=valid, other=0.0)
    k02 = tl.load(camera + 2, mask=valid, other=0.0)
    k10 = tl.load(camera + 3, mask=valid, other=0.0)
    k11 = tl.load(camera + 4, mask=valid, other=0.0)
    k12 = tl.load(camera + 5, mask=valid, other=0.0)
    return k00, k01, k02, k10, k11, k12


@triton.jit
def project(x, y, z, camera, valid):
    """Pixels u, v and whether the projection exists; pixels are 0 where it does not."""
    in_front = valid & (z > NEAREST_DEPTH)
    safe = tl.where(in_front, z, 1.0)
    u = tl.div_rn(camera[0] * x + camera[1] * y + camera[2] * safe, safe)
    v = tl.div_rn(camera[3] * x + camera[4] * y + camera[5] * safe, safe)
    visible = in_front & is_finite(u) & is_finite(v)
    return tl.where(visible, u, 0.0), tl.where(visible, v, 0.0), visible


@triton.jit
def relative_to_wrist(entering, x, y, z, wrist_offset, valid):
    """(joint - wrist) / 0.1 m per component; 0 where that is not finite: a wrist of NaN stays in its own joint."""
    wrist_x, wrist_y, wrist_z = load_joint(entering, wrist_offset, valid)
    rx = (x - wrist_x) / RELATIVE_UNIT
    ry = (y - wrist_y) / RELATIVE_UNIT
    rz = (z - wrist_z) / RELATIVE_UNIT
    return tl.where(is_finite(rx), rx, 0.0), tl.where(is_finite(ry), ry, 0.0), tl.where(is_finite(rz), rz, 0.0)


@triton.jit
def corner(pixel, visible, length, scale):
    """Along one axis: the lower cell's index, the fraction towards the upper one, and whether each lies in the map."""
    position = (pixel + 0.5) * scale - 0.5
    below = tl.floor(position)
    has_lower = visible & (below >= 0.0) & (below < length)
    has_upper = visible & (below >= -1.0) & (below < length - 1)
    near = has_lower | has_upper
    fraction = tl.where(near, position - below, 0.0)
    return tl.where(near, below, 0.0).to(tl.int64), fraction, has_lower, has_upper


@triton.jit
def load_tap(feature_map, offset, inside, channel, num_channels):
    mask = inside[:, None] & (channel < num_channels)[None, :]
    return tl.load(feature_map + offset[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_taps(feature_map, size, scale, stride, image, u, v, visible, channel, num_channels):
    """The four taps [rows, channels] around each pixel in float32 (0 outside) and the fractions along x and y.

    ``size`` is (height, width), ``scale`` the map's cells per pixel along (x, y), ``stride`` that of (image, y, x);
    ``image`` is int64.
    """
    column, fx, left, right = corner(u, visible, size[1], scale[0])
    row, fy, top, bottom = corner(v, visible, size[0], scale[1])
    base = image * stride[0] + row * stride[1] + column * stride[2]
    t00 = load_tap(feature_map, base, top & left, channel, num_channels)
    t01 = load_tap(feature_map, base + stride[2], top & right, channel, num_channels)
    t10 = load_tap(feature_map, base + stride[1], bottom & left, channel, num_channels)
    t11 = load_tap(feature_map, base + stride[1] + stride[2], bottom & right, channel, num_channels)
    return t00, t01, t10, t11, fx, fy


@triton.jit
def sample(feature_map, size, scale, stride, image, u, v, visible, channel, num_channels):
    """Bilinear samples [rows, channels] in float32: zeros outside the map and where not visible."""
    t00, t01, t10, t11, fx, fy = load_taps(
        feature_map, size, scale, stride, image, u, v, visible, channel, num_channels
    )
    fx = fx[:, None]
    fy = fy[:, None]
    return (1 - fy) * ((1 - fx) * t00 + fx * t01) + fy * ((1 - fx) * t10 + fx * t11)


@triton.jit
def gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_derivative(x):
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def dot(a, b, acc, UPCAST: tl.constexpr):
    """acc + a b, accumulated in float32; float32 operands are multiplied as three tf32 products (tf32x3).

    ``UPCAST``: bfloat16 operands in Triton's interpreter, whose bfloat16 arithmetic is wrong.
    """
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision="tf32x3")
