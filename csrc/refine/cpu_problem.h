// One call of refine on the CPU, unpacked from its tensors and checked: shared by the forward and the backward.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "common/cpu_team.h"
#include "common/aligned_buffer.h"
#include "refine/checks.h"
#include "refine/simd_kernels.h"

namespace amt::refine {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Element element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Element::float32;
    case ScalarType::BFloat16: return Element::bfloat16;
    case ScalarType::Half: return Element::float16;
    case ScalarType::Double: return Element::float64;
    default: STD_TORCH_CHECK(false, "refine: a tensor must be floating point");
  }
}

inline int64_t size_of(Element element) {
  return element == Element::float64 ? 8 : element == Element::float32 ? 4 : 2;
}

// Images that are refined together, so that their rows fill whole packed tiles; the same for any number of threads.
struct Plan {
  int64_t images, lanes, chunks;  // of a chunk: images, and rows rounded up to whole packed tiles

  Plan(int64_t batch, int64_t num_joints) : images(1), lanes(round_up(num_joints, packed_rows)) {
    for (int64_t n = 2; n * num_joints <= most_packed * packed_rows; n++) {
      const int64_t padded = round_up(n * num_joints, packed_rows);
      if (images * num_joints * padded < n * num_joints * lanes) images = n, lanes = padded;
    }
    chunks = (batch + images - 1) / images;
  }
};

struct Map {
  const char* data;
  int64_t image, row, column;  // strides in bytes
  int64_t height, width, channels;
};

template <class T>
constexpr Element element_for = sizeof(T) == 8 ? Element::float64 : Element::float32;

// A tensor's values as T; a copy only where its dtype is another.
template <class T>
class Values {
 public:
  Values(const Tensor& tensor, int64_t count, CpuTeam& team) : data_(static_cast<const T*>(tensor.const_data_ptr())) {
    const Element element = element_of(tensor);
    if (element == element_for<T>) return;
    if constexpr (sizeof(T) == 4) {
      copy_ = AlignedBuffer<T>(count);
      const auto* from = static_cast<const char*>(tensor.const_data_ptr());
      team.share(count, 1 << 14, [&](int64_t begin, int64_t end, int64_t) {
        AMT_SIMD(refine_widen)(element, from + begin * size_of(element), end - begin, copy_.get() + begin);
      });
      data_ = copy_.get();
    }
  }
  const T* get() const { return data_; }

 private:
  const T* data_;
  AlignedBuffer<T> copy_;
};

inline int64_t reach(const Tensor& w1) {  // elements from w1's first to its last
  return w1.numel() == 0 ? 0 : (w1.size(0) - 1) * w1.stride(0) + (w1.size(1) - 1) * w1.stride(1) + w1.size(2);
}

template <class T>
struct CpuProblem {
  int64_t batch, num_joints, num_steps, num_hidden, num_inputs, stride;
  const T *joints, *intrinsics;
  std::vector<Map> maps;
  std::vector<int64_t> channels;
  std::vector<T> scale_x, scale_y;
  Element element;
  Values<T> w1, b1, w2, b2;
  int64_t w1_step, w1_row;
  std::vector<char> zeros;  // what a tap outside its map reads
  double first_step_size;
  Plan plan;

  CpuProblem(const Tensor& joints_, const Tensor& intrinsics_, const std::vector<Tensor>& maps_, const Tensor& w1_,
             const Tensor& b1_, const Tensor& w2_, const Tensor& b2_, int64_t height, int64_t width, double step_size_,
             CpuTeam& team, bool reads_w1 = true)
      : batch(joints_.size(0)),
        num_joints(joints_.size(1)),
        num_steps(w1_.size(0)),
        num_hidden(w1_.size(1)),
        num_inputs(w1_.size(2)),
        stride(round_up(num_inputs, 16)),
        joints(static_cast<const T*>(joints_.const_data_ptr())),
        intrinsics(static_cast<const T*>(intrinsics_.const_data_ptr())),
        element(element_of(maps_[0])),
        w1(w1_, reads_w1 ? reach(w1_) : 0, team),
        b1(b1_, b1_.numel(), team),
        w2(w2_, w2_.numel(), team),
        b2(b2_, b2_.numel(), team),
        w1_step(w1_.stride(0)),
        w1_row(w1_.stride(1)),
        first_step_size(step_size_),
        plan(batch, num_joints) {
    int64_t most = 0;
    for (const Tensor& map : maps_) {
      const int64_t size = size_of(element);
      maps.push_back({
          .data = static_cast<const char*>(map.const_data_ptr()),
          .image = map.stride(0) * size,
          .row = map.stride(1) * size,
          .column = map.stride(2) * size,
          .height = map.size(1),
          .width = map.size(2),
          .channels = map.size(3),
      });
      channels.push_back(map.size(3));
      scale_x.push_back(static_cast<T>(static_cast<double>(map.size(2)) / width));
      scale_y.push_back(static_cast<T>(static_cast<double>(map.size(1)) / height));
      most = std::max(most, map.size(3));
    }
    zeros.resize(most * size_of(element));
  }

  int num_maps() const { return static_cast<int>(maps.size()); }
  T scale_of(int64_t step) const { return static_cast<T>(std::ldexp(first_step_size, -static_cast<int>(step))); }

  // Joints of an image as they enter a step.
  const T* entering(const T* steps, int64_t image, int64_t step) const {
    return step == 0 ? joints + image * num_joints * 3 : steps + (image * num_steps + step - 1) * num_joints * 3;
  }

  // Where a row reads map m: fills `sample`, returns the taps.
  Taps<T> locate_sample(const Pixel<T>& pixel, int64_t image, int m, Sample<T>* sample) const {
    const Map& map = maps[m];
    const Taps<T> taps = locate(pixel, scale_x[m], scale_y[m], map.width, map.height);
    for (int t = 0; t < 4; t++) {
      const bool inside = taps.inside >> t & 1u;
      sample->tap[t] = inside ? map.data + image * map.image + tap_y(taps, t) * map.row + tap_x(taps, t) * map.column
                              : static_cast<const char*>(zeros.data());
      sample->weight[t] = inside ? tap_weight(taps, t) : T(0);
    }
    return taps;
  }
};

}  // namespace amt::refine
