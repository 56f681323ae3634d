// refine on CUDA: checks, memory and launches; the schema is in op.cpp. It is made for small batches: one launch runs
// all steps of an image. `saved` holds the pre-activations [B, S, J, D].
#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/cuda_call.h"
#include "refine/checks.h"
#include "refine/cuda_backward.cuh"
#include "refine/cuda_forward.cuh"
#include "refine/cuda_gradients.cuh"
#include "common/tensors.h"

namespace amt::refine::cuda {
namespace {

constexpr int max_devices = 64, cluster_on_hopper = 8;

void check_cuda_arguments(const Tensor& joints, const Tensor& intrinsics, const std::vector<Tensor>& maps,
                          const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, int64_t height,
                          int64_t width) {
  check_arguments(joints, intrinsics, maps, w1, b1, w2, b2, height, width);
  STD_TORCH_CHECK(joints.size(1) <= max_joints, "refine: at most ", max_joints, " joints on CUDA, got ", joints.size(1),
                  ": use Triton (amt.kernels.use(\"triton\"))");
}

template <class T>
CudaProblem<T> problem_of(const Tensor& joints, const Tensor& intrinsics, const std::vector<Tensor>& maps,
                          const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2, int64_t height,
                          int64_t width, double step_size) {
  CudaProblem<T> p{};
  p.batch = static_cast<int>(joints.size(0));
  p.num_joints = static_cast<int>(joints.size(1));
  p.num_steps = static_cast<int>(w1.size(0));
  p.num_hidden = static_cast<int>(w1.size(1));
  p.num_maps = static_cast<int>(maps.size());
  p.joints = static_cast<const T*>(joints.const_data_ptr());
  p.intrinsics = static_cast<const T*>(intrinsics.const_data_ptr());
  for (int m = 0; m < p.num_maps; ++m) {
    const Tensor& map = maps[m];
    p.maps[m] = {
        .data = map.const_data_ptr(),
        .image = map.stride(0),
        .row = map.stride(1),
        .column = map.stride(2),
        .height = map.size(1),
        .width = map.size(2),
        .channels = static_cast<int>(map.size(3)),
        .first = p.num_channels,
        .scale_x = static_cast<T>(static_cast<double>(map.size(2)) / static_cast<double>(width)),
        .scale_y = static_cast<T>(static_cast<double>(map.size(1)) / static_cast<double>(height)),
    };
    p.num_channels += static_cast<int>(map.size(3));
  }
  const auto weight = [&](const Tensor& tensor) {
    return Weight{tensor.const_data_ptr(), tensor.scalar_type() == joints.scalar_type()};
  };
  p.w1 = weight(w1), p.b1 = weight(b1), p.w2 = weight(w2), p.b2 = weight(b2);
  p.w1_step = w1.stride(0), p.w1_row = w1.stride(1);
  p.step_size = static_cast<T>(step_size);
  return p;
}

// Calls run with values of the joints' and the maps' C++ types.
template <class Run>
void with_types(ScalarType joints, ScalarType maps, const Run& run) {
  if (joints == ScalarType::Double)
    run(double{}, double{});
  else if (maps == ScalarType::Float)
    run(float{}, float{});
  else if (maps == ScalarType::Half)
    run(float{}, __half{});
  else if (maps == ScalarType::BFloat16)
    run(float{}, __nv_bfloat16{});
  else
    STD_TORCH_CHECK(false, "refine: maps must be float16, bfloat16, float32 or float64");
}

// Blocks that share an image. The kernel itself says whether it holds Hopper's instructions: PTX of sm_80 on a newer
// card does not.
template <auto kernel>
int cluster_size_of(int device) {
  static std::atomic<int> known[max_devices];
  if (device < max_devices && known[device] > 0) return known[device];
  cudaFuncAttributes attributes;
  AMT_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
  const int cluster_size = attributes.ptxVersion >= 90 ? cluster_on_hopper : 1;
  if (device < max_devices) known[device] = cluster_size;
  return cluster_size;
}

// Lets a kernel have all the shared memory that the device grants a block, once for each device: the attribute is the
// kernel's, not the launch's, so that host threads that set it to sizes of their own would race.
template <auto kernel>
void allow_shared_memory(int device, size_t wanted) {
  static std::array<std::once_flag, max_devices> once;
  static std::array<size_t, max_devices> granted;
  STD_TORCH_CHECK(device < max_devices, "refine: at most ", max_devices, " CUDA devices");
  std::call_once(once[device], [device] {
    int most = 0;
    cudaFuncAttributes attributes;
    AMT_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    AMT_CUDA_CHECK(cudaFuncGetAttributes(&attributes, kernel));
    most -= static_cast<int>(attributes.sharedSizeBytes);
    AMT_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    granted[device] = static_cast<size_t>(most);
  });
  STD_TORCH_CHECK(wanted <= granted[device], "refine: CUDA's kernel needs ", wanted,
                  " bytes of shared memory for these sizes, this device grants ", granted[device],
                  ": use fewer hidden units or steps, or Triton (amt.kernels.use(\"triton\"))");
}

template <auto kernel, class... Arguments>
void launch(dim3 grid, int cluster_size, size_t shared, int device, cudaStream_t stream,
            const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0) return;
  if (shared > 48 * 1024) allow_shared_memory<kernel>(device, shared);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(cluster_size), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = cluster_size > 1 ? 1 : 0;
  AMT_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, arguments...));
  AMT_CUDA_CHECK(cudaGetLastError());
}

// Shared memory of the backward's first kernel; BackwardMemory holds one hidden unit's gradients.
template <class T>
size_t backward_bytes(int64_t hidden) {
  return sizeof(BackwardMemory<T>) + sizeof(T) * joint_tile * std::max<int64_t>(hidden - 1, 0);
}

int64_t refine_cuda_max_joints() { return max_joints; }

// Of a coordinate of `item_bytes`: bytes of the forward; of the backward without hidden units, and for each of them.
std::tuple<int64_t, int64_t, int64_t> refine_shared_bytes(int64_t item_bytes) {
  const auto bytes = []<class T>(T) {
    const auto unit_bytes = static_cast<int64_t>(sizeof(T) * joint_tile);
    return std::tuple<int64_t, int64_t, int64_t>(sizeof(ForwardMemory<T>), backward_bytes<T>(1) - unit_bytes,
                                                 unit_bytes);
  };
  return item_bytes == 8 ? bytes(double{}) : bytes(float{});
}

unsigned blocks(int64_t count, int64_t size) { return static_cast<unsigned>((count + size - 1) / size); }

std::tuple<Tensor, Tensor> refine_cuda(Tensor joints, Tensor intrinsics, std::vector<Tensor> maps, Tensor w1, Tensor b1,
                                       Tensor w2, Tensor b2, int64_t height, int64_t width, double step_size,
                                       bool detach, bool save) {
  check_cuda_arguments(joints, intrinsics, maps, w1, b1, w2, b2, height, width);
  const int device = joints.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t batch = joints.size(0), num_joints = joints.size(1), num_steps = w1.size(0), hidden = w1.size(1);
  Tensor steps = empty<4>({batch, num_steps, num_joints, 3}, joints.scalar_type(), joints);
  Tensor saved = save ? empty<4>({batch, num_steps, num_joints, hidden}, joints.scalar_type(), joints)
                      : empty<1>({0}, joints.scalar_type(), joints);
  if (batch == 0 || num_joints == 0) return {steps, saved};
  const cudaStream_t stream = current_stream(joints);
  with_types(joints.scalar_type(), maps[0].scalar_type(), [&]<class T, class M>(T, M) {
    const CudaProblem<T> p = problem_of<T>(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size);
    constexpr auto kernel = forward_kernel<T, M>;
    const int cluster_size = cluster_size_of<kernel>(device);
    launch<kernel>(dim3(static_cast<unsigned>(batch * cluster_size)), cluster_size, sizeof(ForwardMemory<T>), device,
                   stream, p, static_cast<T*>(steps.mutable_data_ptr()),
                   save ? static_cast<T*>(saved.mutable_data_ptr()) : static_cast<T*>(nullptr));
  });
  return {steps, saved};
}

template <class Like>
Tensor output(bool needed, const Like& like) {
  std::vector<int64_t> sizes(like.sizes().begin(), like.sizes().end());
  return torch::stable::new_empty(like, needed ? sizes : std::vector<int64_t>{0});
}

void zero(Tensor& tensor, cudaStream_t stream) {
  const int64_t size = tensor.scalar_type() == ScalarType::Double  ? 8
                       : tensor.scalar_type() == ScalarType::Float ? 4
                                                                   : 2;
  if (tensor.numel() > 0) AMT_CUDA_CHECK(cudaMemsetAsync(tensor.mutable_data_ptr(), 0, tensor.numel() * size, stream));
}

std::tuple<Tensor, Tensor, std::vector<Tensor>, Tensor, Tensor, Tensor, Tensor> refine_backward_cuda(
    Tensor grad_steps, Tensor steps, Tensor saved, Tensor joints, Tensor intrinsics, std::vector<Tensor> maps,
    Tensor w1, Tensor b1, Tensor w2, Tensor b2, int64_t height, int64_t width, double step_size, bool detach,
    int64_t needs) {
  check_cuda_arguments(joints, intrinsics, maps, w1, b1, w2, b2, height, width);
  const int64_t batch = joints.size(0), num_joints = joints.size(1), num_steps = w1.size(0), hidden = w1.size(1),
                num_inputs = w1.size(2);
  check_backward_arguments(grad_steps, steps, saved, joints, w1, batch * num_steps * num_joints * hidden);
  const int device = joints.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(joints);
  const bool with_coordinates = needs & needs_coordinates, with_maps = needs & needs_maps,
             with_weights = needs & needs_weights;

  Tensor grad_joints = output(with_coordinates, joints), grad_intrinsics = output(with_coordinates, intrinsics);
  Tensor grad_w1 = output(with_weights, w1), grad_b1 = output(with_weights, b1), grad_w2 = output(with_weights, w2),
         grad_b2 = output(with_weights, b2);
  std::vector<Tensor> grad_maps;
  for (const Tensor& map : maps)
    if (with_maps) {
      grad_maps.push_back(output(true, map));
      zero(grad_maps.back(), stream);
    }
  if (batch == 0 || num_joints == 0) {
    for (Tensor* tensor : {&grad_joints, &grad_intrinsics, &grad_w1, &grad_b1, &grad_w2, &grad_b2})
      zero(*tensor, stream);
    return {grad_joints, grad_intrinsics, grad_maps, grad_w1, grad_b1, grad_w2, grad_b2};
  }

  const int64_t rows = batch * num_steps * num_joints;
  const ScalarType dtype = joints.scalar_type();
  Tensor grad_offset = empty<2>({rows, 3}, dtype, joints), grad_hidden = empty<2>({rows, hidden}, dtype, joints);
  Tensor inputs = empty<2>({with_weights ? rows : 0, num_inputs}, dtype, joints);

  Tensor grad_inputs = empty<2>({with_maps ? rows : 0, num_inputs - 3}, dtype, joints);

  with_types(dtype, maps[0].scalar_type(), [&]<class T, class M>(T, M) {
    const auto pointer = [](Tensor& tensor, bool exists) {
      return exists ? static_cast<T*>(tensor.mutable_data_ptr()) : nullptr;
    };
    const auto output_of = [&](Tensor& tensor) {
      return Output{tensor.mutable_data_ptr(), tensor.scalar_type() == dtype};
    };
    const CudaProblem<T> p = problem_of<T>(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size);
    const CudaScratch<T> scratch{
        .grad_offset = pointer(grad_offset, true),
        .grad_hidden = pointer(grad_hidden, true),
        .inputs = pointer(inputs, with_weights),
        .grad_inputs = pointer(grad_inputs, with_maps),
    };
    const T* steps_data = static_cast<const T*>(steps.const_data_ptr());
    const T* saved_data = static_cast<const T*>(saved.const_data_ptr());

    constexpr auto first = backward_kernel<T, M>;
    const int cluster_size = cluster_size_of<first>(device);
    const size_t shared = backward_bytes<T>(hidden);
    launch<first>(dim3(static_cast<unsigned>(batch * cluster_size)), cluster_size, shared, device, stream, p, scratch,
                  static_cast<const T*>(grad_steps.const_data_ptr()), steps_data, saved_data, detach,
                  pointer(grad_joints, with_coordinates), pointer(grad_intrinsics, with_coordinates));
    if (with_weights) {
      const auto steps_in_grid = static_cast<unsigned>(num_steps);
      launch<w1_kernel<T, M>>(dim3(blocks(num_inputs, tile), blocks(hidden, tile), steps_in_grid), 1, 0, device, stream,
                              p, scratch, output_of(grad_w1));
      // one block at least: it sums b2's gradient
      launch<bias_kernel<T, M>>(dim3(std::max(blocks(hidden, 32), 1u), steps_in_grid), 1, 0, device, stream, p, scratch,
                                saved_data, output_of(grad_b1), output_of(grad_w2), output_of(grad_b2));
    }
    for (size_t m = 0; m < grad_maps.size(); ++m) {
      const size_t taps = static_cast<size_t>(num_steps * num_joints * 4) * (sizeof(T) + sizeof(int64_t));
      if (grad_maps[m].numel() > 0)
        launch<map_kernel<T, M>>(dim3(static_cast<unsigned>(batch), blocks(maps[m].size(3), 32)), 1, taps, device,
                                 stream, p, scratch, steps_data, static_cast<int>(m),
                                 static_cast<M*>(grad_maps[m].mutable_data_ptr()));
    }
  });
  return {grad_joints, grad_intrinsics, grad_maps, grad_w1, grad_b1, grad_w2, grad_b2};
}

}  // namespace
}  // namespace amt::refine::cuda

STABLE_TORCH_LIBRARY_IMPL(amt, CUDA, m) {
  m.impl("refine", TORCH_BOX(&amt::refine::cuda::refine_cuda));
  m.impl("refine_backward", TORCH_BOX(&amt::refine::cuda::refine_backward_cuda));
}

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def("refine_cuda_max_joints() -> int");
  m.def("refine_shared_bytes(int item_bytes) -> (int forward, int backward, int backward_per_unit)");
}

STABLE_TORCH_LIBRARY_IMPL(amt, CompositeExplicitAutograd, m) {
  m.impl("refine_cuda_max_joints", TORCH_BOX(&amt::refine::cuda::refine_cuda_max_joints));
  m.impl("refine_shared_bytes", TORCH_BOX(&amt::refine::cuda::refine_shared_bytes));
}
