// hand_frames on the CPU: hands are split between threads, the arithmetic is in simd_frames.cpp.
#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/cpu_team.h"
#include "common/cpu_threads.h"
#include "hand_frames/simd_frames.h"
#include "hand_frames/checks.h"

namespace {

using amt::ScalarType;
using amt::Tensor;

constexpr int64_t least_hands = 128;  // for a thread: with fewer, waking it costs more time than it saves
constexpr int64_t hands_per_piece = 64;

template <class T>
void forward(const Tensor& joints, Tensor& origins, Tensor& rotations) {
  const auto strides = amt::strides_of_points(joints);
  const T* in = joints.const_data_ptr<T>();
  T *o = origins.mutable_data_ptr<T>(), *r = rotations.mutable_data_ptr<T>();
  const auto kernel = AMT_SIMD(hand_frames<T>);
  const int64_t hands = joints.size(0);
  amt::with_team(amt::threads_worth(hands, least_hands), [&](amt::CpuTeam& team) {
    team.share(hands, hands_per_piece,
               [&](int64_t begin, int64_t end, int64_t) { kernel(in, strides, o, r, begin, end); });
  });
}

template <class T>
void backward(const Tensor& grad_origins, const Tensor& grad_rotations, const Tensor& joints, Tensor& grad_joints) {
  const auto joint_strides = amt::strides_of_points(joints), origin_strides = amt::strides_of_points(grad_origins);
  const auto rotation_strides = amt::strides_of_matrices(grad_rotations);
  const T *go = grad_origins.const_data_ptr<T>(), *gr = grad_rotations.const_data_ptr<T>(),
          *in = joints.const_data_ptr<T>();
  T* out = grad_joints.mutable_data_ptr<T>();
  const auto kernel = AMT_SIMD(hand_frames_backward<T>);
  const int64_t hands = joints.size(0);
  amt::with_team(amt::threads_worth(hands, least_hands), [&](amt::CpuTeam& team) {
    team.share(hands, hands_per_piece, [&](int64_t begin, int64_t end, int64_t) {
      kernel(go, origin_strides, gr, rotation_strides, in, joint_strides, out, begin, end);
    });
  });
}

std::tuple<Tensor, Tensor> hand_frames(const Tensor& joints) {
  auto [origins, rotations] = amt::empty_frames(joints);
  if (joints.scalar_type() == ScalarType::Double)
    forward<double>(joints, origins, rotations);
  else
    forward<float>(joints, origins, rotations);
  return {origins, rotations};
}

Tensor hand_frames_backward(const Tensor& grad_origins, const Tensor& grad_rotations, const Tensor& joints) {
  Tensor grad_joints = amt::empty_frame_gradient(grad_origins, grad_rotations, joints);
  if (joints.scalar_type() == ScalarType::Double)
    backward<double>(grad_origins, grad_rotations, joints, grad_joints);
  else
    backward<float>(grad_origins, grad_rotations, joints, grad_joints);
  return grad_joints;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amt, CPU, m) {
  m.impl("hand_frames", TORCH_BOX(&hand_frames));
  m.impl("hand_frames_backward", TORCH_BOX(&hand_frames_backward));
}
