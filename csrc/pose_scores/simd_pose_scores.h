// What cpu_pose_scores.cpp hands to the vector code. Everything is contiguous.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"

namespace amt::pose_scores {

// As in reference.py; tests/kernels/test_constants.py compares.
constexpr double nearest_depth = 1e-3, smallest_square = 1e-12;  // m, m^2
constexpr double least_facing = 0.1, steepness = 12.0, rim = 0.2;
constexpr int64_t surface_channels = 4;

constexpr int64_t pose_numbers = 12;  // a rotation's nine and a translation's three
constexpr int64_t max_lanes = 16;     // of the widest vector, in floats

// The vectors' lanes are poses: the last one is repeated up to a whole number of vectors.
constexpr int64_t padded(int64_t poses) { return (poses + max_lanes - 1) / max_lanes * max_lanes; }

struct Shape {
  int64_t points, poses, height, width, padded_poses, cells;
};

// One image.
template <class T>
struct Image {
  const T *points, *normals;  // [N, 3]
  const T* poses;             // [12, padded poses]: the rotations' rows, then the translations
  const T* camera;            // [6]: a point's place among the cells is camera (x / z, y / z, 1), across and down
};

}  // namespace amt::pose_scores

// Poses begin to end of the padded ones, both multiples of max_lanes. colour [N, H, W]; surface [H + 1, W + 1, 4], the
// last row and column of which are 0: they are read, with a share of 0. scores and weights hold end - begin.
AMT_DECLARE_SIMD(template <class T> void pose_scores_forward(const pose_scores::Image<T>& image,
                                                             const pose_scores::Shape& shape, const T* colour,
                                                             const T* surface, int64_t begin, int64_t end, T* scores,
                                                             T* weights))
// The weights' sums of the same poses, not below 1: what their scores are divided by.
AMT_DECLARE_SIMD(template <class T> void pose_scores_weights(const pose_scores::Image<T>& image,
                                                             const pose_scores::Shape& shape, int64_t begin,
                                                             int64_t end, T* weights))
// Points begin to end. grad_sums [padded poses]: gradients of the sums over the points, 0 for repeated poses. Writes
// these points' grad_colour [N, H, W] and grad_surface [H, W, 4], their part of it.
AMT_DECLARE_SIMD(template <class T> void pose_scores_backward(const pose_scores::Image<T>& image,
                                                              const pose_scores::Shape& shape, const T* grad_sums,
                                                              int64_t begin, int64_t end, T* grad_colour,
                                                              T* grad_surface))
