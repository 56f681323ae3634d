// Schemas of pose_scores and its backward. Implementation: cpu_pose_scores.cpp.
#include <cstdint>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "pose_scores/simd_pose_scores.h"

namespace {

// What Python must agree on; tests/kernels/test_constants.py compares.
std::tuple<double, double, double, double, double, int64_t> pose_scores_constants() {
  using namespace amt::pose_scores;
  return {nearest_depth, smallest_square, least_facing, steepness, rim, surface_channels};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def(
      "pose_scores(Tensor colour, Tensor surface, Tensor points, Tensor normals, Tensor rotation, Tensor translation, "
      "Tensor intrinsics, int height, int width) -> Tensor");
  m.def(
      "pose_scores_backward(Tensor grad_scores, Tensor points, Tensor normals, Tensor rotation, Tensor translation, "
      "Tensor intrinsics, int height, int width, int map_height, int map_width) -> (Tensor grad_colour, "
      "Tensor grad_surface)");
  m.def(
      "pose_scores_constants() -> (float nearest_depth, float smallest_square, float least_facing, float steepness, "
      "float rim, int surface_channels)");
}

STABLE_TORCH_LIBRARY_IMPL(amt, CompositeExplicitAutograd, m) {
  m.impl("pose_scores_constants", TORCH_BOX(&pose_scores_constants));
}
