// A plan: what a call allocates, copies, adds up and launches, in its order. amt/kernels/_plans.py records it and
// writes it as whole numbers; this reads them, and runs the plan on new tensors.
#pragma once

#include <array>
#include <cstring>
#include <vector>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "plan/driver.h"

namespace amt::plan {

using torch::stable::Tensor;

constexpr size_t most_argument_bytes = 4096;  // of a kernel

class Words {
 public:
  explicit Words(const std::vector<int64_t>& words) : at_(words.data()), end_(words.data() + words.size()) {}

  int64_t next() {
    STD_TORCH_CHECK(at_ != end_, "the plan ends too early");
    return *at_++;
  }
  std::vector<int64_t> list() {
    std::vector<int64_t> found(static_cast<size_t>(next()));
    for (int64_t& word : found) word = next();
    return found;
  }
  template <class T>
  std::vector<T> list_of() {
    std::vector<T> found;
    for (int64_t count = next(); count > 0; --count) found.push_back(T::read(*this));
    return found;
  }

 private:
  const int64_t *at_, *end_;
};

// Slots: first the call's inputs, then the plan's buffers. A view begins `offset` elements after its slot's first one.
struct View {
  int64_t slot, offset;
  std::vector<int64_t> sizes, strides;

  static View read(Words& words) {
    const int64_t slot = words.next(), offset = words.next();
    return {slot, offset, words.list(), words.list()};
  }
  Tensor of(const std::vector<Tensor>& slots) const {
    const Tensor& base = slots.at(static_cast<size_t>(slot));
    int64_t first;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_offset(base.get(), &first));
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch__reinterpret_tensor(
        base.get(), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), first + offset, &handle));
    return Tensor(handle);
  }
};

struct Buffer {
  int32_t dtype;  // as aoti_torch_get_dtype says it
  std::vector<int64_t> sizes, strides;

  static Buffer read(Words& words) {
    const auto dtype = static_cast<int32_t>(words.next());
    return {dtype, words.list(), words.list()};
  }
  Tensor empty(int32_t device_type, int32_t device_index) const {
    AtenTensorHandle handle;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                           strides.data(), dtype, device_type, device_index, &handle));
    return Tensor(handle);
  }
};

struct Pointer {
  size_t position;  // in the arguments, bytes
  size_t slot;
  int64_t offset;  // bytes

  static Pointer read(Words& words) {
    const auto position = static_cast<size_t>(words.next()), slot = static_cast<size_t>(words.next());
    return {position, slot, words.next()};
  }
};

struct Launch {
  void* function;
  std::array<unsigned, 3> grid;
  unsigned threads, shared_bytes;
  size_t num_bytes;
  std::vector<int64_t> arguments;  // their bytes; pointers are filled in at each run
  std::vector<Pointer> pointers;

  static Launch read(Words& words) {
    Launch launch{};
    launch.function = reinterpret_cast<void*>(words.next());
    for (unsigned& size : launch.grid) size = static_cast<unsigned>(words.next());
    launch.threads = static_cast<unsigned>(words.next());
    launch.shared_bytes = static_cast<unsigned>(words.next());
    launch.num_bytes = static_cast<size_t>(words.next());
    launch.arguments = words.list();
    launch.pointers = words.list_of<Pointer>();
    STD_TORCH_CHECK(launch.num_bytes <= most_argument_bytes && launch.num_bytes <= 8 * launch.arguments.size(),
                    "a kernel's arguments take ", launch.num_bytes, " bytes");
    for (const Pointer& pointer : launch.pointers)
      STD_TORCH_CHECK(pointer.position + sizeof(void*) <= launch.num_bytes, "a pointer lies outside of the arguments");
    return launch;
  }
  void run(const Driver& driver, const std::vector<char*>& addresses, void* stream) const {
    alignas(16) std::array<char, most_argument_bytes> bytes;
    std::memcpy(bytes.data(), arguments.data(), num_bytes);
    for (const Pointer& pointer : pointers) {
      const char* address = addresses.at(pointer.slot) + pointer.offset;
      std::memcpy(bytes.data() + pointer.position, &address, sizeof(address));
    }
    size_t size = num_bytes;
    void* extra[] = {Driver::buffer_pointer, bytes.data(), Driver::buffer_size, &size, Driver::end};
    driver.check(
        driver.cuLaunchKernel(function, grid[0], grid[1], grid[2], threads, 1, 1, shared_bytes, stream, nullptr, extra),
        "cuLaunchKernel");
  }
};

struct Step {
  enum Kind : int64_t { launch, zero, copy, sum };

  Kind kind;
  Launch what;
  std::vector<View> views;    // of zero: what; of copy and sum: to, from
  std::vector<int64_t> dims;  // of sum

  static Step read(Words& words) {
    Step step{};
    step.kind = static_cast<Kind>(words.next());
    STD_TORCH_CHECK(step.kind >= launch && step.kind <= sum, "the plan has an unknown step");
    if (step.kind == launch) {
      step.what = Launch::read(words);
      return step;
    }
    for (int i = 0; i < (step.kind == zero ? 1 : 2); ++i) step.views.push_back(View::read(words));
    if (step.kind == sum) step.dims = words.list();
    return step;
  }
  void run(const Driver& driver, const std::vector<Tensor>& slots, const std::vector<char*>& addresses,
           void* stream) const {
    if (kind == launch) return what.run(driver, addresses, stream);
    Tensor to = views[0].of(slots);
    if (kind == zero) {
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_zero_(to.get()));
    } else if (kind == copy) {
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_copy_(to.get(), views[1].of(slots).get(), 0));
    } else {
      torch::stable::sum_out(to, views[1].of(slots),
                             torch::headeronly::IntHeaderOnlyArrayRef(dims.data(), dims.size()));
    }
  }
};

struct Plan {
  size_t num_inputs;
  std::vector<Buffer> buffers;
  std::vector<Step> steps;
  std::vector<View> results;

  static Plan read(Words words) {
    const auto num_inputs = static_cast<size_t>(words.next());
    return {num_inputs, words.list_of<Buffer>(), words.list_of<Step>(), words.list_of<View>()};
  }
  std::vector<Tensor> run(const Driver& driver, std::vector<Tensor> slots, int32_t device_type, int32_t device_index,
                          void* stream) const {
    STD_TORCH_CHECK(slots.size() == num_inputs, "the plan takes ", num_inputs, " tensors");
    for (const Buffer& buffer : buffers) slots.push_back(buffer.empty(device_type, device_index));
    std::vector<char*> addresses;
    for (const Tensor& tensor : slots) addresses.push_back(static_cast<char*>(tensor.data_ptr()));
    for (const Step& step : steps) step.run(driver, slots, addresses, stream);
    std::vector<Tensor> found;
    for (const View& view : results) found.push_back(view.of(slots));
    return found;
  }
};

}  // namespace amt::plan
