// refine on the CPU: the offset MLP at the machine's matrix rate, in floats, in fixed point or by tiles of bfloat16
// (simd_kernels.h), and the products of its backward.
//
// Rows lie across the vector lanes, so the first layer reads w1 as it is stored, one broadcast weight or one tile at a
// time, and the activation and the second layer follow. A row's result does not depend on the rows beside it.
#include <cmath>
#include <type_traits>

#include "refine/simd_kernels.h"
#include "refine/simd_vector.h"

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

// e^x for x <= 0: 2^n times a polynomial of what is left, |rest| <= ln 2 / 2; 0 below the smallest normal number.
AMT_INLINE Vector<float> vector_exp(Vector<float> x) {
  typedef int32_t Integer __attribute__((vector_size(refine_vector_bytes)));
  const Vector<float> y = x < -87.0f ? broadcast(-87.0f) : x;
  const Integer n =
      __builtin_convertvector(y * 1.44269504f - 0.5f, Integer);  // truncation rounds half of y <= 0 to nearest
  const Vector<float> whole = __builtin_convertvector(n, Vector<float>);
  const Vector<float> r = (y - whole * 0.693145752f) - whole * 1.42860677e-6f;
  const Vector<float> e =
      ((((((1.0f / 720) * r + 1.0f / 120) * r + 1.0f / 24) * r + 1.0f / 6) * r + 0.5f) * r + 1.0f) * r + 1.0f;
  return x < -87.0f ? Vector<float>{} : e * reinterpret_cast<Vector<float>>((n + 127) << 23);
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

// The hidden layer before its bias: the products of `Count` units from `unit` on with `Vectors` vectors of rows.
template <class T, int Count, int Vectors>
AMT_INLINE void float_products(const Hidden<T>& work, const T* inputs, int64_t unit, Vector<T> (&sum)[Count][Vectors]) {
  constexpr int lanes = Lanes<T>::count;
  const int64_t stride = work.w1_stride;
  // one pointer for three rows of w1: twelve would not fit the registers
  const T* w1[(Count + 2) / 3];
  for (int i = 0; i < (Count + 2) / 3; i++) w1[i] = static_cast<const T*>(work.w1) + (unit + 3 * i) * stride;
#pragma GCC unroll 12
  for (int i = 0; i < Count; i++)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; v++) sum[i][v] = Vector<T>{};
  const int64_t count = work.layout.count;
  for (int64_t start = 0; start < count; start += 16) {
    const int64_t end = start + 16 < count ? start + 16 : count;
#pragma GCC unroll 12
    for (int i = 0; i < Count; i++) __builtin_prefetch(w1[i / 3] + (Count + i % 3) * stride, 0, 3);
    for (int64_t k = start; k < end; k++, inputs += panel_rows) {
      Vector<T> input[Vectors];
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) input[v] = load(inputs + v * lanes);
#pragma GCC unroll 12
      for (int i = 0; i < Count; i++) {
        const T weight = w1[i / 3][i % 3 * stride];
#pragma GCC unroll 3
        for (int v = 0; v < Vectors; v++) sum[i][v] += input[v] * weight;
      }
#pragma GCC unroll 4
      for (int i = 0; i < (Count + 2) / 3; i++) w1[i]++;
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
  const float* w1[(Count + 2) / 3];
  for (int i = 0; i < (Count + 2) / 3; i++) w1[i] = static_cast<const float*>(work.w1) + (unit + 3 * i) * stride;
  const float* const rests = inputs + blocks * fixed_words * panel_rows;  // powers of two, then relative coordinates
  const float* const unit_rests = w1[0] + blocks * fixed_words;
  for (int i = 0; i < Count; i++)
    for (int v = 0; v < Vectors; v++) sum[i][v] = Vector<float>{};
  for (int c = 0; c < 3; c++)
    for (int i = 0; i < Count; i++)
      for (int v = 0; v < Vectors; v++)
        sum[i][v] += load(rests + (blocks + c) * panel_rows + v * lanes) * unit_rests[i * stride + blocks + c];
  for (int64_t block = 0; block < blocks; block++) {
    Words whole[Count][Vectors];
#pragma GCC unroll 12
    for (int i = 0; i < Count; i++)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) whole[i][v] = Words{};
#pragma GCC unroll 12
    for (int i = 0; i < Count; i++)
      for (int line = 0; line < fixed_words; line += 16)
        __builtin_prefetch(w1[i / 3] + (Count + i % 3) * stride + line, 0, 3);
#pragma GCC unroll 2
    for (int k = 0; k < fixed_words; k++, inputs += panel_rows) {
      Words input[Vectors];
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) input[v] = load_words(inputs + v * lanes);
#pragma GCC unroll 12
      for (int i = 0; i < Count; i++) {
        const Words weight = broadcast_word(w1[i / 3] + i % 3 * stride + k);
#pragma GCC unroll 3
        for (int v = 0; v < Vectors; v++) whole[i][v] = add_products(whole[i][v], input[v], weight);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < (Count + 2) / 3; i++) w1[i] += fixed_words;
#pragma GCC unroll 12
    for (int i = 0; i < Count; i++)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) {
        const Vector<float> scale = load(rests + block * panel_rows + v * lanes) * unit_rests[i * stride + block];
        sum[i][v] += __builtin_convertvector(whole[i][v], Vector<float>) * scale;
      }
  }
}

// `Vectors` vectors of a panel's rows from `lane` on, on their way from the hidden layer to the offsets.
template <class T, int Vectors>
struct OffsetSums {
  static constexpr int lanes = Lanes<T>::count;
  const Hidden<T>& work;
  const int64_t panel, lane;
  T* const offsets;  // [3, rows of all panels]
  Vector<T> sums[3][Vectors] = {};

  T* at(int c, int v) const { return offsets + (c * work.num_panels + panel) * panel_rows + lane + v * lanes; }

  [[gnu::always_inline]] void resume() {
#pragma GCC unroll 3
    for (int c = 0; c < 3; c++)
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; v++) sums[c][v] = load(at(c, v));
  }

  // One unit, its products without their bias.
  [[gnu::always_inline]] void add(int64_t unit, const Vector<T> (&products)[Vectors]) {
    const T* bias = work.bias + (panel * work.bias_units + unit) * panel_rows + lane;
    const T* w2 = work.w2 + unit;
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; v++) {
      const Vector<T> h = products[v] + load(bias + v * lanes);
      if (work.kept) store(work.kept + unit * work.kept_stride + panel * panel_rows + lane + v * lanes, h);
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

// `Count` hidden units from `unit` on, for `Vectors` vectors of a panel's rows from `lane` on.
// The units of a block are added to its offsets one after the other, however many are taken at once: same sum, same
// bits.
template <class T, bool Fixed, int Count, int Vectors>
void hidden_units(const Hidden<T>& work, int64_t panel, int64_t lane, int64_t unit, bool first_of_block, T* offsets) {
  const T* inputs = work.panels + panel * work.layout.count * panel_rows + lane;
  Vector<T> products[Count][Vectors];
  if constexpr (Fixed)
    fixed_products<Count, Vectors>(work, inputs, unit, products);
  else
    float_products<T, Count, Vectors>(work, inputs, unit, products);
  OffsetSums<T, Vectors> sums{work, panel, lane, offsets};
  if (!first_of_block) sums.resume();
#pragma GCC unroll 12
  for (int i = 0; i < Count; i++) sums.add(unit + i, products[i]);
  sums.finish();
}

template <class T, bool Fixed, int Count, int Vectors>
AMT_INLINE void hidden_units_of(int64_t count, const Hidden<T>& work, int64_t panel, int64_t lane, int64_t unit,
                                bool first_of_block, T* offsets) {
  if (count == Count) return hidden_units<T, Fixed, Count, Vectors>(work, panel, lane, unit, first_of_block, offsets);
  if constexpr (Count > 1)
    hidden_units_of<T, Fixed, Count - 1, Vectors>(count, work, panel, lane, unit, first_of_block, offsets);
}

template <class T, int Rows, int Vectors>
AMT_INLINE void product_tile(const Product<T>& work, int64_t row, const T* b, T* out) {
  constexpr int lanes = Lanes<T>::count;
  const T* a[(Rows + 2) / 3];
  for (int i = 0; i < (Rows + 2) / 3; i++) a[i] = work.a + (row + 3 * i) * work.a_row;
  const int64_t a_row = work.a_row, a_column = work.a_column, b_stride = work.b_stride;
  Vector<T> sum[Rows][Vectors];
#pragma GCC unroll 12
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) sum[i][v] = Vector<T>{};
  for (int64_t k = 0; k < work.depth; k++, b += b_stride) {
    Vector<T> right[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) right[v] = load(b + v * lanes);
#pragma GCC unroll 12
    for (int i = 0; i < Rows; i++) {
      const T left = a[i / 3][i % 3 * a_row];
#pragma GCC unroll 2
      for (int v = 0; v < Vectors; v++) sum[i][v] += right[v] * left;
    }
#pragma GCC unroll 4
    for (int i = 0; i < (Rows + 2) / 3; i++) a[i] += a_column;
  }
#pragma GCC unroll 12
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      T* to = out + (row + i) * work.out_stride + v * lanes;
      store(to, work.accumulate ? load(to) + sum[i][v] : sum[i][v]);
    }
}

template <class T, int Rows>
void product_rows(const Product<T>& work, int64_t row, int64_t columns, const T* b, T* out) {
  constexpr int lanes = Lanes<T>::count;
  for (int64_t c = 0; c < columns; c += 2 * lanes) {
    if (columns - c > lanes)
      product_tile<T, Rows, 2>(work, row, b + c, out + c);
    else
      product_tile<T, Rows, 1>(work, row, b + c, out + c);
  }
}

template <class T, int Rows>
AMT_INLINE void product_rows_of(int64_t count, const Product<T>& work, int64_t row, int64_t columns, const T* b,
                                T* out) {
  if (count == Rows) return product_rows<T, Rows>(work, row, columns, b, out);
  if constexpr (Rows > 1) product_rows_of<T, Rows - 1>(count, work, row, columns, b, out);
}

AMT_INLINE int64_t blocks_of(int64_t count) { return (count + most_broadcast - 1) / most_broadcast; }

#if defined(__AMX_TILE__)
constexpr int64_t tile_lanes = 16;     // rows of a tile of inputs
constexpr int64_t tiles_together = 8;  // of a row's inputs: a panel's and a block's part lie in the cache together

// Shapes of the tiles for a block of `units`: products 0 to 3, weights 4 and 5, inputs 6 and 7.
void shape_tiles(int64_t units) {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } shapes;
  const int64_t upper = units < tile_units ? units : tile_units, lower = units - upper;
  const int64_t rows[] = {upper, upper, lower, lower, upper, lower, tile_words, tile_words};
  for (int tile = 0; tile < 8; tile++) {
    shapes.rows[tile] = static_cast<uint8_t>(rows[tile]);
    shapes.bytes[tile] = rows[tile] > 0 ? 64 : 0;
  }
  __asm__ volatile("" ::"r"(&shapes) : "memory");  // gcc's header tells the compiler of eight of the 64 bytes only
  _tile_loadconfig(&shapes);
}

// Where a block's tiles of weights lie.
struct TilesOfWeights {
  const char* first;
  int64_t row, lower,
      next;  // bytes from a row to the next, from the upper tile to the lower, from both to the next inputs' two
};

// The products of a block's units with a panel over `count` tiles of inputs: into out [units, panel_rows] where they
// are the first, else added to it. Lower: the units fill more than a tile. Right: the rows do.
template <bool Lower, bool Right>
void tile_products(TilesOfWeights w1, const float* inputs, int64_t count, bool are_first, float* out) {
  float *const right = out + tile_lanes, *const lower = out + tile_units * panel_rows,
               *const lower_right = lower + tile_lanes;
  constexpr int64_t stride = panel_rows * sizeof(float);
  if (are_first) {
    _tile_zero(0);
    if constexpr (Right) _tile_zero(1);
    if constexpr (Lower) _tile_zero(2);
    if constexpr (Lower && Right) _tile_zero(3);
  } else {
    _tile_loadd(0, out, stride);
    if constexpr (Right) _tile_loadd(1, right, stride);
    if constexpr (Lower) _tile_loadd(2, lower, stride);
    if constexpr (Lower && Right) _tile_loadd(3, lower_right, stride);
  }
  for (int64_t k = 0; k < count; k++, w1.first += w1.next, inputs += tile_words * panel_rows) {
    _tile_loadd(4, w1.first, w1.row);
    _tile_loadd(6, inputs, stride);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (Right) {
      _tile_loadd(7, inputs + tile_lanes, stride);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (Lower) {
      _tile_loadd(5, w1.first + w1.lower, w1.row);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (Right) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, stride);
  if constexpr (Right) _tile_stored(1, right, stride);
  if constexpr (Lower) _tile_stored(2, lower, stride);
  if constexpr (Lower && Right) _tile_stored(3, lower_right, stride);
}

// A block's units from their products to the offsets, for `Vectors` vectors of a panel's rows.
template <int Vectors>
void finish_pairs(const Hidden<float>& work, int64_t panel, int64_t first, int64_t units, const float* products,
                  float* offsets) {
  constexpr int lanes = Lanes<float>::count;
  const int64_t whole = work.layout.channels / (2 * tile_words) * (2 * tile_words), rest = work.layout.channels - whole;
  const float* inputs = work.panels + (panel * work.layout.count + whole / 2) * panel_rows;
  const float* relative = inputs + pair_words(rest) * panel_rows;
  OffsetSums<float, Vectors> sums{work, panel, 0, offsets};
  for (int64_t unit = 0; unit < units; unit++) {
    const auto* w1 = static_cast<const bfloat16*>(work.w1) + (first + unit) * work.w1_stride + whole;
    Vector<float> sum[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      sum[v] = load(products + unit * panel_rows + v * lanes);
      for (int64_t c = 0; c < rest; c++) {  // a word's lower half comes first
        const Words pair = load_words(inputs + c / 2 * panel_rows + v * lanes);
        sum[v] += reinterpret_cast<Vector<float>>(c % 2 ? pair & -65536 : pair << 16) * widen(w1[c]);
      }
#pragma GCC unroll 3
      for (int c = 0; c < 3; c++) sum[v] += load(relative + c * panel_rows + v * lanes) * widen(w1[rest + c]);
    }
    sums.add(first + unit, sum);
  }
  sums.finish();
}

void pair_blocks(const Hidden<float>& work, int64_t begin, int64_t end) {
  const int64_t tiles = work.layout.channels / (2 * tile_words);
  const auto each =
      [&](const auto& run) {  // run(block, its first unit, units, panel, products, whether more than a tile of rows)
        for (int64_t block = begin; block < end; block++) {
          const int64_t first = block * block_units, left = work.num_hidden - first,
                        units = left < block_units ? left : block_units;
          for (int64_t panel = 0; panel < work.num_panels; panel++)
            run(block, first, units, panel,
                work.products + (block * work.num_panels + panel) * block_units * panel_rows,
                work.rows - panel * panel_rows > tile_lanes);
        }
      };
  int64_t shaped = 0;
  int64_t k = 0;
  do {
    const int64_t count = tiles - k < tiles_together ? tiles - k : tiles_together;
    each([&](int64_t block, int64_t first, int64_t units, int64_t panel, float* products, bool right) {
      if (shaped != units) shape_tiles(shaped = units);
      TilesOfWeights w1;
      if (work.w1_tiles)
        w1 = {reinterpret_cast<const char*>(work.w1_tiles + (block * tiles + k) * tile_weights * 2), 64,
              tile_weights * 2, tile_weights * 4};
      else
        w1 = {reinterpret_cast<const char*>(static_cast<const uint16_t*>(work.w1) + first * work.w1_stride +
                                            k * 2 * tile_words),
              work.w1_stride * 2, work.w1_stride * 2 * tile_units, 64};
      const auto run = units > tile_units ? right ? tile_products<true, true> : tile_products<true, false>
                       : right            ? tile_products<false, true>
                                          : tile_products<false, false>;
      run(w1, work.panels + (panel * work.layout.count + k * tile_words) * panel_rows, count, k == 0, products);
    });
    k += tiles_together;
  } while (k < tiles);
  _tile_release();
  each([&](int64_t block, int64_t first, int64_t units, int64_t panel, const float* products, bool right) {
    float* offsets = work.offsets + block * 3 * work.num_panels * panel_rows;
    (right ? finish_pairs<2> : finish_pairs<1>)(work, panel, first, units, products, offsets);
  });
}
#endif

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
    T* offsets = work.offsets + block * 3 * work.num_panels * panel_rows;
    for (int64_t panel = 0; panel < work.num_panels; panel++) {
      const int64_t left = work.rows - panel * panel_rows;
      const int64_t used = work.kept || left > panel_rows ? panel_rows : left;  // the backward reads whole panels
      // one hand's 21 joints: three vectors with half the units at once do less than twice two
      if constexpr (lanes == 8) {
        if (used > 2 * lanes && used <= 3 * lanes) {
          constexpr int most = most_broadcast / 2;
          for (int64_t unit = first; unit < last; unit += most)
            hidden_units_of<T, Fixed, most, 3>(last - unit < most ? last - unit : most, work, panel, 0, unit,
                                               unit == first, offsets);
          continue;
        }
      }
      for (int64_t lane = 0; lane < used; lane += 2 * lanes)
        hidden_units_of<T, Fixed, most_broadcast, 2>(last - first, work, panel, lane, first, true, offsets);
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
    T* hidden = work.hidden + unit * work.lanes;
    Vector<T> sums[3] = {};
    for (int64_t row = 0; row < work.lanes; row += lanes) {
      const T* offsets = work.offsets + row;
      const Vector<T> x = load(offsets), y = load(offsets + work.lanes), z = load(offsets + 2 * work.lanes);
      Vector<T> value, slope;
      vector_gelu_slope(load(work.kept + unit * work.kept_stride + row), &value, &slope);
      store(hidden + row, (x * w[0] + y * w[1] + z * w[2]) * slope);
      sums[0] += x * value;
      sums[1] += y * value;
      sums[2] += z * value;
    }
    if (!work.d_w2) continue;
    for (int c = 0; c < 3; c++) {
      T sum = 0;
      for (int i = 0; i < lanes; i++) sum += sums[c][i];
      work.d_w2[c * work.num_hidden + unit] += sum;
    }
    T* d_b1 = work.d_b1 + unit * work.num_joints;
    for (int64_t first = 0; first < work.rows; first += work.num_joints)
      for (int64_t joint = 0; joint < work.num_joints; joint++) d_b1[joint] += hidden[first + joint];
  }
}
template void refine_hidden_backward(const HiddenBackward<float>&, int64_t, int64_t);
template void refine_hidden_backward(const HiddenBackward<double>&, int64_t, int64_t);

template <class T>
void refine_product(const Product<T>& work, int64_t begin, int64_t end) {
  const int64_t row_blocks = blocks_of(work.rows);
  for (int64_t block = begin; block < end; block++) {
    const int64_t left = work.columns - block * matrix_columns, columns = left < matrix_columns ? left : matrix_columns;
    for (int64_t i = 0; i < row_blocks; i++) {
      const int64_t first = i * work.rows / row_blocks, last = (i + 1) * work.rows / row_blocks;
      product_rows_of<T, most_broadcast>(last - first, work, first, columns, work.b + block * work.b_block,
                                         work.out + block * matrix_columns);
    }
  }
}
template void refine_product(const Product<float>&, int64_t, int64_t);
template void refine_product(const Product<double>&, int64_t, int64_t);

}  // namespace amt::AMT_ISA
