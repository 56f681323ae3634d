// What the ops do to tensors at their door: check them, allocate results, pick the C++ type.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include <torch/csrc/stable/stableivalue_conversions.h>
#include <torch/csrc/stable/tensor.h>

namespace amt {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// "[2, *, 3]": what an argument's shape must be; -1 stands for any size.
template <size_t N>
inline std::string shape_text(const std::array<int64_t, N>& sizes) {
  std::string text = "[";
  for (size_t d = 0; d < N; ++d) text += (d ? ", " : "") + (sizes[d] < 0 ? "*" : std::to_string(sizes[d]));
  return text + "]";
}

// Contiguous and uninitialised, on the device of `like`. Goes past the dispatcher, which would look the op up by name.
template <size_t N>
inline Tensor empty(const std::array<int64_t, N>& sizes, ScalarType dtype, const Tensor& like) {
  std::array<int64_t, N> strides;
  int64_t step = 1;
  for (size_t d = N; d-- > 0; step *= sizes[d] > 0 ? sizes[d] : 1) strides[d] = step;
  int32_t code, device_type, device_index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &code));
  if (dtype != like.scalar_type()) code = static_cast<int32_t>(torch::stable::detail::from(dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(N, sizes.data(), strides.data(), code, device_type, device_index, &handle));
  return Tensor(handle);
}

template <size_t N>
inline void check_shape(const Tensor& t, const char* name, const std::array<int64_t, N>& sizes) {
  bool same = t.dim() == static_cast<int64_t>(N);
  for (size_t d = 0; same && d < N; ++d) same = sizes[d] < 0 || t.size(d) == sizes[d];
  STD_TORCH_CHECK(same, name, " must have the shape ", shape_text<N>(sizes));
}

}  // namespace amt
