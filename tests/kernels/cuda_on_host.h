// Runs CUDA kernels on the CPU, one fiber a thread, so that barriers, shuffles, shared memory and indices are tried
// without a GPU. Threads change places at barriers only: no proof that there are no races. csrc/common/cuda_cluster.cuh
// includes it where AMT_CUDA_ON_HOST is defined.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

using std::min;

namespace on_host {

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Barrier {
  int waiting = 0, generation = 0;
};

struct Warp {
  Barrier barrier;
  double values[32];
  int period = 1;  // of the scheduler's passes in which it runs
};

struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::vector<unsigned char> memory;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  Index thread, block;
  Block* own;
  int rank;
  const Barrier* blocked = nullptr;  // waits for its next generation
  int generation;
  bool done = false;
};

inline Fiber* running = nullptr;
inline ucontext_t scheduler;
inline std::vector<Block>* cluster = nullptr;
inline Barrier cluster_barrier;
inline const std::function<void()>* body = nullptr;

inline void yield() { swapcontext(&running->context, &scheduler); }

inline void wait(Barrier& barrier, int members) {
  const int generation = barrier.generation;
  if (++barrier.waiting == members) {
    barrier.waiting = 0;
    ++barrier.generation;
    return;
  }
  running->blocked = &barrier, running->generation = generation;
  yield();
  running->blocked = nullptr;
}

inline void enter() {
  (*body)();
  running->done = true;
  yield();
}

inline int threads_of_block() { return static_cast<int>(running->own->warps.size()) * 32; }
inline Warp& warp() { return running->own->warps[running->thread.x / 32]; }

inline void prepare(Fiber& fiber) {
  fiber.stack = std::make_unique<char[]>(1 << 16);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = 1 << 16;
  makecontext(&fiber.context, enter, 0);
}

// Runs the blocks of a grid, `size` of them (along x) at a time as a cluster; the kernel is called by `call`.
inline void launch(Index grid, int size, int threads, size_t shared, const std::function<void()>& call) {
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; x += size) {
        std::vector<Block> blocks(size);
        std::vector<Fiber> fibers(size * threads);
        cluster = &blocks, body = &call, cluster_barrier = {};
        for (int i = 0; i < size * threads; ++i) {
          Fiber& fiber = fibers[i];
          fiber.rank = i / threads;
          fiber.own = &blocks[fiber.rank];
          if (i % threads == 0)
            fiber.own->warps.resize(threads / 32), fiber.own->memory.assign(shared + 16, 0xff);  // NaN
          fiber.thread.x = i % threads;
          fiber.block = {x + fiber.rank, y, z};
          prepare(fiber);
        }
        // in a new order each time, some warps and blocks faster than others, so that a barrier that is missing shows
        std::vector<Fiber*> order;
        for (Fiber& fiber : fibers) order.push_back(&fiber);
        std::minstd_rand random(x + 1);
        for (int rank = 0; rank < size; ++rank)
          for (Warp& warp : blocks[rank].warps)
            warp.period = (random() % 2 ? 1 : 5) * (rank % 2 == x / size % 2 ? 1 : 7);
        for (int pass = 0; !order.empty(); ++pass) {
          std::shuffle(order.begin(), order.end(), random);
          for (Fiber* fiber : order) {
            running = fiber;
            const bool waits = fiber->blocked != nullptr && fiber->blocked->generation == fiber->generation;
            if (!waits && pass % warp().period == 0) swapcontext(&scheduler, &fiber->context);
          }
          std::erase_if(order, [](const Fiber* fiber) { return fiber->done; });
        }
      }
}

// Every lane's value, after all lanes of the warp have come.
template <class Use>
auto exchange(double value, const Use& use) {
  Warp& mine = warp();
  mine.values[running->thread.x % 32] = value;
  wait(mine.barrier, 32);
  const auto result = use(mine.values);
  wait(mine.barrier, 32);
  return result;
}

}  // namespace on_host

#define threadIdx (on_host::running->thread)
#define blockIdx (on_host::running->block)

inline void __syncthreads() { on_host::wait(on_host::running->own->barrier, on_host::threads_of_block()); }
template <class T>
T __shfl_xor_sync(unsigned, T value, int distance) {
  const int lane = threadIdx.x % 32;
  return static_cast<T>(on_host::exchange(value, [&](const double* values) { return values[lane ^ distance]; }));
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  return on_host::exchange(predicate, [](const double* values) {
    unsigned bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= values[lane] != 0 ? 1u << lane : 0u;
    return bits;
  });
}
inline bool __any_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __ffs(int value) { return __builtin_ffs(value); }

namespace amt {

struct CudaCluster {
  static int size() { return static_cast<int>(on_host::cluster->size()); }
  static int rank() { return on_host::running->rank; }
  static void sync() { on_host::wait(on_host::cluster_barrier, size() * on_host::threads_of_block()); }
  template <class T>
  static T* of(T* mine, int rank) {
    const auto base = [](on_host::Block& block) { return reinterpret_cast<char*>(block.memory.data()); };
    return reinterpret_cast<T*>(base((*on_host::cluster)[rank]) +
                                (reinterpret_cast<char*>(mine) - base(*on_host::running->own)));
  }
};

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(on_host::running->own->memory.data());
}

}  // namespace amt
