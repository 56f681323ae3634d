// refine's CUDA kernels, run on the CPU by cuda_on_host.h: the same launches as csrc/refine/cuda_refine.cu makes,
// behind a C function.
#include "refine/cuda_forward.cuh"
#include "refine/cuda_gradients.cuh"

namespace cuda = amt::refine::cuda;

namespace {

unsigned blocks(int64_t count, int64_t size) { return static_cast<unsigned>((count + size - 1) / size); }

template <class T>
void run(int team, const int64_t* sizes, const T* joints, const T* intrinsics, const T* const* maps,
         const int64_t* map_sizes, const T* w1, const T* b1, const T* w2, const T* b2, double step_size, int detach,
         const T* gradient, T* steps, T* d_joints, T* d_intrinsics, T* const* d_maps, T* d_w1, T* d_b1, T* d_w2,
         T* d_b2) {
  cuda::Problem<T> p{};
  p.batch = sizes[0], p.num_joints = sizes[1], p.num_steps = sizes[2], p.num_hidden = sizes[3], p.num_maps = sizes[4];
  const int64_t height = sizes[5], width = sizes[6];
  p.joints = joints, p.intrinsics = intrinsics, p.step_size = static_cast<T>(step_size);
  for (int m = 0; m < p.num_maps; ++m) {
    const int64_t h = map_sizes[3 * m], w = map_sizes[3 * m + 1], c = map_sizes[3 * m + 2];
    p.maps[m] = {maps[m],
                 h * w * c,
                 w * c,
                 c,
                 h,
                 w,
                 static_cast<int>(c),
                 p.num_channels,
                 static_cast<T>(static_cast<double>(w) / width),
                 static_cast<T>(static_cast<double>(h) / height)};
    p.num_channels += static_cast<int>(c);
  }
  p.w1 = {w1, true}, p.b1 = {b1, true}, p.w2 = {w2, true}, p.b2 = {b2, true};
  const int64_t inputs = p.num_channels + 3, rows = static_cast<int64_t>(p.batch) * p.num_steps * p.num_joints;
  p.w1_step = p.num_hidden * inputs, p.w1_row = inputs;

  const T unset = static_cast<T>(__builtin_nan(""));
  std::vector<T> kept(rows * p.num_hidden, unset), d_offset(rows * 3, unset), d_hidden(rows * p.num_hidden, unset),
      read(rows * inputs, unset), d_read(rows * p.num_channels, unset);
  const on_host::Index images{static_cast<unsigned>(p.batch * team), 1, 1};
  on_host::launch(images, team, cuda::threads, sizeof(cuda::ForwardMemory<T>),
                  [&] { cuda::forward_kernel<T, T>(p, steps, kept.data()); });
  if (gradient == nullptr) return;
  const cuda::Scratch<T> scratch{d_offset.data(), d_hidden.data(), read.data(), d_read.data()};
  const size_t shared = sizeof(cuda::BackwardMemory<T>) + sizeof(T) * cuda::joint_tile * (p.num_hidden - 1);
  on_host::launch(images, team, cuda::threads, shared, [&] {
    cuda::backward_kernel<T, T>(p, scratch, gradient, steps, kept.data(), detach != 0, d_joints, d_intrinsics);
  });
  const auto num_steps = static_cast<unsigned>(p.num_steps);
  on_host::launch({blocks(inputs, cuda::tile), blocks(p.num_hidden, cuda::tile), num_steps}, 1, cuda::threads, 0,
                  [&] { cuda::w1_kernel<T, T>(p, scratch, {d_w1, true}); });
  on_host::launch({blocks(p.num_hidden, 32), num_steps, 1}, 1, cuda::threads, 0,
                  [&] { cuda::bias_kernel<T, T>(p, scratch, kept.data(), {d_b1, true}, {d_w2, true}, {d_b2, true}); });
  for (int m = 0; m < p.num_maps; ++m)
    on_host::launch({static_cast<unsigned>(p.batch), blocks(p.maps[m].channels, 32), 1}, 1, cuda::threads,
                    p.num_steps * p.num_joints * 4 * (sizeof(T) + sizeof(int64_t)),
                    [&] { cuda::map_kernel<T, T>(p, scratch, steps, m, d_maps[m]); });
}

}  // namespace

extern "C" {

void refine_float(int team, const int64_t* sizes, const float* joints, const float* intrinsics,
                  const float* const* maps, const int64_t* map_sizes, const float* w1, const float* b1, const float* w2,
                  const float* b2, double step_size, int detach, const float* gradient, float* steps, float* d_joints,
                  float* d_intrinsics, float* const* d_maps, float* d_w1, float* d_b1, float* d_w2, float* d_b2) {
  run<float>(team, sizes, joints, intrinsics, maps, map_sizes, w1, b1, w2, b2, step_size, detach, gradient, steps,
             d_joints, d_intrinsics, d_maps, d_w1, d_b1, d_w2, d_b2);
}

void refine_double(int team, const int64_t* sizes, const double* joints, const double* intrinsics,
                   const double* const* maps, const int64_t* map_sizes, const double* w1, const double* b1,
                   const double* w2, const double* b2, double step_size, int detach, const double* gradient,
                   double* steps, double* d_joints, double* d_intrinsics, double* const* d_maps, double* d_w1,
                   double* d_b1, double* d_w2, double* d_b2) {
  run<double>(team, sizes, joints, intrinsics, maps, map_sizes, w1, b1, w2, b2, step_size, detach, gradient, steps,
              d_joints, d_intrinsics, d_maps, d_w1, d_b1, d_w2, d_b2);
}
}
