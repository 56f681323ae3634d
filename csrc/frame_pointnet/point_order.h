// The order in which frame_pointnet takes an image's points: neighbours in space next to each other, since they share
// most of their active hidden units. A Morton curve over the points' box; points in one place keep their order.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace amt {

// Every third bit of the result is one of the lowest ten of x.
inline uint32_t spread_bits(uint32_t x) {
  x = (x | x << 16) & 0x030000ff;
  x = (x | x << 8) & 0x0300f00f;
  x = (x | x << 4) & 0x030c30c3;
  return (x | x << 2) & 0x09249249;
}

// Writes the numbers of the points that count and returns how many they are. at(n, axis) reads a coordinate, counts(n)
// says whether the point counts. `keys` is scratch.
template <class T, class At, class Counts>
int64_t order_points(int64_t num_points, const At& at, const Counts& counts, std::vector<uint64_t>& keys,
                     int32_t* order) {
  keys.clear();
  T low[3], scale[3];
  for (int axis = 0; axis < 3; ++axis) {
    T least = __builtin_inf(), most = -__builtin_inf();
    for (int64_t n = 0; n < num_points; ++n)
      if (counts(n)) least = std::min(least, at(n, axis)), most = std::max(most, at(n, axis));
    low[axis] = least;
    scale[axis] = most > least ? T(1023) / (most - least) : T(0);
  }
  for (int64_t n = 0; n < num_points; ++n) {
    if (!counts(n)) continue;
    uint64_t key = 0;
    for (int axis = 0; axis < 3; ++axis) {
      const T cell = (at(n, axis) - low[axis]) * scale[axis];
      key |= static_cast<uint64_t>(spread_bits(cell > 0 && cell <= 1023 ? static_cast<uint32_t>(cell) : 0)) << axis;
    }
    keys.push_back(key << 32 | static_cast<uint64_t>(n));
  }
  std::sort(keys.begin(), keys.end());
  for (size_t i = 0; i < keys.size(); ++i) order[i] = static_cast<int32_t>(keys[i]);
  return static_cast<int64_t>(keys.size());
}

}  // namespace amt
