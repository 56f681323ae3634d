// The arithmetic of one joint and one tap of refine, shared by the CPU and CUDA kernels: projection, taps, and the
// derivatives of both. amt/kernels/refine/reference.py is the definition. T is float or double, whatever the maps hold.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/host_device.h"

namespace amt::refine {

constexpr int max_maps = 4;

// Bits of refine_backward's `needs`.
constexpr int64_t needs_coordinates = 1;  // the gradients of joints and intrinsics
constexpr int64_t needs_maps = 2;
constexpr int64_t needs_weights = 4;

template <class T>
struct Constants {
  static constexpr T nearest_depth = T(1e-3);  // m: a joint at or behind it has no projection
  static constexpr T relative_unit = T(0.1);   // m: scale of the wrist-relative inputs of the MLP
  static constexpr T inverse_sqrt2 = T(0.70710678118654752440);
  static constexpr T inverse_sqrt_2pi = T(0.39894228040143267794);
};

// x - x is 0 for a finite x and NaN otherwise: needs no <cmath> overload, inlines everywhere.
template <class T>
AMT_INLINE bool is_finite(T x) {
  return x - x == T(0);
}

// Inputs C, C + 1, C + 2 of the MLP; 0, and without a gradient, where the difference is not finite.
template <class T>
AMT_INLINE T relative(T joint, T wrist) {
  const T value = (joint - wrist) / Constants<T>::relative_unit;
  return is_finite(value) ? value : T(0);
}

// What a gradient of `relative` adds to the joint; the wrist gets the same, negated.
template <class T>
AMT_INLINE T relative_backward(T joint, T wrist, T grad) {
  return is_finite((joint - wrist) / Constants<T>::relative_unit) ? grad / Constants<T>::relative_unit : T(0);
}

template <class T>
struct Pixel {
  T x, y;        // pixels of the image; 0 where not visible
  bool visible;  // in front of the camera, and a finite projection
};

// joint: 3 values; k: the first six of the row-major intrinsics.
template <class T>
AMT_INLINE Pixel<T> project(const T* joint, const T* k) {
  if (!(joint[2] > Constants<T>::nearest_depth)) return {T(0), T(0), false};
  const T x = (k[0] * joint[0] + k[1] * joint[1] + k[2] * joint[2]) / joint[2];
  const T y = (k[3] * joint[0] + k[4] * joint[1] + k[5] * joint[2]) / joint[2];
  if (!is_finite(x) || !is_finite(y)) return {T(0), T(0), false};
  return {x, y, true};
}

// Adds the gradient (grad_x, grad_y) of the pixel to grad_joint [3] and grad_k [6]; nothing where not visible.
template <class T>
AMT_INLINE void project_backward(const T* joint, const T* k, const Pixel<T>& pixel, T grad_x, T grad_y, T* grad_joint,
                                 T* grad_k) {
  if (!pixel.visible) return;
  const T ux = grad_x / joint[2], uy = grad_y / joint[2];
  for (int i = 0; i < 3; i++) {
    grad_joint[i] += k[i] * ux + k[3 + i] * uy;
    grad_k[i] += ux * joint[i];
    grad_k[3 + i] += uy * joint[i];
  }
  grad_joint[2] -= ux * pixel.x + uy * pixel.y;
}

// The four taps around a pixel, in the order (y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1).
template <class T>
struct Taps {
  int64_t x0, y0;   // the first tap's column and row; it may lie outside
  T fx, fy;         // how far the pixel is from it, in [0, 1)
  unsigned inside;  // bit t: tap t lies in the map. The others read nothing and count as 0.
};

template <class T>
AMT_INLINE T tap_weight(const Taps<T>& taps, int t) {
  return (t & 1 ? taps.fx : T(1) - taps.fx) * (t & 2 ? taps.fy : T(1) - taps.fy);
}

// Column and row of tap t in its map.
template <class T>
AMT_INLINE int64_t tap_x(const Taps<T>& taps, int t) {
  return taps.x0 + (t & 1);
}
template <class T>
AMT_INLINE int64_t tap_y(const Taps<T>& taps, int t) {
  return taps.y0 + (t >> 1);
}

// a * b, rounded: nvcc would fuse it with what is added next, and a pixel on a cell's border would fall to the other
// side.
AMT_INLINE float rounded_product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
AMT_INLINE double rounded_product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// scale_x = map width / image width, scale_y = map height / image height (rounded to T once, by the caller).
template <class T>
AMT_INLINE Taps<T> locate(const Pixel<T>& pixel, T scale_x, T scale_y, int64_t width, int64_t height) {
  if (!pixel.visible) return Taps<T>{0, 0, T(0), T(0), 0u};
  const T x = rounded_product(pixel.x + T(0.5), scale_x) - T(0.5);
  const T y = rounded_product(pixel.y + T(0.5), scale_y) - T(0.5);
  // compared as floats first: 1e30 has no integer, and what is far outside has no tap inside
  if (!(x >= T(-1) && x < T(width) && y >= T(-1) && y < T(height))) return Taps<T>{0, 0, T(0), T(0), 0u};
  const T floor_x = floor(x), floor_y = floor(y);
  Taps<T> taps{static_cast<int64_t>(floor_x), static_cast<int64_t>(floor_y), x - floor_x, y - floor_y, 0u};
  for (int t = 0; t < 4; t++) {
    const int64_t column = tap_x(taps, t), row = tap_y(taps, t);
    if (column >= 0 && column < width && row >= 0 && row < height) taps.inside |= 1u << t;
  }
  return taps;
}

// Gradient of the pixel from one map; dots[t] = sum over the channels of gradient * tap t, 0 for a tap outside.
template <class T>
AMT_INLINE void locate_backward(const Taps<T>& taps, const T* dots, T scale_x, T scale_y, T* grad_x, T* grad_y) {
  *grad_x += scale_x * ((T(1) - taps.fy) * (dots[1] - dots[0]) + taps.fy * (dots[3] - dots[2]));
  *grad_y += scale_y * ((T(1) - taps.fx) * (dots[2] - dots[0]) + taps.fx * (dots[3] - dots[1]));
}

// P(X <= x) of a standard normal; erfc keeps its digits where x is negative.
template <class T>
AMT_INLINE T normal_cdf(T x) {
  return T(0.5) * erfc(-x * Constants<T>::inverse_sqrt2);
}

template <class T>
AMT_INLINE T gelu(T x) {
  return x * normal_cdf(x);
}

template <class T>
AMT_INLINE T gelu_backward(T x) {
  return normal_cdf(x) + x * Constants<T>::inverse_sqrt_2pi * exp(T(-0.5) * x * x);
}

}  // namespace amt::refine
