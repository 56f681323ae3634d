// GELU by vectors, and the second layer of refine's MLP: what follows the first layer's products.
#pragma once

#include <cmath>
#include <type_traits>

#include "refine/simd_kernels.h"
#include "common/simd_vector.h"

namespace amt::AMT_ISA {
namespace {

using namespace amt::refine;

// Accumulators of two vectors each: as many as leave registers for the operands.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int most_broadcast = 12;
#else
constexpr int most_broadcast = 6;
#endif

// P(X <= x) of a standard normal: 1/2 + x P(x^2) / Q(x^2), fitted on |x| <= 5.5 to 7.2e-9. Beyond, exactly 0 or 1: what
// is left of it would be multiplied by x.
AMT_INLINE Vector<float> vector_cdf(Vector<float> x) {
  const Vector<float> t = x * x;
  const Vector<float> p = ((((2.2749391703769106e-08f * t + 6.352114269247977e-06f) * t + 0.00016882558702491224f) * t +
                            0.004677260294556618f) *
                               t +
                           0.03385264053940773f) *
                              t +
                          0.398942232131958f;
  const Vector<float> q = ((((1.1975043889833614e-06f * t + 7.364746124949306e-05f) * t + 0.0018844443839043379f) * t +
                            0.028645867481827736f) *
                               t +
                           0.25152191519737244f) *
                              t +
                          1.0f;
  const Vector<float> inside = x * p / q + 0.5f;
  return x < -5.5f ? Vector<float>{} : x > 5.5f ? broadcast(1.0f) : inside;
}

AMT_INLINE Vector<float> vector_gelu(Vector<float> x) { return x * vector_cdf(x); }

AMT_INLINE void vector_gelu_slope(Vector<float> x, Vector<float>* value, Vector<float>* slope) {
  const Vector<float> cdf = vector_cdf(x);
  *value = x * cdf;
  *slope = cdf + x * Constants<float>::inverse_sqrt_2pi * vector_exp(x * x * -0.5f);
}

AMT_INLINE Vector<double> vector_gelu(Vector<double> x) {
  for (int i = 0; i < Lanes<double>::count; i++) x[i] = gelu(x[i]);
  return x;
}

AMT_INLINE void vector_gelu_slope(Vector<double> x, Vector<double>* value, Vector<double>* slope) {
  *value = vector_gelu(x);
  for (int i = 0; i < Lanes<double>::count; i++) (*slope)[i] = gelu_backward(x[i]);
}

AMT_INLINE int64_t blocks_of(int64_t count) { return (count + most_broadcast - 1) / most_broadcast; }

// `Vectors` vectors of a packed tile's rows from `lane` on, on their way from the hidden layer to the offsets.
template <class T, int Vectors>
struct OffsetSums {
  static constexpr int lanes = Lanes<T>::count;
  const Hidden<T>& work;
  const int64_t packed_tile, lane;
  T* const offsets;  // [3, rows of all packed tiles]
  Vector<T> sums[3][Vectors] = {};

  T* at(int c, int v) const { return offsets + (c * work.num_packed + packed_tile) * packed_rows + lane + v * lanes; }

  [[gnu::always_inline]] void resume() {
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) sums[c][v] = load(at(c, v));
  }

  // One unit, its products without their bias.
  [[gnu::always_inline]] void add(int64_t unit, const Vector<T> (&products)[Vectors]) {
    const T* bias = work.bias + (packed_tile * work.bias_units + unit) * packed_rows + lane;
    const T* w2 = work.w2 + unit;
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; v++) {
      const Vector<T> h = products[v] + load(bias + v * lanes);
      if (work.saved) store(work.saved + unit * work.saved_stride + packed_tile * packed_rows + lane + v * lanes, h);
      const Vector<T> g = vector_gelu(h);
#pragma GCC unroll 3
      for (int c = 0; c < 3; c++) sums[c][v] += g * w2[c * work.num_hidden];
    }
  }

  [[gnu::always_inline]] void finish() const {
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) store(at(c, v), sums[c][v]);
  }
};

}  // namespace
}  // namespace amt::AMT_ISA
