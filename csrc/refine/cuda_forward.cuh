// refine's forward on CUDA: all steps of one image in one launch, for small batches, where launches cost more than
// arithmetic.
//
// A cluster of blocks shares an image: each sums the products of its own channels, and after a barrier of the cluster
// each finishes its own share of the hidden units (bias, gelu, w2) and, after a second one, adds up the offsets of all.
// Sums run in a fixed order.
#pragma once

#include "refine/cuda_problem.cuh"

namespace amt::refine::cuda {

template <class T>
struct ForwardMemory {
  T weights[chunk][unit_tile + 1];
  alignas(16) T inputs[chunk][joint_tile];
  T partial[joint_tile][unit_tile];
  T offsets[joint_tile][3];
  Taps<T> taps[joint_tile][max_maps];
  T entering[max_joints][3], leaving[max_joints][3];
};

// Stages channels [first, first + chunk) of the inputs of `count` joints, and of w1's rows [unit, unit + unit_tile).
template <class T, class M>
__device__ void stage(const CudaProblem<T>& p, ForwardMemory<T>& memory, int64_t image, int step, int count, int unit,
                      int first) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, channel = first + lane;
  const bool exists = channel < p.num_channels;
#pragma unroll 8
  for (int u = warp; u < unit_tile; u += warps)
    memory.weights[lane][u] =
        exists && unit + u < p.num_hidden ? load<T, M>(p.w1, step * p.w1_step + (unit + u) * p.w1_row + channel) : T(0);
  const int m = exists ? p.map_of(channel) : 0;
#pragma unroll
  for (int j = warp; j < joint_tile; j += warps) {
    T value = 0;
    if (exists && j < count) {
      T values[4];
      load_taps<T, M>(p.maps[m], memory.taps[j][m], image, channel - p.maps[m].first, values);
      value = blend(memory.taps[j][m], values);
    }
    memory.inputs[lane][j] = value;
  }
}

template <class T, class M>
__global__ void __launch_bounds__(threads, sizeof(T) == 8 ? 1 : 2)
    forward_kernel(const __grid_constant__ CudaProblem<T> p, T* steps, T* saved) {
  ForwardMemory<T>& memory = *shared_memory<ForwardMemory<T>>();
  const int cluster_size = CudaCluster::size(), rank = CudaCluster::rank();
  const int64_t image = blockIdx.x / cluster_size;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int share = unit_tile / cluster_size;

  for (int i = thread; i < p.num_joints * 3; i += threads)
    memory.entering[i / 3][i % 3] = p.joints[image * p.num_joints * 3 + i];
  __syncthreads();
  for (int step = 0; step < p.num_steps; ++step) {
    for (int base = 0; base < p.num_joints; base += joint_tile) {
      const int count = min(joint_tile, p.num_joints - base);
      for (int i = thread; i < count * p.num_maps; i += threads)
        memory.taps[i / p.num_maps][i % p.num_maps] =
            p.taps(memory.entering[base + i / p.num_maps], image, i % p.num_maps);
      __syncthreads();
      for (int unit = 0; unit < p.num_hidden; unit += unit_tile) {
        T sums[joint_tile] = {};
        for (int first = rank * chunk; first < p.num_channels; first += cluster_size * chunk) {
          stage<T, M>(p, memory, image, step, count, unit, first);
          __syncthreads();
#pragma unroll 4
          for (int c = 0; c < chunk; ++c) {
            const T weight = memory.weights[c][thread];
#pragma unroll
            for (int j = 0; j < joint_tile; ++j) sums[j] += weight * memory.inputs[c][j];
          }
          __syncthreads();
        }
#pragma unroll
        for (int j = 0; j < joint_tile; ++j) memory.partial[j][thread] = sums[j];
        CudaCluster::sync();  // all partial sums are written, and all blocks have read the last tile's offsets

        for (int j = warp; j < count; j += warps) {
          const T* joint = memory.entering[base + j];
          T near[3], offset[3] = {};
          for (int i = 0; i < 3; ++i) near[i] = relative(joint[i], memory.entering[0][i]);
          for (int u = rank * share + lane; u < (rank + 1) * share && unit + u < p.num_hidden; u += 32) {
            const int64_t row = (static_cast<int64_t>(step) * p.num_joints + base + j) * p.num_hidden + unit + u;
            const int64_t relative_weights = step * p.w1_step + (unit + u) * p.w1_row + p.num_channels;
            T sum = load<T, M>(p.b1, row);
            for (int i = 0; i < 3; ++i) sum += near[i] * load<T, M>(p.w1, relative_weights + i);
            for (int r = 0; r < cluster_size; ++r) sum += CudaCluster::of(&memory.partial[j][u], r)[0];
            if (saved != nullptr) saved[image * p.num_steps * p.num_joints * p.num_hidden + row] = sum;
            const T hidden = gelu(sum);
            for (int i = 0; i < 3; ++i)
              offset[i] += hidden * load<T, M>(p.w2, (static_cast<int64_t>(step) * 3 + i) * p.num_hidden + unit + u);
          }
          for (int i = 0; i < 3; ++i) {
            const T sum = warp_sum(offset[i]);
            if (lane == 0) memory.offsets[j][i] = unit == 0 ? sum : memory.offsets[j][i] + sum;
          }
        }
        CudaCluster::sync();  // all offsets are written, and the partial sums may be overwritten
      }
      for (int i = thread; i < count * 3; i += threads) {
        T offset = load<T, M>(p.b2, step * 3 + i % 3);
        if (p.num_hidden > 0)
          for (int r = 0; r < cluster_size; ++r) offset += CudaCluster::of(&memory.offsets[i / 3][i % 3], r)[0];
        memory.leaving[base + i / 3][i % 3] = memory.entering[base + i / 3][i % 3] + p.scale_of(step) * offset;
      }
    }
    __syncthreads();
    for (int i = thread; i < p.num_joints * 3; i += threads) {
      const T value = memory.leaving[i / 3][i % 3];
      memory.entering[i / 3][i % 3] = value;
      if (rank == 0) steps[(image * p.num_steps + step) * p.num_joints * 3 + i] = value;
    }
    __syncthreads();
  }
  CudaCluster::sync();  // no block ends while another reads its shared memory
}

}  // namespace amt::refine::cuda
