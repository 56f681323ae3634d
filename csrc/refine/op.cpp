// Schemas of refine and its backward. Implementations: cpu_forward.cpp, cpu_backward.cpp, cuda_refine.cu.
#include <cstdint>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "refine/simd_kernels.h"

namespace {

// What Python and Triton must agree on; tests/kernels/test_constants.py compares.
std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, double, double> refine_constants() {
  using namespace amt::refine;
  return {max_maps,
          needs_coordinates,
          needs_maps,
          needs_weights,
          packed_rows,
          most_packed,
          Constants<double>::nearest_depth,
          Constants<double>::relative_unit};
}

}  // namespace

// joints, intrinsics and the MLP's tensors are contiguous (w1 in its last dimension only: it may be expanded over the
// steps). maps may have any strides but 1 for the channels. dtypes: joints and intrinsics float32 or float64; maps all
// of one dtype; w1, b1, w2, b2 of the maps' dtype or the joints'.
//
// refine returns the joints after each step [B, S, J, 3] and `saved`: the tensor that the backward reads, opaque, of
// the joints' dtype and of a shape that the device's implementation chooses (amt/kernels/refine/native.py tells it to
// the compiler); empty where save is false.
//
// refine_backward returns the gradients of joints, intrinsics, each map, w1, b1, w2, b2, each in its tensor's shape and
// dtype and contiguous; those that the bits of `needs` (math.h) leave out are empty: [0], and no maps.
STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def(
      "refine(Tensor joints, Tensor intrinsics, Tensor[] maps, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int height, "
      "int width, float step_size, bool detach, bool save) -> (Tensor steps, Tensor saved)");
  m.def(
      "refine_backward(Tensor grad_steps, Tensor steps, Tensor saved, Tensor joints, Tensor intrinsics, Tensor[] maps, "
      "Tensor w1, "
      "Tensor b1, Tensor w2, Tensor b2, int height, int width, float step_size, bool detach, int needs) -> (Tensor "
      "joints, "
      "Tensor intrinsics, Tensor[] maps, Tensor w1, Tensor b1, Tensor w2, Tensor b2)");
  m.def(
      "refine_constants() -> (int max_maps, int needs_coordinates, int needs_maps, int needs_weights, int packed_rows, "
      "int most_packed, float nearest_depth, float relative_unit)");
}

STABLE_TORCH_LIBRARY_IMPL(amt, CompositeExplicitAutograd, m) {
  m.impl("refine_constants", TORCH_BOX(&refine_constants));
}
