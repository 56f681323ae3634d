// What this build of the native library holds. The ops define themselves, each in its own file:
// its schema in csrc/<op>/op.cpp, its kernels in csrc/<op>/cpu_*.cpp and cuda_*.cu, in the namespace "amt".
#include <string>

#include <torch/csrc/stable/library.h>

#include "common/cpu_isa.h"

namespace {

bool built_with_cuda() {
#ifdef AMT_WITH_CUDA
  return true;
#else
  return false;
#endif
}

int64_t cpu_isa() { return static_cast<int64_t>(amt::cpu_isa()); }

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def("built_with_cuda() -> bool");
  m.def("cpu_isa() -> int");
}

STABLE_TORCH_LIBRARY_IMPL(amt, CompositeExplicitAutograd, m) {
  m.impl("built_with_cuda", TORCH_BOX(&built_with_cuda));
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
}
