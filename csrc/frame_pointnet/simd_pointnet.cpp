// frame_pointnet on the CPU. About half of a PointNet's hidden units are cut off by the ReLU at any point, but others
// at every point: forward lists the units that are active at either of two neighbouring points and adds up only their
// columns of w2, with the outputs in vector registers. Two points share each load of a column, which is what keeps the
// multipliers busy; a list is at most the whole layer, so a network without zeros costs the dense product and no more.
#include <bit>

#include "frame_pointnet/simd_pointnet.h"
#include "common/host_device.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace amt::AMT_ISA {
namespace {

// max_vectors: sums that one of two points holds; both sets, a column and two values must fit the register file.
#if defined(__AVX512F__)
constexpr int vector_bytes = 64, max_vectors = 8;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32, max_vectors = 6;
#else
constexpr int vector_bytes = 16, max_vectors = 4;
#endif

template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(vector_bytes), may_alias));
  typedef int32_t Index __attribute__((vector_size(vector_bytes), may_alias));
  using Integer = int32_t;
};
template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(vector_bytes), may_alias));
  typedef int64_t Index __attribute__((vector_size(vector_bytes), may_alias));
  using Integer = int64_t;
};
template <class T>
constexpr int64_t lanes = vector_bytes / sizeof(T);
template <class T>
using Vector = typename Lanes<T>::Vector;
template <class T>
using Integer = typename Lanes<T>::Integer;

// Keeps the compiler from reading a vector again from memory at its second use: load ports are the bottleneck.
template <class V>
AMT_INLINE void in_register(V& vector) {
#if defined(__x86_64__)
  asm("" : "+v"(vector));
#endif
}

// Keeps the compiler from computing one address for each vector of a column: it runs out of registers over that.
template <class P>
AMT_INLINE void one_register(P& address) {
#if defined(__x86_64__)
  asm("" : "+r"(address));
#endif
}

// hidden = folded[0] x + folded[1] y + folded[2] z + folded[3] with (x, y, z) = point - origin: the rotation is inside.
template <class T>
AMT_INLINE void fold(const T* rotation, const T* w1, const T* b1, int64_t hidden, T* folded) {
  const int64_t row = padded(hidden);
  for (int64_t k = 0; k < hidden; ++k) {
    for (int i = 0; i < 3; ++i)
      folded[i * row + k] =
          (rotation[3 * i] * w1[3 * k] + rotation[3 * i + 1] * w1[3 * k + 1] + rotation[3 * i + 2] * w1[3 * k + 2]) /
          static_cast<T>(pointnet_unit);
    folded[3 * row + k] = b1[k];
  }
  for (int64_t k = hidden; k < row; ++k)
    for (int i = 0; i < 4; ++i) folded[i * row + k] = 0;
}

template <class T>
AMT_INLINE const T* point_of(const PointSet<T>& set, int64_t image, int64_t n) {
  return set.points + image * set.image_stride + n * set.point_stride;
}

template <class T>
AMT_INLINE Vector<T> hidden_units(const T* folded, int64_t row, int64_t k, const T* offset) {
  auto at = [&](int i) { return *reinterpret_cast<const Vector<T>*>(folded + i * row + k); };
  return at(0) * offset[0] + (at(1) * offset[1] + (at(2) * offset[2] + at(3)));
}

// Two points: their numbers, and the units that are active at one of them at least, with the values at both. A unit is
// listed as where its column would begin in columns of two vectors, in bytes: a column of any width is one shift or lea
// away.
constexpr int unit_shift = std::countr_zero(2u * vector_bytes);
template <class T>
struct Pair {
  int64_t first, second, count;
  const T* values[2];
  const Integer<T>* units;
  bool finite;  // every value is below value_bound, and none is NaN
};

// Below both bounds a sum over the units stays finite in float32, so that it cannot become NaN.
constexpr float finite_value = 1e28f, finite_weight = 1e6f;

#if defined(__AVX2__) && !defined(__AVX512F__)
// For each set of lanes, their numbers: what _mm512_maskz_compress does, in a permutation.
struct LanesOf {
  alignas(64) uint8_t set[256][8] = {};
  constexpr LanesOf() {
    for (int mask = 0; mask < 256; ++mask)
      for (int lane = 0, count = 0; lane < 8; ++lane)
        if (mask >> lane & 1) set[mask][count++] = static_cast<uint8_t>(lane);
  }
};
constexpr LanesOf lanes_of;
#endif

template <class T>
AMT_INLINE void list_active(const T* folded, int64_t row, const T* offset, T* values, T* others, Integer<T>* units,
                            Pair<T>& pair) {
  int64_t count = 0;
  bool finite = true;
  for (int64_t k = 0; k < row; k += lanes<T>) {
    const Vector<T> h = hidden_units(folded, row, k, offset), g = hidden_units(folded, row, k, offset + 3);
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {
      const __m512 limit = _mm512_set1_ps(finite_value), zero = _mm512_setzero_ps();
      const __m512i numbers = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(k)),
                                               _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
      const __m512 a = _mm512_max_ps(zero, reinterpret_cast<__m512>(h));  // NaN stays: it is the second operand
      const __m512 b = _mm512_max_ps(zero, reinterpret_cast<__m512>(g));
      const __mmask16 active = _mm512_cmp_ps_mask(a, zero, _CMP_NEQ_UQ) | _mm512_cmp_ps_mask(b, zero, _CMP_NEQ_UQ);
      finite &= (_mm512_cmp_ps_mask(a, limit, _CMP_NLT_UQ) | _mm512_cmp_ps_mask(b, limit, _CMP_NLT_UQ)) == 0;
      _mm512_storeu_ps(values + count, _mm512_maskz_compress_ps(active, a));
      _mm512_storeu_ps(others + count, _mm512_maskz_compress_ps(active, b));
      _mm512_storeu_si512(units + count, _mm512_slli_epi32(_mm512_maskz_compress_epi32(active, numbers), unit_shift));
      count += __builtin_popcount(active);
      continue;
    }
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) {
      const __m256 limit = _mm256_set1_ps(finite_value), zero = _mm256_setzero_ps();
      const __m256 a = _mm256_max_ps(zero, reinterpret_cast<__m256>(h));  // NaN stays: it is the second operand
      const __m256 b = _mm256_max_ps(zero, reinterpret_cast<__m256>(g));
      const int active =
          _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(a, zero, _CMP_NEQ_UQ), _mm256_cmp_ps(b, zero, _CMP_NEQ_UQ)));
      finite &= _mm256_movemask_ps(
                    _mm256_or_ps(_mm256_cmp_ps(a, limit, _CMP_NLT_UQ), _mm256_cmp_ps(b, limit, _CMP_NLT_UQ))) == 0;
      const __m256i listed =
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(lanes_of.set[active])));
      _mm256_storeu_ps(values + count, _mm256_permutevar8x32_ps(a, listed));
      _mm256_storeu_ps(others + count, _mm256_permutevar8x32_ps(b, listed));
      const __m256i numbers = _mm256_add_epi32(listed, _mm256_set1_epi32(static_cast<int>(k)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(units + count), _mm256_slli_epi32(numbers, unit_shift));
      count += __builtin_popcount(active);
      continue;
    }
#endif
    T a[lanes<T>], b[lanes<T>];
    Integer<T> listed[lanes<T>];
    const Vector<T> cut_h = h <= 0 ? Vector<T>{} : h, cut_g = g <= 0 ? Vector<T>{} : g;
    const auto active = (cut_h != 0) | (cut_g != 0), saturated = ~((cut_h < finite_value) & (cut_g < finite_value));
    __builtin_memcpy(a, &cut_h, sizeof a);
    __builtin_memcpy(b, &cut_g, sizeof b);
    __builtin_memcpy(listed, &active, sizeof listed);
    for (int64_t lane = 0; lane < lanes<T>; ++lane) {
      values[count] = a[lane];
      others[count] = b[lane];
      units[count] = static_cast<Integer<T>>(k + lane) << unit_shift;
      count -= listed[lane];  // a true lane is -1
      finite &= saturated[lane] == 0;
    }
  }
  pair.count = count;
  pair.finite = finite;
}

// One block of features: the points of the pairs against the maxima so far.
template <class T, int Vectors>
AMT_INLINE void take_maxima(const Pair<T>* pairs, int num_pairs, bool finite_weights, const T* w2, T* best,
                            Integer<T>* winner) {
  using V = Vector<T>;
  using I = typename Lanes<T>::Index;
  V* most = reinterpret_cast<V*>(best);
  I* who = reinterpret_cast<I*>(winner);
  one_register(w2);
  for (int p = 0; p < num_pairs; ++p) {
    const Pair<T>& pair = pairs[p];
    V sums[2][Vectors] = {};
    for (int64_t i = 0; i < pair.count; ++i) {
      const T value = pair.values[0][i], other = pair.values[1][i];
      int64_t at = Vectors == 1 ? pair.units[i] / 2 : int64_t(pair.units[i]) * (Vectors / 2);
      one_register(at);
      const V* column = reinterpret_cast<const V*>(reinterpret_cast<const char*>(w2) + at);
#pragma GCC unroll 8
      for (int j = 0; j < Vectors; ++j) {
        V weights = column[j];
        in_register(weights);
        sums[0][j] += value * weights;
        sums[1][j] += other * weights;
      }
    }
    const bool finite = pair.finite && finite_weights;
    const I points[2] = {I{} + static_cast<Integer<T>>(pair.first), I{} + static_cast<Integer<T>>(pair.second)};
#pragma GCC unroll 8
    for (int j = 0; j < Vectors; ++j) {
      V largest = most[j];
      I point = who[j];
#pragma GCC unroll 2
      for (int side = 0; side < 2; ++side) {
        const V sum = sums[side][j];
        auto wins = sum > largest;
        if (!finite) wins |= sum != sum;  // NaN wins and stays
        largest = wins ? sum : largest;
        point = wins ? points[side] : point;
      }
      most[j] = largest;
      who[j] = point;
    }
  }
}

// Calls block<vectors>(first feature) for blocks that cover the features.
template <class T, class Function>
AMT_INLINE void for_each_block(int64_t features, Function block) {
  int64_t d = 0;
  for (; features - d > 4 * lanes<T>; d += max_vectors * lanes<T>) block.template operator()<max_vectors>(d);
  if (features - d > 2 * lanes<T>) block.template operator()<4>(d), d += 4 * lanes<T>;
  if (features - d > lanes<T>) block.template operator()<2>(d), d += 2 * lanes<T>;
  if (features - d > 0) block.template operator()<1>(d);
}

}  // namespace

template <class T>
bool pointnet_pack(const T* w2, PointnetShape shape, T* packed) {
  bool finite = true;
  for_each_block<T>(shape.features, [&]<int Vectors>(int64_t first) {
    constexpr int64_t width = Vectors * lanes<T>;
    T* block = packed + first * shape.hidden;
    for (int64_t k = 0; k < shape.hidden; ++k)
      for (int64_t d = 0; d < width; ++d)
        block[k * width + d] = first + d < shape.features ? w2[(first + d) * shape.hidden + k] : T(0);
    for (int64_t i = 0; i < shape.hidden * width; ++i) finite &= block[i] < finite_weight && block[i] > -finite_weight;
  });
  return finite;
}

template <class T>
void pointnet_forward(const PointnetInputs<T>& in, PointnetShape shape, PointOrder order, const T* packed,
                      bool finite_weights, T* features, int32_t* winners, T* scratch, int64_t begin, int64_t end) {
  const int64_t row = padded(shape.hidden), wide = padded_features(shape.features), list = row + max_lanes;
  T* folded = scratch;
  T* values = folded + 4 * row;
  T* best = values + pairs_per_tile * 3 * list;
  auto* winner = reinterpret_cast<Integer<T>*>(best + wide);
  for (int64_t pair = begin; pair < end; ++pair) {
    const int64_t image = pair / shape.frames, frame = pair % shape.frames;
    const T* origin = in.origins + pair * 3;
    fold(in.rotations + pair * 9, in.w1, in.b1 + frame * shape.hidden, shape.hidden, folded);
    const int32_t* order_of_image = order.points + image * shape.points;
    const int64_t count = order.count[image];
    if (count == 0) {
      for (int64_t d = 0; d < shape.features; ++d) {
        features[pair * shape.features + d] = 0;
        winners[pair * shape.features + d] = -1;
      }
      continue;
    }
    for (int64_t d = 0; d < wide; ++d) best[d] = -__builtin_inf(), winner[d] = order_of_image[0];
    for (int64_t n = 0; n < count;) {
      Pair<T> pairs[pairs_per_tile];
      int num_pairs = 0;
      for (; n < count && num_pairs < pairs_per_tile; ++num_pairs, n += 2) {
        Pair<T>& two = pairs[num_pairs];
        two.first = order_of_image[n];
        two.second =
            n + 1 < count ? order_of_image[n + 1] : two.first;  // a last point alone stands twice: no maximum changes
        T offset[6];
        const T *point = point_of(in.set, image, two.first), *other = point_of(in.set, image, two.second);
        for (int i = 0; i < 3; ++i) {
          offset[i] = point[i * in.set.axis_stride] - origin[i];
          offset[3 + i] = other[i * in.set.axis_stride] - origin[i];
        }
        T* at = values + num_pairs * 3 * list;
        auto* units = reinterpret_cast<Integer<T>*>(at + 2 * list);
        two.values[0] = at, two.values[1] = at + list, two.units = units;
        list_active(folded, row, offset, at, at + list, units, two);
      }
      for_each_block<T>(shape.features, [&]<int Vectors>(int64_t d) {
        take_maxima<T, Vectors>(pairs, num_pairs, finite_weights, packed + d * shape.hidden, best + d, winner + d);
      });
    }
    for (int64_t d = 0; d < shape.features; ++d) {
      features[pair * shape.features + d] = best[d] + in.b2[d];
      winners[pair * shape.features + d] = static_cast<int32_t>(winner[d]);
    }
  }
}

template <class T>
void pointnet_backward(const PointnetInputs<T>& in, PointnetShape shape, const T* grad_features, const int32_t* winners,
                       const PointnetGradients<T>& out, T* scratch, int32_t* slots, int64_t begin, int64_t end) {
  using V = Vector<T>;
  const int64_t row = padded(shape.hidden), most = shape.points < shape.features ? shape.points : shape.features;
  T* folded = scratch;
  T* grad_folded = folded + 4 * row;
  T* hidden = grad_folded + 4 * row;
  T* grad_hidden = hidden + most * row;
  T* offsets = grad_hidden + most * row;
  auto vectors = [](T* at) { return reinterpret_cast<V*>(at); };
  for (int64_t pair = begin * shape.frames; pair < end * shape.frames; ++pair) {
    const int64_t image = pair / shape.frames, frame = pair % shape.frames;
    const T* origin = in.origins + pair * 3;
    const T* rotation = in.rotations + pair * 9;
    const T* grad = grad_features + pair * shape.features;
    const int32_t* winner = winners + pair * shape.features;
    fold(rotation, in.w1, in.b1 + frame * shape.hidden, shape.hidden, folded);

    // the hidden units of every winning point, once, and their gradient
    int64_t num_winners = 0;
    for (int64_t d = 0; d < shape.features; ++d) {
      const T g = grad[d];
      out.b2[d] += winner[d] < 0 ? T(0) : g;
      if (winner[d] < 0) continue;
      int32_t& slot = slots[winner[d]];
      if (slot < 0) {
        slot = static_cast<int32_t>(num_winners++);
        const T* point = point_of(in.set, image, winner[d]);
        T* offset = offsets + 4 * slot;
        for (int i = 0; i < 3; ++i) offset[i] = point[i * in.set.axis_stride] - origin[i];
        for (int64_t k = 0; k < row; k += lanes<T>) {
          const V h = hidden_units(folded, row, k, offset);
          *vectors(hidden + slot * row + k) = h <= 0 ? V{} : h;
          *vectors(grad_hidden + slot * row + k) = V{};
        }
      }
      const T *weights = in.w2 + d * shape.hidden, *units = hidden + slot * row;
      T *grad_units = grad_hidden + slot * row, *grad_weights = out.w2 + d * shape.hidden;
      for (int64_t k = 0; k < shape.hidden; ++k) grad_units[k] += g * weights[k];
      for (int64_t k = 0; k < shape.hidden; ++k) grad_weights[k] += g * units[k];
    }

    for (int64_t k = 0; k < 4 * row; ++k) grad_folded[k] = 0;
    T grad_origin[3] = {0, 0, 0};
    for (int64_t d = 0; d < shape.features; ++d) {
      if (winner[d] < 0 || slots[winner[d]] < 0) continue;  // the point's gradient is already written
      const int64_t slot = slots[winner[d]];
      slots[winner[d]] = -1;
      const T* offset = offsets + 4 * slot;
      V grad_point[3] = {};
      for (int64_t k = 0; k < row; k += lanes<T>) {
        const V h = *vectors(hidden + slot * row + k);
        const V g = h == 0 ? V{} : *vectors(grad_hidden + slot * row + k);
        for (int i = 0; i < 3; ++i) {
          grad_point[i] += g * *vectors(folded + i * row + k);
          *vectors(grad_folded + i * row + k) += g * offset[i];
        }
        *vectors(grad_folded + 3 * row + k) += g;
      }
      for (int i = 0; i < 3; ++i) {
        T sum = 0;
        for (int64_t lane = 0; lane < lanes<T>; ++lane) sum += grad_point[i][lane];
        out.points[(image * shape.points + winner[d]) * 3 + i] += sum;
        grad_origin[i] -= sum;
      }
    }

    T grad_rotation[9] = {};
    for (int64_t k = 0; k < shape.hidden; ++k) {
      out.b1[frame * shape.hidden + k] += grad_folded[3 * row + k];
      for (int j = 0; j < 3; ++j) {
        T grad_w1 = 0;
        for (int i = 0; i < 3; ++i) {
          const T g = grad_folded[i * row + k] / static_cast<T>(pointnet_unit);
          grad_w1 += g * rotation[3 * i + j];
          grad_rotation[3 * i + j] += g * in.w1[3 * k + j];
        }
        out.w1[3 * k + j] += grad_w1;
      }
    }
    for (int i = 0; i < 3; ++i) out.origins[pair * 3 + i] = grad_origin[i];
    for (int i = 0; i < 9; ++i) out.rotations[pair * 9 + i] = grad_rotation[i];
  }
}

#define AMT_INSTANTIATE(T)                                                                                          \
  template bool pointnet_pack(const T*, PointnetShape, T*);                                                         \
  template void pointnet_forward(const PointnetInputs<T>&, PointnetShape, PointOrder, const T*, bool, T*, int32_t*, \
                                 T*, int64_t, int64_t);                                                             \
  template void pointnet_backward(const PointnetInputs<T>&, PointnetShape, const T*, const int32_t*,                \
                                  const PointnetGradients<T>&, T*, int32_t*, int64_t, int64_t);
AMT_INSTANTIATE(float)
AMT_INSTANTIATE(double)

}  // namespace amt::AMT_ISA
