// Arithmetic that the CPU and CUDA kernels share is written once, in functions marked with this. Always inlined: a
// header that is compiled for several instruction sets must leave no common copy behind that the linker could pick for
// the wrong machine.
#pragma once

#if defined(__CUDACC__)
#define AMT_INLINE static __host__ __device__ __forceinline__
#else
#define AMT_INLINE static inline __attribute__((always_inline))
#endif
