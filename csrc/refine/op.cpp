// Schemas of refine and its backward. Implementations: cpu_forward.cpp, cpu_backward.cpp, cuda_refine.cu.
#include <torch/csrc/stable/library.h>

// joints, intrinsics and the MLP's tensors are contiguous (w1 in its last dimension only: it may be expanded over the
// steps). maps may have any strides but 1 for the channels. dtypes: joints and intrinsics float32 or float64; maps all
// of one dtype; w1, b1, w2, b2 of the maps' dtype or the joints'.
//
// refine returns the joints after each step [B, S, J, 3] and `kept`: what the backward reads again, opaque, of the
// joints' dtype and of a shape that the device's implementation chooses (amt/kernels/refine/native.py tells it to the
// compiler); empty where keep is false.
//
// refine_backward returns the gradients of joints, intrinsics, each map, w1, b1, w2, b2, each in its tensor's shape and
// dtype and contiguous; those that the bits of `needs` (math.h) leave out are empty: [0], and no maps.
STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def(
      "refine(Tensor joints, Tensor intrinsics, Tensor[] maps, Tensor w1, Tensor b1, Tensor w2, Tensor b2, int height, "
      "int width, float step_size, bool detach, bool keep) -> (Tensor steps, Tensor kept)");
  m.def(
      "refine_backward(Tensor gradient, Tensor steps, Tensor kept, Tensor joints, Tensor intrinsics, Tensor[] maps, "
      "Tensor w1, "
      "Tensor b1, Tensor w2, Tensor b2, int height, int width, float step_size, bool detach, int needs) -> (Tensor "
      "joints, "
      "Tensor intrinsics, Tensor[] maps, Tensor w1, Tensor b1, Tensor w2, Tensor b2)");
}
