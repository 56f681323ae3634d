// refine's forward on the CPU: the MLP's inputs and biases as packed tiles, and weights in fixed point.
#include <type_traits>
#include <utility>

#include "refine/simd_kernels.h"
#include "refine/simd_taps.h"

namespace amt::AMT_ISA {
namespace {

#if defined(__AVX2__)
using Row = Vector<float>;
constexpr int row_lanes = Lanes<float>::count;

// Element i of the result is element Order::from(i) of a and b, one after the other.
template <class Order, int... i>
AMT_INLINE Row shuffle(Row a, Row b, std::integer_sequence<int, i...>) {
  return __builtin_shufflevector(a, b, Order::from(i)...);
}
template <class Order>
AMT_INLINE Row shuffle(Row a, Row b) {
  return shuffle<Order>(a, b, std::make_integer_sequence<int, row_lanes>{});
}

// In each part of 16 bytes: `Width` elements of a, of b, of a, ..., from the part's lower or upper half.
template <int Width, bool Upper>
struct Interleaved {
  static constexpr int from(int i) {
    const int part = i / 4 * 4, source = i % 4 / Width % 2;
    return source * row_lanes + part + 2 * Upper + i % 4 / (2 * Width) * Width + i % Width;
  }
};

// Every second part of 16 bytes of a, then of b.
template <bool Odd>
struct EverySecond {
  static constexpr int from(int i) { return 2 * (i / 4 * 4) + 4 * Odd + i % 4; }
};

// Column c of four rows lies in part c / 4 of each of `rows`, one vector for four rows: stores the columns.
template <int Count>
AMT_INLINE void store_columns(const Row (&rows)[Count], float* to, int64_t step) {
  if constexpr (Count == 1) {
    store(to, rows[0]);
  } else {
    Row even[Count / 2], odd[Count / 2];
    for (int i = 0; i < Count / 2; i++) {
      even[i] = shuffle<EverySecond<false>>(rows[2 * i], rows[2 * i + 1]);
      odd[i] = shuffle<EverySecond<true>>(rows[2 * i], rows[2 * i + 1]);
    }
    store_columns(even, to, 2 * step);
    store_columns(odd, to + step, 2 * step);
  }
}

// As many rows as a vector has floats, and as many columns, transposed.
AMT_INLINE void transpose_square(const float* from, int64_t stride, float* to, int64_t to_stride) {
  Row r[row_lanes], s[row_lanes];
  for (int i = 0; i < row_lanes; i++) r[i] = load(from + i * stride);
  for (int i = 0; i < row_lanes; i += 2) {
    s[i] = shuffle<Interleaved<1, false>>(r[i], r[i + 1]);
    s[i + 1] = shuffle<Interleaved<1, true>>(r[i], r[i + 1]);
  }
  for (int c = 0; c < 4; c++) {
    // columns c, c + 4, ... of rows 4q .. 4q + 3
    Row rows[row_lanes / 4];
    for (int q = 0; q < row_lanes / 4; q++) {
      const Row upper = s[4 * q + c / 2], lower = s[4 * q + c / 2 + 2];
      rows[q] = c % 2 ? shuffle<Interleaved<2, true>>(upper, lower) : shuffle<Interleaved<2, false>>(upper, lower);
    }
    store_columns(rows, to + c * to_stride, 4 * to_stride);
  }
}

// 16 rows of 16 floats, transposed.
AMT_INLINE void transpose(const float* from, int64_t stride, float* to, int64_t to_stride) {
  for (int row = 0; row < 16; row += row_lanes)
    for (int column = 0; column < 16; column += row_lanes)
      transpose_square(from + row * stride + column, stride, to + column * to_stride + row, to_stride);
}
#endif

template <class T>
AMT_INLINE void transpose(const T* from, int64_t stride, T* to, int64_t to_stride) {
  for (int c = 0; c < 16; c++)
    for (int r = 0; r < 16; r++) to[c * to_stride + r] = from[r * stride + c];
}

// `columns` columns of 16 rows, transposed.
template <class T>
AMT_INLINE void transpose_columns(const T* from, int64_t stride, int64_t columns, T* to, int64_t to_stride) {
  int64_t c = 0;
  for (; c + 16 <= columns; c += 16) transpose(from + c, stride, to + c * to_stride, to_stride);
  for (; c < columns; c++)
    for (int r = 0; r < 16; r++) to[c * to_stride + r] = from[r * stride + c];
}

float float_of(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

// A block of `count` values, which lie in memory for fixed_channels, to integers of `bits` bits; returns what to
// multiply them by. NaN where a value is not finite: an infinite sample would end as one too, by gelu(-Inf) or Inf -
// Inf.
template <int bits>
AMT_INLINE float fix_block(float* values, int64_t count, float* words) {
  constexpr int lanes = Lanes<float>::count;
  typedef int32_t Integer __attribute__((vector_size(vector_bytes)));
  for (; count < fixed_channels; count++) values[count] = 0;
  Integer most{};
  for (int c = 0; c < fixed_channels; c += lanes) {
    const Integer magnitude = reinterpret_cast<Integer>(load(values + c)) & 0x7fffffff;
    most = magnitude > most ? magnitude : most;
  }
  int32_t largest = 0;
  for (int i = 0; i < lanes; i++) largest = most[i] > largest ? most[i] : largest;
  // biased exponent of the largest value; below 2^-111 values lose bits, so that 2^(bits - 1) over the largest has an
  // exponent
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

constexpr int64_t slice_inputs = 256,
                  slice_stride = slice_inputs + 16;  // of 16 rows that are transposed while they lie in L1
constexpr int64_t rows_ahead = 8;                    // distance of the prefetched taps

#if defined(__AVX512BF16__)
// gather_map from bfloat16 to bfloat16 with the same sums: a cache line of a tap at a time. Channels at even and at odd
// places stay apart until they are rounded.
AMT_INLINE void gather_pairs(const Sample<float>& sample, const Sample<float>* ahead, int64_t first, int64_t count,
                             bfloat16* out) {
  typedef uint16_t Halves __attribute__((vector_size(vector_bytes)));
  const bfloat16* taps[4];
  for (int t = 0; t < 4; t++) taps[t] = static_cast<const bfloat16*>(sample.tap[t]) + first;
  int64_t c = 0;
  for (; c + 32 <= count; c += 32) {
    if (ahead)
      for (int t = 0; t < 4; t++) __builtin_prefetch(static_cast<const bfloat16*>(ahead->tap[t]) + first + c, 0, 2);
    Words words[4];
    for (int t = 0; t < 4; t++) words[t] = load_words(reinterpret_cast<const float*>(taps[t] + c));
    const auto sum = [&](auto part) __attribute__((always_inline)) {
      return part(words[0]) * sample.weight[0] + part(words[1]) * sample.weight[1] + part(words[2]) * sample.weight[2] +
             part(words[3]) * sample.weight[3];
    };
    const Vector<float> even = sum([](Words w) { return reinterpret_cast<Vector<float>>(w << 16); });
    const Vector<float> odd = sum([](Words w) { return reinterpret_cast<Vector<float>>(w & -65536); });
    const Halves apart = reinterpret_cast<Halves>(_mm512_cvtne2ps_pbh(odd, even));
    const Halves paired = __builtin_shufflevector(apart, apart, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                                  8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    _mm512_storeu_si512(out + c, reinterpret_cast<__m512i>(paired));
  }
  if (c < count) gather_map<bfloat16, float, false>(sample, nullptr, first + c, count - c, out + c, nullptr, nullptr);
}
#endif

// Inputs [first, last) of one row.
template <Form form, class M, class T>
AMT_INLINE void gather_slice(const PackInputs<T>& work, int64_t row, int64_t first, int64_t last, T* out) {
  using Out = std::conditional_t<form == Form::pairs, bfloat16, T>;
  constexpr int64_t channels_each = sizeof(T) / sizeof(Out);
  first *= channels_each;
  last *= channels_each;
  Out* to = reinterpret_cast<Out*>(out);
  int64_t begin = 0;  // the map's first channel among those of all maps
  for (int m = 0; m < work.num_maps; begin += work.channels[m++]) {
    const int64_t from = first > begin ? first - begin : 0,
                  end = last - begin < work.channels[m] ? last - begin : work.channels[m];
    if (from >= end) continue;
    const Sample<T>* sample = work.samples + row * work.num_maps + m;
    const Sample<T>* later = row + rows_ahead < work.rows ? sample + rows_ahead * work.num_maps : nullptr;
#if defined(__AVX512BF16__)
    if constexpr (form == Form::pairs) {
      gather_pairs(*sample, later, from, end - from, to + (begin + from - first));
      continue;
    }
#endif
    gather_map<M, T, false>(*sample, later, from, end - from, to + (begin + from - first), nullptr, nullptr);
  }
}

// The same in fixed point: whole blocks, their powers of two at once where they belong.
AMT_INLINE void fix_slice(const PackInputs<float>& work, int64_t row, int64_t first, int64_t last, float* out) {
  constexpr int lanes = Lanes<float>::count;
  float values[fixed_channels];
  int64_t input = 0;
  const float* gains = work.gains;
  for (int m = 0; m < work.num_maps; m++) {
    const Sample<float>* sample = work.samples + row * work.num_maps + m;
    const Sample<float>* later = row + rows_ahead < work.rows ? sample + rows_ahead * work.num_maps : nullptr;
    for (int64_t channel = 0; channel < work.channels[m]; channel += fixed_channels) {
      if (input >= first && input < last) {
        const int64_t left = work.channels[m] - channel, count = left < fixed_channels ? left : fixed_channels;
        gather_map<bfloat16, float, false>(*sample, later, channel, count, values, nullptr, nullptr);
        for (int c = 0; c < fixed_channels; c += lanes) store(values + c, load(values + c) * load(gains + c));
        *work.power_of_two(row, input) = fix_block<fixed_input_bits>(values, count, out + input - first);
      }
      input += fixed_words;
      gains += fixed_channels;
    }
  }
}

template <Form form, class M, class T>
void pack_inputs(const PackInputs<T>& work, int64_t begin, int64_t end) {
  alignas(64) T slice[16 * slice_stride];
  const int64_t last_of_all = end * 16 < work.layout.sampled ? end * 16 : work.layout.sampled;
  for (int64_t first = begin * 16; first < last_of_all; first += slice_inputs) {
    const int64_t last = first + slice_inputs < last_of_all ? first + slice_inputs : last_of_all;
    for (int64_t row = 0; row < round_up(work.rows, packed_rows); row += 16) {
      for (int64_t i = 0; i < 16; i++) {
        T* to = slice + i * slice_stride;
        if (row + i >= work.rows) {
          for (int64_t c = 0; c < last - first; c++) to[c] = T(0);
          if constexpr (form == Form::fixed)
            for (int64_t input = first; input < last; input += fixed_words) *work.power_of_two(row + i, input) = 0;
        } else if constexpr (form == Form::fixed) {
          fix_slice(work, row + i, first, last, to);
        } else {
          gather_slice<form, M>(work, row + i, first, last, to);
        }
      }
      transpose_columns(slice, slice_stride, last - first, work.at(row, first), packed_rows);
    }
  }
}

}  // namespace

// A power of two near the largest of each channel's `count` weights over all units, and one over it; 0, and 0, where
// all are 0.
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

template <>
void refine_pack_inputs(const PackInputs<float>& work, int64_t begin, int64_t end) {
  if (work.layout.form == Form::fixed) return pack_inputs<Form::fixed, bfloat16>(work, begin, end);
  if (work.layout.form == Form::pairs) return pack_inputs<Form::pairs, bfloat16>(work, begin, end);
  switch (work.element) {
    case Element::bfloat16: return pack_inputs<Form::floats, bfloat16>(work, begin, end);
    case Element::float16: return pack_inputs<Form::floats, float16>(work, begin, end);
    default: return pack_inputs<Form::floats, float>(work, begin, end);
  }
}

template <>
void refine_pack_inputs(const PackInputs<double>& work, int64_t begin, int64_t end) {
  pack_inputs<Form::floats, double>(work, begin, end);
}

template <class T>
void refine_pack_bias(const PackBias<T>& work, int64_t begin, int64_t end) {
  alignas(64) T square[16 * 16];
  for (int64_t unit = begin * 16; unit < end * 16; unit += 16) {
    const int64_t left = work.num_hidden - unit;
    for (int64_t row = 0; row < work.lanes; row += 16) {
      for (int64_t i = 0; i < 16; i++) {
        const T* from = work.b1 + (row + i) % work.num_joints * work.num_hidden + unit;
        if (left >= 16)
          std::memcpy(square + i * 16, from, 16 * sizeof(T));
        else
          for (int64_t c = 0; c < 16; c++) square[i * 16 + c] = c < left ? from[c] : T(0);
      }
      transpose(square, 16, work.packed + (row / packed_rows * work.units + unit) * packed_rows + row % packed_rows,
                packed_rows);
    }
  }
}
template void refine_pack_bias(const PackBias<float>&, int64_t, int64_t);
template void refine_pack_bias(const PackBias<double>&, int64_t, int64_t);

}  // namespace amt::AMT_ISA
