// The blocks that work on one image, and a block's shared memory. On Hopper they are a thread-block cluster, whose
// blocks read each other's shared memory; on other GPUs one block works alone.
#pragma once

#if defined(AMT_CUDA_ON_HOST)  // the tests run the kernels, their barriers and their indices, on the CPU
#include "cuda_on_host.h"
#else
#include <cooperative_groups.h>

namespace amt {

struct CudaCluster {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __device__ static int size() { return cooperative_groups::this_cluster().num_blocks(); }
  __device__ static int rank() { return cooperative_groups::this_cluster().block_rank(); }
  __device__ static void sync() { cooperative_groups::this_cluster().sync(); }
  // The address of `mine` in the shared memory of another block.
  template <class T>
  __device__ static T* of(T* mine, int rank) {
    return cooperative_groups::this_cluster().map_shared_rank(mine, rank);
  }
#else
  __device__ static int size() { return 1; }
  __device__ static int rank() { return 0; }
  __device__ static void sync() { __syncthreads(); }
  template <class T>
  __device__ static T* of(T* mine, int) {
    return mine;
  }
#endif
};

// The launch's dynamic shared memory.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char bytes[];
  return reinterpret_cast<T*>(bytes);
}

}  // namespace amt
#endif
