// refine's backward on the CPU: reading the taps of every map in one pass, and writing the maps' gradient back.
#include "refine/simd_kernels.h"
#include "refine/simd_taps.h"

namespace amt::AMT_ISA {
namespace {

using namespace amt::refine;

template <class M, class T, bool WithDots>
void gather_rows(const Gather<T>& work, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    T* inputs = work.inputs + row * work.stride;
    const T* grad = WithDots ? work.grad_inputs + row * work.stride : nullptr;
    int64_t c = 0;
    for (int m = 0; m < work.num_maps; m++) {
      const int64_t at = row * work.num_maps + m;
      const Sample<T>* ahead = row + 1 < end ? work.samples + at + work.num_maps : nullptr;
      gather_map<M, T, WithDots>(work.samples[at], ahead, 0, work.channels[m], inputs + c,
                                 WithDots ? grad + c : nullptr, WithDots ? work.dots + at * 4 : nullptr);
      c += work.channels[m];
    }
    for (int i = 0; i < 3; i++) inputs[c++] = work.relative[row * 3 + i];
    for (; c < work.stride; c++) inputs[c] = T(0);
  }
}

template <class M, class T>
void gather_as(const Gather<T>& work, int64_t begin, int64_t end) {
  if (work.grad_inputs) return gather_rows<M, T, true>(work, begin, end);
  gather_rows<M, T, false>(work, begin, end);
}

template <class M, class T>
void scatter_as(const Scatter<T>& work) {
  constexpr int lanes = Lanes<T>::count;
  M* image = static_cast<M*>(work.image);
  int64_t last;
  for (int64_t first = 0; first < work.count; first = last) {
    const Contribution<T>* run = work.contributions + first;
    for (last = first + 1; last < work.count && work.contributions[last].pixel == run->pixel;) last++;
    M* out = image + run->pixel;
    const int64_t count = last - first;
    int64_t c = 0;
    for (; c + lanes <= work.channels; c += lanes) {
      Vector<T> sum = load(run[0].grad_samples + c) * run[0].weight;
      for (int64_t i = 1; i < count; i++) sum += load(run[i].grad_samples + c) * run[i].weight;
      narrowing_store(out + c, sum);
    }
    if (const int64_t n = work.channels - c; n > 0) {
      Vector<T> sum = partial_load<T>(run[0].grad_samples + c, n) * run[0].weight;
      for (int64_t i = 1; i < count; i++) sum += partial_load<T>(run[i].grad_samples + c, n) * run[i].weight;
      partial_store<T>(out + c, sum, n);
    }
  }
}

}  // namespace

template <>
void refine_gather(const Gather<float>& work, int64_t begin, int64_t end) {
  switch (work.element) {
    case Element::bfloat16: return gather_as<bfloat16>(work, begin, end);
    case Element::float16: return gather_as<float16>(work, begin, end);
    default: return gather_as<float>(work, begin, end);
  }
}

template <>
void refine_gather(const Gather<double>& work, int64_t begin, int64_t end) {
  gather_as<double>(work, begin, end);
}

void refine_widen(Element from, const void* values, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++)
    out[i] = from == Element::bfloat16  ? widen(static_cast<const bfloat16*>(values)[i])
             : from == Element::float16 ? widen(static_cast<const float16*>(values)[i])
                                        : static_cast<const float*>(values)[i];
}

template <>
void refine_scatter(const Scatter<float>& work) {
  switch (work.element) {
    case Element::bfloat16: return scatter_as<bfloat16>(work);
    case Element::float16: return scatter_as<float16>(work);
    default: return scatter_as<float>(work);
  }
}

template <>
void refine_scatter(const Scatter<double>& work) {
  scatter_as<double>(work);
}

template <class M, class T>
static void narrow_as(const T* values, int64_t count, void* out) {
  constexpr int lanes = Lanes<T>::count;
  M* to = static_cast<M*>(out);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) narrowing_store(to + i, load(values + i));
  if (i < count) partial_store<T>(to + i, partial_load<T>(values + i, count - i), count - i);
}

template <>
void refine_narrow(Element to, const float* values, int64_t count, void* out) {
  switch (to) {
    case Element::bfloat16: return narrow_as<bfloat16>(values, count, out);
    case Element::float16: return narrow_as<float16>(values, count, out);
    default: return narrow_as<float>(values, count, out);
  }
}

template <>
void refine_narrow(Element, const double* values, int64_t count, void* out) {
  narrow_as<double>(values, count, out);
}

}  // namespace amt::AMT_ISA
