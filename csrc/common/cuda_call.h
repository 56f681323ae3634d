// What every CUDA file needs of the runtime: checked calls, and the stream that PyTorch works on.
#pragma once

#include <cuda_runtime.h>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

// Weak: a CPU-only PyTorch lacks it, and the library must load there all the same.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);

#define AMT_CUDA_CHECK(call)                                                                         \
  do {                                                                                               \
    const cudaError_t amt_cuda_error = (call);                                                       \
    STD_TORCH_CHECK(amt_cuda_error == cudaSuccess, #call, ": ", cudaGetErrorString(amt_cuda_error)); \
  } while (false)

namespace amt {

inline cudaStream_t current_stream(const torch::stable::Tensor& tensor) {
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this PyTorch was built without CUDA");
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) == 0,
                  "no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

}  // namespace amt
