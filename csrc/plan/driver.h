// CUDA's driver, opened at run time: the library is built, and loads, where there is none. It loads cubins and launches
// them.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <string>

#include <torch/headeronly/util/Exception.h>

namespace amt::plan {

// The functions of libcuda.so.1 by their exported names, with cuda.h's types and values spelled out.
struct Driver {
  static constexpr int max_dynamic_shared_bytes = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
  static constexpr int prefer_shared = 2;             // CU_FUNC_CACHE_PREFER_SHARED
  static inline void* const end = nullptr;            // CU_LAUNCH_PARAM_END, _BUFFER_POINTER and _BUFFER_SIZE
  static inline void* const buffer_pointer = reinterpret_cast<void*>(1);
  static inline void* const buffer_size = reinterpret_cast<void*>(2);

  int (*cuGetErrorString)(int error, const char** text);
  int (*cuDevicePrimaryCtxRetain)(void** context, int device);
  int (*cuCtxPushCurrent_v2)(void* context);
  int (*cuCtxPopCurrent_v2)(void** context);
  int (*cuModuleLoadData)(void** module, const void* image);
  int (*cuModuleGetFunction)(void** function, void* module, const char* name);
  int (*cuFuncSetAttribute)(void* function, int attribute, int value);
  int (*cuFuncSetCacheConfig)(void* function, int config);
  int (*cuLaunchKernel)(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream, void** parameters,
                        void** extra);

  // Why the library cannot be used; empty where it can.
  std::string open(const char* library) {
    void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return dlerror();
    std::string missing;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, name));
      if (function == nullptr) missing = std::string(library) + " has no " + name;
    };
    find(cuGetErrorString, "cuGetErrorString");
    find(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
    find(cuCtxPushCurrent_v2, "cuCtxPushCurrent_v2");
    find(cuCtxPopCurrent_v2, "cuCtxPopCurrent_v2");
    find(cuModuleLoadData, "cuModuleLoadData");
    find(cuModuleGetFunction, "cuModuleGetFunction");
    find(cuFuncSetAttribute, "cuFuncSetAttribute");
    find(cuFuncSetCacheConfig, "cuFuncSetCacheConfig");
    find(cuLaunchKernel, "cuLaunchKernel");
    return missing;
  }

  void check(int error, const char* call) const {
    if (error == 0) return;
    const char* text = nullptr;
    cuGetErrorString(error, &text);
    STD_TORCH_CHECK(false, call, ": ", text == nullptr ? "unknown error" : text);
  }
};

// A device's primary context, the one that PyTorch works in, current while this lives. A thread may have none of its
// own.
class ContextGuard {
 public:
  ContextGuard(const Driver& driver, void* context) : driver_(driver) {
    driver_.check(driver_.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent");
  }
  ~ContextGuard() {
    void* before = nullptr;
    driver_.cuCtxPopCurrent_v2(&before);
  }
  ContextGuard(const ContextGuard&) = delete;
  ContextGuard& operator=(const ContextGuard&) = delete;

 private:
  const Driver& driver_;
};

}  // namespace amt::plan
