// Which vector instructions this machine has. Files named *_simd.cpp are compiled once for each set, with AMT_ISA
// defined to its name, inside `namespace amt::AMT_ISA`; the caller picks one of them at run time.
//
//   // refine_simd.cpp                       // refine_cpu.cpp
//   namespace amt::AMT_ISA {                 AMT_DECLARE_SIMD(void gather(const float*, int64_t))
//   void gather(const float*, int64_t) {}    AMT_SIMD(gather)(pointer, count);
//   }
#pragma once

#include <cstdlib>

namespace amt {

enum class CpuIsa { baseline = 0, avx2 = 1, avx512 = 2, avx512bf16 = 3 };

inline CpuIsa detect_cpu_isa() {
#if defined(__x86_64__)
  CpuIsa isa = CpuIsa::baseline;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isa = CpuIsa::avx2;
  if (isa == CpuIsa::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    isa = CpuIsa::avx512;
  if (isa == CpuIsa::avx512 && __builtin_cpu_supports("avx512bf16")) isa = CpuIsa::avx512bf16;
  // Tests lower it to reach the code that other machines run; it never rises above what the machine has.
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

// Whether to multiply bfloat16 in pairs (vdpbf16ps). AMD's cores do as many pairs a cycle as float32 products (published, not
// measured here), Intel's vector units a quarter. AMT_CPU_ISA=3 takes pairs on any machine, for tests: in software if need be.
inline bool detect_bf16_pairs() {
  const char* asked = std::getenv("AMT_CPU_ISA");
  if (asked && std::atoi(asked) == static_cast<int>(CpuIsa::avx512bf16)) return true;
#if defined(__x86_64__)
  return cpu_isa() == CpuIsa::avx512bf16 && __builtin_cpu_is("amd");
#else
  return false;
#endif
}

inline bool bf16_pairs() {
  static const bool pairs = detect_bf16_pairs();
  return pairs;
}

}  // namespace amt

#if defined(__x86_64__)
#define AMT_DECLARE_SIMD(...)                    \
  namespace amt::baseline { __VA_ARGS__; }       \
  namespace amt::avx2 { __VA_ARGS__; }           \
  namespace amt::avx512 { __VA_ARGS__; }         \
  namespace amt::avx512bf16 { __VA_ARGS__; }
#define AMT_SIMD(function)                                                       \
  (amt::cpu_isa() == amt::CpuIsa::avx512bf16 ? &amt::avx512bf16::function        \
   : amt::cpu_isa() == amt::CpuIsa::avx512   ? &amt::avx512::function            \
   : amt::cpu_isa() == amt::CpuIsa::avx2     ? &amt::avx2::function              \
                                             : &amt::baseline::function)
#else
#define AMT_DECLARE_SIMD(...) namespace amt::baseline { __VA_ARGS__; }
#define AMT_SIMD(function) (&amt::baseline::function)
#endif
