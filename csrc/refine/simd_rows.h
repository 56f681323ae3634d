// The inner loop of refine's matrix products on the CPU: one element of each row, broadcast, times vectors of columns.
#pragma once

#include "common/simd_vector.h"

namespace amt::AMT_ISA {
namespace {

// `Count` rows of a matrix. One pointer for three of them: twelve would not fit the registers.
template <class T, int Count>
struct Rows {
  const T* at[(Count + 2) / 3];
  int64_t stride;
};

template <int Count, class T>
AMT_INLINE Rows<T, Count> rows_from(const T* first, int64_t stride) {
  Rows<T, Count> rows;
  rows.stride = stride;
  for (int i = 0; i < (Count + 2) / 3; i++) rows.at[i] = first + 3 * i * stride;
  return rows;
}

// Where the element of row `i` lies in the present column.
template <class T, int Count>
AMT_INLINE const T* element(const Rows<T, Count>& rows, int i) {
  return rows.at[i / 3] + i % 3 * rows.stride;
}

template <class T, int Count>
AMT_INLINE void advance(Rows<T, Count>& rows, int64_t columns) {
#pragma GCC unroll 4
  for (int i = 0; i < (Count + 2) / 3; i++) rows.at[i] += columns;
}

template <class V, int Count, int Vectors>
AMT_INLINE void clear(V (&sum)[Count][Vectors]) {
#pragma GCC unroll 12
  for (int i = 0; i < Count; i++)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; v++) sum[i][v] = V{};
}

// sum[i][v] += element of row i * vector v of `right`, for the rows' present column.
template <class T, int Count, int Vectors>
AMT_INLINE void add_outer_product(const Rows<T, Count>& rows, const T* right, Vector<T> (&sum)[Count][Vectors]) {
  Vector<T> columns[Vectors];
#pragma GCC unroll 3
  for (int v = 0; v < Vectors; v++) columns[v] = load(right + v * Lanes<T>::count);
#pragma GCC unroll 12
  for (int i = 0; i < Count; i++) {
    const T left = *element(rows, i);
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; v++) sum[i][v] += columns[v] * left;
  }
}

}  // namespace
}  // namespace amt::AMT_ISA
