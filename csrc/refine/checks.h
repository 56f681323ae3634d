// What the native ops of refine ask of their arguments, on the CPU and on CUDA. The public function has checked before
// and says more; these hold for direct calls of the ops too.
#pragma once

#include <cstdint>
#include <vector>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "common/tensors.h"
#include "refine/math.h"

namespace amt::refine {

inline bool on_one_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() == b.is_cpu() && a.get_device_index() == b.get_device_index();
}

inline void check_arguments(const Tensor& joints, const Tensor& intrinsics, const std::vector<Tensor>& maps,
                            const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, int64_t height,
                            int64_t width) {
  const ScalarType dtype = joints.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "refine: joints must be float32 or float64");
  check_shape<3>(joints, "refine: joints", {-1, -1, 3});
  const int64_t batch = joints.size(0), num_joints = joints.size(1);
  check_shape<3>(intrinsics, "refine: intrinsics", {batch, 3, 3});
  STD_TORCH_CHECK(intrinsics.scalar_type() == dtype, "refine: intrinsics must have the joints' dtype");
  STD_TORCH_CHECK(!maps.empty() && maps.size() <= max_maps, "refine: maps must hold 1 to ", max_maps, " maps, got ",
                  maps.size());
  int64_t channels = 0;
  for (const Tensor& map : maps) {
    check_shape<4>(map, "refine: a map", {batch, -1, -1, -1});
    STD_TORCH_CHECK(map.stride(3) == 1 || map.size(3) <= 1,
                    "refine: maps must be channels last in memory (stride 1 of the channels)");
    STD_TORCH_CHECK(map.scalar_type() == maps[0].scalar_type() &&
                        (map.scalar_type() == ScalarType::Double) == (dtype == ScalarType::Double),
                    "refine: maps must share one dtype, float64 exactly with float64 joints");
    STD_TORCH_CHECK(on_one_device(map, joints), "refine: maps must be on the joints' device");
    channels += map.size(3);
  }
  check_shape<3>(w1, "refine: w1", {-1, -1, channels + 3});
  const int64_t num_steps = w1.size(0), hidden = w1.size(1);
  check_shape<3>(b1, "refine: b1", {num_steps, num_joints, hidden});
  check_shape<3>(w2, "refine: w2", {num_steps, 3, hidden});
  check_shape<2>(b2, "refine: b2", {num_steps, 3});
  STD_TORCH_CHECK(num_steps >= 1, "refine: w1 must hold at least one step");
  STD_TORCH_CHECK(w1.stride(2) == 1 && w1.stride(1) >= 0 && w1.stride(0) >= 0,
                  "refine: w1 must have stride 1 in its last dimension and no negative stride");
  for (const Tensor* tensor : {&joints, &intrinsics, &b1, &w2, &b2})
    STD_TORCH_CHECK(tensor->is_contiguous(), "refine: all but maps and w1 must be contiguous");
  for (const Tensor* weight : {&w1, &b1, &w2, &b2})
    STD_TORCH_CHECK(weight->scalar_type() == maps[0].scalar_type() || weight->scalar_type() == dtype,
                    "refine: the weights must be of the maps' dtype or the joints'");
  for (const Tensor* tensor : {&intrinsics, &w1, &b1, &w2, &b2})
    STD_TORCH_CHECK(on_one_device(*tensor, joints), "refine: all tensors must be on one device");
  STD_TORCH_CHECK(height > 0 && width > 0, "refine: the image's size must be positive");
}

// What the backward gets beside the forward's arguments; `saved_numel`: the elements that the forward saves.
inline void check_backward_arguments(const Tensor& grad_steps, const Tensor& steps, const Tensor& saved,
                                     const Tensor& joints, const Tensor& w1, int64_t saved_numel) {
  const std::array<int64_t, 4> sizes = {joints.size(0), w1.size(0), joints.size(1), 3};
  check_shape<4>(grad_steps, "refine_backward: grad_steps", sizes);
  check_shape<4>(steps, "refine_backward: steps", sizes);
  STD_TORCH_CHECK(saved.numel() == saved_numel,
                  "refine_backward: saved must come from refine with save=True: expected ", saved_numel,
                  " elements, got ", saved.numel());
  for (const Tensor* tensor : {&grad_steps, &steps, &saved}) {
    STD_TORCH_CHECK(tensor->is_contiguous() && tensor->scalar_type() == joints.scalar_type(),
                    "refine_backward: grad_steps, steps and saved must be contiguous and of the joints' dtype");
    STD_TORCH_CHECK(on_one_device(*tensor, joints),
                    "refine_backward: grad_steps, steps and saved must be on the joints' device");
  }
}

}  // namespace amt::refine
