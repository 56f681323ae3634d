// Schemas of hand_frames and its backward. Implementations: cpu_frames.cpp, cuda_frames.cu.
#include <cstdint>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "hand_frames/math.h"

namespace {

// What Python and Triton must agree on; tests/kernels/test_constants.py compares.
std::tuple<int64_t, int64_t, int64_t, int64_t, double, double, double> hand_frames_constants() {
  using namespace amt::frames;
  return {num_joints, num_frames, index_base, little_base, flat_sine, reversed_length, smallest_size};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def("hand_frames(Tensor joints) -> (Tensor origins, Tensor rotations)");
  m.def("hand_frames_backward(Tensor grad_origins, Tensor grad_rotations, Tensor joints) -> Tensor");
  m.def(
      "hand_frames_constants() -> (int num_joints, int num_frames, int index_base, int little_base, float flat_sine, "
      "float reversed_length, float smallest_size)");
}

STABLE_TORCH_LIBRARY_IMPL(amt, CompositeExplicitAutograd, m) {
  m.impl("hand_frames_constants", TORCH_BOX(&hand_frames_constants));
}
