// How many threads an op's call is worth, and where they come from.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>

#include <torch/csrc/stable/ops.h>

#include "common/cpu_team.h"

namespace amt {

// One thread for each `least` of the work, at most those that PyTorch would use (torch.set_num_threads).
inline int64_t threads_worth(int64_t work, int64_t least) {
  if (work < 2 * least) return 1;
  return std::clamp<int64_t>(work / least, 1, static_cast<int64_t>(torch::stable::get_num_threads()));
}

// work(team) on this thread, with a team of up to `wanted` members.
//
// PyTorch's threads help where they have cores: after an operator of PyTorch they spin, so that they join within a
// microsecond, and another thread would have to take the core from them. But parallel_for ends at a barrier of all of
// them. With other busy processes on the machine it waits for a thread that has not run yet, for a slice of the
// scheduler: milliseconds for work of microseconds. After such a wait CpuTeam's own workers help for a time.
template <class Work>
void with_team(int64_t wanted, const Work& work) {
  if (wanted <= 1 || !CpuTeam::may_lend()) {
    CpuTeam team(wanted);
    return work(team);
  }
  CpuTeam team(CpuTeam::Lent{wanted});
  if (team.size() == 1) return work(team);
  std::exception_ptr error;
  torch::stable::parallel_for(0, wanted, 1, [&](int64_t begin, int64_t) {
    if (begin > 0) return team.help(begin);
    try {
      work(team);
    } catch (...) {
      error = std::current_exception();
    }
    team.release();
  });
  team.joined();
  if (error) std::rethrow_exception(error);
}

}  // namespace amt
