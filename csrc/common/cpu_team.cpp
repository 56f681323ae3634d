// CpuTeam's workers. They live as long as the process, and sleep between calls.
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
constexpr int spins_before_yield = 2000;  // some tens of microseconds

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waits while `go_on()`: spins first, then gives the core away at every turn.
template <class Condition>
void wait_while(const Condition& go_on) {
  for (int spins = 0; go_on(); spins++) spins < spins_before_yield ? relax() : std::this_thread::yield();
}

// One process's workers and the work at hand. `next_` holds the number of the work in its upper bits and the next piece
// in its lower ones, so that a worker that was stopped between reading the work's fields and taking a piece takes
// nothing of a later work: its compare-and-swap fails. The fields change only while `next_` is closed.
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

  void run(int64_t count, int64_t grain, int64_t large, int64_t members, const void* work, Piece piece) {
    const int64_t num_large = large > 0 ? members : 0;
    while ((count - num_large * large + grain - 1) / grain + num_large >= closed) grain *= 2;
    const int64_t pieces = num_large + (count - num_large * large + grain - 1) / grain;
    count_.store(count, std::memory_order_release);
    grain_.store(grain, std::memory_order_release);
    large_.store(large, std::memory_order_release);
    num_large_.store(num_large, std::memory_order_release);
    members_.store(members, std::memory_order_release);
    work_.store(work, std::memory_order_release);
    piece_.store(piece, std::memory_order_release);
    done_.store(0, std::memory_order_relaxed);
    pieces_.store(pieces, std::memory_order_release);
    generation_++;
    next_.store(generation_ << piece_bits, std::memory_order_release);
    while (take(0)) {
    }
    wait_while([&] { return done_.load(std::memory_order_acquire) < pieces; });
    next_.store(generation_ << piece_bits | closed, std::memory_order_release);
    if (failed_.load(std::memory_order_acquire)) {
      failed_.store(false, std::memory_order_relaxed);
      std::rethrow_exception(std::exchange(error_, nullptr));
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
  std::atomic<const void*> work_{nullptr};
  std::atomic<Piece> piece_{nullptr};
  alignas(64) std::atomic<uint64_t> next_{closed};
  alignas(64) std::atomic<int64_t> done_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;

  // Takes and runs one piece; false where there is none.
  bool take(int64_t member) {
    uint64_t seen = next_.load(std::memory_order_acquire);
    for (;;) {
      const int64_t index = static_cast<int64_t>(seen & closed);
      if (index >= pieces_.load(std::memory_order_acquire)) return false;
      const int64_t count = count_.load(std::memory_order_acquire), grain = grain_.load(std::memory_order_acquire);
      const int64_t large = large_.load(std::memory_order_acquire);
      const int64_t num_large = num_large_.load(std::memory_order_acquire);
      const void* work = work_.load(std::memory_order_acquire);
      const Piece piece = piece_.load(std::memory_order_acquire);
      if (member >= members_.load(std::memory_order_acquire)) return false;  // woken for an earlier, wider call
      if (!next_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      const bool is_large = index < num_large;
      const int64_t begin = is_large ? index * large : num_large * large + (index - num_large) * grain;
      const int64_t end = is_large ? begin + large : std::min(begin + grain, count);
      if (!failed_.load(std::memory_order_relaxed)) {
        try {
          piece(work, begin, end, member);
        } catch (...) {
          if (!failing_.test_and_set(std::memory_order_acquire)) {
            error_ = std::current_exception();
            failed_.store(true, std::memory_order_release);
            failing_.clear(std::memory_order_release);
          }
        }
      }
      done_.fetch_add(1, std::memory_order_release);
      return true;
    }
  }

  std::atomic_flag failing_ = ATOMIC_FLAG_INIT;

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
      auto last = std::chrono::steady_clock::now();
      for (int spins = 0;; spins++) {
        if (take(number + 1)) {
          spins = 0;
        } else if (number < active_.load(std::memory_order_acquire)) {  // the call goes on: more pieces may come
          spins < spins_before_yield ? relax() : std::this_thread::yield();
        } else if (spins % 64 == 63) {
          if (std::chrono::steady_clock::now() - last > patience) break;
        } else {
          relax();
        }
        if (spins == 0) last = std::chrono::steady_clock::now();
      }
    }
  }
};

std::atomic<Workers*> workers{nullptr};

// A forked child has none of its parent's threads, and may have its locks: it starts anew.
void forget_workers() { workers.store(nullptr, std::memory_order_release); }

Workers& all_workers() {
  Workers* found = workers.load(std::memory_order_acquire);
  if (found) return *found;
  static const int registered = pthread_atfork(nullptr, nullptr, forget_workers);
  (void)registered;
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

CpuTeam::~CpuTeam() {
  if (size_ > 1) all_workers().end();
}

void CpuTeam::run_pieces(int64_t count, int64_t grain, int64_t large, const void* run, Piece piece) {
  all_workers().run(count, grain, large, size_, run, piece);
}

}  // namespace amt
