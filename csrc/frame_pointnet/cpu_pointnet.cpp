// frame_pointnet on the CPU: checks, threads, and the order in which gradients are added up.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/aligned_buffer.h"
#include "common/cpu_team.h"
#include "common/cpu_threads.h"
#include "frame_pointnet/simd_pointnet.h"
#include "frame_pointnet/point_order.h"
#include "common/tensors.h"

namespace {

using amt::AlignedBuffer;
using amt::PointnetInputs;
using amt::PointnetShape;
using amt::ScalarType;
using amt::Tensor;

constexpr int64_t max_groups = 32;  // of images whose weight gradients are summed apart
constexpr int64_t points_per_piece = 1 << 10;
constexpr int64_t multiply_adds_per_piece = 1 << 20;  // about 20 microseconds
constexpr int64_t least_multiply_adds = 1 << 22;  // for a thread: with fewer, waking it costs more time than it saves

Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// The arguments, checked and made contiguous, except for the points, which may be large and are read with their
// strides.
struct Arguments {
  Tensor points, origins, rotations, w1, b1, w2, b2;
  std::optional<Tensor> mask;
  int64_t images;
  PointnetShape shape;

  Arguments(const Tensor& points, const Tensor& origins, const Tensor& rotations, const Tensor& w1, const Tensor& b1,
            const Tensor& w2, const Tensor& b2, const std::optional<Tensor>& mask)
      : points(points),
        origins(dense(origins)),
        rotations(dense(rotations)),
        w1(dense(w1)),
        b1(dense(b1)),
        w2(dense(w2)),
        b2(dense(b2)),
        mask(mask) {
    amt::check_shape<3>(points, "frame_pointnet: points", {-1, -1, 3});
    amt::check_shape<3>(origins, "frame_pointnet: origins", {points.size(0), -1, 3});
    images = points.size(0);
    amt::check_shape<2>(w1, "frame_pointnet: w1", {-1, 3});
    amt::check_shape<2>(w2, "frame_pointnet: w2", {-1, w1.size(0)});
    shape = {.points = points.size(1), .frames = origins.size(1), .hidden = w1.size(0), .features = w2.size(0)};
    amt::check_shape<4>(rotations, "frame_pointnet: rotations", {images, shape.frames, 3, 3});
    amt::check_shape<2>(b1, "frame_pointnet: b1", {shape.frames, shape.hidden});
    amt::check_shape<1>(b2, "frame_pointnet: b2", {shape.features});
    STD_TORCH_CHECK(shape.points < INT32_MAX, "frame_pointnet: at most 2^31 - 2 points");
    const ScalarType dtype = points.scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "frame_pointnet: points must be float32 or float64");
    for (const Tensor* t : {&origins, &rotations, &w1, &b1, &w2, &b2})
      STD_TORCH_CHECK(t->scalar_type() == dtype, "frame_pointnet: the native op takes one dtype");
    if (mask) {
      amt::check_shape<2>(*mask, "frame_pointnet: mask", {images, shape.points});
      STD_TORCH_CHECK(mask->scalar_type() == ScalarType::Bool, "frame_pointnet: mask must be bool");
    }
  }

  template <class T>
  PointnetInputs<T> inputs() const {
    return {
        .set = {.points = points.const_data_ptr<T>(),
                .image_stride = points.stride(0),
                .point_stride = points.stride(1),
                .axis_stride = points.stride(2)},
        .origins = origins.const_data_ptr<T>(),
        .rotations = rotations.const_data_ptr<T>(),
        .w1 = w1.const_data_ptr<T>(),
        .b1 = b1.const_data_ptr<T>(),
        .w2 = w2.const_data_ptr<T>(),
        .b2 = b2.const_data_ptr<T>(),
    };
  }

  int64_t multiply_adds() const { return 1 + shape.points * shape.hidden * (shape.features + 3); }  // of a frame

  int64_t threads() const { return amt::threads_worth(images * shape.frames * multiply_adds(), least_multiply_adds); }
};

template <class T>
void order(const Arguments& a, const amt::PointSet<T>& set, int32_t* points, int32_t* count, amt::CpuTeam& team) {
  const bool* valid = a.mask ? a.mask->const_data_ptr<bool>() : nullptr;
  const int64_t image_stride = valid ? a.mask->stride(0) : 0, point_stride = valid ? a.mask->stride(1) : 0;
  const int64_t images_per_piece = 1 + points_per_piece / (1 + a.shape.points);
  team.share(a.images, images_per_piece, [&](int64_t begin, int64_t end, int64_t) {
    std::vector<uint64_t> keys;
    for (int64_t b = begin; b < end; ++b) {
      const T* image = set.points + b * set.image_stride;
      const auto at = [&](int64_t n, int axis) { return image[n * set.point_stride + axis * set.axis_stride]; };
      const auto counts = [&](int64_t n) { return valid == nullptr || valid[b * image_stride + n * point_stride]; };
      count[b] =
          static_cast<int32_t>(amt::order_points<T>(a.shape.points, at, counts, keys, points + b * a.shape.points));
    }
  });
}

template <class T>
void forward(const Arguments& a, Tensor& features, Tensor& winners) {
  const PointnetInputs<T> in = a.inputs<T>();
  AlignedBuffer<T> packed(amt::packed_weights(a.shape));
  const bool finite = AMT_SIMD(pointnet_pack<T>)(in.w2, a.shape, packed.get());
  AlignedBuffer<int32_t> points(a.images * a.shape.points), count(a.images);
  T* out = features.mutable_data_ptr<T>();
  int32_t* who = winners.mutable_data_ptr<int32_t>();
  const auto kernel = AMT_SIMD(pointnet_forward<T>);
  const int64_t frames_per_piece = 1 + multiply_adds_per_piece / a.multiply_adds();
  amt::with_team(a.threads(), [&](amt::CpuTeam& team) {
    order<T>(a, in.set, points.get(), count.get(), team);
    amt::PerMember<AlignedBuffer<T>> scratches(team);
    team.share_by_blocks(a.images * a.shape.frames, frames_per_piece, [&](int64_t begin, int64_t end, int64_t member) {
      const auto& scratch = scratches.of(member, [&] { return AlignedBuffer<T>(amt::forward_scratch(a.shape)); });
      kernel(in, a.shape, {points.get(), count.get()}, packed.get(), finite, out, who, scratch.get(), begin, end);
    });
  });
}

// Images are dealt to groups by their number alone, each group adds up its weight gradients image after image, and the
// groups are added in order: the sums do not depend on the threads.
template <class T>
void backward(const Arguments& a, const Tensor& grad_features, const Tensor& winners,
              const std::array<Tensor, 7>& grads) {
  const PointnetInputs<T> in = a.inputs<T>();
  const PointnetShape& s = a.shape;
  const int64_t groups = std::min(a.images, max_groups);
  const std::array<int64_t, 4> sizes = {s.hidden * 3, s.frames * s.hidden, s.features * s.hidden, s.features};
  const int64_t weights = sizes[0] + sizes[1] + sizes[2] + sizes[3];
  AlignedBuffer<T> sums(groups * weights);
  T* points = grads[0].mutable_data_ptr<T>();
  const auto kernel = AMT_SIMD(pointnet_backward<T>);
  struct Scratch {
    AlignedBuffer<T> sums;
    AlignedBuffer<int32_t> slots;
  };
  amt::with_team(std::min(groups, a.threads()), [&](amt::CpuTeam& team) {
    amt::PerMember<Scratch> scratches(team);
    team.share(groups, 1, [&](int64_t first, int64_t last, int64_t member) {
      const Scratch& scratch = scratches.of(member, [&] {
        Scratch made{AlignedBuffer<T>(amt::backward_scratch(s)), AlignedBuffer<int32_t>(s.points)};
        std::fill_n(made.slots.get(), s.points, -1);
        return made;
      });
      for (int64_t group = first; group < last; ++group) {
        T* sum = sums.get() + group * weights;
        std::fill_n(sum, weights, T(0));
        const int64_t begin = a.images * group / groups, end = a.images * (group + 1) / groups;
        std::fill_n(points + begin * s.points * 3, (end - begin) * s.points * 3, T(0));
        kernel(in, s, grad_features.const_data_ptr<T>(), winners.const_data_ptr<int32_t>(),
               {.points = points,
                .origins = grads[1].mutable_data_ptr<T>(),
                .rotations = grads[2].mutable_data_ptr<T>(),
                .w1 = sum,
                .b1 = sum + sizes[0],
                .w2 = sum + sizes[0] + sizes[1],
                .b2 = sum + sizes[0] + sizes[1] + sizes[2]},
               scratch.sums.get(), scratch.slots.get(), begin, end);
      }
    });
  });
  const T* sum = sums.get();
  for (int i = 0; i < 4; sum += sizes[i++]) {
    T* total = grads[3 + i].mutable_data_ptr<T>();
    std::fill_n(total, sizes[i], T(0));
    for (int64_t group = 0; group < groups; ++group)
      for (int64_t k = 0; k < sizes[i]; ++k) total[k] += sum[group * weights + k];
  }
}

// The backward reads points by these numbers; -1 stands for a frame without any point.
void check_winners(const Tensor& winners, int64_t points) {
  const int32_t* first = winners.const_data_ptr<int32_t>();
  const bool inside = std::all_of(first, first + winners.numel(), [=](int32_t w) { return w >= -1 && w < points; });
  STD_TORCH_CHECK(inside, "frame_pointnet: winners must be -1 or a point's number, below ", points,
                  ": pass those that frame_pointnet returned");
}

std::tuple<Tensor, Tensor> frame_pointnet(const Tensor& points, const Tensor& origins, const Tensor& rotations,
                                          const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2,
                                          const std::optional<Tensor>& mask) {
  const Arguments a(points, origins, rotations, w1, b1, w2, b2, mask);
  Tensor features = amt::empty<3>({a.images, a.shape.frames, a.shape.features}, points.scalar_type(), points);
  Tensor winners = amt::empty<3>({a.images, a.shape.frames, a.shape.features}, ScalarType::Int, points);
  if (points.scalar_type() == ScalarType::Double)
    forward<double>(a, features, winners);
  else
    forward<float>(a, features, winners);
  return {features, winners};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> frame_pointnet_backward(
    const Tensor& grad_features, const Tensor& winners, const Tensor& points, const Tensor& origins,
    const Tensor& rotations, const Tensor& w1, const Tensor& b1, const Tensor& w2, const Tensor& b2) {
  const Arguments a(points, origins, rotations, w1, b1, w2, b2, std::nullopt);
  const std::array<int64_t, 3> out = {a.images, a.shape.frames, a.shape.features};
  amt::check_shape<3>(grad_features, "frame_pointnet: grad_features", out);
  amt::check_shape<3>(winners, "frame_pointnet: winners", out);
  STD_TORCH_CHECK(grad_features.scalar_type() == points.scalar_type() && winners.scalar_type() == ScalarType::Int,
                  "frame_pointnet: grad_features must have the points' dtype, winners int32");
  const Tensor dense_winners = dense(winners);
  check_winners(dense_winners, a.shape.points);
  const ScalarType dtype = points.scalar_type();
  const PointnetShape& s = a.shape;
  const std::array<Tensor, 7> grads = {amt::empty<3>({a.images, s.points, 3}, dtype, points),
                                       amt::empty<3>({a.images, s.frames, 3}, dtype, points),
                                       amt::empty<4>({a.images, s.frames, 3, 3}, dtype, points),
                                       amt::empty<2>({s.hidden, 3}, dtype, points),
                                       amt::empty<2>({s.frames, s.hidden}, dtype, points),
                                       amt::empty<2>({s.features, s.hidden}, dtype, points),
                                       amt::empty<1>({s.features}, dtype, points)};
  if (dtype == ScalarType::Double)
    backward<double>(a, dense(grad_features), dense_winners, grads);
  else
    backward<float>(a, dense(grad_features), dense_winners, grads);
  return {grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amt, CPU, m) {
  m.impl("frame_pointnet", TORCH_BOX(&frame_pointnet));
  m.impl("frame_pointnet_backward", TORCH_BOX(&frame_pointnet_backward));
}
