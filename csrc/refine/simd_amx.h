// refine's hidden layer in bfloat16 by AMX tiles, where the machine has them.
#pragma once

#include <algorithm>

#include "refine/simd_activation.h"

namespace amt::AMT_ISA {
namespace {

using namespace amt::refine;

#if defined(__AMX_TILE__)
constexpr int64_t tile_lanes = 16;     // rows of a tile of inputs
constexpr int64_t tiles_together = 8;  // of a row's inputs: the parts of a packed tile and of a block fit into L2

// Shapes of the AMX tiles for a block of `units`: products 0 to 3, weights 4 and 5, inputs 6 and 7.
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

// Where a block's AMX tiles of weights lie.
struct TilesOfWeights {
  const char* first;
  int64_t row, lower, next;  // bytes to the next row, to the lower of two tiles, to the two tiles of the next inputs
};

// The products of a block's units with a packed tile over `count` tiles of inputs: into out [units, packed_rows] where
// they are the first, else added to it. Lower: the units fill more than a tile. Right: the rows do.
template <bool Lower, bool Right>
void tile_products(TilesOfWeights w1, const float* inputs, int64_t count, bool are_first, float* out) {
  float *const right = out + tile_lanes, *const lower = out + tile_units * packed_rows,
               *const lower_right = lower + tile_lanes;
  constexpr int64_t stride = packed_rows * sizeof(float);
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
  for (int64_t k = 0; k < count; k++, w1.first += w1.next, inputs += tile_words * packed_rows) {
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

// A block's units from their products to the offsets, for `Vectors` vectors of a packed tile's rows.
template <int Vectors>
void finish_pairs(const Hidden<float>& work, int64_t packed_tile, int64_t first, int64_t units, const float* products,
                  float* offsets) {
  constexpr int lanes = Lanes<float>::count;
  const int64_t whole = work.layout.channels / (2 * tile_words) * (2 * tile_words), rest = work.layout.channels - whole;
  const float* inputs = work.packed + (packed_tile * work.layout.count + whole / 2) * packed_rows;
  const float* relative = inputs + pair_words(rest) * packed_rows;
  OffsetSums<float, Vectors> sums{work, packed_tile, 0, offsets};
  for (int64_t unit = 0; unit < units; unit++) {
    const auto* w1 = static_cast<const bfloat16*>(work.w1) + (first + unit) * work.w1_stride + whole;
    Vector<float> sum[Vectors];
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      sum[v] = load(products + unit * packed_rows + v * lanes);
      for (int64_t c = 0; c < rest; c++) {  // a word's lower half comes first
        const Words pair = load_words(inputs + c / 2 * packed_rows + v * lanes);
        sum[v] += reinterpret_cast<Vector<float>>(c % 2 ? pair & -65536 : pair << 16) * widen(w1[c]);
      }
#pragma GCC unroll 3
      for (int c = 0; c < 3; c++) sum[v] += load(relative + c * packed_rows + v * lanes) * widen(w1[rest + c]);
    }
    sums.add(first + unit, sum);
  }
  sums.finish();
}

void pair_blocks(const Hidden<float>& work, int64_t begin, int64_t end) {
  const int64_t tiles = work.layout.channels / (2 * tile_words);
  const auto each = [&](const auto& run) {  // run(block, its first unit, units, packed tile, products, whether more
                                            // than a tile of rows)
    for (int64_t block = begin; block < end; block++) {
      const int64_t first = block * block_units, left = work.num_hidden - first,
                    units = left < block_units ? left : block_units;
      for (int64_t packed_tile = 0; packed_tile < work.num_packed; packed_tile++)
        run(block, first, units, packed_tile,
            work.products + (block * work.num_packed + packed_tile) * block_units * packed_rows,
            work.rows - packed_tile * packed_rows > tile_lanes);
    }
  };
  int64_t shaped = 0;
  int64_t k = 0;
  do {
    const int64_t count = tiles - k < tiles_together ? tiles - k : tiles_together;
    each([&](int64_t block, int64_t first, int64_t units, int64_t packed_tile, float* products, bool right) {
      if (shaped != units) shape_tiles(shaped = units);
      TilesOfWeights w1;
      if (work.w1_tiles)
        w1 = {.first = reinterpret_cast<const char*>(work.w1_tiles + (block * tiles + k) * tile_weights * 2),
              .row = 64,
              .lower = tile_weights * 2,
              .next = tile_weights * 4};
      else
        w1 = {.first = reinterpret_cast<const char*>(static_cast<const uint16_t*>(work.w1) + first * work.w1_stride +
                                                     k * 2 * tile_words),
              .row = work.w1_stride * 2,
              .lower = work.w1_stride * 2 * tile_units,
              .next = 64};
      const auto run = units > tile_units ? right ? tile_products<true, true> : tile_products<true, false>
                       : right            ? tile_products<false, true>
                                          : tile_products<false, false>;
      run(w1, work.packed + (packed_tile * work.layout.count + k * tile_words) * packed_rows, count, k == 0, products);
    });
    k += tiles_together;
  } while (k < tiles);
  _tile_release();
  each([&](int64_t block, int64_t first, int64_t units, int64_t packed_tile, const float* products, bool right) {
    float* offsets = work.offsets + block * 3 * work.num_packed * packed_rows;
    (right ? finish_pairs<2> : finish_pairs<1>)(work, packed_tile, first, units, products, offsets);
  });
}
#endif

}  // namespace
}  // namespace amt::AMT_ISA
