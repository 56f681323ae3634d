// CpuTeam's list of pieces, and its workers: they live as long as the process, and sleep between calls.
#include "common/cpu_team.h"

#include <pthread.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <thread>
#include <utility>

namespace amt {
namespace {

constexpr int64_t most_workers = 255;
// How long a worker looks for the next call before it sleeps: waking it takes the caller some microseconds and the
// worker tens of them, so that ops that follow each other at once do not pay for it.
constexpr auto patience = std::chrono::microseconds(50);
// Lent threads that come back later than this after their call have had no core. They are not asked again for a time
// in which the loss is 2 %.
constexpr auto late = std::chrono::microseconds(50);
constexpr int pause_per_loss = 50;
constexpr int spins_before_yield = 2000;  // some tens of microseconds

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits for another thread: spins `spins_before_yield` times, then yields the core.
class Spin {
 public:
  void pause() {
    if (spins_ >= spins_before_yield) return std::this_thread::yield();
    spins_++;
    relax();
  }

 private:
  int spins_ = 0;
};

// One process's workers and the list of pieces that they share at the moment.
//
// `next_` holds the number of the list in its upper bits and the next piece in its lower ones; `closed` there means
// that no piece is left to take. The list's other fields change only while `next_` is closed. A worker reads `next_`,
// then the fields, then takes the piece by compare-and-swap: where the fields it read belong to a later list, `next_`
// has changed, and the swap fails. So a worker that was stopped in between takes nothing that it has misread. The
// caller waits until every piece of its list is done before it closes the list; done_ therefore counts pieces of one
// list.
class Workers {
 public:
  using Piece = void (*)(const void*, int64_t, int64_t, int64_t);

  bool try_acquire() { return !busy_.exchange(true, std::memory_order_acquire); }

  // Makes `count` workers exist and wakes them. Returns how many there are.
  int64_t begin(int64_t count) {
    count = std::min(count, most_workers);
    try {
      while (made_ < count) start(made_);
    } catch (const std::exception&) {  // no more threads to be had: those that there are do it
    }
    count = std::min(count, made_);
    active_.store(count, std::memory_order_release);
    for (int64_t i = 0; i < count; i++) {
      signals_[i].fetch_add(1, std::memory_order_release);
      signals_[i].notify_one();
    }
    return count;
  }

  void end() {
    active_.store(0, std::memory_order_release);
    busy_.store(false, std::memory_order_release);
  }

  void run(int64_t count, int64_t grain, int64_t large, int64_t members, bool lent, const void* work, Piece piece) {
    const int64_t num_large = large > 0 ? members : 0;
    while ((count - num_large * large + grain - 1) / grain + num_large >= closed) grain *= 2;
    const int64_t pieces = num_large + (count - num_large * large + grain - 1) / grain;
    count_.store(count, std::memory_order_release);
    grain_.store(grain, std::memory_order_release);
    large_.store(large, std::memory_order_release);
    num_large_.store(num_large, std::memory_order_release);
    members_.store(members, std::memory_order_release);
    lent_.store(lent, std::memory_order_release);
    work_.store(work, std::memory_order_release);
    piece_.store(piece, std::memory_order_release);
    done_.store(0, std::memory_order_relaxed);
    pieces_.store(pieces, std::memory_order_release);
    generation_++;
    next_.store(generation_ << piece_bits, std::memory_order_release);
    while (take(0, lent)) {
    }
    for (Spin spin; done_.load(std::memory_order_acquire) < pieces;) spin.pause();
    next_.store(generation_ << piece_bits | closed, std::memory_order_release);
    if (failed_.load(std::memory_order_relaxed)) {  // ordered by done_, as error_ is
      failed_.store(false, std::memory_order_relaxed);
      std::rethrow_exception(std::exchange(error_, nullptr));
    }
  }

  // A lent thread takes pieces until `released`.
  void help(int64_t member, const std::atomic<bool>& released) {
    for (Spin spin; !released.load(std::memory_order_acquire);) {
      if (take(member, true))
        spin = Spin();
      else
        spin.pause();
    }
  }

 private:
  static constexpr int piece_bits = 24;
  static constexpr int64_t closed = (int64_t(1) << piece_bits) - 1;

  std::atomic<bool> busy_{false};
  int64_t made_ = 0;         // of workers; changed by the owner only
  uint64_t generation_ = 0;  // of works; likewise
  std::array<std::atomic<uint32_t>, most_workers> signals_{};
  std::atomic<int64_t> active_{0};  // workers that the call at hand has
  std::atomic<int64_t> count_{0}, grain_{0}, large_{0}, num_large_{0}, pieces_{0}, members_{0};
  std::atomic<bool> lent_{false};  // to lent threads; a number is a worker's or a lent thread's, never both at once
  std::atomic<const void*> work_{nullptr};
  std::atomic<Piece> piece_{nullptr};
  alignas(64) std::atomic<uint64_t> next_{closed};
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;

  // Takes and runs one piece; false where there is none.
  bool take(int64_t member, bool lent) {
    uint64_t seen = next_.load(std::memory_order_acquire);
    for (;;) {
      const int64_t index = static_cast<int64_t>(seen & closed);
      if (index == closed) return false;  // without a look at the cache line that the caller may be writing
      if (index >= pieces_.load(std::memory_order_acquire)) return false;
      const int64_t count = count_.load(std::memory_order_acquire), grain = grain_.load(std::memory_order_acquire);
      const int64_t large = large_.load(std::memory_order_acquire);
      const int64_t num_large = num_large_.load(std::memory_order_acquire);
      const void* work = work_.load(std::memory_order_acquire);
      const Piece piece = piece_.load(std::memory_order_acquire);
      if (member >= members_.load(std::memory_order_acquire)) return false;  // woken for an earlier, wider call
      if (member > 0 && lent != lent_.load(std::memory_order_acquire)) return false;
      if (!next_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      const bool is_large = index < num_large;
      const int64_t begin = is_large ? index * large : num_large * large + (index - num_large) * grain;
      const int64_t end = is_large ? begin + large : std::min(begin + grain, count);
      if (!failed_.load(std::memory_order_relaxed)) {
        try {
          piece(work, begin, end, member);
        } catch (...) {
          if (!failed_.exchange(true, std::memory_order_relaxed)) error_ = std::current_exception();
        }
      }
      done_.fetch_add(1, std::memory_order_release);
      return true;
    }
  }

  void start(int64_t number) {
    sigset_t all, before;  // signals are for the program's own threads
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    try {
      std::thread([this, number] { live(number); }).detach();
    } catch (...) {
      pthread_sigmask(SIG_SETMASK, &before, nullptr);
      throw;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    made_++;
  }

  [[noreturn]] void live(int64_t number) {
    uint32_t signal = 0;
    for (;;) {
      signals_[number].wait(signal, std::memory_order_acquire);
      signal = signals_[number].load(std::memory_order_acquire);
      Spin spin;
      uint32_t idle = 0;
      for (auto last = std::chrono::steady_clock::now();;) {
        if (take(number + 1, false)) {
          while (take(number + 1, false)) {
          }
          last = std::chrono::steady_clock::now();
          spin = Spin();
        } else if (number < active_.load(std::memory_order_acquire)) {  // the call goes on: another list may come
          spin.pause();
          last = {};
        } else {
          if (last == decltype(last)()) last = std::chrono::steady_clock::now();  // the call has ended
          relax();
          if (++idle % 64 == 0 && std::chrono::steady_clock::now() - last > patience) break;
        }
      }
    }
  }
};

std::atomic<Workers*> workers{nullptr};
std::atomic<std::chrono::steady_clock::time_point> no_lending_before{};

// A forked child has none of its parent's threads: it makes its own. The parent's object is left as it is, because a
// thread may have been changing it.
void forget_workers() {
  workers.store(nullptr, std::memory_order_release);
  no_lending_before.store(std::chrono::steady_clock::time_point::max(), std::memory_order_relaxed);
}
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, forget_workers);

Workers& all_workers() {
  Workers* found = workers.load(std::memory_order_acquire);
  if (found) return *found;
  auto made = std::make_unique<Workers>();
  if (workers.compare_exchange_strong(found, made.get(), std::memory_order_acq_rel)) return *made.release();
  return *found;
}

}  // namespace

CpuTeam::CpuTeam(int64_t wanted) {
  if (wanted <= 1) return;
  Workers& all = all_workers();
  if (!all.try_acquire()) return;
  size_ = 1 + all.begin(wanted - 1);
  if (size_ == 1) all.end();
}

CpuTeam::CpuTeam(Lent lent) : lent_(true) {
  if (lent.members > 1 && all_workers().try_acquire()) size_ = lent.members;
}

CpuTeam::~CpuTeam() {
  if (size_ > 1) all_workers().end();
}

void CpuTeam::help(int64_t member) { all_workers().help(member, released_); }

void CpuTeam::release() {
  released_at_ = std::chrono::steady_clock::now();
  released_.store(true, std::memory_order_release);
}

void CpuTeam::joined() {
  const auto now = std::chrono::steady_clock::now(), before = no_lending_before.load(std::memory_order_relaxed);
  const auto lost = now - released_at_;
  if (lost > late && before < now) no_lending_before.store(now + lost * pause_per_loss, std::memory_order_relaxed);
}

bool CpuTeam::may_lend() {
  return std::chrono::steady_clock::now() >= no_lending_before.load(std::memory_order_relaxed);
}

void CpuTeam::run_pieces(int64_t count, int64_t grain, int64_t large, const void* run, Piece piece) {
  all_workers().run(count, grain, large, size_, lent_, run, piece);
}

}  // namespace amt
