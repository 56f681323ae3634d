// pose_scores on the CPU: checks, the layouts that the vector code reads, threads, and the order in which gradients are
// added.
#include <algorithm>
#include <cstdint>
#include <tuple>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "common/aligned_buffer.h"
#include "common/cpu_team.h"
#include "common/cpu_threads.h"
#include "common/tensors.h"
#include "pose_scores/simd_pose_scores.h"

namespace {

using amt::AlignedBuffer;
using amt::ScalarType;
using amt::Tensor;
using namespace amt::pose_scores;

constexpr int64_t poses_per_piece = 128;  // their numbers and sums stay in L1 beside the maps
constexpr int64_t points_per_piece = 16;  // of the backward, each piece with a gradient of the surface of its own
constexpr int64_t least_looks = 1 << 14;  // points under poses for a thread: some hundred microseconds
// Of a map: numbers of rows and columns are exact in float32, four times those of padded cells in int32.
constexpr int64_t most_cells = int64_t(1) << 24;

Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

// What places the points, checked and made contiguous.
struct Geometry {
  Tensor points, normals, rotation, translation, intrinsics;
  int64_t images;
  double scale_x, scale_y;  // cells per pixel
  Shape shape;

  Geometry(const Tensor& points, const Tensor& normals, const Tensor& rotation, const Tensor& translation,
           const Tensor& intrinsics, int64_t height, int64_t width, int64_t map_height, int64_t map_width)
      : points(dense(points)),
        normals(dense(normals)),
        rotation(dense(rotation)),
        translation(dense(translation)),
        intrinsics(dense(intrinsics)) {
    amt::check_shape<3>(points, "pose_scores: points", {-1, -1, 3});
    images = points.size(0);
    amt::check_shape<3>(normals, "pose_scores: normals", {images, points.size(1), 3});
    amt::check_shape<4>(rotation, "pose_scores: rotation", {images, -1, 3, 3});
    amt::check_shape<3>(translation, "pose_scores: translation", {images, rotation.size(1), 3});
    amt::check_shape<3>(intrinsics, "pose_scores: intrinsics", {images, 3, 3});
    const ScalarType dtype = points.scalar_type();
    STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                    "pose_scores: points must be float32 or float64");
    for (const Tensor* t : {&normals, &rotation, &translation, &intrinsics}) check_like_points(*t);
    STD_TORCH_CHECK(height > 0 && width > 0, "pose_scores: the image's size must be positive");
    STD_TORCH_CHECK(map_height > 0 && map_width > 0 && map_height <= most_cells / map_width,
                    "pose_scores: the maps must hold 1 to ", most_cells, " cells");
    scale_x = static_cast<double>(map_width) / static_cast<double>(width);
    scale_y = static_cast<double>(map_height) / static_cast<double>(height);
    const int64_t poses = rotation.size(1);
    shape = {.points = points.size(1),
             .poses = poses,
             .height = map_height,
             .width = map_width,
             .padded_poses = padded(poses),
             .cells = map_height * map_width};
  }

  void check_like_points(const Tensor& t) const {
    STD_TORCH_CHECK(t.scalar_type() == points.scalar_type() && t.is_cpu(),
                    "pose_scores: all tensors must be of the points' dtype and on their device");
  }

  int64_t threads() const { return amt::threads_worth(images * shape.poses * shape.points, least_looks); }
};

// Each image's poses and camera as the vector code reads them.
template <class T>
struct Layout {
  const Geometry& of;
  AlignedBuffer<T> poses, cameras;

  explicit Layout(const Geometry& g)
      : of(g), poses(g.images * pose_numbers * g.shape.padded_poses), cameras(g.images * 6) {}

  void fill(int64_t b) const {
    const int64_t count = of.shape.poses, row = of.shape.padded_poses;
    const T *rotation = of.rotation.const_data_ptr<T>() + b * count * 9,
            *translation = of.translation.const_data_ptr<T>() + b * count * 3;
    T* to = poses.get() + b * pose_numbers * row;
    for (int64_t k = 0; k < row; k++) {
      const int64_t pose = std::min(k, count - 1);
      for (int64_t i = 0; i < 9; i++) to[i * row + k] = rotation[9 * pose + i];
      for (int64_t i = 0; i < 3; i++) to[(9 + i) * row + k] = translation[3 * pose + i];
    }
    const T* k = of.intrinsics.const_data_ptr<T>() + b * 9;
    T* camera = cameras.get() + b * 6;
    for (int64_t axis = 0; axis < 2; axis++) {
      const double scale = axis ? of.scale_y : of.scale_x;
      for (int64_t i = 0; i < 2; i++) camera[3 * axis + i] = static_cast<T>(k[3 * axis + i] * scale);
      camera[3 * axis + 2] = static_cast<T>((k[3 * axis + 2] + 0.5) * scale - 0.5);
    }
  }

  Image<T> image(int64_t b) const {
    const int64_t points = b * of.shape.points * 3;
    return {.points = of.points.const_data_ptr<T>() + points,
            .normals = of.normals.const_data_ptr<T>() + points,
            .poses = poses.get() + b * pose_numbers * of.shape.padded_poses,
            .camera = cameras.get() + b * 6};
  }
};

// run(image, begin, end) for all images' blocks of poses, counted up to whole vectors.
template <class Run>
void share_poses(amt::CpuTeam& team, const Geometry& g, const Run& run) {
  const int64_t blocks = (g.shape.padded_poses + poses_per_piece - 1) / poses_per_piece;
  team.share(g.images * blocks, 1, [&](int64_t first, int64_t last, int64_t) {
    for (int64_t piece = first; piece < last; piece++) {
      const int64_t begin = piece % blocks * poses_per_piece;
      run(piece / blocks, begin, std::min(begin + poses_per_piece, g.shape.padded_poses));
    }
  });
}

template <class T>
void forward(const Geometry& g, const Tensor& colour, const Tensor& surface, Tensor& scores) {
  const Shape& s = g.shape;
  const T *own = colour.const_data_ptr<T>(), *shared = surface.const_data_ptr<T>();
  T* out = scores.mutable_data_ptr<T>();
  const Layout<T> layout(g);
  const int64_t padded_cells = (s.height + 1) * (s.width + 1);
  AlignedBuffer<T> interleaved(g.images * padded_cells * surface_channels);  // all channels of a cell lie together
  const auto kernel = AMT_SIMD(pose_scores_forward<T>);
  amt::with_team(g.threads(), [&](amt::CpuTeam& team) {
    team.share(g.images, 1, [&](int64_t first, int64_t last, int64_t) {
      for (int64_t b = first; b < last; b++) {
        layout.fill(b);
        const T* from = shared + b * s.cells * surface_channels;
        T* to = interleaved.get() + b * padded_cells * surface_channels;
        std::fill_n(to, padded_cells * surface_channels, T(0));
        for (int64_t y = 0; y < s.height; y++)
          for (int64_t x = 0; x < s.width; x++)
            for (int64_t c = 0; c < surface_channels; c++)
              to[(y * (s.width + 1) + x) * surface_channels + c] = from[c * s.cells + y * s.width + x];
      }
    });
    share_poses(team, g, [&](int64_t b, int64_t begin, int64_t end) {
      alignas(64) T sums[2][poses_per_piece];
      kernel(layout.image(b), s, own + b * s.points * s.cells, interleaved.get() + b * padded_cells * surface_channels,
             begin, end, sums[0], sums[1]);
      std::copy_n(sums[0], std::min(end, s.poses) - begin, out + b * s.poses + begin);
    });
  });
}

// The gradient of the surface is the sum of those of the groups of points, added in their order: the same bits for any
// number of threads.
template <class T>
void backward(const Geometry& g, const Tensor& grad_scores, Tensor& grad_colour, Tensor& grad_surface) {
  const Shape& s = g.shape;
  const T* grad = grad_scores.const_data_ptr<T>();
  T *own = grad_colour.mutable_data_ptr<T>(), *shared = grad_surface.mutable_data_ptr<T>();
  const Layout<T> layout(g);
  const int64_t groups = (s.points + points_per_piece - 1) / points_per_piece, numbers = s.cells * surface_channels;
  AlignedBuffer<T> grad_sums(g.images * s.padded_poses), parts(g.images * groups * numbers);
  const auto weights_of = AMT_SIMD(pose_scores_weights<T>);
  const auto kernel = AMT_SIMD(pose_scores_backward<T>);
  amt::with_team(g.threads(), [&](amt::CpuTeam& team) {
    team.share(g.images, 1, [&](int64_t first, int64_t last, int64_t) {
      for (int64_t b = first; b < last; b++) layout.fill(b);
    });
    share_poses(team, g, [&](int64_t b, int64_t begin, int64_t end) {
      alignas(64) T weights[poses_per_piece];
      weights_of(layout.image(b), s, begin, end, weights);
      for (int64_t k = begin; k < end; k++)
        grad_sums[b * s.padded_poses + k] = k < s.poses ? grad[b * s.poses + k] / weights[k - begin] : T(0);
    });
    team.share(g.images * groups, 1, [&](int64_t first, int64_t last, int64_t) {
      for (int64_t piece = first; piece < last; piece++) {
        const int64_t b = piece / groups, begin = piece % groups * points_per_piece;
        kernel(layout.image(b), s, grad_sums.get() + b * s.padded_poses, begin,
               std::min(begin + points_per_piece, s.points), own + b * s.points * s.cells,
               parts.get() + piece * numbers);
      }
    });
    team.share(g.images, 1, [&](int64_t first, int64_t last, int64_t) {
      for (int64_t b = first; b < last; b++)
        for (int64_t c = 0; c < surface_channels; c++)
          for (int64_t cell = 0; cell < s.cells; cell++) {
            T sum = 0;
            for (int64_t group = b * groups; group < (b + 1) * groups; group++)
              sum += parts[group * numbers + cell * surface_channels + c];
            shared[(b * surface_channels + c) * s.cells + cell] = sum;
          }
    });
  });
}

Tensor pose_scores(const Tensor& colour, const Tensor& surface, const Tensor& points, const Tensor& normals,
                   const Tensor& rotation, const Tensor& translation, const Tensor& intrinsics, int64_t height,
                   int64_t width) {
  amt::check_shape<3>(points, "pose_scores: points", {-1, -1, 3});
  amt::check_shape<4>(colour, "pose_scores: colour", {points.size(0), points.size(1), -1, -1});
  const Geometry g(points, normals, rotation, translation, intrinsics, height, width, colour.size(2), colour.size(3));
  amt::check_shape<4>(surface, "pose_scores: surface", {g.images, surface_channels, g.shape.height, g.shape.width});
  g.check_like_points(colour);
  g.check_like_points(surface);
  Tensor scores = amt::empty<2>({g.images, g.shape.poses}, points.scalar_type(), points);
  if (points.scalar_type() == ScalarType::Double)
    forward<double>(g, dense(colour), dense(surface), scores);
  else
    forward<float>(g, dense(colour), dense(surface), scores);
  return scores;
}

std::tuple<Tensor, Tensor> pose_scores_backward(const Tensor& grad_scores, const Tensor& points, const Tensor& normals,
                                                const Tensor& rotation, const Tensor& translation,
                                                const Tensor& intrinsics, int64_t height, int64_t width,
                                                int64_t map_height, int64_t map_width) {
  const Geometry g(points, normals, rotation, translation, intrinsics, height, width, map_height, map_width);
  amt::check_shape<2>(grad_scores, "pose_scores: grad_scores", {g.images, g.shape.poses});
  g.check_like_points(grad_scores);
  const ScalarType dtype = points.scalar_type();
  Tensor grad_colour = amt::empty<4>({g.images, g.shape.points, map_height, map_width}, dtype, points);
  Tensor grad_surface = amt::empty<4>({g.images, surface_channels, map_height, map_width}, dtype, points);
  if (dtype == ScalarType::Double)
    backward<double>(g, dense(grad_scores), grad_colour, grad_surface);
  else
    backward<float>(g, dense(grad_scores), grad_colour, grad_surface);
  return {grad_colour, grad_surface};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(amt, CPU, m) {
  m.impl("pose_scores", TORCH_BOX(&pose_scores));
  m.impl("pose_scores_backward", TORCH_BOX(&pose_scores_backward));
}
