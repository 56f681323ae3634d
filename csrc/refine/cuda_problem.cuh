// One call of refine as its CUDA kernels see it, and what they share: weights of either dtype, samples of one channel,
// sums over a warp.
#pragma once

#include "common/cuda_cluster.cuh"
#include "refine/math.h"

namespace amt::refine::cuda {

constexpr int threads = 256, warps = threads / 32;
constexpr int max_joints = 128;
constexpr int joint_tile = 24;  // joints whose sums one thread keeps in registers: a hand is 21
constexpr int unit_tile = threads;
constexpr int chunk = 32;  // channels a warp reads at once

template <class T>
struct CudaMap {
  const void* data;
  int64_t image, row, column;  // strides in elements
  int64_t height, width;
  int channels, first;  // first: of its channels among all maps'
  T scale_x, scale_y;
};

struct Weight {
  const void* data;
  bool wide;  // of the joints' dtype, not the maps'
};

template <class T>
struct CudaProblem {
  int batch, num_joints, num_steps, num_hidden, num_channels, num_maps;
  const T *joints, *intrinsics;
  CudaMap<T> maps[max_maps];
  Weight w1, b1, w2, b2;
  int64_t w1_step, w1_row;
  T step_size;

  __device__ T scale_of(int step) const { return ldexp(step_size, -step); }

  // Joints of an image as they enter a step.
  __device__ const T* entering(const T* steps, int64_t image, int step) const {
    return step == 0 ? joints + image * num_joints * 3 : steps + (image * num_steps + step - 1) * num_joints * 3;
  }

  __device__ Taps<T> taps(const T* joint, int64_t image, int m) const {
    return locate(project(joint, intrinsics + image * 9), maps[m].scale_x, maps[m].scale_y, maps[m].width,
                  maps[m].height);
  }

  __device__ int map_of(int channel) const {
    int m = 0;
    while (m + 1 < num_maps && channel >= maps[m + 1].first) ++m;
    return m;
  }
};

template <class T, class M>
__device__ __forceinline__ T load(const Weight& weight, int64_t i) {
  return weight.wide ? static_cast<const T*>(weight.data)[i] : static_cast<T>(static_cast<const M*>(weight.data)[i]);
}

template <class T, class M>
__device__ __forceinline__ void store(void* data, bool wide, int64_t i, T value) {
  if (wide)
    static_cast<T*>(data)[i] = value;
  else
    static_cast<M*>(data)[i] = static_cast<M>(value);
}

// The four taps of one channel; 0 outside, where nothing is read.
template <class T, class M>
__device__ __forceinline__ void load_taps(const CudaMap<T>& map, const Taps<T>& taps, int64_t image, int channel,
                                          T (&values)[4]) {
  const M* data = static_cast<const M*>(map.data) + image * map.image + channel;
#pragma unroll
  for (int t = 0; t < 4; ++t)
    values[t] =
        taps.inside >> t & 1u ? static_cast<T>(data[tap_y(taps, t) * map.row + tap_x(taps, t) * map.column]) : T(0);
}

template <class T>
__device__ __forceinline__ T blend(const Taps<T>& taps, const T (&values)[4]) {
  T sum = 0;
#pragma unroll
  for (int t = 0; t < 4; ++t) sum += taps.inside >> t & 1u ? tap_weight(taps, t) * values[t] : T(0);
  return sum;
}

// In every lane, added in the same order on every run.
template <class T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

}  // namespace amt::refine::cuda
