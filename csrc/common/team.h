// Threads that share work of many short phases: one parallel region for all of it, where one for each phase would wake,
// and wait for, every thread each time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>

namespace amt {

// Whoever is free takes the next items of a phase, and none is taken before the phase before it is done. A member never
// waits for one that has taken nothing: where the others come late, or never (within another parallel region), the
// first does it all.
class Team {
 public:
  // What every member runs: the same phases in the same order, on the same memory. Between them it may read what
  // earlier phases wrote, and writes nothing that others read.
  class Member {
   public:
    Member() : team_(nullptr) {}  // alone
    explicit Member(Team& team) : team_(&team) {}

    // One phase: run(begin, end) over [0, count). First large pieces, one for each member and three quarters of it all,
    // so that what lies side by side is read by one thread; then `grain` items at a time for whoever is free. All but
    // the last piece begin and end at multiples of `grain`.
    template <class Run>
    void share(int64_t count, int64_t grain, const Run& run) {
      if (!team_) return run(int64_t(0), count);
      const int64_t members = team_->members_, large = count * 3 / (4 * members * grain) * grain;
      const int64_t num_large = large > grain ? members : 0, small_from = num_large * large;
      const int64_t first = last_;
      last_ += num_large + (count - small_from + grain - 1) / grain;
      int64_t next = team_->taken_.load(std::memory_order_relaxed);
      while (next < last_) {
        if (!team_->taken_.compare_exchange_weak(next, next + 1, std::memory_order_relaxed)) continue;
        const int64_t piece = next - first;
        const int64_t begin = piece < num_large ? piece * large : small_from + (piece - num_large) * grain;
        run(begin, piece < num_large ? begin + large : std::min(begin + grain, count));
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

  explicit Team(int64_t members) : members_(members) {}

 private:
  static constexpr int patience = 1000;  // some ten microseconds: longer than a piece takes

  static void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

  const int64_t members_;
  alignas(64) std::atomic<int64_t> taken_{0};  // pieces of work, over all phases
  alignas(64) std::atomic<int64_t> done_{0};
};

}  // namespace amt
