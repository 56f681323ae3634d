// The matrix products of refine's backward on the CPU: one broadcast row element times whole vectors of columns.
#include "refine/simd_activation.h"
#include "refine/simd_rows.h"

namespace amt::AMT_ISA {
namespace {

template <class T, int Count, int Vectors>
AMT_INLINE void product_tile(const Product<T>& work, int64_t row, const T* b, T* out) {
  constexpr int lanes = Lanes<T>::count;
  const int64_t a_column = work.a_column, b_stride = work.b_stride;
  auto a = rows_from<Count>(work.a + row * work.a_row, work.a_row);
  Vector<T> sum[Count][Vectors];
  clear(sum);
  for (int64_t k = 0; k < work.depth; k++, b += b_stride) {
    add_outer_product(a, b, sum);
    advance(a, a_column);
  }
#pragma GCC unroll 12
  for (int i = 0; i < Count; i++)
#pragma GCC unroll 2
    for (int v = 0; v < Vectors; v++) {
      T* to = out + (row + i) * work.out_stride + v * lanes;
      store(to, work.accumulate ? load(to) + sum[i][v] : sum[i][v]);
    }
}

template <class T, int Count>
void product_rows(const Product<T>& work, int64_t row, int64_t columns, const T* b, T* out) {
  constexpr int lanes = Lanes<T>::count;
  for (int64_t c = 0; c < columns; c += 2 * lanes) {
    if (columns - c > lanes)
      product_tile<T, Count, 2>(work, row, b + c, out + c);
    else
      product_tile<T, Count, 1>(work, row, b + c, out + c);
  }
}

template <class T, int Count>
AMT_INLINE void product_rows_of(int64_t count, const Product<T>& work, int64_t row, int64_t columns, const T* b,
                                T* out) {
  if (count == Count) return product_rows<T, Count>(work, row, columns, b, out);
  if constexpr (Count > 1) product_rows_of<T, Count - 1>(count, work, row, columns, b, out);
}

}  // namespace

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
