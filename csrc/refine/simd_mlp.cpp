// refine on the CPU: the offset MLP at the machine's matrix rate, in floats, in fixed point or by tiles of bfloat16
// (simd_kernels.h).
//
// Rows lie across the vector lanes, so the first layer reads w1 as it is stored, one broadcast weight or one tile at a
// time, and the activation and the second layer follow. A row's result does not depend on the rows beside it.
#include <cmath>
#include <type_traits>

#include "refine/simd_kernels.h"
#include "refine/simd_activation.h"
#include "refine/simd_amx.h"
#include "refine/simd_rows.h"
#include "common/simd_vector.h"

namespace amt::AMT_ISA {
namespace {

using namespace amt::refine;

// The hidden layer before its bias: the products of `Count` units from `unit` on with `Vectors` vectors of rows.
template <class T, int Count, int Vectors>
AMT_INLINE void float_products(const Hidden<T>& work, const T* inputs, int64_t unit, Vector<T> (&sum)[Count][Vectors]) {
  const int64_t stride = work.w1_stride;
  auto w1 = rows_from<Count>(static_cast<const T*>(work.w1) + unit * stride, stride);
  clear(sum);
  const int64_t count = work.layout.count;
  for (int64_t start = 0; start < count; start += 16) {
    const int64_t end = start + 16 < count ? start + 16 : count;
#pragma GCC unroll 12
    for (int i = 0; i < Count; i++) __builtin_prefetch(element(w1, i) + Count * stride, 0, 3);
    for (int64_t k = start; k < end; k++, inputs += packed_rows) {
      add_outer_product(w1, inputs, sum);
      advance(w1, 1);
    }
  }
}

AMT_INLINE Words broadcast_word(const float* from) {
  int32_t word;
  std::memcpy(&word, from, sizeof word);
  return word - Words{};
}

// sum + both products of each pair of words.
AMT_INLINE Words add_products(Words sum, Words a, Words b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return sum + reinterpret_cast<Words>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#else
  return sum + (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
}

// The same in fixed point.
template <int Count, int Vectors>
AMT_INLINE void fixed_products(const Hidden<float>& work, const float* inputs, int64_t unit,
                               Vector<float> (&sum)[Count][Vectors]) {
  constexpr int lanes = Lanes<float>::count;
  const int64_t stride = work.w1_stride;
  const int64_t blocks = work.layout.blocks;
  const float* const unit_w1 = static_cast<const float*>(work.w1) + unit * stride;
  auto w1 = rows_from<Count>(unit_w1, stride);
  const float* const rests = inputs + blocks * fixed_words * packed_rows;  // powers of two, then relative coordinates
  const float* const unit_rests = unit_w1 + blocks * fixed_words;
  clear(sum);
  for (int c = 0; c < 3; c++)
    for (int i = 0; i < Count; i++)
      for (int v = 0; v < Vectors; v++)
        sum[i][v] += load(rests + (blocks + c) * packed_rows + v * lanes) * unit_rests[i * stride + blocks + c];
  for (int64_t block = 0; block < blocks; block++) {
    Words whole[Count][Vectors];
    clear(whole);
#pragma GCC unroll 12
    for (int i = 0; i < Count; i++)
      for (int line = 0; line < fixed_words; line += 16)
        __builtin_prefetch(element(w1, i) + Count * stride + line, 0, 3);
#pragma GCC unroll 2
    for (int k = 0; k < fixed_words; k++, inputs += packed_rows) {
      Words input[Vectors];
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) input[v] = load_words(inputs + v * lanes);
#pragma GCC unroll 12
      for (int i = 0; i < Count; i++) {
        const Words weight = broadcast_word(element(w1, i) + k);
#pragma GCC unroll 3
        for (int v = 0; v < Vectors; v++) whole[i][v] = add_products(whole[i][v], input[v], weight);
      }
    }
    advance(w1, fixed_words);
#pragma GCC unroll 12
    for (int i = 0; i < Count; i++)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) {
        const Vector<float> scale = load(rests + block * packed_rows + v * lanes) * unit_rests[i * stride + block];
        sum[i][v] += __builtin_convertvector(whole[i][v], Vector<float>) * scale;
      }
  }
}

// `Count` hidden units from `unit` on, for `Vectors` vectors of a packed tile's rows from `lane` on.
// The units of a block are added to its offsets one after the other, however many are taken at once: same sum, same
// bits.
template <class T, bool Fixed, int Count, int Vectors>
void hidden_units(const Hidden<T>& work, int64_t packed_tile, int64_t lane, int64_t unit, bool first_of_block,
                  T* offsets) {
  const T* inputs = work.packed + packed_tile * work.layout.count * packed_rows + lane;
  Vector<T> products[Count][Vectors];
  if constexpr (Fixed)
    fixed_products<Count, Vectors>(work, inputs, unit, products);
  else
    float_products<T, Count, Vectors>(work, inputs, unit, products);
  OffsetSums<T, Vectors> sums{work, packed_tile, lane, offsets};
  if (!first_of_block) sums.resume();
#pragma GCC unroll 12
  for (int i = 0; i < Count; i++) sums.add(unit + i, products[i]);
  sums.finish();
}

template <class T, bool Fixed, int Count, int Vectors>
AMT_INLINE void hidden_units_of(int64_t count, const Hidden<T>& work, int64_t packed_tile, int64_t lane, int64_t unit,
                                bool first_of_block, T* offsets) {
  if (count == Count)
    return hidden_units<T, Fixed, Count, Vectors>(work, packed_tile, lane, unit, first_of_block, offsets);
  if constexpr (Count > 1)
    hidden_units_of<T, Fixed, Count - 1, Vectors>(count, work, packed_tile, lane, unit, first_of_block, offsets);
}

}  // namespace

int64_t refine_hidden_blocks([[maybe_unused]] Form form, int64_t num_hidden) {
#if defined(__AMX_TILE__)
  if (form == Form::pairs) return (num_hidden + block_units - 1) / block_units;
#endif
  return blocks_of(num_hidden);
}

template <class T, bool Fixed>
static void hidden_blocks(const Hidden<T>& work, int64_t begin, int64_t end) {
  constexpr int lanes = Lanes<T>::count;
  const int64_t blocks = blocks_of(work.num_hidden);
  for (int64_t block = begin; block < end; block++) {
    const int64_t first = block * work.num_hidden / blocks, last = (block + 1) * work.num_hidden / blocks;
    T* offsets = work.offsets + block * 3 * work.num_packed * packed_rows;
    for (int64_t packed_tile = 0; packed_tile < work.num_packed; packed_tile++) {
      const int64_t left = work.rows - packed_tile * packed_rows;
      const int64_t used =
          work.saved || left > packed_rows ? packed_rows : left;  // the backward reads whole packed tiles
      // one hand's 21 joints: three vectors with half the units at once do less than twice two
      if constexpr (lanes == 8) {
        if (used > 2 * lanes && used <= 3 * lanes) {
          constexpr int most = most_broadcast / 2;
          for (int64_t unit = first; unit < last; unit += most)
            hidden_units_of<T, Fixed, most, 3>(last - unit < most ? last - unit : most, work, packed_tile, 0, unit,
                                               unit == first, offsets);
          continue;
        }
      }
      for (int64_t lane = 0; lane < used; lane += 2 * lanes)
        hidden_units_of<T, Fixed, most_broadcast, 2>(last - first, work, packed_tile, lane, first, true, offsets);
    }
  }
}

template <class T>
void refine_hidden(const Hidden<T>& work, int64_t begin, int64_t end) {
  if constexpr (std::is_same_v<T, float>) {
    if (work.layout.form == Form::fixed) return hidden_blocks<T, true>(work, begin, end);
#if defined(__AMX_TILE__)
    if (work.layout.form == Form::pairs) return pair_blocks(work, begin, end);
#endif
  }
  hidden_blocks<T, false>(work, begin, end);
}
template void refine_hidden(const Hidden<float>&, int64_t, int64_t);
template void refine_hidden(const Hidden<double>&, int64_t, int64_t);

template <class T>
void refine_hidden_backward(const HiddenBackward<T>& work, int64_t begin, int64_t end) {
  constexpr int lanes = Lanes<T>::count;
  for (int64_t unit = begin; unit < end; unit++) {
    const T* w2 = work.w2 + unit;
    const T w[3] = {w2[0], w2[work.num_hidden], w2[2 * work.num_hidden]};
    T* grad_hidden = work.grad_hidden + unit * work.lanes;
    Vector<T> sums[3] = {};
    for (int64_t row = 0; row < work.lanes; row += lanes) {
      const T* grad_offsets = work.grad_offsets + row;
      const Vector<T> x = load(grad_offsets), y = load(grad_offsets + work.lanes),
                      z = load(grad_offsets + 2 * work.lanes);
      Vector<T> value, slope;
      vector_gelu_slope(load(work.saved + unit * work.saved_stride + row), &value, &slope);
      store(grad_hidden + row, (x * w[0] + y * w[1] + z * w[2]) * slope);
      sums[0] += x * value;
      sums[1] += y * value;
      sums[2] += z * value;
    }
    if (!work.grad_w2) continue;
    for (int c = 0; c < 3; c++) {
      T sum = 0;
      for (int i = 0; i < lanes; i++) sum += sums[c][i];
      work.grad_w2[c * work.num_hidden + unit] += sum;
    }
    T* grad_b1 = work.grad_b1 + unit * work.num_joints;
    for (int64_t first = 0; first < work.rows; first += work.num_joints)
      for (int64_t joint = 0; joint < work.num_joints; joint++) grad_b1[joint] += grad_hidden[first + joint];
  }
}
template void refine_hidden_backward(const HiddenBackward<float>&, int64_t, int64_t);
template void refine_hidden_backward(const HiddenBackward<double>&, int64_t, int64_t);

}  // namespace amt::AMT_ISA
