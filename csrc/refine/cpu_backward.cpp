// refine's backward on the CPU. Every output has one owner and a fixed order of summation: an image's own gradients are
// summed by the thread that holds its chunk, those of the weights in slices of chunks that do not depend on the number
// of threads.
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "refine/cpu_packed_w1.h"
#include "refine/cpu_problem.h"
#include "common/cpu_threads.h"

namespace amt::refine {
namespace {

constexpr int64_t most_slices = 16;
// Pieces of a phase that the members of a team share.
constexpr int64_t piece_units = 16;                 // of the hidden layer
constexpr int64_t piece_rows = 3;                   // read from the maps
constexpr int64_t least_products = 1 << 20;         // for a thread: with fewer, one less is faster
constexpr int64_t fresh_bytes = int64_t(32) << 20;  // malloc always asks the kernel for blocks larger than this

// A map's gradient, zero but for the pixels that were read. The kernel hands out large blocks as zero pages that take
// memory when they are first written, so zeros are written only into small ones (by the caller: *is_zero says whether).
Tensor map_gradient(const Tensor& map, bool* is_zero) {
  std::vector<int64_t> sizes(map.sizes().begin(), map.sizes().end());
  const int64_t bytes = map.numel() * size_of(element_of(map));
  *is_zero = false;
#if defined(__linux__)
  if (bytes >= fresh_bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) {
      *is_zero = true;
      const std::vector<int64_t> strides{sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1};
      return torch::stable::from_blob(memory, sizes, strides, map.device(), map.scalar_type(),
                                      [bytes](void* data) { munmap(data, bytes); });
    }
  }
#endif
  return torch::stable::new_empty(map, sizes);
}

struct Needs {
  bool coordinates, maps, weights;
};

// What one slice of chunks adds to the weights' gradients.
template <class T>
struct Partial {
  AlignedBuffer<T> w1;  // [S, D, stride]
  AlignedBuffer<T> b1;  // [S, D, J]
  AlignedBuffer<T> w2;  // [S, 3, D]
  AlignedBuffer<T> b2;  // [S, 3]
};

template <class T>
struct Outputs {
  T *joints, *intrinsics;  // null: not needed
  std::vector<char*> maps;
  std::vector<bool> is_zero;
};

template <class T>
struct BackwardScratch {
  AlignedBuffer<Pixel<T>> pixels;    // [rows]
  AlignedBuffer<Taps<T>> taps;       // [S, rows, maps]
  AlignedBuffer<Sample<T>> samples;  // [rows, maps]
  AlignedBuffer<T> relative, grad_carried, grad_offsets, grad_hidden, grad_inputs, inputs, dots, grad_intrinsics;

  explicit BackwardScratch(const CpuProblem<T>& p)
      : pixels(p.plan.lanes),
        taps(p.num_steps * p.plan.lanes * p.num_maps()),
        samples(p.plan.lanes * p.num_maps()),
        relative(p.plan.lanes * 3),
        grad_carried(p.plan.lanes * 3),
        grad_offsets(p.plan.lanes * 3),
        grad_hidden(p.num_hidden * p.plan.lanes),
        grad_inputs(p.num_steps * p.plan.lanes * p.stride),
        inputs(p.plan.lanes * p.stride),
        dots(p.plan.lanes * p.num_maps() * 4),
        grad_intrinsics(p.plan.images * 6) {}
};

// One image of one map: contributions ordered by pixel, then step, joint and tap.
template <class T>
void scatter_image(const CpuProblem<T>& p, int64_t image, int m, int64_t first_row, const BackwardScratch<T>& scratch,
                   char* out) {
  const Map& map = p.maps[m];
  int64_t channel = 0;
  for (int i = 0; i < m; i++) channel += p.channels[i];
  std::vector<Contribution<T>> contributions;
  contributions.reserve(p.num_steps * p.num_joints * 4);
  for (int64_t step = 0; step < p.num_steps; step++) {
    for (int64_t row = first_row; row < first_row + p.num_joints; row++) {
      const Taps<T>& taps = scratch.taps[(step * p.plan.lanes + row) * p.num_maps() + m];
      for (int t = 0; t < 4; t++) {
        if (taps.inside >> t & 1u)
          contributions.push_back(
              {.pixel = (tap_y(taps, t) * map.width + tap_x(taps, t)) * map.channels,
               .weight = tap_weight(taps, t),
               .grad_samples = scratch.grad_inputs.get() + (step * p.plan.lanes + row) * p.stride + channel});
      }
    }
  }
  std::stable_sort(contributions.begin(), contributions.end(),
                   [](const Contribution<T>& a, const Contribution<T>& b) { return a.pixel < b.pixel; });
  char* to = out + image * map.height * map.width * map.channels * size_of(p.element);
  AMT_SIMD(refine_scatter<T>)(Scatter<T>{.element = p.element,
                                         .image = to,
                                         .channels = map.channels,
                                         .contributions = contributions.data(),
                                         .count = static_cast<int64_t>(contributions.size())});
}

template <class T>
void backward_chunk(const CpuProblem<T>& p, int64_t chunk, const T* steps, const T* saved, const T* grad_steps,
                    const PackedW1<T>& packed_w1, bool detach, Needs needs, bool first_of_slice, Partial<T>* partial,
                    const Outputs<T>& out, const BackwardScratch<T>& scratch, CpuTeam& team) {
  const int64_t first = chunk * p.plan.images, last = std::min(first + p.plan.images, p.batch);
  const int64_t rows = (last - first) * p.num_joints, lanes = round_up(rows, packed_rows);
  const int num_maps = p.num_maps();
  std::fill_n(scratch.grad_carried.get(), rows * 3, T(0));
  std::fill_n(scratch.grad_intrinsics.get(), (last - first) * 6, T(0));
  for (int64_t step = p.num_steps - 1; step >= 0; step--) {
    const bool joints_go_on = !(detach && step > 0);  // does the joints' gradient leave this step
    const bool coordinates = needs.coordinates || (joints_go_on && step > 0);
    T* grad_inputs = scratch.grad_inputs.get() + step * p.plan.lanes * p.stride;

    const T scale = p.scale_of(step);
    std::fill_n(scratch.grad_offsets.get(), 3 * lanes, T(0));
    for (int64_t row = 0; row < rows; row++) {
      const int64_t image = first + row / p.num_joints, joint = row % p.num_joints;
      const T* from = grad_steps + ((image * p.num_steps + step) * p.num_joints + joint) * 3;
      for (int i = 0; i < 3; i++) {
        scratch.grad_carried[row * 3 + i] += from[i];
        const T offset = scale * scratch.grad_carried[row * 3 + i];
        scratch.grad_offsets[i * lanes + row] = offset;
        if (needs.weights) partial->b2[step * 3 + i] += offset;
      }
      const T* wrist = p.entering(steps, image, step);
      const Pixel<T> pixel = scratch.pixels[row] = project(wrist + joint * 3, p.intrinsics + image * 9);
      for (int m = 0; m < num_maps; m++)
        scratch.taps[(step * p.plan.lanes + row) * num_maps + m] =
            p.locate_sample(pixel, image, m, &scratch.samples[row * num_maps + m]);
      for (int i = 0; i < 3; i++) scratch.relative[row * 3 + i] = relative(wrist[joint * 3 + i], wrist[i]);
    }

    const int64_t weights_at = step * p.num_hidden;
    const HiddenBackward<T> hidden{
        .rows = rows,
        .lanes = lanes,
        .num_hidden = p.num_hidden,
        .num_joints = p.num_joints,
        .saved = saved + (chunk * p.num_steps + step) * p.num_hidden * p.plan.lanes,
        .saved_stride = p.plan.lanes,
        .grad_offsets = scratch.grad_offsets.get(),
        .w2 = p.w2.get() + weights_at * 3,
        .grad_hidden = scratch.grad_hidden.get(),
        .grad_w2 = needs.weights ? partial->w2.get() + weights_at * 3 : nullptr,
        .grad_b1 = needs.weights ? partial->b1.get() + weights_at * p.num_joints : nullptr,
    };
    team.share_by_blocks(p.num_hidden, piece_units,
                         [&](int64_t b, int64_t e, int64_t) { AMT_SIMD(refine_hidden_backward<T>)(hidden, b, e); });

    if (coordinates || needs.maps)
      packed_w1.multiply(p, step, scratch.grad_hidden.get(), rows, lanes, grad_inputs, team);
    if (coordinates || needs.weights) {
      const Gather<T> gather{
          .element = p.element,
          .num_maps = num_maps,
          .channels = p.channels.data(),
          .samples = scratch.samples.get(),
          .relative = scratch.relative.get(),
          .stride = p.stride,
          .inputs = scratch.inputs.get(),
          .grad_inputs = coordinates ? grad_inputs : nullptr,
          .dots = scratch.dots.get(),
      };
      team.share_by_blocks(rows, piece_rows,
                           [&](int64_t b, int64_t e, int64_t) { AMT_SIMD(refine_gather<T>)(gather, b, e); });
    }
    if (needs.weights) {
      const Product<T> product{
          .rows = p.num_hidden,
          .depth = rows,
          .columns = p.stride,
          .a = scratch.grad_hidden.get(),
          .a_row = lanes,
          .a_column = 1,
          .b = scratch.inputs.get(),
          .b_stride = p.stride,
          .b_block = matrix_columns,
          .out = partial->w1.get() + weights_at * p.stride,
          .out_stride = p.stride,
          .accumulate = !first_of_slice,
      };
      team.share_by_blocks((p.stride + matrix_columns - 1) / matrix_columns, 1,
                           [&](int64_t b, int64_t e, int64_t) { AMT_SIMD(refine_product<T>)(product, b, e); });
    }

    if (!joints_go_on) std::fill_n(scratch.grad_carried.get(), rows * 3, T(0));
    if (!coordinates) continue;
    for (int64_t row = 0; row < rows; row++) {
      const int64_t in_chunk = row / p.num_joints, image = first + in_chunk, wrist_row = in_chunk * p.num_joints;
      const T* wrist = p.entering(steps, image, step);
      const T* joint = wrist + (row - wrist_row) * 3;
      T grad_x = 0, grad_y = 0, grad_joint[3] = {0, 0, 0};
      for (int m = 0; m < num_maps; m++) {
        const Taps<T>& taps = scratch.taps[(step * p.plan.lanes + row) * num_maps + m];
        if (taps.inside)
          locate_backward(taps, &scratch.dots[(row * num_maps + m) * 4], p.scale_x[m], p.scale_y[m], &grad_x, &grad_y);
      }
      project_backward(joint, p.intrinsics + image * 9, scratch.pixels[row], grad_x, grad_y, grad_joint,
                       &scratch.grad_intrinsics[in_chunk * 6]);
      if (!joints_go_on) continue;
      for (int i = 0; i < 3; i++) {
        const T grad_relative =
            relative_backward(joint[i], wrist[i], grad_inputs[row * p.stride + p.num_inputs - 3 + i]);
        scratch.grad_carried[row * 3 + i] += grad_joint[i] + grad_relative;
        scratch.grad_carried[wrist_row * 3 + i] -= grad_relative;
      }
    }
  }

  if (needs.coordinates) {
    std::copy_n(scratch.grad_carried.get(), rows * 3, out.joints + first * p.num_joints * 3);
    for (int64_t image = first; image < last; image++) {
      std::copy_n(&scratch.grad_intrinsics[(image - first) * 6], 6, out.intrinsics + image * 9);
      std::fill_n(out.intrinsics + image * 9 + 6, 3, T(0));
    }
  }
  if (needs.maps) {
    team.share((last - first) * num_maps, 1, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t image = first + i / num_maps;
        const int m = static_cast<int>(i % num_maps);
        const Map& map = p.maps[m];
        const int64_t bytes = map.height * map.width * map.channels * size_of(p.element);
        if (!out.is_zero[m]) std::fill_n(out.maps[m] + image * bytes, bytes, char(0));
        scatter_image(p, image, m, i / num_maps * p.num_joints, scratch, out.maps[m]);
      }
    });
  }
}

// Adds the slices in their order; `count` numbers of each, written as `to` holds them.
template <class T>
void sum_slices(const std::vector<const T*>& slices, int64_t offset, int64_t count, T* sum, Element to, char* out) {
  if (slices.size() == 1) return AMT_SIMD(refine_narrow<T>)(to, slices[0] + offset, count, out);
  std::copy_n(slices[0] + offset, count, sum);
  for (size_t s = 1; s < slices.size(); s++)
    for (int64_t i = 0; i < count; i++) sum[i] += slices[s][offset + i];
  AMT_SIMD(refine_narrow<T>)(to, sum, count, out);
}

template <class T>
void backward_all(const CpuProblem<T>& p, const T* steps, const T* saved, const T* grad_steps, bool detach, Needs needs,
                  const Outputs<T>& out, const Tensor* grad_w1, const Tensor* grad_b1, const Tensor* grad_w2,
                  const Tensor* grad_b2, CpuTeam& team) {
  const PackedW1<T> packed_w1(p, needs.coordinates || needs.maps || !detach, team);
  const int64_t slices = std::min(most_slices, p.plan.chunks);
  std::vector<Partial<T>> partials(slices);
  PerMember<BackwardScratch<T>> scratches(team);
  const auto run = [&](int64_t begin, int64_t end, int64_t member, CpuTeam& helpers) {
    const BackwardScratch<T>& scratch = scratches.of(member, [&] { return BackwardScratch<T>(p); });
    for (int64_t slice = begin; slice < end; slice++) {
      Partial<T>& partial = partials[slice];
      if (needs.weights) {
        const int64_t units = p.num_steps * p.num_hidden;
        partial.w1 = AlignedBuffer<T>(units * p.stride);
        partial.b1 = AlignedBuffer<T>(units * p.num_joints);
        partial.w2 = AlignedBuffer<T>(units * 3);
        partial.b2 = AlignedBuffer<T>(p.num_steps * 3);
        std::fill_n(partial.b1.get(), units * p.num_joints, T(0));
        std::fill_n(partial.w2.get(), units * 3, T(0));
        std::fill_n(partial.b2.get(), p.num_steps * 3, T(0));
      }
      const int64_t first = slice * p.plan.chunks / slices, last = (slice + 1) * p.plan.chunks / slices;
      for (int64_t chunk = first; chunk < last; chunk++)
        backward_chunk(p, chunk, steps, saved, grad_steps, packed_w1, detach, needs, chunk == first, &partial, out,
                       scratch, helpers);
    }
  };
  if (p.plan.chunks < 4 * team.size()) {  // few images: the members share each chunk's work
    run(0, slices, 0, team);
  } else {
    team.share(slices, 1, [&](int64_t begin, int64_t end, int64_t member) {
      CpuTeam alone(1);
      run(begin, end, member, alone);
    });
  }
  if (!needs.weights) return;

  std::vector<const T*> w1, b1, w2, b2;
  for (const Partial<T>& partial : partials) {
    w1.push_back(partial.w1.get());
    b1.push_back(partial.b1.get());
    w2.push_back(partial.w2.get());
    b2.push_back(partial.b2.get());
  }
  const int64_t units = p.num_steps * p.num_hidden;
  team.share(units, piece_units, [&](int64_t begin, int64_t end, int64_t) {
    AlignedBuffer<T> sum(p.num_inputs);
    const Element element = element_of(*grad_w1);
    for (int64_t unit = begin; unit < end; unit++)
      sum_slices(w1, unit * p.stride, p.num_inputs, sum.get(), element,
                 static_cast<char*>(grad_w1->mutable_data_ptr()) + unit * p.num_inputs * size_of(element));
  });
  AlignedBuffer<T> sum(units * std::max<int64_t>(p.num_joints, 3)), transposed(units * p.num_joints);
  sum_slices(w2, 0, units * 3, sum.get(), element_of(*grad_w2), static_cast<char*>(grad_w2->mutable_data_ptr()));
  sum_slices(b2, 0, p.num_steps * 3, sum.get(), element_of(*grad_b2), static_cast<char*>(grad_b2->mutable_data_ptr()));
  for (size_t s = 0; s < b1.size(); s++)
    for (int64_t i = 0; i < units * p.num_joints; i++) sum[i] = s == 0 ? b1[s][i] : sum[i] + b1[s][i];
  for (int64_t unit = 0; unit < units; unit++)
    for (int64_t joint = 0; joint < p.num_joints; joint++)
      transposed[(unit / p.num_hidden * p.num_joints + joint) * p.num_hidden + unit % p.num_hidden] =
          sum[unit * p.num_joints + joint];
  AMT_SIMD(refine_narrow<T>)(element_of(*grad_b1), transposed.get(), units * p.num_joints, grad_b1->mutable_data_ptr());
}

Tensor empty_like_contiguous(const Tensor& tensor) {
  return torch::stable::new_empty(tensor, std::vector<int64_t>(tensor.sizes().begin(), tensor.sizes().end()));
}

std::tuple<Tensor, Tensor, std::vector<Tensor>, Tensor, Tensor, Tensor, Tensor> refine_backward_cpu(
    Tensor grad_steps, Tensor steps, Tensor saved, Tensor joints, Tensor intrinsics, std::vector<Tensor> maps,
    Tensor w1, Tensor b1, Tensor w2, Tensor b2, int64_t height, int64_t width, double step_size, bool detach,
    int64_t needed) {
  check_arguments(joints, intrinsics, maps, w1, b1, w2, b2, height, width);
  const Needs needs{(needed & needs_coordinates) != 0, (needed & needs_maps) != 0, (needed & needs_weights) != 0};
  const int64_t batch = joints.size(0), num_joints = joints.size(1);
  const Plan plan(batch, std::max<int64_t>(num_joints, 1));
  const bool empty = batch == 0 || num_joints == 0;
  check_backward_arguments(grad_steps, steps, saved, joints, w1,
                           empty ? saved.numel() : plan.chunks * w1.size(0) * w1.size(1) * plan.lanes);
  const auto output = [](bool is_needed, const Tensor& like) {
    return is_needed ? empty_like_contiguous(like) : torch::stable::new_empty(like, {0});
  };
  Tensor grad_joints = output(needs.coordinates, joints), grad_intrinsics = output(needs.coordinates, intrinsics);
  Tensor grad_w1 = output(needs.weights, w1), grad_b1 = output(needs.weights, b1), grad_w2 = output(needs.weights, w2),
         grad_b2 = output(needs.weights, b2);
  std::vector<Tensor> grad_maps;
  std::vector<bool> is_zero;
  for (const Tensor& map : maps) {
    if (!needs.maps) break;
    bool zero;
    grad_maps.push_back(map_gradient(map, &zero));
    is_zero.push_back(zero);
  }
  if (empty) {
    for (Tensor* tensor : {&grad_joints, &grad_intrinsics, &grad_w1, &grad_b1, &grad_w2, &grad_b2})
      torch::stable::zero_(*tensor);
    for (Tensor& tensor : grad_maps) torch::stable::zero_(tensor);
    return {grad_joints, grad_intrinsics, grad_maps, grad_w1, grad_b1, grad_w2, grad_b2};
  }
  const auto run = [&]<class T>(T) {
    with_team(threads_worth(batch * num_joints * w1.numel(), least_products), [&](CpuTeam& team) {
      const CpuProblem<T> problem(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, team);
      Outputs<T> out{.joints = static_cast<T*>(grad_joints.mutable_data_ptr()),
                     .intrinsics = static_cast<T*>(grad_intrinsics.mutable_data_ptr()),
                     .maps = {},
                     .is_zero = is_zero};
      for (const Tensor& map : grad_maps) out.maps.push_back(static_cast<char*>(map.mutable_data_ptr()));
      backward_all(problem, static_cast<const T*>(steps.const_data_ptr()),
                   static_cast<const T*>(saved.const_data_ptr()), static_cast<const T*>(grad_steps.const_data_ptr()),
                   detach, needs, out, &grad_w1, &grad_b1, &grad_w2, &grad_b2, team);
    });
  };
  if (joints.scalar_type() == ScalarType::Double)
    run(0.0);
  else
    run(0.0f);
  return {grad_joints, grad_intrinsics, grad_maps, grad_w1, grad_b1, grad_w2, grad_b2};
}

}  // namespace
}  // namespace amt::refine

STABLE_TORCH_LIBRARY_IMPL(amt, CPU, m) { m.impl("refine_backward", TORCH_BOX(&amt::refine::refine_backward_cpu)); }
