// Threads that share work of many short phases: one parallel region for all of it, where one for each phase would wake, and wait
// for, every thread each time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

namespace amt {

// Whoever is free takes the next items of a phase, and none is taken before the phase before it is done. A member never waits
// for one that has taken nothing: where the others come late, or never (within another parallel region), the first does it all.
class Team {
 public:
  // What every member runs: the same phases in the same order, on the same memory. Between them it may read what earlier
  // phases wrote, and writes nothing that others read.
  class Member {
   public:
    Member() : team_(nullptr) {}  // alone
    explicit Member(Team& team) : team_(&team) {}

    // One phase: run(begin, end) over [0, count), `grain` items at a time.
    template <class Run> void share(int64_t count, int64_t grain, const Run& run) {
      if (!team_) return run(int64_t(0), count);
      const int64_t first = last_;
      last_ += (count + grain - 1) / grain;
      int64_t next = team_->taken_.load(std::memory_order_relaxed);
      while (next < last_) {
        if (!team_->taken_.compare_exchange_weak(next, next + 1, std::memory_order_relaxed)) continue;
        const int64_t begin = (next - first) * grain;
        run(begin, std::min(begin + grain, count));
        team_->done_.fetch_add(1, std::memory_order_release);
        next = team_->taken_.load(std::memory_order_relaxed);
      }
      for (int spins = 0; team_->done_.load(std::memory_order_acquire) < last_; spins++)
        spins < patience ? relax() : std::this_thread::yield();
    }

   private:
    Team* team_;
    int64_t last_ = 0;  // pieces of all phases so far
  };

 private:
  static constexpr int patience = 1000;  // some ten microseconds: longer than a piece takes

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  alignas(64) std::atomic<int64_t> taken_{0};  // pieces of work, over all phases
  alignas(64) std::atomic<int64_t> done_{0};
};

}  // namespace amt
