// hand_frames' CUDA kernels, run on the CPU by cuda_on_host.h behind C functions. Everything is contiguous.
#include "hand_frames/cuda_frames.cuh"

namespace cuda = amt::frames::cuda;

namespace {

constexpr amt::FrameStrides joints_of{63, 3, 0, 1}, origins_of{66, 3, 0, 1}, rotations_of{198, 9, 3, 1};

on_host::Index grid(int64_t hands) {
  constexpr int hands_per_block = cuda::threads_per_block / cuda::lanes_per_hand;
  return {static_cast<unsigned>((hands + hands_per_block - 1) / hands_per_block), 1, 1};
}

template <class T>
void forward(const T* joints, T* origins, T* rotations, int64_t hands) {
  on_host::launch(grid(hands), 1, cuda::threads_per_block, 0,
                  [&] { cuda::forward_kernel<T>(joints, joints_of, origins, rotations, hands); });
}

template <class T>
void backward(const T* grad_origins, const T* grad_rotations, const T* joints, T* grad_joints, int64_t hands) {
  on_host::launch(grid(hands), 1, cuda::threads_per_block, 0, [&] {
    cuda::backward_kernel<T>(grad_origins, origins_of, grad_rotations, rotations_of, joints, joints_of, grad_joints,
                             hands);
  });
}

}  // namespace

extern "C" {

void forward_float(const float* j, float* o, float* r, int64_t hands) { forward(j, o, r, hands); }
void forward_double(const double* j, double* o, double* r, int64_t hands) { forward(j, o, r, hands); }
void backward_float(const float* go, const float* gr, const float* j, float* gj, int64_t hands) {
  backward(go, gr, j, gj, hands);
}
void backward_double(const double* go, const double* gr, const double* j, double* gj, int64_t hands) {
  backward(go, gr, j, gj, hands);
}
}
