// refine's CUDA kernels, run on the CPU by cuda_on_host.h: the same launches as csrc/refine/cuda_refine.cu makes,
// behind a C function.
#include "refine/cuda_forward.cuh"
#include "refine/cuda_gradients.cuh"

namespace cuda = amt::refine::cuda;

namespace {

unsigned blocks(int64_t count, int64_t size) { return static_cast<unsigned>((count + size - 1) / size); }

template <class T>
void run(int cluster_size, const int64_t* sizes, const T* joints, const T* intrinsics, const T* const* maps,
         const int64_t* map_sizes, const T* w1, const T* b1, const T* w2, const T* b2, double step_size, int detach,
         const T* gradient, T* steps, T* grad_joints, T* grad_intrinsics, T* const* grad_maps, T* grad_w1, T* grad_b1,
         T* grad_w2, T* grad_b2) {
  cuda::CudaProblem<T> p{};
  p.batch = sizes[0], p.num_joints = sizes[1], p.num_steps = sizes[2], p.num_hidden = sizes[3], p.num_maps = sizes[4];
  const int64_t height = sizes[5], width = sizes[6];
  p.joints = joints, p.intrinsics = intrinsics, p.step_size = static_cast<T>(step_size);
  for (int m = 0; m < p.num_maps; ++m) {
    const int64_t h = map_sizes[3 * m], w = map_sizes[3 * m + 1], c = map_sizes[3 * m + 2];
    p.maps[m] = {
        .data = maps[m],
        .image = h * w * c,
        .row = w * c,
        .column = c,
        .height = h,
        .width = w,
        .channels = static_cast<int>(c),
        .first = p.num_channels,
        .scale_x = static_cast<T>(static_cast<double>(w) / width),
        .scale_y = static_cast<T>(static_cast<double>(h) / height),
    };
    p.num_channels += static_cast<int>(c);
  }
  p.w1 = {w1, true}, p.b1 = {b1, true}, p.w2 = {w2, true}, p.b2 = {b2, true};
  const int64_t inputs = p.num_channels + 3, rows = static_cast<int64_t>(p.batch) * p.num_steps * p.num_joints;
  p.w1_step = p.num_hidden * inputs, p.w1_row = inputs;

  const T unset = static_cast<T>(__builtin_nan(""));
  std::vector<T> saved(rows * p.num_hidden, unset), grad_offset(rows * 3, unset),
      grad_hidden(rows * p.num_hidden, unset), read(rows * inputs, unset), grad_read(rows * p.num_channels, unset);
  const on_host::Index images{static_cast<unsigned>(p.batch * cluster_size), 1, 1};
  on_host::launch(images, cluster_size, cuda::threads, sizeof(cuda::ForwardMemory<T>),
                  [&] { cuda::forward_kernel<T, T>(p, steps, saved.data()); });
  if (gradient == nullptr) return;
  const cuda::CudaScratch<T> scratch{.grad_offset = grad_offset.data(),
                                     .grad_hidden = grad_hidden.data(),
                                     .inputs = read.data(),
                                     .grad_inputs = grad_read.data()};
  const size_t shared = sizeof(cuda::BackwardMemory<T>) + sizeof(T) * cuda::joint_tile * (p.num_hidden - 1);
  on_host::launch(images, cluster_size, cuda::threads, shared, [&] {
    cuda::backward_kernel<T, T>(p, scratch, gradient, steps, saved.data(), detach != 0, grad_joints, grad_intrinsics);
  });
  const auto num_steps = static_cast<unsigned>(p.num_steps);
  on_host::launch({blocks(inputs, cuda::tile), blocks(p.num_hidden, cuda::tile), num_steps}, 1, cuda::threads, 0,
                  [&] { cuda::w1_kernel<T, T>(p, scratch, {grad_w1, true}); });
  on_host::launch({blocks(p.num_hidden, 32), num_steps, 1}, 1, cuda::threads, 0, [&] {
    cuda::bias_kernel<T, T>(p, scratch, saved.data(), {grad_b1, true}, {grad_w2, true}, {grad_b2, true});
  });
  for (int m = 0; m < p.num_maps; ++m)
    on_host::launch({static_cast<unsigned>(p.batch), blocks(p.maps[m].channels, 32), 1}, 1, cuda::threads,
                    p.num_steps * p.num_joints * 4 * (sizeof(T) + sizeof(int64_t)),
                    [&] { cuda::map_kernel<T, T>(p, scratch, steps, m, grad_maps[m]); });
}

}  // namespace

extern "C" {

void refine_float(int cluster_size, const int64_t* sizes, const float* joints, const float* intrinsics,
                  const float* const* maps, const int64_t* map_sizes, const float* w1, const float* b1, const float* w2,
                  const float* b2, double step_size, int detach, const float* gradient, float* steps,
                  float* grad_joints, float* grad_intrinsics, float* const* grad_maps, float* grad_w1, float* grad_b1,
                  float* grad_w2, float* grad_b2) {
  run<float>(cluster_size, sizes, joints, intrinsics, maps, map_sizes, w1, b1, w2, b2, step_size, detach, gradient,
             steps, grad_joints, grad_intrinsics, grad_maps, grad_w1, grad_b1, grad_w2, grad_b2);
}

void refine_double(int cluster_size, const int64_t* sizes, const double* joints, const double* intrinsics,
                   const double* const* maps, const int64_t* map_sizes, const double* w1, const double* b1,
                   const double* w2, const double* b2, double step_size, int detach, const double* gradient,
                   double* steps, double* grad_joints, double* grad_intrinsics, double* const* grad_maps,
                   double* grad_w1, double* grad_b1, double* grad_w2, double* grad_b2) {
  run<double>(cluster_size, sizes, joints, intrinsics, maps, map_sizes, w1, b1, w2, b2, step_size, detach, gradient,
              steps, grad_joints, grad_intrinsics, grad_maps, grad_w1, grad_b1, grad_w2, grad_b2);
}
}
