// Vectors as wide as the instruction set that a simd_*.cpp file is compiled for, and e^x of them.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "common/cpu_isa.h"
#include "common/host_device.h"

namespace amt::AMT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T>
struct Lanes {
  static constexpr int count = vector_bytes / sizeof(T);
  typedef T type __attribute__((vector_size(vector_bytes)));
  typedef T unaligned __attribute__((vector_size(vector_bytes), aligned(alignof(T)), may_alias));
};
template <class T>
using Vector = typename Lanes<T>::type;

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

template <class T>
AMT_INLINE Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename Lanes<T>::unaligned*>(from);
}
template <class T>
AMT_INLINE void store(T* to, Vector<T> value) {
  *reinterpret_cast<typename Lanes<T>::unaligned*>(to) = value;
}
template <class T>
AMT_INLINE Vector<T> broadcast(T value) {
  return value - Vector<T>{};
}

// e^x for x <= 0: 2^n times a polynomial of what is left, |rest| <= ln 2 / 2; 0 below the smallest normal number.
AMT_INLINE Vector<float> vector_exp(Vector<float> x) {
  typedef int32_t Integer __attribute__((vector_size(vector_bytes)));
  const Vector<float> y = x < -87.0f ? broadcast(-87.0f) : x;
  const Integer n =
      __builtin_convertvector(y * 1.44269504f - 0.5f, Integer);  // truncation rounds half of y <= 0 to nearest
  const Vector<float> whole = __builtin_convertvector(n, Vector<float>);
  const Vector<float> r = (y - whole * 0.693145752f) - whole * 1.42860677e-6f;
  const Vector<float> e =
      ((((((1.0f / 720) * r + 1.0f / 120) * r + 1.0f / 24) * r + 1.0f / 6) * r + 0.5f) * r + 1.0f) * r + 1.0f;
  return x < -87.0f ? Vector<float>{} : e * reinterpret_cast<Vector<float>>((n + 127) << 23);
}

// A vector of words, each of two 16-bit numbers.
typedef int32_t Words __attribute__((vector_size(vector_bytes)));
AMT_INLINE Words load_words(const float* from) { return reinterpret_cast<Words>(load(from)); }

AMT_INLINE float widen(bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

AMT_INLINE float widen(float16 value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  // subnormals become normal by the multiplication; Inf and NaN keep the largest exponent
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16,
                 rest = static_cast<uint32_t>(value.bits & 0x7fffu) << 13;
  const uint32_t bits = sign | rest | (rest >= 0x0f800000u ? 0x70000000u : 0u);
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return rest >= 0x0f800000u ? out : out * 0x1p112f;
#endif
}

AMT_INLINE Vector<float> widening_load(const float* from) { return load(from); }
AMT_INLINE Vector<double> widening_load(const double* from) { return load(from); }

AMT_INLINE Vector<float> widening_load(const bfloat16* from) {
  typedef uint16_t Half __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));
  typedef uint32_t Full __attribute__((vector_size(vector_bytes)));
  return reinterpret_cast<Vector<float>>(__builtin_convertvector(*reinterpret_cast<const Half*>(from), Full) << 16);
}

AMT_INLINE Vector<float> widening_load(const float16* from) {
#if defined(__AVX512F__)
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Vector<float> out;
  for (int i = 0; i < Lanes<float>::count; i++) out[i] = widen(from[i]);
  return out;
#endif
}

// The first n elements, then zeros; reads nothing beyond them.
template <class T, class M>
AMT_INLINE Vector<T> partial_load(const M* from, int64_t n) {
  M buffer[Lanes<T>::count] = {};
  std::memcpy(buffer, from, n * sizeof(M));
  return widening_load(buffer);
}

AMT_INLINE void narrowing_store(float* to, Vector<float> value) { store(to, value); }
AMT_INLINE void narrowing_store(double* to, Vector<double> value) { store(to, value); }

AMT_INLINE void narrowing_store(bfloat16* to, Vector<float> value) {
  typedef uint32_t Full __attribute__((vector_size(vector_bytes)));
  typedef uint16_t Half __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));
  const Full bits = reinterpret_cast<Full>(value);
  const Full rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Full nan = (bits >> 16) | 0x40u;  // rounding up could make an Inf of a NaN
  *reinterpret_cast<Half*>(to) = __builtin_convertvector(value == value ? rounded : nan, Half);
}

AMT_INLINE uint16_t narrow_to_half(float value) {
#if defined(__F16C__)
  return static_cast<uint16_t>(_cvtss_sh(value, 0));
#else
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u;
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (bits >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (bits < 0x38800000u) {  // subnormal: the adder rounds to the last of its bits
    float shifted;
    std::memcpy(&shifted, &bits, sizeof shifted);
    shifted += 0.5f;
    std::memcpy(&bits, &shifted, sizeof bits);
    return static_cast<uint16_t>(sign | (bits - 0x3f000000u));
  }
  return static_cast<uint16_t>(sign | ((bits - 0x38000000u + 0xfffu + (bits >> 13 & 1u)) >> 13));
#endif
}

AMT_INLINE void narrowing_store(float16* to, Vector<float> value) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_maskz_cvtps_ph(0xffff, value, 0));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(value, 0));
#else
  for (int i = 0; i < Lanes<float>::count; i++) to[i].bits = narrow_to_half(value[i]);
#endif
}

template <class T, class M>
AMT_INLINE void partial_store(M* to, Vector<T> value, int64_t n) {
  M buffer[Lanes<T>::count];
  narrowing_store(buffer, value);
  std::memcpy(to, buffer, n * sizeof(M));
}

}  // namespace
}  // namespace amt::AMT_ISA
