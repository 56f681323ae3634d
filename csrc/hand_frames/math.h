// The frames of one finger and of the palm, forward and backward, for CPU and CUDA. T is float or double, or a vector
// of them with one hand a lane (simd_frames.cpp), so every condition is a select and no lane waits for another.
//
// A frame only rotates, so backward carries torques instead of gradients of nine numbers. A rotation w of the frame
// (each column r moves by w x r) changes the loss by w . t with t = sum of r x dL/dr. With h = z + b, 1 + c = h.h / 2,
// the shortest arc from z to b rotates a child by  w' = w + b x e - b (e . z x b) / (1 + c),  e = db - w x b,  which
// gives
//   dL/db = t' x b - (t'.b) (z x b) / (1 + c)      and, for the parent,      t = (t'.b) h / (1 + c).
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace amt::frames {

constexpr int num_joints = 21, num_frames = 22, num_fingers = 5, bones_per_finger = 4;
constexpr int wrist = 0, index_base = 5, little_base = 17, wrist_frame = 20, palm_frame = 21;
constexpr double flat_sine = 1e-6;        // sine of the angle at the wrist under which the palm has no normal
constexpr double smallest_size = 1e-37;   // its reciprocal is finite in float32
constexpr double reversed_length = 1e-6;  // size of z + b under which a bone points straight back along its parent

// Bone i of a finger goes from the joint before to this one: base, two in the middle, tip.
AMT_INLINE constexpr int joint_of(int finger, int i) { return 1 + bones_per_finger * finger + i; }
AMT_INLINE constexpr int frame_of(int finger, int i) {
  return i == 3 ? finger : i == 0 ? num_fingers + finger : 2 * num_fingers + 2 * finger + i - 1;
}

template <class T>
concept Vector = requires(T v) { v[0]; };

template <class T>
AMT_INLINE T constant(double x) {
  if constexpr (Vector<T>)
    return T{} + static_cast<decltype(T{}[0] + 0)>(x);
  else
    return static_cast<T>(x);
}
template <class M, class T>
AMT_INLINE T select(M mask, T a, T b) {
  return mask ? a : b;
}
template <class T>
AMT_INLINE T absolute(T x) {
  return select(x < constant<T>(0), -x, x);
}
AMT_INLINE float root(float x) { return __builtin_sqrtf(x); }
AMT_INLINE double root(double x) { return __builtin_sqrt(x); }
template <Vector T>
AMT_INLINE T root(T x) {
  for (int i = 0; i < static_cast<int>(sizeof(T) / sizeof(x[0])); ++i) x[i] = root(x[i]);
  return x;
}

// The type of forward's arithmetic for every dtype of the joints. An arc of nearly 180 degrees amplifies every rounding
// along a finger: in float32 the frames of a rotated hand would differ from the rotated frames by more than 1e-5.
using Exact = double;

template <class T>
struct Vec3 {
  T x, y, z;
};
template <class T>
struct Frame {
  Vec3<T> x, y, z;
};  // the columns of a rotation

template <class T>
AMT_INLINE Vec3<T> operator+(Vec3<T> a, Vec3<T> b) {
  return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class T>
AMT_INLINE Vec3<T> operator-(Vec3<T> a, Vec3<T> b) {
  return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <class T>
AMT_INLINE Vec3<T> operator-(Vec3<T> a) {
  return {-a.x, -a.y, -a.z};
}
template <class T>
AMT_INLINE Vec3<T> operator*(Vec3<T> a, T s) {
  return {a.x * s, a.y * s, a.z * s};
}
template <class T>
AMT_INLINE T dot(Vec3<T> a, Vec3<T> b) {
  return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class T>
AMT_INLINE Vec3<T> cross(Vec3<T> a, Vec3<T> b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
template <class T>
AMT_INLINE T manhattan(Vec3<T> a) {
  return absolute(a.x) + absolute(a.y) + absolute(a.z);
}
template <class M, class T>
AMT_INLINE Vec3<T> select(M mask, Vec3<T> a, Vec3<T> b) {
  return {select(mask, a.x, b.x), select(mask, a.y, b.y), select(mask, a.z, b.z)};
}
template <class T>
AMT_INLINE Vec3<T> zero3() {
  return {constant<T>(0), constant<T>(0), constant<T>(0)};
}
template <class T>
AMT_INLINE Vec3<T> torque_of(Frame<T> f, Frame<T> grad) {
  return cross(f.x, grad.x) + cross(f.y, grad.y) + cross(f.z, grad.z);
}

// What brings a vector of this size to about 1, so that squares of 1e20 and 1e-20 stay in range.
template <class T>
AMT_INLINE T scale_for(T size) {
  return constant<T>(1) / select(size < constant<T>(smallest_size), constant<T>(smallest_size), size);
}

// From the wrist to the bases of index and little finger, times one common scale. NaN is never "none" nor "flat": it
// comes out where it came in.
template <class T>
struct Palm {
  Vec3<T> index, little;
  T scale, per_normal, per_middle;  // 1 / length of index x little and of index + little
  Frame<T> frame;
  decltype(T{} <= T{}) flat;
};

template <class T>
AMT_INLINE Palm<T> palm_of(Vec3<T> wrist, Vec3<T> index, Vec3<T> little) {
  const T zero = constant<T>(0), one = constant<T>(1);
  Palm<T> p;
  p.index = index - wrist;
  p.little = little - wrist;
  p.scale = scale_for(manhattan(p.index) + manhattan(p.little));
  p.index = p.index * p.scale;
  p.little = p.little * p.scale;
  const Vec3<T> normal = cross(p.index, p.little), middle = p.index + p.little;
  const T length = root(dot(normal, normal));
  p.flat = length <= constant<T>(flat_sine) * root(dot(p.index, p.index) * dot(p.little, p.little));
  p.per_normal = one / select(p.flat, one, length);
  p.per_middle = one / select(p.flat, one, root(dot(middle, middle)));
  Vec3<T> z = middle * p.per_middle;
  Vec3<T> x = cross(z, normal * p.per_normal);
  x = select(p.flat, Vec3<T>{one, zero, zero}, x);
  z = select(p.flat, Vec3<T>{zero, zero, one}, z);
  p.frame = {x, cross(z, x), z};
  return p;
}

// A bone and what its frame needs of its parent: b = bone / |bone|, h = z + b. `still`: no arc, hence no gradient.
template <class T>
struct Bone {
  Vec3<T> b, h, parent_z;
  T per_length, two_over_hh;  // 1 / |bone|
  decltype(T{} <= T{}) still;
};

// Replaces `frame` by the frame carried to the end of the bone.
template <class T>
AMT_INLINE Bone<T> transport(Frame<T>& frame, Vec3<T> bone) {
  const T one = constant<T>(1), tiny = constant<T>(reversed_length);
  Bone<T> s;
  const T size = manhattan(bone), scale = scale_for(size);
  const auto none = size <= constant<T>(0);
  const Vec3<T> scaled = bone * scale;
  const T per_scaled = one / root(select(none, one, dot(scaled, scaled)));
  s.per_length = scale * per_scaled;
  s.b = select(none, frame.z, scaled * per_scaled);
  s.parent_z = frame.z;
  const Vec3<T> h = frame.z + s.b;
  const auto back = (absolute(h.x) <= tiny) & (absolute(h.y) <= tiny) & (absolute(h.z) <= tiny);
  s.h = select(back, frame.z, h);
  s.two_over_hh = constant<T>(2) / dot(s.h, s.h);
  s.still = none | back;
  // x reflected across the plane between z and b; the two corrections undo the rounding of a whole chain
  Vec3<T> x = frame.x - s.h * (dot(s.h, frame.x) * s.two_over_hh);
  x = x - s.b * dot(s.b, x);
  x = x * (constant<T>(1.5) - constant<T>(0.5) * dot(x, x));
  x = select(s.still, frame.x, x);
  const Vec3<T> z = select(none, frame.z, select(back, -frame.z, s.b));
  frame = {x, select(none, frame.y, cross(z, x)), z};
  return s;
}

// `torque` on the bone's frame is replaced by that on its parent's; returns dL/dbone.
template <class T>
AMT_INLINE Vec3<T> transport_backward(const Bone<T>& s, Vec3<T>& torque) {
  const T along = dot(torque, s.b) * s.two_over_hh;
  const Vec3<T> grad_bone = (cross(torque, s.b) - cross(s.parent_z, s.h) * along) * s.per_length;
  torque = select(s.still, torque, s.h * along);
  return select(s.still, zero3<T>(), grad_bone);
}

// dL/dindex and dL/dlittle from the torque on the palm's frame; the wrist gets minus their sum.
template <class T>
AMT_INLINE void palm_backward(const Palm<T>& p, Vec3<T> torque, Vec3<T>& grad_index, Vec3<T>& grad_little) {
  const Vec3<T> grad_middle = cross(torque, p.frame.z) * p.per_middle;
  const Vec3<T> grad_normal = p.frame.x * (dot(torque, p.frame.z) * p.per_normal);
  grad_index = select(p.flat, zero3<T>(), (grad_middle + cross(p.little, grad_normal)) * p.scale);
  grad_little = select(p.flat, zero3<T>(), (grad_middle + cross(grad_normal, p.index)) * p.scale);
}

}  // namespace amt::frames
