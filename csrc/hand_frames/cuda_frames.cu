// hand_frames on CUDA: launches, and the ops.
#include <tuple>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "common/cuda_call.h"
#include "hand_frames/cuda_frames.cuh"
#include "hand_frames/checks.h"

namespace {

using amt::ScalarType;
using amt::Tensor;
using amt::frames::cuda::threads_per_block;

unsigned blocks_for(int64_t hands) {
  constexpr int hands_per_block = threads_per_block / amt::frames::cuda::lanes_per_hand;
  return static_cast<unsigned>((hands + hands_per_block - 1) / hands_per_block);
}

template <class T>
void launch_forward(const Tensor& joints, Tensor& origins, Tensor& rotations) {
  amt::frames::cuda::forward_kernel<T>
      <<<blocks_for(joints.size(0)), threads_per_block, 0, amt::current_stream(joints)>>>(
          joints.const_data_ptr<T>(), amt::strides_of_points(joints), origins.mutable_data_ptr<T>(),
          rotations.mutable_data_ptr<T>(), joints.size(0));
  AMT_CUDA_CHECK(cudaGetLastError());
}

template <class T>
void launch_backward(const Tensor& grad_origins, const Tensor& grad_rotations, const Tensor& joints,
                     Tensor& grad_joints) {
  amt::frames::cuda::backward_kernel<T>
      <<<blocks_for(joints.size(0)), threads_per_block, 0, amt::current_stream(joints)>>>(
          grad_origins.const_data_ptr<T>(), amt::strides_of_points(grad_origins), grad_rotations.const_data_ptr<T>(),
          amt::strides_of_matrices(grad_rotations), joints.const_data_ptr<T>(), amt::strides_of_points(joints),
          grad_joints.mutable_data_ptr<T>(), joints.size(0));
  AMT_CUDA_CHECK(cudaGetLastError());
}

std::tuple<Tensor, Tensor> hand_frames(const Tensor& joints) {
  auto [origins, rotations] = amt::empty_frames(joints);
  if (joints.size(0) == 0) return {origins, rotations};
  const torch::stable::accelerator::DeviceGuard guard(joints.get_device_index());
  if (joints.scalar_type() == ScalarType::Double)
    launch_forward<double>(joints, origins, rotations);
  else
    launch_forward<float>(joints, origins, rotations);
  return {origins, rotations};
}

Tensor hand_frames_backward(const Tensor& grad_origins, const Tensor& grad_rotations, const Tensor& joints) {
  Tensor grad_joints = amt::empty_frame_gradient(grad_origins, grad_rotations, joints);
  if (joints.size(0) == 0) return grad_joints;
  const torch::stable::accelerator::DeviceGuard guard(joints.get_device_index());
  if (joints.scalar_type() == ScalarType::Double)
    launch_backward<double>(grad_origins, grad_rotations, joints, grad_joints);
  else
    launch_backward<float>(grad_origins, grad_rotations, joints, grad_joints);
  return grad_joints;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amt, CUDA, m) {
  m.impl("hand_frames", TORCH_BOX(&hand_frames));
  m.impl("hand_frames_backward", TORCH_BOX(&hand_frames_backward));
}
