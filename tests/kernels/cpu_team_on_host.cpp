// csrc/common/cpu_team.cpp alone, without PyTorch: test_cpu_team.py compiles both, also with the thread sanitizer.
// Usage: cpu_team_on_host SCENARIO. Prints what is wrong; the exit status is then 1.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "common/cpu_team.h"

namespace {

using amt::CpuTeam;

std::atomic<int> wrong{0};

void expect(bool right, const char* what) {
  if (!right && wrong++ < 20) std::printf("%s\n", what);
}

// Each phase reads both neighbours of what the phase before wrote. Checks that every item is taken once, in pieces that
// begin at multiples of the grain, by a member whose number is below the team's size.
void run_phases(CpuTeam& team, int64_t wanted, int64_t count, int64_t grain, int64_t phases, bool slow) {
  std::vector<int64_t> values(count), expected(count);
  for (int64_t i = 0; i < count; i++) values[i] = expected[i] = i;
  expect(team.size() >= 1 && team.size() <= std::max<int64_t>(wanted, 1), "a team is larger than wanted");
  for (int64_t p = 0; p < phases; p++) {
    std::vector<int64_t> next(count, -1);
    std::vector<int> taken(count, 0);
    const auto step = [&](const std::vector<int64_t>& from, int64_t i) {
      return (from[(i + 1) % count] * 31 + from[(i + count - 1) % count] * 17 + p) % 1000003;
    };
    const auto work = [&](int64_t begin, int64_t end, int64_t member) {
      expect(begin % grain == 0 && (end % grain == 0 || end == count), "a piece lies across the grain");
      expect(member >= 0 && member < team.size(), "a member has no place in its team");
      if (slow && begin / grain % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(30));
      for (int64_t i = begin; i < end; i++) {
        taken[i]++;
        next[i] = step(values, i);
      }
    };
    if (p % 2)
      team.share(count, grain, work);
    else
      team.share_by_blocks(count, grain, work);
    std::vector<int64_t> right(count);
    for (int64_t i = 0; i < count; i++) {
      right[i] = step(expected, i);
      expect(taken[i] == 1, "an item is not taken once");
    }
    expect(next == right, "a phase read what was not yet written");
    values.swap(next);
    expected.swap(right);
  }
}

void run_phases(int64_t wanted, int64_t count, int64_t grain, int64_t phases, bool slow) {
  CpuTeam team(wanted);
  run_phases(team, wanted, count, grain, phases, slow);
}

// work(team) with a team of `members` to which this program lends threads; each comes `after` its start.
void with_lent(int64_t members, std::chrono::milliseconds after, const std::function<void(CpuTeam&)>& work) {
  CpuTeam team(CpuTeam::Lent{members});
  std::vector<std::thread> threads;
  for (int64_t number = 1; number < members; number++)
    threads.emplace_back([&team, number, after] {
      std::this_thread::sleep_for(after);
      team.help(number);
    });
  work(team);
  team.release();
  for (auto& thread : threads) thread.join();
  team.joined();
}

// Whether a second thread takes part: each of two pieces waits until the other has begun, at most ten seconds.
bool has_helper(CpuTeam& team) {
  std::atomic<int> begun{0};
  const auto last = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  team.share(2, 1, [&](int64_t begin, int64_t end, int64_t) {
    begun += static_cast<int>(end - begin);
    while (begun < 2 && std::chrono::steady_clock::now() < last) std::this_thread::yield();
  });
  return team.size() == 2 && begun == 2 && std::chrono::steady_clock::now() < last;
}

bool has_worker() {
  CpuTeam team(2);
  return has_helper(team);
}

void phases() {
  expect(has_worker(), "no worker takes part");
  for (int round = 0; round < 3; round++)
    for (int64_t wanted : {1, 2, 8, 3})  // a narrow team follows a wide one, whose workers may still look for pieces
      for (int64_t grain : {1, 5, 100})
        for (bool slow : {false, true}) run_phases(wanted, 37, grain, slow ? 10 : 200, slow);
}

void sizes() {
  for (int64_t count : {0, 1, 2, 3, 15, 16, 17, 1000, 4099})
    for (int64_t grain : {1, 2, 16, 5000}) run_phases(3, count, grain, 2, false);
  CpuTeam team(2);
  const int64_t count = int64_t(1) << 25;  // more pieces of one item than a list can hold
  std::atomic<int64_t> sum{0};
  team.share(count, 1, [&](int64_t begin, int64_t end, int64_t) { sum += end - begin; });
  expect(sum == count, "items of a long list are lost");
  run_phases(400, 1000, 1, 2, false);  // more threads than there may be workers
}

// Many short lists: a worker that was stopped while it read the fields of one wakes up in another.
void short_lists() {
  for (int64_t round = 0; round < 20000; round++) {
    CpuTeam team(2 + round % 7);
    const int64_t count = 1 + round * 7 % 23, grain = 1 + round % 3;
    std::vector<int> taken(count, 0);
    team.share(count, grain, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t i = begin; i < end; i++) taken[i]++;
    });
    expect(taken == std::vector<int>(count, 1), "an item of a short list is not taken once");
  }
}

void exceptions() {
  for (int round = 0; round < 200; round++) {
    CpuTeam team(4);
    std::string message;
    try {
      team.share(64, 1, [&](int64_t begin, int64_t, int64_t) {
        if (begin % 8 == round % 8) throw std::runtime_error("piece");
      });
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    expect(message == "piece", "an exception does not reach the caller");
    std::atomic<int64_t> sum{0};
    team.share(64, 1, [&](int64_t begin, int64_t end, int64_t) { sum += end - begin; });
    expect(sum == 64, "after an exception the team does not work");
  }
}

void callers() {
  std::vector<std::thread> threads;
  for (int caller = 0; caller < 3; caller++)
    threads.emplace_back([] {
      for (int round = 0; round < 300; round++) run_phases(4, 37, 2, 4, false);
    });
  for (auto& thread : threads) thread.join();
  CpuTeam outer(3);
  std::atomic<int64_t> sum{0};
  outer.share(8, 1, [&](int64_t, int64_t, int64_t) {
    CpuTeam inner(3);  // within a piece: alone
    expect(outer.size() == 1 || inner.size() == 1, "two teams have the same workers");
    inner.share(8, 1, [&](int64_t begin, int64_t end, int64_t) { sum += end - begin; });
  });
  expect(sum == 64, "a team within a piece loses items");
}

void forks() {
  run_phases(4, 37, 1, 20, false);
  std::atomic<bool> stop{false};
  std::thread other([&] {  // the fork meets a call of another thread
    while (!stop) run_phases(4, 37, 1, 20, false);
  });
  for (int round = 0; round < 20; round++) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(30);  // ends a child that hangs
      expect(has_worker(), "no worker takes part in a forked child");
      run_phases(4, 37, 1, 20, false);
      const pid_t grandchild = fork();
      if (grandchild == 0) {
        alarm(30);
        run_phases(4, 37, 1, 20, false);
        _exit(wrong > 0);
      }
      int status = 1;
      waitpid(grandchild, &status, 0);
      _exit(wrong > 0 || status != 0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    expect(status == 0, "a forked child fails");
  }
  stop = true;
  other.join();
}

void lent_threads() {
  const std::chrono::milliseconds at_once(0);
  with_lent(2, at_once, [](CpuTeam& team) { expect(has_helper(team), "no lent thread takes part"); });
  for (int64_t members : {2, 8, 3}) {
    for (int64_t grain : {1, 5}) {
      with_lent(members, at_once, [&](CpuTeam& team) { run_phases(team, members, 37, grain, 100, grain == 1); });
      run_phases(members, 37, grain, 20, false);  // workers that still look for pieces meet the next lent threads
    }
  }
  with_lent(3, at_once, [](CpuTeam& team) {
    std::string message;
    try {
      team.share(64, 1, [](int64_t, int64_t, int64_t) { throw std::runtime_error("piece"); });
    } catch (const std::runtime_error& error) {
      message = error.what();
    }
    expect(message == "piece", "an exception of a lent thread does not reach the caller");
  });
}

// Threads that come late delay their caller once; then none are lent, for fifty times as long as they were late.
void late_threads() {
  expect(CpuTeam::may_lend(), "no thread may be lent at first");
  const auto begin = std::chrono::steady_clock::now();
  with_lent(2, std::chrono::milliseconds(10), [](CpuTeam& team) { run_phases(team, 2, 37, 1, 2, false); });
  const auto lost = std::chrono::steady_clock::now() - begin;
  expect(!CpuTeam::may_lend(), "threads are lent that came late");
  std::this_thread::sleep_for(lost * 51);
  expect(CpuTeam::may_lend(), "threads that came late once are never lent again");
  const pid_t child = fork();
  if (child == 0) _exit(CpuTeam::may_lend());
  int status = 1;
  waitpid(child, &status, 0);
  expect(status == 0, "a forked child lends threads that it lacks");
}

// No memory for a thread's stack: the caller does everything, then as many workers as there can be take part.
void no_threads() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit before, none;
  getrlimit(RLIMIT_AS, &before);
  none = before;
  none.rlim_cur = static_cast<rlim_t>(pages) * sysconf(_SC_PAGESIZE) + (1 << 20);
  setrlimit(RLIMIT_AS, &none);
  expect(CpuTeam(4).size() == 1, "threads are made where there is no memory for them");
  run_phases(4, 37, 1, 20, false);
  setrlimit(RLIMIT_AS, &before);
  expect(CpuTeam(4).size() == 4, "no threads are made where they can be");
  expect(has_worker(), "no worker takes part once there is memory");
  run_phases(4, 37, 1, 20, false);
}

// The program ends while another thread is within a call, and workers look for pieces.
void exits() {
  std::thread([] {
    while (true) run_phases(4, 37, 1, 20, false);
  }).detach();
  for (int round = 0; round < 50; round++) run_phases(4, 37, 1, 20, false);
}

}  // namespace

int main(int, char** words) {
  const std::map<std::string, std::function<void()>> scenarios = {{"phases", phases},
                                                                  {"sizes", sizes},
                                                                  {"short_lists", short_lists},
                                                                  {"exceptions", exceptions},
                                                                  {"callers", callers},
                                                                  {"forks", forks},
                                                                  {"no_threads", no_threads},
                                                                  {"exit", exits},
                                                                  {"lent_threads", lent_threads},
                                                                  {"late_threads", late_threads}};
  scenarios.at(words[1])();
  std::printf("%d wrong\n", wrong.load());
  return wrong > 0;  // while the workers wait for the next call
}
