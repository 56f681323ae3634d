// normalize on the CPU: bytes become floats in one pass. The compiler makes vectors of these loops.
#include "normalize/simd_normalize.h"

namespace amt::AMT_ISA {
namespace {

template <class T>
inline T normalized(uint8_t level, T mean, T scale) {
  return (static_cast<T>(level) - mean) * scale;
}

}  // namespace

template <class T>
void normalize_channel(const uint8_t* in, int64_t stride, T mean, T scale, T* __restrict out, int64_t count) {
  if (stride == 1)
    for (int64_t i = 0; i < count; i++) out[i] = normalized(in[i], mean, scale);
  else
    for (int64_t i = 0; i < count; i++) out[i] = normalized(in[i * stride], mean, scale);
}

template <class T>
void normalize_pixels(const uint8_t* in, const T* mean, const T* scale, T* const* out, int64_t count) {
  T* __restrict red = out[0], * __restrict green = out[1], * __restrict blue = out[2];
  const T m0 = mean[0], m1 = mean[1], m2 = mean[2], s0 = scale[0], s1 = scale[1], s2 = scale[2];
  for (int64_t i = 0; i < count; i++) {
    red[i] = normalized(in[3 * i], m0, s0);
    green[i] = normalized(in[3 * i + 1], m1, s1);
    blue[i] = normalized(in[3 * i + 2], m2, s2);
  }
}

#define AMT_INSTANTIATE(T)                                                        \
  template void normalize_channel<T>(const uint8_t*, int64_t, T, T, T*, int64_t); \
  template void normalize_pixels<T>(const uint8_t*, const T*, const T*, T* const*, int64_t);
AMT_INSTANTIATE(float)
AMT_INSTANTIATE(double)

}  // namespace amt::AMT_ISA
