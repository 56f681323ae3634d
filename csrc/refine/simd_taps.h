// Reading one row's taps in one map, for refine's CPU kernels.
#pragma once

#include "refine/simd_kernels.h"
#include "common/simd_vector.h"

namespace amt::AMT_ISA {
namespace {

using namespace amt::refine;

// What samples are written as.
template <class T>
AMT_INLINE void put(T* to, Vector<T> value) {
  store(to, value);
}
AMT_INLINE void put(bfloat16* to, Vector<float> value) {
#if defined(__AVX512BF16__)
  // in one instruction, which takes numbers below 2^-126 for 0, as the matrix tiles do
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
#else
  narrowing_store(to, value);
#endif
}

// Blends channels [first, first + count) of one map. `ahead`: the taps that are read next; they are prefetched, because
// they lie anywhere in memory.
template <class M, class T, bool WithDots, class Out>
AMT_INLINE void gather_map(const Sample<T>& sample, const Sample<T>* ahead, int64_t first, int64_t count, Out* inputs,
                           const T* grad, T* dots) {
  const M* taps[4];
  for (int t = 0; t < 4; t++) taps[t] = static_cast<const M*>(sample.tap[t]) + first;
  constexpr int lanes = Lanes<T>::count;
  Vector<T> sums[4] = {};
  const auto one = [&](Vector<T> a, Vector<T> b, Vector<T> c, Vector<T> d, Vector<T> g) __attribute__((always_inline)) {
    if constexpr (WithDots) {
      sums[0] += a * g;
      sums[1] += b * g;
      sums[2] += c * g;
      sums[3] += d * g;
    }
    return a * sample.weight[0] + b * sample.weight[1] + c * sample.weight[2] + d * sample.weight[3];
  };
  int64_t c = 0;
  for (; c + lanes <= count; c += lanes) {
    if (ahead)
      for (int t = 0; t < 4; t++) __builtin_prefetch(static_cast<const M*>(ahead->tap[t]) + first + c, 0, 2);
    Vector<T> g{};
    if constexpr (WithDots) g = load(grad + c);
    put(inputs + c, one(widening_load(taps[0] + c), widening_load(taps[1] + c), widening_load(taps[2] + c),
                        widening_load(taps[3] + c), g));
  }
  if (const int64_t n = count - c; n > 0) {
    Vector<T> g{};
    if constexpr (WithDots) g = partial_load<T>(grad + c, n);
    partial_store<T>(inputs + c,
                     one(partial_load<T>(taps[0] + c, n), partial_load<T>(taps[1] + c, n),
                         partial_load<T>(taps[2] + c, n), partial_load<T>(taps[3] + c, n), g),
                     n);
  }
  if constexpr (WithDots) {
    for (int t = 0; t < 4; t++) {
      T sum = 0;
      for (int i = 0; i < lanes; i++) sum += sums[t][i];
      dots[t] = sum;
    }
  }
}

}  // namespace
}  // namespace amt::AMT_ISA
