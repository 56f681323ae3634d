// w1 for refine's backward on the CPU: the product of the hidden layer's gradient with it.
#pragma once

#include <algorithm>

#include "common/aligned_buffer.h"
#include "common/cpu_team.h"
#include "refine/cpu_problem.h"
#include "refine/simd_kernels.h"

namespace amt::refine {

// w1 as the product with the hidden layer's gradient reads it. Where many rows share it, in blocks of matrix_columns
// inputs [S, blocks, D, matrix_columns]: the rows of w1 may be whole pages apart. Where few do, only its last block is
// copied, because whole vectors of it are read. Same numbers, same order, same result.
template <class T>
struct PackedW1 {
  static constexpr int64_t piece_products = 16;  // rows of w1 that a thread copies at a time

  int64_t direct_blocks;  // of w1 itself
  int64_t copied_blocks;
  AlignedBuffer<T> copy;  // [S, copied_blocks, D, matrix_columns], zeros beyond the last input

  PackedW1(const CpuProblem<T>& p, bool needed, CpuTeam& team) : direct_blocks(0), copied_blocks(0) {
    if (!needed) return;
    const int64_t blocks = (p.stride + matrix_columns - 1) / matrix_columns, hidden = p.num_hidden;
    direct_blocks = p.plan.chunks > 2 ? 0 : p.num_inputs / matrix_columns;
    copied_blocks = blocks - direct_blocks;
    copy = AlignedBuffer<T>(p.num_steps * copied_blocks * hidden * matrix_columns);
    team.share(p.num_steps * hidden, piece_products, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t first = begin; first < end; first += 16) {
        for (int64_t block = 0; block < copied_blocks; block++) {
          const int64_t input = (direct_blocks + block) * matrix_columns;
          const int64_t count = std::clamp<int64_t>(p.num_inputs - input, 0, matrix_columns);
          for (int64_t i = first; i < std::min(first + 16, end); i++) {
            const int64_t step = i / hidden, unit = i % hidden;
            T* to = copy.get() + ((step * copied_blocks + block) * hidden + unit) * matrix_columns;
            std::copy_n(p.w1.get() + step * p.w1_step + unit * p.w1_row + input, count, to);
            std::fill_n(to + count, matrix_columns - count, T(0));
          }
        }
      }
    });
  }

  // grad_inputs [rows, stride] = (grad_hidden [D, lanes])^T w1[step].
  void multiply(const CpuProblem<T>& p, int64_t step, const T* grad_hidden, int64_t rows, int64_t lanes, T* grad_inputs,
                CpuTeam& team) const {
    const int64_t direct = direct_blocks * matrix_columns;
    const Product<T> from_w1{
        .rows = rows,
        .depth = p.num_hidden,
        .columns = direct,
        .a = grad_hidden,
        .a_row = 1,
        .a_column = lanes,
        .b = p.w1.get() + step * p.w1_step,
        .b_stride = p.w1_row,
        .b_block = matrix_columns,
        .out = grad_inputs,
        .out_stride = p.stride,
        .accumulate = false,
    };
    const Product<T> from_copy{
        .rows = rows,
        .depth = p.num_hidden,
        .columns = p.stride - direct,
        .a = grad_hidden,
        .a_row = 1,
        .a_column = lanes,
        .b = copy.get() + step * copied_blocks * matrix_columns * p.num_hidden,
        .b_stride = matrix_columns,
        .b_block = matrix_columns * p.num_hidden,
        .out = grad_inputs + direct,
        .out_stride = p.stride,
        .accumulate = false,
    };
    team.share_by_blocks(direct_blocks + copied_blocks, 1, [&](int64_t begin, int64_t end, int64_t) {
      if (begin < direct_blocks) AMT_SIMD(refine_product<T>)(from_w1, begin, std::min(end, direct_blocks));
      if (end > direct_blocks)
        AMT_SIMD(refine_product<T>)(from_copy, std::max<int64_t>(begin - direct_blocks, 0), end - direct_blocks);
    });
  }
};

}  // namespace amt::refine
