// refine's backward on CUDA, second part: from the scratch of the first into the gradients of weights and maps. No
// atomics: every number has one owner, who adds its parts in a fixed order.
#pragma once

#include "refine/cuda_backward.cuh"

namespace amt::refine::cuda {

struct Output {
  void* data;
  bool wide;  // of the joints' dtype, not the maps'
};

constexpr int tile = 32;

// grad_w1[step] = grad_hidden^T inputs: blocks of 32 units x 32 inputs, the rows B J in order.
template <class T, class M>
__global__ void __launch_bounds__(threads) w1_kernel(const __grid_constant__ CudaProblem<T> p,
                                                     const __grid_constant__ CudaScratch<T> scratch, Output grad_w1) {
  __shared__ T left[tile][tile + 1], right[tile][tile + 1];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, step = blockIdx.z;
  const int num_inputs = p.num_channels + 3, input = blockIdx.x * tile + lane, unit = blockIdx.y * tile;
  const int64_t rows = static_cast<int64_t>(p.batch) * p.num_joints;
  T sums[tile / warps] = {};
  for (int64_t first = 0; first < rows; first += tile) {
    for (int r = warp; r < tile; r += warps) {
      const int64_t row = first + r;
      const int64_t source = ((row / p.num_joints) * p.num_steps + step) * p.num_joints + row % p.num_joints;
      left[r][lane] =
          row < rows && unit + lane < p.num_hidden ? scratch.grad_hidden[source * p.num_hidden + unit + lane] : T(0);
      right[r][lane] = row < rows && input < num_inputs ? scratch.inputs[source * num_inputs + input] : T(0);
    }
    __syncthreads();
#pragma unroll 8
    for (int r = 0; r < tile; ++r) {
      const T value = right[r][lane];
#pragma unroll
      for (int i = 0; i < tile / warps; ++i) sums[i] += left[r][warp + i * warps] * value;
    }
    __syncthreads();
  }
  for (int i = 0; i < tile / warps; ++i) {
    const int u = unit + warp + i * warps;
    if (u < p.num_hidden && input < num_inputs)
      store<T, M>(grad_w1.data, grad_w1.wide, (static_cast<int64_t>(step) * p.num_hidden + u) * num_inputs + input,
                  sums[i]);
  }
}

// grad_b1, grad_w2 of 32 units of a step; the first block of each step grad_b2 as well.
template <class T, class M>
__global__ void __launch_bounds__(threads)
    bias_kernel(const __grid_constant__ CudaProblem<T> p, const __grid_constant__ CudaScratch<T> scratch,
                const T* saved, Output grad_b1, Output grad_w2, Output grad_b2) {
  __shared__ T parts[warps][3][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, step = blockIdx.y, unit = blockIdx.x * 32 + lane;
  const bool exists = unit < p.num_hidden;
  T sums[3] = {};
  for (int j = warp; j < p.num_joints; j += warps) {
    T bias = 0;
    for (int64_t image = 0; image < p.batch; ++image) {
      const int64_t row = (image * p.num_steps + step) * p.num_joints + j;
      const T hidden = exists ? gelu(saved[row * p.num_hidden + unit]) : T(0);
      for (int i = 0; i < 3; ++i) sums[i] += scratch.grad_offset[row * 3 + i] * hidden;
      bias += exists ? scratch.grad_hidden[row * p.num_hidden + unit] : T(0);
    }
    if (exists)
      store<T, M>(grad_b1.data, grad_b1.wide, (static_cast<int64_t>(step) * p.num_joints + j) * p.num_hidden + unit,
                  bias);
  }
  for (int i = 0; i < 3; ++i) parts[warp][i][lane] = sums[i];
  __syncthreads();
  if (warp >= 3) return;
  T sum = 0;
  for (int w = 0; w < warps; ++w) sum += parts[w][warp][lane];
  if (exists)
    store<T, M>(grad_w2.data, grad_w2.wide, (static_cast<int64_t>(step) * 3 + warp) * p.num_hidden + unit, sum);
  if (blockIdx.x > 0) return;
  T offset = 0;
  for (int64_t row = lane; row < static_cast<int64_t>(p.batch) * p.num_joints; row += 32)
    offset +=
        scratch
            .grad_offset[(((row / p.num_joints) * p.num_steps + step) * p.num_joints + row % p.num_joints) * 3 + warp];
  offset = warp_sum(offset);
  if (lane == 0) store<T, M>(grad_b2.data, grad_b2.wide, step * 3 + warp, offset);
}

// The gradient of one image's map, 32 channels a block, over zeros. Of all taps on a cell the first owns it: its warp
// adds up all of them in order and writes the cell once.
template <class T, class M>
__global__ void __launch_bounds__(threads)
    map_kernel(const __grid_constant__ CudaProblem<T> p, const __grid_constant__ CudaScratch<T> scratch, const T* steps,
               int m, M* grad_map) {
  const CudaMap<T> map = p.maps[m];
  const int rows = p.num_steps * p.num_joints, taps_total = rows * 4;
  T* weights = shared_memory<T>();
  int64_t* cells = reinterpret_cast<int64_t*>(weights + taps_total);
  const int64_t image = blockIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = blockIdx.y * 32 + lane;
  for (int row = threadIdx.x; row < rows; row += threads) {
    const Taps<T> taps = p.taps(p.entering(steps, image, row / p.num_joints) + row % p.num_joints * 3, image, m);
    for (int t = 0; t < 4; ++t) {
      cells[row * 4 + t] = taps.inside >> t & 1u ? tap_y(taps, t) * map.width + tap_x(taps, t) : -1;
      weights[row * 4 + t] = tap_weight(taps, t);
    }
  }
  __syncthreads();
  const T* grad_inputs = scratch.grad_inputs + image * rows * p.num_channels + map.first + channel;
  for (int owner = warp; owner < taps_total; owner += warps) {
    const int64_t cell = cells[owner];
    if (cell < 0) continue;
    bool owned = true;
    for (int first = 0; first < owner && owned; first += 32)
      owned = !__any_sync(0xffffffffu, first + lane < owner && cells[first + lane] == cell);
    if (!owned) continue;
    T sum = 0;
    for (int first = owner; first < taps_total; first += 32) {
      unsigned same = __ballot_sync(0xffffffffu, first + lane < taps_total && cells[first + lane] == cell);
      for (; same != 0; same &= same - 1) {
        const int tap = first + __ffs(static_cast<int>(same)) - 1;
        if (channel < map.channels) sum += weights[tap] * grad_inputs[static_cast<int64_t>(tap / 4) * p.num_channels];
      }
    }
    if (channel < map.channels)
      grad_map[(image * map.height * map.width + cell) * map.channels + channel] = static_cast<M>(sum);
  }
}

}  // namespace amt::refine::cuda
