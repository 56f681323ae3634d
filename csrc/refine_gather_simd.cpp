// refine on the CPU: reading the taps of every map in one pass, and writing the maps' gradient back.
#include <cmath>
#include <type_traits>

#include "refine_cpu.h"
#include "refine_vector.h"

namespace amt::AMT_ISA {
namespace {

using namespace amt::refine;

// What samples are written as.
template <class T> AMT_INLINE void put(T* to, Vector<T> value) { store(to, value); }
AMT_INLINE void put(bfloat16* to, Vector<float> value) {
#if defined(__AVX512BF16__)
  // in one instruction, which takes numbers below 2^-126 for 0, as the matrix tiles do
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
#else
  narrowing_store(to, value);
#endif
}

// Channels [first, first + count) of one map. `ahead`: taps that are read next; they lie anywhere in memory, so ask for them now.
template <class M, class T, bool WithDots, class Out>
AMT_INLINE void gather_map(const Sample<T>& sample, const Sample<T>* ahead, int64_t first, int64_t count, Out* inputs,
                           const T* gradient, T* dots) {
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
    if constexpr (WithDots) g = load(gradient + c);
    put(inputs + c, one(widening_load(taps[0] + c), widening_load(taps[1] + c), widening_load(taps[2] + c),
                        widening_load(taps[3] + c), g));
  }
  if (const int64_t n = count - c; n > 0) {
    Vector<T> g{};
    if constexpr (WithDots) g = partial_load<T>(gradient + c, n);
    partial_store<T>(inputs + c, one(partial_load<T>(taps[0] + c, n), partial_load<T>(taps[1] + c, n),
                                     partial_load<T>(taps[2] + c, n), partial_load<T>(taps[3] + c, n), g), n);
  }
  if constexpr (WithDots) {
    for (int t = 0; t < 4; t++) {
      T sum = 0;
      for (int i = 0; i < lanes; i++) sum += sums[t][i];
      dots[t] = sum;
    }
  }
}

template <class M, class T, bool WithDots> void gather_rows(const Gather<T>& work, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    T* inputs = work.inputs + row * work.stride;
    const T* gradient = WithDots ? work.gradient + row * work.stride : nullptr;
    int64_t c = 0;
    for (int m = 0; m < work.num_maps; m++) {
      const int64_t at = row * work.num_maps + m;
      const Sample<T>* ahead = row + 1 < end ? work.samples + at + work.num_maps : nullptr;
      gather_map<M, T, WithDots>(work.samples[at], ahead, 0, work.channels[m], inputs + c, WithDots ? gradient + c : nullptr,
                                 WithDots ? work.dots + at * 4 : nullptr);
      c += work.channels[m];
    }
    for (int i = 0; i < 3; i++) inputs[c++] = work.relative[row * 3 + i];
    for (; c < work.stride; c++) inputs[c] = T(0);
  }
}

void gather_pair_rows(const Gather<float>& work, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    float* words = work.inputs + row * work.stride;
    auto* inputs = reinterpret_cast<bfloat16*>(words);
    for (int m = 0; m < work.num_maps; m++) {
      const int64_t at = row * work.num_maps + m;
      const Sample<float>* ahead = row + 1 < end ? work.samples + at + work.num_maps : nullptr;
      gather_map<bfloat16, float, false>(work.samples[at], ahead, 0, work.channels[m], inputs, nullptr, nullptr);
      inputs += work.channels[m];
    }
    float* rest = words + pair_words(work.layout.channels);
    for (int i = 0; i < 3; i++) *rest++ = work.relative[row * 3 + i];
    while (rest < words + work.stride) *rest++ = 0;
  }
}

float float_of(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

// A block of `count` values, which lie in memory for fixed_channels, to integers of `bits` bits; returns what to multiply them by.
// NaN where a value is not finite: an infinite sample would end as one too, by gelu(-Inf) or Inf - Inf.
template <int bits> AMT_INLINE float fix_block(float* values, int64_t count, float* words) {
  constexpr int lanes = Lanes<float>::count;
  typedef int32_t Integer __attribute__((vector_size(refine_vector_bytes)));
  for (; count < fixed_channels; count++) values[count] = 0;
  Integer most{};
  for (int c = 0; c < fixed_channels; c += lanes) {
    const Integer magnitude = reinterpret_cast<Integer>(load(values + c)) & 0x7fffffff;
    most = magnitude > most ? magnitude : most;
  }
  int32_t largest = 0;
  for (int i = 0; i < lanes; i++) largest = most[i] > largest ? most[i] : largest;
  // biased exponent of the largest value; below 2^-111 values lose bits, so that 2^(bits - 1) over the largest has an exponent
  const int32_t exponent = largest >> 23 > 16 ? largest >> 23 : 16;
  const Vector<float> scale = broadcast(float_of(static_cast<uint32_t>(bits + 253 - exponent) << 23));
  // adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits, as two's complement
  const auto fixed = [&](const float* value) __attribute__((always_inline)) {
    return reinterpret_cast<Integer>(load(value) * scale + 12582912.0f);
  };
  for (int c = 0; c < fixed_words; c += lanes) {
    const Integer word = (fixed(values + c) & 0xffff) | (fixed(values + c + fixed_words) << 16);
    store(words + c, reinterpret_cast<Vector<float>>(word));
  }
  return float_of(exponent == 255 ? 0x7fc00000u : static_cast<uint32_t>(exponent + 1 - bits) << 23);
}

void gather_fixed_rows(const Gather<float>& work, int64_t begin, int64_t end) {
  constexpr int lanes = Lanes<float>::count;
  float values[fixed_channels] = {};
  for (int64_t row = begin; row < end; row++) {
    float* words = work.inputs + row * work.stride;
    float* scales = words + work.layout.blocks * fixed_words;
    const float* gains = work.gains;
    for (int m = 0; m < work.num_maps; m++) {
      const int64_t at = row * work.num_maps + m, channels = work.channels[m];
      const Sample<float>* ahead = row + 1 < end ? work.samples + at + work.num_maps : nullptr;
      for (int64_t first = 0; first < channels; first += fixed_channels, words += fixed_words) {
        const int64_t count = channels - first < fixed_channels ? channels - first : fixed_channels;
        gather_map<bfloat16, float, false>(work.samples[at], ahead, first, count, values, nullptr, nullptr);
        for (int c = 0; c < fixed_channels; c += lanes) store(values + c, load(values + c) * load(gains + c));
        gains += fixed_channels;
        *scales++ = fix_block<fixed_input_bits>(values, count, words);
      }
    }
    for (int i = 0; i < 3; i++) *scales++ = work.relative[row * 3 + i];
    for (const float* last = work.inputs + (row + 1) * work.stride; scales < last;) *scales++ = 0;
  }
}

template <class M, class T> void gather_as(const Gather<T>& work, int64_t begin, int64_t end) {
  if (work.gradient) return gather_rows<M, T, true>(work, begin, end);
  gather_rows<M, T, false>(work, begin, end);
}

#if defined(__AVX512F__)
using Row = Vector<float>;
AMT_INLINE Row low(Row a, Row b) { return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29); }
AMT_INLINE Row high(Row a, Row b) { return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31); }
AMT_INLINE Row low2(Row a, Row b) { return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29); }
AMT_INLINE Row high2(Row a, Row b) { return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31); }
AMT_INLINE Row even4(Row a, Row b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27); }
AMT_INLINE Row odd4(Row a, Row b) { return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31); }

// 16 rows of 16 floats, turned.
AMT_INLINE void turn(const float* from, int64_t stride, float* to, int64_t to_stride) {
  Row r[16], s[16];
  for (int i = 0; i < 16; i++) r[i] = load(from + i * stride);
  for (int i = 0; i < 16; i += 2) {
    s[i] = low(r[i], r[i + 1]);
    s[i + 1] = high(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = low2(s[i + j], s[i + j + 2]);
      r[i + 2 * j + 1] = high2(s[i + j], s[i + j + 2]);
    }
  }
  // r[4q + c]: columns c, c + 4, c + 8, c + 12 of rows 4q .. 4q + 3
  for (int c = 0; c < 4; c++) {
    const Row even_upper = even4(r[c], r[4 + c]), even_lower = even4(r[8 + c], r[12 + c]);
    const Row odd_upper = odd4(r[c], r[4 + c]), odd_lower = odd4(r[8 + c], r[12 + c]);
    store(to + c * to_stride, even4(even_upper, even_lower));
    store(to + (c + 4) * to_stride, even4(odd_upper, odd_lower));
    store(to + (c + 8) * to_stride, odd4(even_upper, even_lower));
    store(to + (c + 12) * to_stride, odd4(odd_upper, odd_lower));
  }
}
#elif defined(__AVX2__)
// 8 rows of 8 floats, turned.
AMT_INLINE void turn_quarter(const float* from, int64_t stride, float* to, int64_t to_stride) {
  __m256 r[8], s[8];
  for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(from + i * stride);
  for (int i = 0; i < 8; i += 2) {
    s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; j++) {
      r[i + 2 * j] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], _MM_SHUFFLE(1, 0, 1, 0));
      r[i + 2 * j + 1] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], _MM_SHUFFLE(3, 2, 3, 2));
    }
  }
  // r[4q + c]: columns c, c + 4 of rows 4q .. 4q + 3
  for (int c = 0; c < 4; c++) {
    _mm256_storeu_ps(to + c * to_stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
    _mm256_storeu_ps(to + (c + 4) * to_stride, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
  }
}

// 16 rows of 16 floats, turned.
AMT_INLINE void turn(const float* from, int64_t stride, float* to, int64_t to_stride) {
  for (int row = 0; row < 16; row += 8)
    for (int column = 0; column < 16; column += 8)
      turn_quarter(from + row * stride + column, stride, to + column * to_stride + row, to_stride);
}
#endif

template <class T> AMT_INLINE void turn(const T* from, int64_t stride, T* to, int64_t to_stride) {
  for (int c = 0; c < 16; c++)
    for (int r = 0; r < 16; r++) to[c * to_stride + r] = from[r * stride + c];
}

template <class M, class T> void scatter_as(const Scatter<T>& work) {
  constexpr int lanes = Lanes<T>::count;
  M* image = static_cast<M*>(work.image);
  int64_t last;
  for (int64_t first = 0; first < work.count; first = last) {
    const Contribution<T>* run = work.contributions + first;
    for (last = first + 1; last < work.count && work.contributions[last].pixel == run->pixel;) last++;
    M* out = image + run->pixel;
    const int64_t count = last - first;
    int64_t c = 0;
    for (; c + lanes <= work.channels; c += lanes) {
      Vector<T> sum = load(run[0].gradient + c) * run[0].weight;
      for (int64_t i = 1; i < count; i++) sum += load(run[i].gradient + c) * run[i].weight;
      narrowing_store(out + c, sum);
    }
    if (const int64_t n = work.channels - c; n > 0) {
      Vector<T> sum = partial_load<T>(run[0].gradient + c, n) * run[0].weight;
      for (int64_t i = 1; i < count; i++) sum += partial_load<T>(run[i].gradient + c, n) * run[i].weight;
      partial_store<T>(out + c, sum, n);
    }
  }
}

}  // namespace

template <> void refine_gather(const Gather<float>& work, int64_t begin, int64_t end) {
  if (work.layout.form == Form::fixed) return gather_fixed_rows(work, begin, end);
  if (work.layout.form == Form::pairs) return gather_pair_rows(work, begin, end);
  switch (work.element) {
    case Element::bfloat16: return gather_as<bfloat16>(work, begin, end);
    case Element::float16: return gather_as<float16>(work, begin, end);
    default: return gather_as<float>(work, begin, end);
  }
}

template <> void refine_gather(const Gather<double>& work, int64_t begin, int64_t end) {
  gather_as<double>(work, begin, end);
}

void refine_widen(Element from, const void* values, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++)
    out[i] = from == Element::bfloat16 ? widen(static_cast<const bfloat16*>(values)[i])
             : from == Element::float16 ? widen(static_cast<const float16*>(values)[i])
                                        : static_cast<const float*>(values)[i];
}

// A power of two near the largest of each channel's `count` weights over all units, and one over it; 0, and 0, where all are 0.
AMT_INLINE void find_gains(const FixWeights& work, const uint16_t* from, int64_t count, float* gains, float* inverses) {
  uint16_t largest[fixed_channels] = {};  // without their signs the bits of bfloat16 have its order
  const auto compare = [&](const uint16_t* weights, int64_t n) __attribute__((always_inline)) {
    for (int64_t c = 0; c < n; c++) {
      const uint16_t magnitude = weights[c] & 0x7fffu;
      largest[c] = magnitude > largest[c] ? magnitude : largest[c];
    }
  };
  for (int64_t unit = 0; unit < work.units; unit++, from += work.unit_stride)
    count == fixed_channels ? compare(from, fixed_channels) : compare(from, count);
  for (int64_t c = 0; c < fixed_channels; c++) {
    // 2^-100 at least and 2^100 at most, so that both have a reciprocal
    const uint32_t given = largest[c] >> 7, exponent = given < 27 ? 27 : given > 227 ? 227 : given;
    gains[c] = largest[c] == 0 ? 0 : float_of(exponent << 23);
    inverses[c] = largest[c] == 0 ? 0 : float_of((254 - exponent) << 23);
  }
}

bool refine_fix_weights(const FixWeights& work, int64_t begin, int64_t end) {
  constexpr int lanes = Lanes<float>::count;
  float values[fixed_channels], inverses[fixed_channels];
  float sum = 0;
  for (int64_t i = begin; i < end; i++) {
    const int64_t step = i / (work.blocks + 1), block = i % (work.blocks + 1);
    int64_t first = 0, count = 0;  // of the block's channels
    for (int64_t m = 0, left = block; m < work.num_maps; m++) {
      const int64_t here = fixed_blocks(work.channels[m]);
      if (left < here) {
        first += left * fixed_channels;
        count = work.channels[m] - left * fixed_channels;
        break;
      }
      left -= here;
      first += work.channels[m];
    }
    if (count > fixed_channels) count = fixed_channels;
    const uint16_t* from = work.w1 + step * work.step_stride + first;
    float* gains = work.gains + (step * work.blocks + block) * fixed_channels;
    if (block < work.blocks) find_gains(work, from, count, gains, inverses);
    for (int64_t unit = 0; unit < work.units; unit++, from += work.unit_stride) {
      float* out = work.out + (step * work.units + unit) * work.stride;
      float* rest = out + work.blocks * fixed_words;
      if (block == work.blocks) {
        refine_widen(Element::bfloat16, from, 3, rest + work.blocks);
        for (int c = 0; c < 3; c++) sum += rest[work.blocks + c] - rest[work.blocks + c];
        continue;
      }
      const auto* weights = reinterpret_cast<const bfloat16*>(from);
      int64_t c = 0;
      for (; c + lanes <= count; c += lanes) store(values + c, widening_load(weights + c) * load(inverses + c));
      for (; c < count; c++) values[c] = widen(weights[c]) * inverses[c];
      sum += rest[block] = fix_block<fixed_weight_bits>(values, count, out + block * fixed_words);
    }
  }
  return sum == sum;
}

template <class T> void refine_transpose(const Transpose<T>& work, int64_t begin, int64_t end) {
  for (int64_t k = begin * 16; k < end * 16; k += 16) {
    const int64_t columns = k + 16 <= work.num_inputs ? 16 : work.num_inputs - k;
    for (int64_t row = 0; row < work.rows; row += 16) {
      const T* from = work.inputs + row * work.stride + k;
      T* to = work.panels + (row / panel_rows * work.num_inputs + k) * panel_rows + row % panel_rows;
      if (columns == 16) {
        turn(from, work.stride, to, panel_rows);
        continue;
      }
      for (int64_t c = 0; c < columns; c++)
        for (int64_t r = 0; r < 16; r++) to[c * panel_rows + r] = from[r * work.stride + c];
    }
  }
}
template void refine_transpose(const Transpose<float>&, int64_t, int64_t);
template void refine_transpose(const Transpose<double>&, int64_t, int64_t);

template <> void refine_scatter(const Scatter<float>& work) {
  switch (work.element) {
    case Element::bfloat16: return scatter_as<bfloat16>(work);
    case Element::float16: return scatter_as<float16>(work);
    default: return scatter_as<float>(work);
  }
}

template <> void refine_scatter(const Scatter<double>& work) { scatter_as<double>(work); }

template <class M, class T> static void narrow_as(const T* values, int64_t count, void* out) {
  constexpr int lanes = Lanes<T>::count;
  M* to = static_cast<M*>(out);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) narrowing_store(to + i, load(values + i));
  if (i < count) partial_store<T>(to + i, partial_load<T>(values + i, count - i), count - i);
}

template <> void refine_narrow(Element to, const float* values, int64_t count, void* out) {
  switch (to) {
    case Element::bfloat16: return narrow_as<bfloat16>(values, count, out);
    case Element::float16: return narrow_as<float16>(values, count, out);
    default: return narrow_as<float>(values, count, out);
  }
}

template <> void refine_narrow(Element, const double* values, int64_t count, void* out) { narrow_as<double>(values, count, out); }

}  // namespace amt::AMT_ISA
