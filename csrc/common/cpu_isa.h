// Which vector instructions this machine has. Files named simd_*.cpp are compiled once for each set, with AMT_ISA
// defined to its name, inside `namespace amt::AMT_ISA`; the caller picks one of them at run time.
//
//   // simd_gather.cpp                       // cpu_gather.cpp
//   namespace amt::AMT_ISA {                 AMT_DECLARE_SIMD(void gather(const float*, int64_t))
//   void gather(const float*, int64_t) {}    AMT_SIMD(gather)(pointer, count);
//   }
#pragma once

#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace amt {

enum class CpuIsa { baseline = 0, avx2 = 1, avx512 = 2, amx = 3 };

#if defined(__x86_64__)
// Whether the CPU has AMX for bfloat16 and this process may use it. Linux grants the tile registers on request only.
inline bool ask_for_tiles() {
#if defined(__linux__)
  constexpr long ask_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  constexpr unsigned bfloat16 = 1u << 22, tile = 1u << 24;
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && d & bfloat16 && d & tile &&
         syscall(SYS_arch_prctl, ask_permission, tile_data) == 0;
#else
  return false;
#endif
}
#endif

#if defined(__x86_64__)
// Conversions of float16 (F16C), which the vector code uses; __builtin_cpu_supports does not know it everywhere.
inline bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & (1u << 29));
}
#endif

inline CpuIsa detect_cpu_isa() {
#if defined(__x86_64__)
  CpuIsa isa = CpuIsa::baseline;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) isa = CpuIsa::avx2;
  if (isa == CpuIsa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    isa = CpuIsa::avx512;
  if (isa == CpuIsa::avx512 && __builtin_cpu_supports("avx512bf16") && ask_for_tiles()) isa = CpuIsa::amx;
  // Tests lower it to run the code of other machines. It never rises above what the machine has.
  if (const char* cap = std::getenv("AMT_CPU_ISA")) {
    const int wanted = std::atoi(cap);
    if (wanted >= 0 && wanted < static_cast<int>(isa)) isa = static_cast<CpuIsa>(wanted);
  }
  return isa;
#else
  return CpuIsa::baseline;
#endif
}

inline CpuIsa cpu_isa() {
  static const CpuIsa isa = detect_cpu_isa();
  return isa;
}

// Whether pairs of 16-bit integers are multiplied faster than floats. They are with AVX2: the products (vpmaddwd) use
// the ports of the floats and the sums use another. With AVX-512 both use the same ports, and floats were faster even
// where one instruction does both (vpdpwssd).
inline bool fast_int16() { return cpu_isa() == CpuIsa::avx2; }

// Whether AMX multiplies bfloat16, at many times the rate of floats.
inline bool has_tiles() { return cpu_isa() == CpuIsa::amx; }

}  // namespace amt

#if defined(__x86_64__)
#define AMT_DECLARE_SIMD(...) \
  namespace amt::baseline {   \
  __VA_ARGS__;                \
  }                           \
  namespace amt::avx2 {       \
  __VA_ARGS__;                \
  }                           \
  namespace amt::avx512 {     \
  __VA_ARGS__;                \
  }                           \
  namespace amt::amx {        \
  __VA_ARGS__;                \
  }
#define AMT_SIMD(function)                                          \
  (amt::cpu_isa() == amt::CpuIsa::amx      ? &amt::amx::function    \
   : amt::cpu_isa() == amt::CpuIsa::avx512 ? &amt::avx512::function \
   : amt::cpu_isa() == amt::CpuIsa::avx2   ? &amt::avx2::function   \
                                           : &amt::baseline::function)
#else
#define AMT_DECLARE_SIMD(...) \
  namespace amt::baseline {   \
  __VA_ARGS__;                \
  }
#define AMT_SIMD(function) (&amt::baseline::function)
#endif
