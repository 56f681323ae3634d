// How many of PyTorch's intra-op threads an op's call is worth.
#pragma once

#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/ops.h>

namespace amt {

// One thread for each `least` of the work, at most those that PyTorch would use (torch.set_num_threads).
inline int64_t threads_worth(int64_t work, int64_t least) {
  if (work < 2 * least) return 1;
  return std::clamp<int64_t>(work / least, 1, static_cast<int64_t>(torch::stable::get_num_threads()));
}

}  // namespace amt
