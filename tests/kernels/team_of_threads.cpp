// csrc/common/team.h with threads of the host: phases that read what the phase before wrote, members that come late or
// not at all. Also with the thread sanitizer: g++ -std=c++20 -O1 -g -fsanitize=thread -Icsrc
// tests/kernels/team_of_threads.cpp
#include <chrono>
#include <cstdio>
#include <vector>

#include "common/team.h"

namespace {

constexpr int64_t count = 37, phases = 200;

// Phase p writes values[p + 1][i] from both neighbours in values[p]; the last row tells whether any was read too early.
std::vector<std::vector<int64_t>> run(int64_t members, int64_t grain, bool late, std::vector<std::vector<int>>* taken) {
  std::vector<std::vector<int64_t>> values(phases + 1, std::vector<int64_t>(count, -1));
  for (int64_t i = 0; i < count; i++) values[0][i] = i;
  taken->assign(phases, std::vector<int>(count, 0));
  const auto work = [&](amt::Team::Member& member) {
    for (int64_t p = 0; p < phases; p++)
      member.share(count, grain, [&](int64_t begin, int64_t end) {
        // a piece that begins or ends elsewhere than at a multiple of the grain counts as taken twice
        if (begin % grain || (end % grain && end != count)) (*taken)[p][begin]++;
        for (int64_t i = begin; i < end; i++) {
          (*taken)[p][i]++;
          values[p + 1][i] = (values[p][(i + 1) % count] * 31 + values[p][(i + count - 1) % count] * 17 + p) % 1000003;
        }
      });
  };
  if (members == 0) {
    amt::Team::Member alone;
    work(alone);
    return values;
  }
  amt::Team team(members);
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < members; t++)
    threads.emplace_back([&, t] {
      if (late && t > 0) std::this_thread::sleep_for(std::chrono::microseconds(50 * t));
      amt::Team::Member member(team);
      work(member);
    });
  for (auto& thread : threads) thread.join();
  return values;
}

}  // namespace

int main() {
  std::vector<std::vector<int>> taken;
  const auto truth = run(0, 1, false, &taken);
  int wrong = 0;
  for (int round = 0; round < 20; round++)
    for (int64_t members : {1, 2, 3, 8})
      for (int64_t grain : {1, 5, 100})
        for (bool late : {false, true}) {
          if (run(members, grain, late, &taken) != truth) wrong++;
          for (const auto& phase : taken)
            for (int times : phase) wrong += times != 1;
        }
  std::printf("%d wrong\n", wrong);
  return wrong > 0;
}
