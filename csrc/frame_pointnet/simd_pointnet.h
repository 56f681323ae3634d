// What cpu_pointnet.cpp hands to the vector code. Everything is contiguous unless it says strides.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

namespace amt {

constexpr double pointnet_unit = 0.1;  // m: the scale of the local coordinates that the MLP reads

struct PointnetShape {
  int64_t points, frames, hidden, features;
};

// The points [B, N, 3] with their strides in elements.
template <class T>
struct PointSet {
  const T* points;
  int64_t image_stride, point_stride, axis_stride;
};

// The points that count, in the order in which they are taken: `count[b]` numbers from `points + b * N`.
struct PointOrder {
  const int32_t *points, *count;
};

template <class T>
struct PointnetInputs {
  PointSet<T> set;
  const T *origins, *rotations;  // [B, F, 3], [B, F, 3, 3]
  const T *w1, *b1, *w2, *b2;    // [D1, 3], [F, D1], [D2, D1], [D2]
};

template <class T>
struct PointnetGradients {
  T *points, *origins, *rotations;  // of the images that a call is given; points zeroed by the caller
  T *w1, *b1, *w2, *b2;             // added to
};

constexpr int64_t max_lanes = 16;  // of the widest vector, in floats
constexpr int64_t padded(int64_t count) { return (count + max_lanes - 1) / max_lanes * max_lanes; }
constexpr int64_t padded_features(int64_t count) { return padded(count) + 8 * max_lanes; }  // whole blocks
constexpr int64_t packed_weights(const PointnetShape& s) { return s.hidden * padded_features(s.features); }
constexpr int64_t pairs_per_tile = 8;  // pairs of points per w2 block, so that the block stays in L1
// Elements of scratch that a call needs. Forward: folded weights, active units of the pairs, maxima.
constexpr int64_t forward_scratch(const PointnetShape& s) {
  return 4 * padded(s.hidden) + 3 * pairs_per_tile * (padded(s.hidden) + max_lanes) + 2 * padded_features(s.features);
}
// Backward: folded weights and their gradient, and for each winning point its hidden units and their gradient.
constexpr int64_t backward_scratch(const PointnetShape& s) {
  const int64_t winners = s.points < s.features ? s.points : s.features;
  return 8 * padded(s.hidden) + winners * 2 * padded(s.hidden) + 4 * winners;
}

}  // namespace amt

// w2 as forward reads it: [blocks of features][D1][features of the block]; packed holds packed_weights(shape).
// Returns whether every weight is finite and below a bound under which the sums of forward cannot overflow.
AMT_DECLARE_SIMD(template <class T> bool pointnet_pack(const T* w2, PointnetShape shape, T* packed))
// Image-frame pairs begin to end of features [B, F, D2] and winners [B, F, D2] (the winning point, -1: none).
AMT_DECLARE_SIMD(template <class T> void pointnet_forward(const PointnetInputs<T>& inputs, PointnetShape shape,
                                                          PointOrder order, const T* packed, bool finite_weights,
                                                          T* features, int32_t* winners, T* scratch, int64_t begin,
                                                          int64_t end))
// Images begin to end. slots: one int32 a point, all -1, and left so.
AMT_DECLARE_SIMD(template <class T> void pointnet_backward(const PointnetInputs<T>& inputs, PointnetShape shape,
                                                           const T* grad_features, const int32_t* winners,
                                                           const PointnetGradients<T>& gradients, T* scratch,
                                                           int32_t* slots, int64_t begin, int64_t end))
