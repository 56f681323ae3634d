// refine on the CPU, forward: the order of the work; the arithmetic is in simd_*.cpp.
#include <atomic>
#include <cstring>

#include "refine/cpu_problem.h"
#include "common/cpu_team.h"
#include "common/cpu_threads.h"
#include "common/tensors.h"

namespace amt::refine {
namespace {

// Items of a piece of work: enough that taking a piece costs little beside its work.
constexpr int64_t piece_rows = 3, piece_groups = 4, piece_units = 16,
                  piece_bias_groups = 2;  // groups: of 16 inputs, or units
static_assert(piece_groups % groups_together == 0);
// Products for each thread below which one less is faster.
constexpr int64_t least_products = 1 << 20, least_pair_products = 1 << 21;

// b1 of every step as a chunk's packed tiles read it: [steps, packed tiles, units, packed_rows].
template <class T>
class Biases {
 public:
  explicit Biases(const CpuProblem<T>& problem)
      : p_(problem),
        lanes_(std::min(p_.plan.lanes, round_up(p_.batch * p_.num_joints, packed_rows))),
        units_(round_up(p_.num_hidden, 16)),
        packed_(p_.num_steps * lanes_ * units_) {}
  int64_t units() const { return units_; }  // of a packed tile, with what fills up the last group
  const T* of(int64_t step, int64_t row) const {
    return packed_.get() + (step * lanes_ + row) * units_;
  }  // row: a packed tile's first

  void fill(CpuTeam& team) const {
    const int64_t groups = units_ / 16;
    team.share_by_blocks(p_.num_steps * groups, piece_bias_groups, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t step = i / groups, group = i % groups;
        const PackBias<T> work{
            .b1 = p_.b1.get() + step * p_.num_joints * p_.num_hidden,
            .num_joints = p_.num_joints,
            .num_hidden = p_.num_hidden,
            .lanes = lanes_,
            .units = units_,
            .packed = packed_.get() + step * lanes_ * units_,
        };
        AMT_SIMD(refine_pack_bias<T>)(work, group, group + 1);
      }
    });
  }

 private:
  const CpuProblem<T>& p_;
  int64_t lanes_, units_;
  AlignedBuffer<T> packed_;
};

// How a row's inputs lie (simd_kernels.h), and bfloat16 weights w1 to match where that form is not floats. It is floats
// where a backward follows: rounded samples can move a joint across a cell's border, where the gradient jumps.
class NarrowWeights {
 public:
  static Form form_for(const std::vector<Tensor>& maps, const Tensor& w1, bool backward) {
    const bool narrow =
        !backward && maps[0].scalar_type() == ScalarType::BFloat16 && w1.scalar_type() == ScalarType::BFloat16;
    return narrow && has_tiles() ? Form::pairs : narrow && fast_int16() ? Form::fixed : Form::floats;
  }

  NarrowWeights(const std::vector<Tensor>& maps, const Tensor& w1, Form form, int64_t chunks, CpuTeam& team) {
    for (const Tensor& map : maps) channels_.push_back(map.size(3));
    layout_ = layout_of(form);
    if (layout_.form == Form::floats) return;
    data_ = w1.const_data_ptr();
    step_ = w1.stride(0) * 2;
    row_ = w1.stride(1);
    if (layout_.form == Form::fixed && !fix(w1, team)) layout_ = layout_of(Form::floats);
    if (layout_.form == Form::pairs && chunks >= chunks_worth_tiles) copy_tiles(w1, team);
  }
  const Layout& layout() const { return layout_; }
  const void* of(int64_t step) const { return static_cast<const char*>(data_) + step * step_; }
  int64_t row() const { return row_; }  // from one unit's to the next
  const uint16_t* tiles(int64_t step) const { return tiles_.get() ? tiles_.get() + step * tiles_step_ : nullptr; }
  const float* gains(int64_t step) const { return gains_.get() + step * gains_step_; }

 private:
  static constexpr int64_t chunks_worth_tiles = 8;

  std::vector<int64_t> channels_;
  Layout layout_;
  const void* data_ = nullptr;
  int64_t step_ = 0, row_ = 0, gains_step_ = 0, tiles_step_ = 0;  // step_: in bytes
  AlignedBuffer<float> fixed_, gains_;
  AlignedBuffer<uint16_t> tiles_;

  Layout layout_of(Form form) const {
    return refine::layout_of(form, static_cast<int>(channels_.size()), channels_.data());
  }

  // AMX tiles in the order in which they are read, each in cache lines of its own. Rows that are strided in memory
  // halve the rate of the matrix unit.
  void copy_tiles(const Tensor& w1, CpuTeam& team) {
    const int64_t hidden = w1.size(1), copies = w1.stride(0) == 0 ? 1 : w1.size(0);
    const int64_t blocks = (hidden + block_units - 1) / block_units, tiles = layout_.channels / (2 * tile_words);
    const int64_t block_size = tiles * 2 * tile_weights;
    tiles_ = AlignedBuffer<uint16_t>(copies * blocks * block_size);
    tiles_step_ = copies == 1 ? 0 : blocks * block_size;
    const auto* weights = static_cast<const uint16_t*>(w1.const_data_ptr());
    team.share(copies * blocks, 1, [&](int64_t begin, int64_t end, int64_t) {
      for (int64_t i = begin; i < end; i++) {
        const int64_t step = i / blocks, first = i % blocks * block_units;
        for (int64_t unit = first; unit < std::min(first + block_units, hidden); unit++) {
          const uint16_t* from = weights + step * w1.stride(0) + unit * w1.stride(1);
          uint16_t* to = tiles_.get() + i * block_size + (unit - first) * 2 * tile_words;
          for (int64_t k = 0; k < tiles; k++)
            std::memcpy(to + k * 2 * tile_weights, from + k * 2 * tile_words, 2 * tile_words * sizeof *to);
        }
      }
    });
  }

  bool fix(const Tensor& w1, CpuTeam& team) {  // false where a weight is not finite
    const int64_t blocks = layout_.blocks, hidden = w1.size(1), copies = w1.stride(0) == 0 ? 1 : w1.size(0);
    fixed_ = AlignedBuffer<float>(copies * hidden * layout_.count);
    gains_ = AlignedBuffer<float>(copies * blocks * fixed_channels);
    const FixWeights work{
        .w1 = static_cast<const uint16_t*>(w1.const_data_ptr()),
        .units = hidden,
        .step_stride = w1.stride(0),
        .unit_stride = w1.stride(1),
        .num_maps = static_cast<int>(channels_.size()),
        .channels = channels_.data(),
        .blocks = blocks,
        .stride = layout_.count,
        .out = fixed_.get(),
        .gains = gains_.get(),
    };
    std::atomic<bool> finite{true};
    team.share(copies * (blocks + 1), 1, [&](int64_t begin, int64_t end, int64_t) {
      if (!AMT_SIMD(refine_fix_weights)(work, begin, end)) finite = false;
    });
    data_ = fixed_.get();
    row_ = layout_.count;
    step_ = copies == 1 ? 0 : hidden * row_ * sizeof(float);
    gains_step_ = copies == 1 ? 0 : blocks * fixed_channels;
    return finite;
  }
};

template <class T>
struct ForwardScratch {
  AlignedBuffer<Sample<T>> samples;
  AlignedBuffer<T> packed, products, offsets;

  ForwardScratch(const CpuProblem<T>& p, const Layout& layout) : ForwardScratch(p, layout, block_rows(p)) {}

 private:
  ForwardScratch(const CpuProblem<T>& p, const Layout& layout, int64_t rows)
      : samples(rows * p.num_maps()),
        packed(rows * layout.count),
        products(layout.form == Form::pairs ? round_up(p.num_hidden, block_units) * rows : 0),
        offsets(AMT_SIMD(refine_hidden_blocks)(layout.form, p.num_hidden) * 3 * rows) {}

  static int64_t block_rows(const CpuProblem<T>& p) {
    return std::min({p.plan.lanes, most_packed * packed_rows, round_up(p.batch * p.num_joints, packed_rows)});
  }
};

template <class T>
void refine_chunk(const CpuProblem<T>& p, const NarrowWeights& narrow, int64_t chunk, const Biases<T>& bias, T* steps,
                  T* saved, const ForwardScratch<T>& scratch, CpuTeam& team) {
  const Layout& layout = narrow.layout();
  const bool floats = layout.form == Form::floats;
  const int64_t first = chunk * p.plan.images, last = std::min(first + p.plan.images, p.batch);
  const int64_t rows = (last - first) * p.num_joints;
  const int64_t blocks = AMT_SIMD(refine_hidden_blocks)(layout.form, p.num_hidden);
  for (int64_t step = 0; step < p.num_steps; step++) {
    if (const int64_t used = round_up(rows, packed_rows);
        saved && used < p.plan.lanes) {  // the last chunk of few images
      T* saved_rows = saved + (chunk * p.num_steps + step) * p.num_hidden * p.plan.lanes;
      team.share_by_blocks(p.num_hidden, piece_units, [&](int64_t b, int64_t e, int64_t) {
        for (int64_t unit = b; unit < e; unit++)
          std::fill(saved_rows + unit * p.plan.lanes + used, saved_rows + (unit + 1) * p.plan.lanes, T(0));
      });
    }
    for (int64_t begin = 0; begin < rows; begin += most_packed * packed_rows) {
      const int64_t count = std::min(rows - begin, most_packed * packed_rows), width = round_up(count, packed_rows);
      const PackInputs<T> gather{
          .element = p.element,
          .num_maps = p.num_maps(),
          .channels = p.channels.data(),
          .samples = scratch.samples.get(),
          .layout = layout,
          .gains = narrow.gains(step),
          .rows = count,
          .packed = scratch.packed.get(),
      };
      team.share_by_blocks(width, piece_rows, [&](int64_t b, int64_t e, int64_t) {
        for (int64_t i = b; i < e; i++) {
          T* relatives = gather.at(i, layout.count - 3);
          if (i >= count) {
            for (int c = 0; c < 3; c++) relatives[c * packed_rows] = 0;
            continue;
          }
          const int64_t row = begin + i, image = first + row / p.num_joints;
          const T* wrist = p.entering(steps, image, step);
          const T* joint = wrist + row % p.num_joints * 3;
          const Pixel<T> pixel = project(joint, p.intrinsics + image * 9);
          for (int m = 0; m < p.num_maps(); m++)
            p.locate_sample(pixel, image, m, &scratch.samples[i * p.num_maps() + m]);
          for (int c = 0; c < 3; c++) relatives[c * packed_rows] = relative(joint[c], wrist[c]);
        }
      });
      team.share_by_blocks(round_up(layout.sampled, 16) / 16, piece_groups,
                           [&](int64_t b, int64_t e, int64_t) { AMT_SIMD(refine_pack_inputs<T>)(gather, b, e); });
      T* saved_rows = saved ? saved + (chunk * p.num_steps + step) * p.num_hidden * p.plan.lanes + begin : nullptr;
      const Hidden<T> hidden{
          .layout = layout,
          .packed = scratch.packed.get(),
          .num_packed = width / packed_rows,
          .rows = count,
          .num_hidden = p.num_hidden,
          .w1 = floats ? p.w1.get() + step * p.w1_step : narrow.of(step),
          .w1_stride = floats ? p.w1_row : narrow.row(),
          .w1_tiles = narrow.tiles(step),
          .products = scratch.products.get(),
          .bias = bias.of(step, begin),
          .bias_units = bias.units(),
          .w2 = p.w2.get() + step * 3 * p.num_hidden,
          .saved = saved_rows,
          .saved_stride = p.plan.lanes,
          .offsets = scratch.offsets.get(),
      };
      team.share_by_blocks(blocks, 1, [&](int64_t b, int64_t e, int64_t) { AMT_SIMD(refine_hidden<T>)(hidden, b, e); });
      const T* b2 = p.b2.get() + step * 3;
      const T scale = p.scale_of(step);
      for (int64_t row = begin; row < begin + count; row++) {
        const int64_t image = first + row / p.num_joints, joint = row % p.num_joints;
        const T* from = p.entering(steps, image, step) + joint * 3;
        T* to = steps + ((image * p.num_steps + step) * p.num_joints + joint) * 3;
        for (int i = 0; i < 3; i++) {
          T offset = 0;
          for (int64_t block = 0; block < blocks; block++)
            offset += scratch.offsets[(block * 3 + i) * width + row - begin];
          to[i] = from[i] + scale * (offset + b2[i]);
        }
      }
    }
  }
}

// Threads that a call is worth: by its products, and by how many would find anything to do.
int64_t threads_for(Form form, int64_t chunks, int64_t rows, const Tensor& w1) {
  const int64_t products = rows * w1.numel();
  const int64_t worth = threads_worth(products, form == Form::pairs ? least_pair_products : least_products);
  return std::min(worth, std::max(AMT_SIMD(refine_hidden_blocks)(form, w1.size(1)), chunks));
}

template <class T>
void refine_all(const CpuProblem<T>& p, const NarrowWeights& narrow, T* steps, T* saved, CpuTeam& team) {
  const Layout& layout = narrow.layout();
  const Biases<T> bias(p);
  const int64_t members = team.size();
  // Each member takes chunks of its own as long as there is one for each. The last one or two are shared by all: their
  // members wait for each other and for cache lines that another core has written, so that sharing is no faster than
  // two or three members alone.
  const int64_t left = p.plan.chunks % members, shared = left <= 2 && 2 * left <= members ? left : 0;
  const int64_t own = p.plan.chunks - shared;
  bias.fill(team);
  PerMember<ForwardScratch<T>> scratches(team);
  team.share(own, 1, [&](int64_t begin, int64_t end, int64_t member) {
    CpuTeam alone(1);
    const ForwardScratch<T>& scratch = scratches.of(member, [&] { return ForwardScratch<T>(p, layout); });
    for (int64_t chunk = begin; chunk < end; chunk++)
      refine_chunk(p, narrow, chunk, bias, steps, saved, scratch, alone);
  });
  if (shared == 0) return;
  const ForwardScratch<T>& scratch = scratches.of(0, [&] { return ForwardScratch<T>(p, layout); });
  for (int64_t chunk = own; chunk < p.plan.chunks; chunk++)
    refine_chunk(p, narrow, chunk, bias, steps, saved, scratch, team);
}

std::tuple<Tensor, Tensor> refine_cpu(Tensor joints, Tensor intrinsics, std::vector<Tensor> maps, Tensor w1, Tensor b1,
                                      Tensor w2, Tensor b2, int64_t height, int64_t width, double step_size,
                                      bool detach, bool save) {
  check_arguments(joints, intrinsics, maps, w1, b1, w2, b2, height, width);
  const int64_t batch = joints.size(0), num_joints = joints.size(1), num_steps = w1.size(0);
  const Plan plan(batch, std::max<int64_t>(num_joints, 1));
  const bool nothing = batch == 0 || num_joints == 0;
  Tensor steps = amt::empty<4>({batch, num_steps, num_joints, 3}, joints.scalar_type(), joints);
  Tensor saved = amt::empty<1>({save && !nothing ? plan.chunks * num_steps * w1.size(1) * plan.lanes : 0},
                               joints.scalar_type(), joints);
  if (nothing) return {steps, saved};
  const auto run = [&]<class T>(T) {
    const Form form = NarrowWeights::form_for(maps, w1, save);
    with_team(threads_for(form, plan.chunks, batch * num_joints, w1), [&](CpuTeam& team) {
      const NarrowWeights narrow(maps, w1, form, plan.chunks, team);
      const CpuProblem<T> problem(joints, intrinsics, maps, w1, b1, w2, b2, height, width, step_size, team,
                                  narrow.layout().form == Form::floats);
      refine_all(problem, narrow, static_cast<T*>(steps.mutable_data_ptr()),
                 save ? static_cast<T*>(saved.mutable_data_ptr()) : nullptr, team);
    });
  };
  if (joints.scalar_type() == ScalarType::Double)
    run(0.0);
  else
    run(0.0f);
  return {steps, saved};
}

}  // namespace
}  // namespace amt::refine

STABLE_TORCH_LIBRARY_IMPL(amt, CPU, m) { m.impl("refine", TORCH_BOX(&amt::refine::refine_cpu)); }
