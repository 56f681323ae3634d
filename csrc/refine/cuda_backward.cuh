// refine's backward on CUDA, first part: the gradients of joints and intrinsics. One launch runs all steps of an image,
// the last step first, through the MLP, the taps and the projection. It writes to scratch what the gradients of weights
// and maps are summed from (cuda_gradients.cuh). A cluster of blocks shares an image as in the forward. Every sum has
// one owner and one order.
#pragma once

#include "refine/cuda_problem.cuh"

namespace amt::refine::cuda {

constexpr int joints_a_warp = joint_tile / warps;
constexpr int chunks_at_once = 4;

// Rows are [B, S, J]; all in the joints' dtype. Null: not needed.
template <class T>
struct CudaScratch {
  T* grad_offset;  // [rows, 3]: gradient of the MLP's output
  T* grad_hidden;  // [rows, D]: gradient of its pre-activations
  T* inputs;       // [rows, C + 3]: what it read
  T* grad_inputs;  // [rows, C]: gradient of the samples
};

template <class T>
struct BackwardMemory {
  T entering[max_joints][3], grad_leaving[max_joints][3], grad_offset[max_joints][3];
  T grad_relative[max_joints][3];   // of this block's units only
  T dots[max_joints][max_maps][4];  // of this block's channels only: gradient * tap, summed over the channels
  T grad_joint[max_joints][3], grad_relative_scaled[max_joints][3], grad_camera[max_joints][6];
  Taps<T> taps[joint_tile][max_maps];
  alignas(16) T grad_hidden[1][joint_tile];  // [D, joint_tile]: it extends over the rest of the launch's shared memory
};

// grad_hidden, and the gradient of the relative inputs, for this block's share of the units.
template <class T, class M>
__device__ void mlp_backward(const CudaProblem<T>& p, BackwardMemory<T>& memory, const CudaScratch<T>& scratch,
                             const T* saved, int64_t image, int step, int rank, int cluster_size) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int j = warp; j < p.num_joints; j += warps) {
    const int64_t row = ((image * p.num_steps + step) * p.num_joints + j) * p.num_hidden;
    T grad_relative[3] = {};
    for (int u = rank * 32 + lane; u < p.num_hidden; u += cluster_size * 32) {
      T grad = 0;
      for (int i = 0; i < 3; ++i)
        grad += memory.grad_offset[j][i] * load<T, M>(p.w2, (static_cast<int64_t>(step) * 3 + i) * p.num_hidden + u);
      grad *= gelu_backward(saved[row + u]);
      scratch.grad_hidden[row + u] = grad;
      for (int i = 0; i < 3; ++i)
        grad_relative[i] += grad * load<T, M>(p.w1, step * p.w1_step + u * p.w1_row + p.num_channels + i);
    }
    for (int i = 0; i < 3; ++i) {
      const T sum = warp_sum(grad_relative[i]);
      if (lane == 0) memory.grad_relative[j][i] = sum;
    }
  }
}

// The samples of this block's channels again, their gradient, and its products with the taps. Each warp has its own
// joints.
template <class T, class M>
__device__ void inputs_backward(const CudaProblem<T>& p, BackwardMemory<T>& memory, const CudaScratch<T>& scratch,
                                int64_t image, int step, int base, int count, int rank, int cluster_size) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first_row = (image * p.num_steps + step) * p.num_joints + base;
  for (int group = rank * chunk; group < p.num_channels; group += chunks_at_once * cluster_size * chunk) {
    T sums[chunks_at_once][joints_a_warp] = {};
    for (int u = 0; u < p.num_hidden; ++u) {
      const int64_t row = step * p.w1_step + u * p.w1_row;
#pragma unroll
      for (int q = 0; q < chunks_at_once; ++q) {
        const int channel = group + q * cluster_size * chunk + lane;
        const T weight = channel < p.num_channels ? load<T, M>(p.w1, row + channel) : T(0);
#pragma unroll
        for (int i = 0; i < joints_a_warp; ++i) sums[q][i] += weight * memory.grad_hidden[u][warp * joints_a_warp + i];
      }
    }
#pragma unroll
    for (int q = 0; q < chunks_at_once; ++q) {
      const int channel = group + q * cluster_size * chunk + lane;
      const bool exists = channel < p.num_channels;
      const int m = exists ? p.map_of(channel) : -1;
#pragma unroll
      for (int i = 0; i < joints_a_warp; ++i) {
        const int j = warp * joints_a_warp + i;
        if (j >= count) continue;  // the same for the whole warp
        T values[4] = {};
        if (exists) {
          load_taps<T, M>(p.maps[m], memory.taps[j][m], image, channel - p.maps[m].first, values);
          if (scratch.inputs != nullptr)
            scratch.inputs[(first_row + j) * (p.num_channels + 3) + channel] = blend(memory.taps[j][m], values);
          if (scratch.grad_inputs != nullptr)
            scratch.grad_inputs[(first_row + j) * p.num_channels + channel] = sums[q][i];
        }
        for (int other = 0; other < p.num_maps; ++other) {
          if (!__any_sync(0xffffffffu, other == m)) continue;
          for (int t = 0; t < 4; ++t) {
            // a tap outside counts as nothing, whatever the gradient is
            const bool counts = other == m && (memory.taps[j][other].inside >> t & 1u);
            const T sum = warp_sum(counts ? sums[q][i] * values[t] : T(0));
            if (lane == 0) memory.dots[base + j][other][t] += sum;
          }
        }
      }
    }
  }
}

// One thread a joint, the same in every block of the cluster: from the sums of all blocks to the gradient of joint and
// camera.
template <class T>
__device__ void joint_backward(const CudaProblem<T>& p, BackwardMemory<T>& memory, int64_t image, int j,
                               int cluster_size) {
  const T* camera = p.intrinsics + image * 9;
  const T* joint = memory.entering[j];
  const Pixel<T> pixel = project(joint, camera);
  T grad_x = 0, grad_y = 0, grad_joint[3] = {}, grad_camera[6] = {};
  for (int m = 0; m < p.num_maps; ++m) {
    const Taps<T> taps = p.taps(joint, image, m);
    T dots[4] = {};
    for (int t = 0; t < 4; ++t)
      for (int r = 0; r < cluster_size; ++r) dots[t] += CudaCluster::of(&memory.dots[j][m][t], r)[0];
    locate_backward(taps, dots, p.maps[m].scale_x, p.maps[m].scale_y, &grad_x, &grad_y);
  }
  project_backward(joint, camera, pixel, grad_x, grad_y, grad_joint, grad_camera);
  for (int i = 0; i < 3; ++i) {
    T grad_relative = 0;
    for (int r = 0; r < cluster_size; ++r) grad_relative += CudaCluster::of(&memory.grad_relative[j][i], r)[0];
    memory.grad_relative_scaled[j][i] = relative_backward(joint[i], memory.entering[0][i], grad_relative);
    memory.grad_joint[j][i] = memory.grad_leaving[j][i] + grad_joint[i] + memory.grad_relative_scaled[j][i];
  }
  for (int i = 0; i < 6; ++i) memory.grad_camera[j][i] = grad_camera[i];
}

template <class T, class M>
__global__ void __launch_bounds__(threads, 2)
    backward_kernel(const __grid_constant__ CudaProblem<T> p, const __grid_constant__ CudaScratch<T> scratch,
                    const T* grad_steps, const T* steps, const T* saved, bool detach, T* grad_joints,
                    T* grad_intrinsics) {
  BackwardMemory<T>& memory = *shared_memory<BackwardMemory<T>>();
  const int cluster_size = CudaCluster::size(), rank = CudaCluster::rank();
  const int64_t image = blockIdx.x / cluster_size;
  const int thread = threadIdx.x;
  T grad_camera = 0;  // of thread i < 6: of the camera's i-th number, over all steps

  for (int step = p.num_steps - 1; step >= 0; --step) {
    const int64_t first_row = (image * p.num_steps + step) * p.num_joints;
    const T* entering = p.entering(steps, image, step);
    const bool carried = step < p.num_steps - 1 && !detach;
    for (int i = thread; i < p.num_joints * 3; i += threads) {
      memory.entering[i / 3][i % 3] = entering[i];
      const T leaving = grad_steps[first_row * 3 + i] + (carried ? memory.grad_joint[i / 3][i % 3] : T(0));
      memory.grad_leaving[i / 3][i % 3] = leaving;
      memory.grad_offset[i / 3][i % 3] = leaving * p.scale_of(step);
      if (rank == 0) scratch.grad_offset[first_row * 3 + i] = leaving * p.scale_of(step);
      if (rank == 0 && scratch.inputs != nullptr)
        scratch.inputs[(first_row + i / 3) * (p.num_channels + 3) + p.num_channels + i % 3] =
            relative(entering[i], entering[i % 3]);
    }
    for (int i = thread; i < p.num_joints * max_maps * 4; i += threads) (&memory.dots[0][0][0])[i] = T(0);
    __syncthreads();
    mlp_backward<T, M>(p, memory, scratch, saved, image, step, rank, cluster_size);
    CudaCluster::sync();  // grad_hidden of all units is written
    for (int base = 0; base < p.num_joints; base += joint_tile) {
      const int count = min(joint_tile, p.num_joints - base);
      for (int i = thread; i < count * p.num_maps; i += threads)
        memory.taps[i / p.num_maps][i % p.num_maps] =
            p.taps(memory.entering[base + i / p.num_maps], image, i % p.num_maps);
      for (int64_t i = thread; i < static_cast<int64_t>(joint_tile) * p.num_hidden; i += threads) {
        const int j = static_cast<int>(i / p.num_hidden), u = static_cast<int>(i % p.num_hidden);
        memory.grad_hidden[u][j] = j < count ? scratch.grad_hidden[(first_row + base + j) * p.num_hidden + u] : T(0);
      }
      __syncthreads();
      inputs_backward<T, M>(p, memory, scratch, image, step, base, count, rank, cluster_size);
      __syncthreads();
    }
    CudaCluster::sync();  // the sums of all blocks are written
    if (thread < p.num_joints) joint_backward(p, memory, image, thread, cluster_size);
    __syncthreads();
    if (thread < 3)
      for (int j = 0; j < p.num_joints; ++j) memory.grad_joint[0][thread] -= memory.grad_relative_scaled[j][thread];
    if (thread < 6)
      for (int j = 0; j < p.num_joints; ++j) grad_camera += memory.grad_camera[j][thread];
    CudaCluster::sync();  // all blocks have read the others' sums
  }
  if (rank != 0 || grad_joints == nullptr) return;
  for (int i = thread; i < p.num_joints * 3; i += threads)
    grad_joints[image * p.num_joints * 3 + i] = memory.grad_joint[i / 3][i % 3];
  if (thread < 9) grad_intrinsics[image * 9 + thread] = thread < 6 ? grad_camera : T(0);
}

}  // namespace amt::refine::cuda
