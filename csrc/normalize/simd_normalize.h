// What cpu_normalize.cpp hands to the vector code.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

// out[i] = (in[i * stride] - mean) * scale; both operations are rounded to T.
AMT_DECLARE_SIMD(template <class T>
                 void normalize_channel(const uint8_t* in, int64_t stride, T mean, T scale, T* out, int64_t count))
// Three channels of interleaved pixels: out[c][i] = (in[3 * i + c] - mean[c]) * scale[c].
AMT_DECLARE_SIMD(template <class T>
                 void normalize_pixels(const uint8_t* in, const T* mean, const T* scale, T* const* out, int64_t count))
