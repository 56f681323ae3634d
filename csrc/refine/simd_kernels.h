// The interface between refine's CPU hosts (cpu_*.cpp) and its vector code (simd_*.cpp): each struct describes one
// piece of work, each function does a range of it. Rows are (image, joint) pairs. T, float or double, is the type of
// the arithmetic; maps are widened to it as they are read.
//
// A packed tile holds the MLP's inputs of packed_rows rows as [inputs, packed_rows]: one vector load reads the same
// input of neighbouring rows.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "refine/math.h"

namespace amt::refine {

constexpr int64_t packed_rows = 32;  // rows of a packed tile: a vector lane each, their hidden layer computed together
constexpr int64_t matrix_columns = 32;  // of a block of the backward's products
constexpr int64_t most_packed = 4;      // packed tiles whose inputs fit into L2 together

enum class Element { float32, bfloat16, float16, float64 };

// How a row's inputs lie, and how they meet w1. The last two are for maps and weights in bfloat16.
enum class Form {
  floats,  // [channels of all maps, 3 relative coordinates] in T
  pairs,  // [words of two bfloat16: the channels of all maps], [3] floats: the relative coordinates. w1 stays bfloat16:
          // AMX tiles take it as far as channels fill them, as it is stored or, for many rows, copied into whole
          // tiles.
  fixed,  // 16-bit integers, below
};

struct Layout {
  Form form;
  int64_t channels;  // of all maps
  int64_t blocks;    // of a row, if in fixed point
  int64_t sampled;   // of a row's inputs (words and floats, or T): these come from samples,
  int64_t count;     // then powers of two, then the relative coordinates
};

constexpr int64_t pair_words(int64_t channels) { return (channels + 1) / 2; }
// An AMX tile of weights: units x words of two channels. A block of hidden units has two.
constexpr int64_t tile_units = 16, tile_words = 16, tile_weights = tile_units * tile_words * 2,
                  block_units = 2 * tile_units;

// A row's inputs, and a unit's weights, in fixed point are blocks of fixed_channels values of one map, the last filled
// up with zeros:
//
//   [blocks, fixed_words] words of two integers (value c of a block below value c + fixed_words),
//   [blocks] powers of two, what a block's integers are multiplied by,
//   [3] floats: the relative coordinates and their weights.
//
// Samples are multiplied by their channel's gain, a power of two near its largest weight, weights divided by it: a
// channel with large values and small weights, or none, takes no bits from its neighbours. Then a block's largest value
// takes all the bits there are. Its error, relative to the block's length, is at worst sqrt(fixed_channels) /
// 2^fixed_input_bits, half of what rounding to bfloat16 makes at its worst; weights keep all their eight bits down to
// 1/16 of the block's largest.
constexpr int64_t fixed_channels = 64, fixed_words = fixed_channels / 2;
// |integer| <= 2^bits, and a weight's is 2^bits - 2^(bits - 8) at most: two products a word add up in 32 bits
constexpr int fixed_input_bits = 13, fixed_weight_bits = 12;
constexpr int64_t fixed_blocks(int64_t channels) { return (channels + fixed_channels - 1) / fixed_channels; }

inline Layout layout_of(Form form, int num_maps, const int64_t* channels) {
  Layout layout{.form = form, .channels = 0, .blocks = 0, .sampled = 0, .count = 0};
  for (int m = 0; m < num_maps; m++) {
    layout.channels += channels[m];
    if (form == Form::fixed) layout.blocks += fixed_blocks(channels[m]);
  }
  layout.sampled = form == Form::fixed   ? layout.blocks * fixed_words
                   : form == Form::pairs ? pair_words(layout.channels)
                                         : layout.channels;
  layout.count = layout.sampled + layout.blocks + 3;
  return layout;
}

// One row's taps in one map: where each begins (a run of zeros for a tap outside the map) and its weight.
template <class T>
struct Sample {
  const void* tap[4];
  T weight[4];
};

// The inputs that samples fill, as the hidden layer reads them. Works on ranges of groups of 16 inputs, in fixed point
// of whole blocks: groups_together at a time do.
constexpr int64_t groups_together = fixed_words / 16;
template <class T>
struct PackInputs {
  Element element;
  int num_maps;
  const int64_t* channels;   // [num_maps]
  const Sample<T>* samples;  // [rows, num_maps]
  Layout layout;             // of a row
  const float* gains;        // [layout.blocks, fixed_channels], in fixed point
  int64_t rows;
  T* packed;  // [packed tiles, layout.count, packed_rows]; 0 for the rows that fill up the last

  T* at(int64_t row, int64_t input) const {
    return packed + (row / packed_rows * layout.count + input) * packed_rows + row % packed_rows;
  }
  T* power_of_two(int64_t row, int64_t input) const {
    return at(row, layout.sampled + input / fixed_words);
  }  // of its block
};

// b1 as the hidden layer reads it. Works on ranges of groups of 16 hidden units.
template <class T>
struct PackBias {
  const T* b1;                                   // [num_joints, num_hidden]
  int64_t num_joints, num_hidden, lanes, units;  // units: num_hidden rounded up to whole groups
  T* packed;                                     // [lanes / packed_rows, units, packed_rows]
};

// Reads the taps of rows [begin, end): writes the MLP's inputs in floats, and with `grad_inputs` the taps' products
// with it.
template <class T>
struct Gather {
  Element element;
  int num_maps;
  const int64_t* channels;   // [num_maps]
  const Sample<T>* samples;  // [rows, num_maps]
  const T* relative;         // [rows, 3]
  int64_t stride;            // of a row of inputs and of grad_inputs
  T* inputs;                 // [rows, stride]: samples of every map, relative, zeros
  const T* grad_inputs;      // [rows, stride] or null
  T* dots;                   // [rows, num_maps, 4] or null
};

// Weights to fixed point. Works on ranges of steps x (blocks, then the relative coordinates); false where one is not
// finite.
struct FixWeights {
  const uint16_t* w1;  // bfloat16 [steps, units, channels of all maps + 3]
  int64_t units, step_stride, unit_stride;
  int num_maps;
  const int64_t* channels;  // [num_maps]
  int64_t blocks, stride;   // stride: of a unit's weights
  float* out;               // [steps, units, stride]
  float* gains;             // [steps, blocks, fixed_channels]
};

// The hidden layer of some packed tiles, and each block of hidden units' share of the offsets. Works on ranges of
// blocks.
template <class T>
struct Hidden {
  Layout layout;
  const T* packed;                       // [num_packed, layout.count, packed_rows]
  int64_t num_packed, rows, num_hidden;  // rows: of the packed tiles, without what fills up the last
  const void* w1;  // [num_hidden, layout.count], rows w1_stride apart; pairs: bfloat16 [num_hidden, channels + 3]
  int64_t w1_stride;
  const uint16_t* w1_tiles;  // pairs: [blocks, tiles of channels, 2, tile_units, 2 * tile_words], or null: read from w1
  T* products;               // pairs: scratch [blocks, num_packed, block_units, packed_rows]
  const T* bias;             // [num_packed, bias_units, packed_rows]: b1 of each packed tile's rows
  int64_t bias_units;
  const T* w2;  // [3, num_hidden]
  T* saved;  // [num_hidden, saved_stride] at the first of these rows, or null: the hidden layer before its activation
  int64_t saved_stride;
  T* offsets;  // [blocks, 3, num_packed * packed_rows]
};

// Gradient of the hidden layer before its activation, of w2 and of b1. Works on ranges of hidden units.
template <class T>
struct HiddenBackward {
  int64_t rows, lanes;  // lanes: rows rounded up to whole packed tiles
  int64_t num_hidden, num_joints;
  const T* saved;  // [num_hidden, saved_stride]
  int64_t saved_stride;
  const T* grad_offsets;  // [3, lanes]: 0 beyond the rows
  const T* w2;            // [3, num_hidden]
  T* grad_hidden;         // [num_hidden, lanes]
  T* grad_w2;             // [3, num_hidden], added to; null: weights need no gradient
  T* grad_b1;             // [num_hidden, num_joints], added to
};

// out[i, :] (+)= sum over k of a[i, k] * b[k, :], a's element (i, k) at a[i * a_row + k * a_column]. Works on ranges of
// blocks of matrix_columns columns of b and out.
template <class T>
struct Product {
  int64_t rows, depth, columns;  // columns: whole vectors are read and written, up to a multiple of 16
  const T* a;
  int64_t a_row, a_column;
  const T* b;
  int64_t b_stride, b_block;  // b_block: from one block of columns to the next
  T* out;
  int64_t out_stride;
  bool accumulate;
};

// One contribution to a map's gradient; `pixel` is its element offset within the image.
template <class T>
struct Contribution {
  int64_t pixel;
  T weight;
  const T* grad_samples;  // [channels]
};

// Sums the contributions to each pixel, which must be adjacent, in their order, and writes each pixel once.
template <class T>
struct Scatter {
  Element element;
  void* image;
  int64_t channels;
  const Contribution<T>* contributions;
  int64_t count;
};

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace amt::refine

AMT_DECLARE_SIMD(template <class T> void refine_gather(const refine::Gather<T>&, int64_t begin, int64_t end);
                 bool refine_fix_weights(const refine::FixWeights&, int64_t begin, int64_t end);
                 template <class T> void refine_pack_inputs(const refine::PackInputs<T>&, int64_t begin, int64_t end);
                 template <class T> void refine_pack_bias(const refine::PackBias<T>&, int64_t begin, int64_t end);
                 template <class T> void refine_scatter(const refine::Scatter<T>&);
                 int64_t refine_hidden_blocks(refine::Form, int64_t num_hidden);
                 template <class T> void refine_hidden(const refine::Hidden<T>&, int64_t begin, int64_t end);
                 template <class T>
                 void refine_hidden_backward(const refine::HiddenBackward<T>&, int64_t begin, int64_t end);
                 template <class T> void refine_product(const refine::Product<T>&, int64_t begin, int64_t end);
                 void refine_widen(refine::Element from, const void* values, int64_t count, float* out);
                 template <class T> void refine_narrow(refine::Element to, const T* values, int64_t count, void* out))
