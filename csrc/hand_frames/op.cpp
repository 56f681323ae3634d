// Schemas of hand_frames and its backward. Implementations: cpu_frames.cpp, cuda_frames.cu.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def("hand_frames(Tensor joints) -> (Tensor origins, Tensor rotations)");
  m.def("hand_frames_backward(Tensor grad_origins, Tensor grad_rotations, Tensor joints) -> Tensor");
}
