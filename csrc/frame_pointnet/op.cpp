// Schemas of frame_pointnet and its backward. Implementation: cpu_pointnet.cpp.
#include <torch/csrc/stable/library.h>

#include "frame_pointnet/simd_pointnet.h"

namespace {

// What Python and Triton must agree on; tests/kernels/test_constants.py compares.
double frame_pointnet_unit() { return amt::pointnet_unit; }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def(
      "frame_pointnet(Tensor points, Tensor origins, Tensor rotations, Tensor w1, Tensor b1, Tensor w2, Tensor b2, "
      "Tensor? mask) -> (Tensor features, Tensor winners)");
  m.def(
      "frame_pointnet_backward(Tensor grad_features, Tensor winners, Tensor points, Tensor origins, Tensor rotations, "
      "Tensor w1, Tensor b1, Tensor w2, Tensor b2) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("frame_pointnet_unit() -> float");
}

STABLE_TORCH_LIBRARY_IMPL(amt, CompositeExplicitAutograd, m) {
  m.impl("frame_pointnet_unit", TORCH_BOX(&frame_pointnet_unit));
}
