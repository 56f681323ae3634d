// fp8_linear on Hopper: checks, and the epilogue that the arguments ask for.
#include <cstdint>
#include <limits>
#include <optional>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "common/cuda_call.h"
#include "common/tensors.h"
#include "fp8_linear/product.h"

namespace {

using amt::ScalarType;
using amt::Tensor;

constexpr int64_t multiple = 16;  // bytes: what TMA takes of a row, and of an address

void check_e4m3(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 2 && t.scalar_type() == ScalarType::Float8_e4m3fn && t.is_contiguous(), name,
                  " must be two-dimensional, contiguous and float8_e4m3fn");
  STD_TORCH_CHECK(t.size(0) <= std::numeric_limits<int>::max(), name, " has more than 2^31 - 1 rows");
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(t.const_data_ptr()) % multiple == 0, name,
                  " must begin at a multiple of 16 bytes");
}

const float* floats(const Tensor& t, const char* name, int64_t count, const Tensor& like) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float && t.is_contiguous() && t.numel() == count, name,
                  " must be contiguous, float32, and hold ", std::to_string(count), " numbers");
  STD_TORCH_CHECK(t.is_cuda() && t.get_device_index() == like.get_device_index(), name, " must be on the device of x");
  return t.const_data_ptr<float>();
}

amt::fp8::RowScale row_scale(const Tensor& t, const char* name, const Tensor& x) {
  const bool one_per_row = t.numel() != 1;
  return {floats(t, name, one_per_row ? x.size(0) : 1, x), one_per_row};
}

int multiprocessors(int device) {
  int major = 0, count = 0;
  AMT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  STD_TORCH_CHECK(major == 9, "fp8_linear is compiled for Hopper (compute capability 9.0)");
  AMT_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

Tensor fp8_linear(const Tensor& x, const Tensor& x_scale, const Tensor& weight, const Tensor& weight_scale,
                  const std::optional<Tensor>& bias, bool gelu, const std::optional<Tensor>& factor) {
  check_e4m3(x, "x");
  check_e4m3(weight, "weight");
  const int64_t rows = x.size(0), units = weight.size(0), depth = x.size(1);
  STD_TORCH_CHECK(weight.size(1) == depth && weight.get_device_index() == x.get_device_index(),
                  "weight must have as many columns as x, and be on its device");
  STD_TORCH_CHECK(depth > 0 && depth % multiple == 0 && units % multiple == 0,
                  "rows and columns of weight must be multiples of 16");
  STD_TORCH_CHECK(gelu || !factor, "factor needs gelu");

  Tensor out = amt::empty<2>({rows, units}, factor ? ScalarType::Float8_e4m3fn : ScalarType::BFloat16, x);
  const int device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const amt::fp8::Product product{
      x.const_data_ptr(),
      weight.const_data_ptr(),
      out.mutable_data_ptr(),
      row_scale(x_scale, "x_scale", x),
      floats(weight_scale, "weight_scale", units, x),
      bias ? floats(*bias, "bias", units, x) : nullptr,
      factor ? row_scale(*factor, "factor", x) : amt::fp8::RowScale{},
      static_cast<int>(rows),
      static_cast<int>(units),
      static_cast<int>(depth),
      device,
      multiprocessors(device),
      amt::current_stream(x),
  };
  if (rows == 0 || units == 0) return out;
  const char* problem = factor ? amt::fp8::linear_gelu_e4m3(product)
                        : gelu ? amt::fp8::linear_gelu(product)
                               : amt::fp8::linear(product);
  STD_TORCH_CHECK(problem == nullptr, "fp8_linear: ", problem == nullptr ? "" : problem);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amt, CUDA, m) { m.impl("fp8_linear", TORCH_BOX(&fp8_linear)); }
