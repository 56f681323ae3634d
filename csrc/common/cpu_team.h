// The threads of one call of an op on the CPU: work stealing without waiting for a thread that has no core.
//
// The caller takes pieces of the work itself, and waits at the end only for pieces that another member has begun. A
// member that comes late, or never, has no piece, and delays nobody. The other members are workers of this file, or
// threads that the caller has from elsewhere: with_team (common/cpu_threads.h) chooses.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

namespace amt {

class CpuTeam {
 public:
  // Wakes the workers of the process for one call. `wanted`: threads that would find work, the caller included. The
  // team is the caller alone where that is one, or where another thread of the program has the workers.
  explicit CpuTeam(int64_t wanted);

  // A team of the caller and of up to `members - 1` other threads, each of which calls help(number). No worker joins.
  struct Lent {
    int64_t members;
  };
  explicit CpuTeam(Lent lent);
  void help(int64_t member);  // takes pieces until release()
  void release();             // the caller has finished
  void joined();              // all the other threads are back; how long they took decides may_lend()

  // False for a while after other threads came back late: they have no core at the moment. The pause is a multiple of
  // the time that the caller lost. Always false in a forked child, which has no threads of its parent's.
  static bool may_lend();

  ~CpuTeam();
  CpuTeam(const CpuTeam&) = delete;
  CpuTeam& operator=(const CpuTeam&) = delete;

  int64_t size() const { return size_; }  // the members' numbers are below it

  // run(begin, end, member) over [0, count) in pieces of `grain`, by whichever member is free; `member` is the number
  // of the thread that runs it, 0 for the caller. Returns when all of it is done. An exception of `run` reaches the
  // caller.
  template <class Run>
  void share(int64_t count, int64_t grain, const Run& run) {
    split(count, grain, 0, run);
  }

  // The same for short work on memory that lies side by side: three quarters of it in one large piece for each member,
  // then `grain` at a time, so that few cache lines are written by two cores. Pieces begin at multiples of `grain`.
  template <class Run>
  void share_by_blocks(int64_t count, int64_t grain, const Run& run) {
    const int64_t large = count * 3 / (4 * size_ * grain) * grain;
    split(count, grain, large > grain ? large : 0, run);
  }

 private:
  using Piece = void (*)(const void* run, int64_t begin, int64_t end, int64_t member);

  int64_t size_ = 1;
  bool lent_ = false;
  std::atomic<bool> released_{false};
  std::chrono::steady_clock::time_point released_at_;

  template <class Run>
  void split(int64_t count, int64_t grain, int64_t large, const Run& run) {
    if (count <= 0) return;
    if (size_ == 1 || count <= grain) return run(int64_t(0), count, int64_t(0));
    run_pieces(count, grain, large, &run, [](const void* r, int64_t begin, int64_t end, int64_t member) {
      (*static_cast<const Run*>(r))(begin, end, member);
    });
  }

  void run_pieces(int64_t count, int64_t grain, int64_t large, const void* run, Piece piece);
};

// Scratch memory of each member of a team, made when the member first asks for it.
template <class T>
class PerMember {
 public:
  explicit PerMember(const CpuTeam& team) : values_(team.size()) {}
  template <class Make>
  T& of(int64_t member, const Make& make) {
    std::optional<T>& value = values_[member];
    if (!value) value.emplace(make());
    return *value;
  }

 private:
  std::vector<std::optional<T>> values_;
};

}  // namespace amt
