// normalize on the CPU: rows of the images are split between threads, the arithmetic is in simd_normalize.cpp.
#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/cpu_team.h"
#include "common/cpu_threads.h"
#include "common/tensors.h"
#include "normalize/simd_normalize.h"

namespace {

using amt::ScalarType;
using amt::Tensor;

constexpr int64_t channels = 3;
constexpr int64_t least_pixels = 1 << 16;  // for a thread: some tens of microseconds
constexpr int64_t pixels_per_piece = 1 << 13;

template <class T>
void run(const Tensor& image, const Tensor& mean, const Tensor& scale, Tensor& out) {
  const int64_t images = image.size(0), height = image.size(2), width = image.size(3);
  const int64_t image_step = image.stride(0), channel_step = image.stride(1), row_step = image.stride(2),
                column_step = image.stride(3);
  const uint8_t* in = image.const_data_ptr<uint8_t>();
  T* to = out.mutable_data_ptr<T>();
  T m[channels], s[channels];
  for (int64_t c = 0; c < channels; c++) {
    m[c] = mean.const_data_ptr<T>()[c * mean.stride(0)];
    s[c] = scale.const_data_ptr<T>()[c * scale.stride(0)];
  }
  const bool interleaved = channel_step == 1 && column_step == channels;
  const auto one_channel = AMT_SIMD(normalize_channel<T>);
  const auto all_channels = AMT_SIMD(normalize_pixels<T>);
  const int64_t rows = images * height;
  const int64_t rows_per_piece = std::max<int64_t>(1, pixels_per_piece / std::max<int64_t>(1, width));
  amt::with_team(amt::threads_worth(rows * width, least_pixels), [&](amt::CpuTeam& team) {
    team.share_by_blocks(rows, rows_per_piece, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t row = begin; row < end; row++) {
        const int64_t n = row / height, y = row % height;
        const uint8_t* from = in + n * image_step + y * row_step;
        T* planes[channels];
        for (int64_t c = 0; c < channels; c++) planes[c] = to + ((n * channels + c) * height + y) * width;
        if (interleaved)
          all_channels(from, m, s, planes, width);
        else
          for (int64_t c = 0; c < channels; c++)
            one_channel(from + c * channel_step, column_step, m[c], s[c], planes[c], width);
      }
    });
  });
}

Tensor normalize(const Tensor& image, const Tensor& mean, const Tensor& scale) {
  amt::check_shape<4>(image, "normalize: image", {-1, channels, -1, -1});
  STD_TORCH_CHECK(image.scalar_type() == ScalarType::Byte, "normalize: image must be uint8");
  amt::check_shape<1>(mean, "normalize: mean", {channels});
  amt::check_shape<1>(scale, "normalize: scale", {channels});
  STD_TORCH_CHECK(mean.scalar_type() == scale.scalar_type(), "normalize: mean and scale must have one dtype");
  STD_TORCH_CHECK(mean.is_cpu() && scale.is_cpu(), "normalize: mean and scale must be on the image's device");
  const ScalarType dtype = mean.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "normalize: mean and scale must be float32 or float64");
  Tensor out = amt::empty<4>({image.size(0), channels, image.size(2), image.size(3)}, dtype, image);
  if (dtype == ScalarType::Float)
    run<float>(image, mean, scale, out);
  else
    run<double>(image, mean, scale, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amt, CPU, m) { m.impl("normalize", TORCH_BOX(&normalize)); }
