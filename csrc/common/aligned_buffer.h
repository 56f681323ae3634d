// Uninitialised memory that begins at a cache line, so that no vector load crosses two of them.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include <torch/headeronly/util/Exception.h>

namespace amt {

template <class T>
class AlignedBuffer {
 public:
  explicit AlignedBuffer(int64_t count = 0) : data_(count > 0 ? allocate(count) : nullptr, &std::free) {
    STD_TORCH_CHECK(count <= 0 || data_, "amt: out of memory for ", count, " elements of ", sizeof(T), " bytes");
  }
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  static constexpr size_t cache_line = 64;
  std::unique_ptr<T, decltype(&std::free)> data_;

  static T* allocate(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(T) + cache_line - 1) / cache_line * cache_line;
    return static_cast<T*>(std::aligned_alloc(cache_line, bytes));
  }
};

}  // namespace amt
