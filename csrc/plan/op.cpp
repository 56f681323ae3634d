// Plans of calls, kept by what tells calls apart: the op, its numbers, and its tensors' dtypes, devices, sizes, strides
// and alignment. `plan_run` is the one dispatcher call of a forward or a backward in Triton.
#include <algorithm>
#include <array>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include <torch/csrc/stable/library.h>

#include "plan/plan.h"

// Weak: a CPU-only PyTorch lacks it, and the library must load there all the same.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);

namespace amt::plan {
namespace {

constexpr int64_t unknown = 0, ran = 1, refused = 2;  // what plan_run answers
constexpr size_t most_plans = 1024, max_devices = 64, alignment = 16;

Driver driver{};
std::shared_mutex mutex;                                             // of plans
std::unordered_map<std::string, std::shared_ptr<const Plan>> plans;  // null: such calls are not planned

// The primary context, which PyTorch works in.
void* context_of(int64_t device) {
  static std::array<std::once_flag, max_devices> once;
  static std::array<void*, max_devices> contexts;
  STD_TORCH_CHECK(device >= 0 && device < static_cast<int64_t>(max_devices), "at most ", max_devices, " devices");
  const auto i = static_cast<size_t>(device);
  std::call_once(once[i], [&] {
    driver.check(driver.cuDevicePrimaryCtxRetain(&contexts[i], static_cast<int>(device)), "cuDevicePrimaryCtxRetain");
  });
  return contexts[i];
}

template <class T>
void append(std::string& key, const T& value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

std::string key_of(const std::string& op, const std::vector<Tensor>& inputs, const std::vector<double>& numbers) {
  std::string key;
  key.reserve(op.size() + 8 * numbers.size() + 96 * inputs.size() + 1);
  key.append(op).push_back('\0');
  for (const double number : numbers) append(key, number);
  for (const Tensor& tensor : inputs) {
    int32_t dtype, device_type, device_index;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &dtype));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &device_type));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &device_index));
    append(key, dtype), append(key, device_type), append(key, device_index);
    append(key, reinterpret_cast<uintptr_t>(tensor.data_ptr()) % alignment == 0);
    append(key, tensor.dim());
    for (int64_t d = 0; d < tensor.dim(); ++d) append(key, tensor.size(d)), append(key, tensor.stride(d));
  }
  return key;
}

std::string plan_driver(std::string library) { return driver.open(library.c_str()); }

int64_t plan_kernel(Tensor image, std::string name, int64_t shared_bytes, int64_t device) {
  const ContextGuard guard(driver, context_of(device));
  void *module = nullptr, *function = nullptr;
  driver.check(driver.cuModuleLoadData(&module, image.data_ptr()), "cuModuleLoadData");
  driver.check(driver.cuModuleGetFunction(&function, module, name.c_str()), "cuModuleGetFunction");
  if (shared_bytes > 48 * 1024) {  // as Triton does
    driver.check(driver.cuFuncSetCacheConfig(function, Driver::prefer_shared), "cuFuncSetCacheConfig");
    driver.check(driver.cuFuncSetAttribute(function, Driver::max_dynamic_shared_bytes, static_cast<int>(shared_bytes)),
                 "cuFuncSetAttribute");
  }
  return reinterpret_cast<int64_t>(function);
}

void plan_make(std::string op, std::vector<Tensor> inputs, std::vector<double> numbers, std::vector<int64_t> words) {
  auto plan = words.empty() ? nullptr : std::make_shared<const Plan>(Plan::read(Words(words)));
  const std::unique_lock lock(mutex);
  if (plans.size() >= most_plans) plans.clear();
  plans[key_of(op, inputs, numbers)] = std::move(plan);
}

std::tuple<int64_t, std::vector<Tensor>> plan_run(std::string op, std::vector<Tensor> inputs,
                                                  std::vector<double> numbers) {
  std::shared_ptr<const Plan> plan;
  {
    const std::string key = key_of(op, inputs, numbers);
    const std::shared_lock lock(mutex);
    const auto found = plans.find(key);
    if (found == plans.end()) return {unknown, {}};
    plan = found->second;
  }
  if (plan == nullptr) return {refused, {}};
  int32_t device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(inputs.at(0).get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(inputs.at(0).get(), &device_index));
  void* stream = nullptr;
  if (device_type == aoti_torch_device_type_cuda()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this PyTorch was built without CUDA");
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index, &stream));
  }
  const ContextGuard guard(driver, context_of(std::max(device_index, 0)));
  return {ran, plan->run(driver, std::move(inputs), device_type, device_index, stream)};
}

}  // namespace
}  // namespace amt::plan

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def("plan_driver(str library) -> str");
  m.def("plan_kernel(Tensor image, str name, int shared_bytes, int device) -> int");
  m.def("plan_make(str op, Tensor[] inputs, float[] numbers, int[] words) -> ()");
  m.def("plan_run(str op, Tensor[] inputs, float[] numbers) -> (int, Tensor[])");
}

STABLE_TORCH_LIBRARY_IMPL(amt, CompositeExplicitAutograd, m) {
  m.impl("plan_driver", TORCH_BOX(&amt::plan::plan_driver));
  m.impl("plan_kernel", TORCH_BOX(&amt::plan::plan_kernel));
  m.impl("plan_make", TORCH_BOX(&amt::plan::plan_make));
  m.impl("plan_run", TORCH_BOX(&amt::plan::plan_run));
}
