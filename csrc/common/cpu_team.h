// The threads of one call of an op on the CPU: work stealing without waiting for a thread that has no core.
//
// PyTorch's parallel_for ends at a barrier of all its threads. With another busy process on the machine the caller then
// waits there for a thread that has not run yet, for a slice of the scheduler: milliseconds for work of microseconds.
// Here the caller takes pieces of the work itself, and waits at the end only for pieces that a worker has begun. A
// worker that comes late, or never, delays nobody.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace amt {

class CpuTeam {
 public:
  // Wakes the workers of the process for one call. `wanted`: threads that would find work, the caller included. The
  // team is the caller alone where that is one, or where another thread of the program has the workers.
  explicit CpuTeam(int64_t wanted);
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
