// Checks and results of hand_frames, for either device.
#pragma once

#include <tuple>

#include "hand_frames/math.h"
#include "hand_frames/strides.h"
#include "common/tensors.h"

namespace amt {

inline FrameStrides strides_of_points(const Tensor& t) { return {t.stride(0), t.stride(1), 0, t.stride(2)}; }
inline FrameStrides strides_of_matrices(const Tensor& t) {
  return {t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

inline void check_joints(const Tensor& joints) {
  check_shape<3>(joints, "hand_frames: joints", {-1, frames::num_joints, 3});
  const ScalarType dtype = joints.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "hand_frames: joints must be float32 or float64");
}

inline std::tuple<Tensor, Tensor> empty_frames(const Tensor& joints) {
  check_joints(joints);
  const int64_t hands = joints.size(0);
  return {empty<3>({hands, frames::num_frames, 3}, joints.scalar_type(), joints),
          empty<4>({hands, frames::num_frames, 3, 3}, joints.scalar_type(), joints)};
}

inline Tensor empty_frame_gradient(const Tensor& grad_origins, const Tensor& grad_rotations, const Tensor& joints) {
  check_joints(joints);
  const int64_t hands = joints.size(0);
  check_shape<3>(grad_origins, "hand_frames: grad_origins", {hands, frames::num_frames, 3});
  check_shape<4>(grad_rotations, "hand_frames: grad_rotations", {hands, frames::num_frames, 3, 3});
  STD_TORCH_CHECK(
      grad_origins.scalar_type() == joints.scalar_type() && grad_rotations.scalar_type() == joints.scalar_type(),
      "hand_frames: gradients must have the dtype of the joints");
  STD_TORCH_CHECK(grad_origins.is_cpu() == joints.is_cpu() && grad_rotations.is_cpu() == joints.is_cpu() &&
                      grad_origins.get_device_index() == joints.get_device_index() &&
                      grad_rotations.get_device_index() == joints.get_device_index(),
                  "hand_frames: gradients must be on the joints' device");
  return empty<3>({hands, frames::num_joints, 3}, joints.scalar_type(), joints);
}

}  // namespace amt
