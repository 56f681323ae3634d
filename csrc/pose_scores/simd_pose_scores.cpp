// pose_scores on the CPU: one pose a vector lane, one point after another, whose own map stays in L1.
#include "pose_scores/simd_pose_scores.h"

#include <cmath>
#include <type_traits>

#include "common/simd_vector.h"

namespace amt::AMT_ISA {
namespace {

using namespace amt::pose_scores;

template <class T>
struct Integers;
template <>
struct Integers<float> {
  typedef int32_t type __attribute__((vector_size(vector_bytes)));
};
template <>
struct Integers<double> {
  typedef int64_t type __attribute__((vector_size(vector_bytes)));
};
template <class T>
using Integer = typename Integers<T>::type;

AMT_INLINE Vector<double> vector_exp(Vector<double> x) {
  for (int i = 0; i < Lanes<double>::count; i++) x[i] = std::exp(x[i]);
  return x;
}

template <class T>
AMT_INLINE Vector<T> vector_sqrt(Vector<T> x) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>)
    return _mm512_maskz_sqrt_ps(0xffff, x);
  else
    return _mm512_maskz_sqrt_pd(0xff, x);
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>)
    return _mm256_sqrt_ps(x);
  else
    return _mm256_sqrt_pd(x);
#else
  for (int i = 0; i < Lanes<T>::count; i++) x[i] = std::sqrt(x[i]);
  return x;
#endif
}

template <class T>
AMT_INLINE Vector<T> gather(const T* from, Integer<T> index) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>)
    return _mm512_mask_i32gather_ps(__m512{}, 0xffff, reinterpret_cast<__m512i>(index), from, 4);
  else
    return _mm512_mask_i64gather_pd(__m512d{}, 0xff, reinterpret_cast<__m512i>(index), from, 8);
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>)
    return _mm256_i32gather_ps(from, reinterpret_cast<__m256i>(index), 4);
  else
    return _mm256_i64gather_pd(from, reinterpret_cast<__m256i>(index), 8);
#else
  Vector<T> out;
  for (int i = 0; i < Lanes<T>::count; i++) out[i] = from[index[i]];
  return out;
#endif
}

// One point under the poses of one vector.
template <class T>
struct Seen {
  Vector<T> position[3], normal[3];  // in the camera's frame
  Vector<T> facing, weight;          // the cosine to the camera; what the point counts
};

template <class T>
AMT_INLINE Seen<T> seen_from(const Image<T>& image, int64_t padded, int64_t n, int64_t pose) {
  const T *p = image.points + 3 * n, *q = image.normals + 3 * n, *m = image.poses + pose;
  Seen<T> s;
  Vector<T> square{}, product{};
#pragma GCC unroll 3
  for (int i = 0; i < 3; i++) {
    const Vector<T> x = load(m + 3 * i * padded), y = load(m + (3 * i + 1) * padded),
                    z = load(m + (3 * i + 2) * padded);
    s.position[i] = x * p[0] + y * p[1] + z * p[2] + load(m + (9 + i) * padded);
    s.normal[i] = x * q[0] + y * q[1] + z * q[2];
    square += s.position[i] * s.position[i];
    product += s.position[i] * s.normal[i];
  }
  constexpr T least = smallest_square;
  s.facing = -product / vector_sqrt<T>(square < least ? broadcast(least) : square);
  const Vector<T> x = (s.facing - T(least_facing)) * T(steepness);
  const Vector<T> e = vector_exp(x < T(0) ? x : -x);
  s.weight = (x < T(0) ? e : broadcast(T(1))) / (T(1) + e);
  return s;
}

template <class T>
AMT_INLINE Vector<T> at_rim(Vector<T> facing) {
  return vector_exp(facing * facing * T(-1 / (rim * rim)));
}

// Bilinear taps: the top left cell, and the shares of it and of its neighbours. A map whose rows and columns do not end
// in a cell of padding has steps to the neighbours, which are 0 at the border.
template <class T>
struct Taps {
  Integer<T> column, row;
  Integer<T> right, down;
  Vector<T> share[4];  // top left, top right, bottom left, bottom right
};

// What is NaN lies in cell 0, as F.grid_sample has it.
template <class T>
AMT_INLINE void along(Vector<T> at, int64_t size, Integer<T>* first, Vector<T>* fraction) {
  const T last = static_cast<T>(size - 1);
  at = at > T(0) ? at : Vector<T>{};
  at = at < last ? at : broadcast(last);
  *first = __builtin_convertvector(at, Integer<T>);
  *fraction = at - __builtin_convertvector(*first, Vector<T>);
}

template <class T>
AMT_INLINE Taps<T> taps_of(const Seen<T>& s, const T* camera, const Shape& shape) {
  constexpr T nearest = nearest_depth;
  const Vector<T> z = s.position[2] < nearest ? broadcast(nearest) : s.position[2];
  const Vector<T> u = s.position[0] / z, v = s.position[1] / z;
  Taps<T> t;
  Vector<T> x, y;
  along<T>(u * camera[0] + v * camera[1] + camera[2], shape.width, &t.column, &x);
  along<T>(u * camera[3] + v * camera[4] + camera[5], shape.height, &t.row, &y);
  using I = std::remove_reference_t<decltype(t.column[0])>;
  const I width = static_cast<I>(shape.width), height = static_cast<I>(shape.height);
  t.right = (t.column < width - 1) & 1;
  t.down = (t.row < height - 1) & width;
  t.share[0] = (T(1) - x) * (T(1) - y), t.share[1] = x * (T(1) - y), t.share[2] = (T(1) - x) * y, t.share[3] = x * y;
  return t;
}

// A sample of a point's own map [H, W].
template <class T>
AMT_INLINE Vector<T> own_sample(const T* map, const Taps<T>& t, const Shape& shape) {
  using I = std::remove_reference_t<decltype(t.column[0])>;
  const Integer<T> top = t.row * static_cast<I>(shape.width) + t.column, bottom = top + t.down;
  return gather(map, top) * t.share[0] + gather(map, top + t.right) * t.share[1] + gather(map, bottom) * t.share[2] +
         gather(map, bottom + t.right) * t.share[3];
}

// Samples of the padded surface [H + 1, W + 1, 4]. A tap of a lane is one load of its four channels: a quarter of what
// gathers of single numbers load. The taps are blended before the channels of different lanes are brought together.
#if defined(__AVX2__)
#if defined(__AVX512F__)
// The four channels of lanes `lane`, lane + 4, lane + 8, lane + 12.
AMT_INLINE Vector<float> quads(const float* from, const int32_t* index, int lane) {
  const auto at = [&](int i) __attribute__((always_inline)) { return _mm_loadu_ps(from + index[lane + 4 * i]); };
  const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(at(0)), at(1), 1);
  const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(at(2)), at(3), 1);
  return _mm512_maskz_insertf32x8(0xffff, _mm512_castps256_ps512(low), high, 1);
}
template <int Lane>
AMT_INLINE Vector<float> each(Vector<float> x) {
  return _mm512_maskz_permute_ps(0xffff, x, Lane * 0x55);
}
AMT_INLINE Vector<float> low_words(Vector<float> a, Vector<float> b) { return _mm512_maskz_unpacklo_ps(0xffff, a, b); }
AMT_INLINE Vector<float> high_words(Vector<float> a, Vector<float> b) { return _mm512_maskz_unpackhi_ps(0xffff, a, b); }
AMT_INLINE Vector<float> low_pairs(Vector<float> a, Vector<float> b) {
  return _mm512_maskz_shuffle_ps(0xffff, a, b, 0x44);
}
AMT_INLINE Vector<float> high_pairs(Vector<float> a, Vector<float> b) {
  return _mm512_maskz_shuffle_ps(0xffff, a, b, 0xee);
}
#else
AMT_INLINE Vector<float> quads(const float* from, const int32_t* index, int lane) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(from + index[lane])),
                              _mm_loadu_ps(from + index[lane + 4]), 1);
}
template <int Lane>
AMT_INLINE Vector<float> each(Vector<float> x) {
  return _mm256_permute_ps(x, Lane * 0x55);
}
AMT_INLINE Vector<float> low_words(Vector<float> a, Vector<float> b) { return _mm256_unpacklo_ps(a, b); }
AMT_INLINE Vector<float> high_words(Vector<float> a, Vector<float> b) { return _mm256_unpackhi_ps(a, b); }
AMT_INLINE Vector<float> low_pairs(Vector<float> a, Vector<float> b) { return _mm256_shuffle_ps(a, b, 0x44); }
AMT_INLINE Vector<float> high_pairs(Vector<float> a, Vector<float> b) { return _mm256_shuffle_ps(a, b, 0xee); }
#endif

template <int Lane>
AMT_INLINE Vector<float> blended(const float* surface, int64_t row, const int32_t* index,
                                 const Vector<float> (&share)[4]) {
  return quads(surface, index, Lane) * each<Lane>(share[0]) +
         quads(surface + surface_channels, index, Lane) * each<Lane>(share[1]) +
         quads(surface + row, index, Lane) * each<Lane>(share[2]) +
         quads(surface + row + surface_channels, index, Lane) * each<Lane>(share[3]);
}

AMT_INLINE void surface_samples(const float* surface, const Taps<float>& t, const Shape& shape,
                                Vector<float> (&shown)[surface_channels]) {
  const int32_t row = static_cast<int32_t>((shape.width + 1) * surface_channels);
  alignas(vector_bytes) int32_t index[Lanes<float>::count];
  *reinterpret_cast<Integer<float>*>(index) = t.row * row + t.column * 4;
  const Vector<float> a = blended<0>(surface, row, index, t.share), b = blended<1>(surface, row, index, t.share),
                      c = blended<2>(surface, row, index, t.share), d = blended<3>(surface, row, index, t.share);
  const Vector<float> ab_low = low_words(a, b), cd_low = low_words(c, d), ab_high = high_words(a, b),
                      cd_high = high_words(c, d);
  shown[0] = low_pairs(ab_low, cd_low), shown[1] = high_pairs(ab_low, cd_low);
  shown[2] = low_pairs(ab_high, cd_high), shown[3] = high_pairs(ab_high, cd_high);
}
#endif

template <class T>
AMT_INLINE void surface_samples(const T* surface, const Taps<T>& t, const Shape& shape,
                                Vector<T> (&shown)[surface_channels]) {
  const int64_t row = (shape.width + 1) * surface_channels;
  alignas(vector_bytes) T numbers[surface_channels][Lanes<T>::count];
  for (int i = 0; i < Lanes<T>::count; i++) {
    const T* at = surface + t.row[i] * row + t.column[i] * surface_channels;
#pragma GCC unroll 4
    for (int c = 0; c < surface_channels; c++)
      numbers[c][i] = at[c] * t.share[0][i] + at[c + surface_channels] * t.share[1][i] + at[c + row] * t.share[2][i] +
                      at[c + row + surface_channels] * t.share[3][i];
  }
#pragma GCC unroll 4
  for (int c = 0; c < surface_channels; c++) shown[c] = load(numbers[c]);
}

template <class T>
AMT_INLINE void clear(T* first, int64_t count) {
  for (int64_t k = 0; k < count; k++) first[k] = 0;
}

}  // namespace

template <class T>
void pose_scores_forward(const Image<T>& image, const Shape& shape, const T* colour, const T* surface, int64_t begin,
                         int64_t end, T* scores, T* weights) {
  const int64_t padded = shape.padded_poses;
  clear(scores, end - begin);
  clear(weights, end - begin);
  for (int64_t n = 0; n < shape.points; n++) {
    const T* own = colour + n * shape.cells;
    for (int64_t pose = begin; pose < end; pose += Lanes<T>::count) {
      const Seen<T> s = seen_from(image, padded, n, pose);
      const Taps<T> taps = taps_of(s, image.camera, shape);
      Vector<T> score = own_sample(own, taps, shape), shown[surface_channels];
      surface_samples(surface, taps, shape, shown);
      score +=
          shown[0] * s.normal[0] + shown[1] * s.normal[1] + shown[2] * s.normal[2] + shown[3] * at_rim<T>(s.facing);
      store(scores + pose - begin, load(scores + pose - begin) + score * s.weight);
      store(weights + pose - begin, load(weights + pose - begin) + s.weight);
    }
  }
  for (int64_t k = 0; k < end - begin; k++) scores[k] /= weights[k] < T(1) ? T(1) : weights[k];
}

template <class T>
void pose_scores_weights(const Image<T>& image, const Shape& shape, int64_t begin, int64_t end, T* weights) {
  const int64_t padded = shape.padded_poses;
  for (int64_t pose = begin; pose < end; pose += Lanes<T>::count) {
    Vector<T> sum{};
    for (int64_t n = 0; n < shape.points; n++) sum += seen_from(image, padded, n, pose).weight;
    store(weights + pose - begin, sum < T(1) ? broadcast(T(1)) : sum);
  }
}

template <class T>
void pose_scores_backward(const Image<T>& image, const Shape& shape, const T* grad_sums, int64_t begin, int64_t end,
                          T* grad_colour, T* grad_surface) {
  typedef T Quad __attribute__((vector_size(surface_channels * sizeof(T)), aligned(sizeof(T)), may_alias));
  constexpr int lanes = Lanes<T>::count;
  const int64_t padded = shape.padded_poses;
  clear(grad_surface, shape.cells * surface_channels);
  for (int64_t n = begin; n < end; n++) {
    T* own = grad_colour + n * shape.cells;
    clear(own, shape.cells);
    for (int64_t pose = 0; pose < padded; pose += lanes) {
      const Seen<T> s = seen_from(image, padded, n, pose);
      const Taps<T> taps = taps_of(s, image.camera, shape);
      const Vector<T> grad = load(grad_sums + pose) * s.weight;
      Vector<T> grad_shown[surface_channels] = {grad * s.normal[0], grad * s.normal[1], grad * s.normal[2],
                                                grad * at_rim<T>(s.facing)};
      // Two poses may share a cell: lane by lane.
      const int64_t left = shape.poses - pose, count = left < lanes ? left : lanes;
      for (int64_t k = 0; k < count; k++) {
        const int64_t first = taps.row[k] * shape.width + taps.column[k];
        const Quad shown = {grad_shown[0][k], grad_shown[1][k], grad_shown[2][k], grad_shown[3][k]};
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
          const int64_t cell = first + (i & 1 ? taps.right[k] : 0) + (i & 2 ? taps.down[k] : 0);
          own[cell] += grad[k] * taps.share[i][k];
          *reinterpret_cast<Quad*>(grad_surface + cell * surface_channels) += shown * taps.share[i][k];
        }
      }
    }
  }
}

#define AMT_INSTANTIATE(T)                                                                                        \
  template void pose_scores_forward(const Image<T>&, const Shape&, const T*, const T*, int64_t, int64_t, T*, T*); \
  template void pose_scores_weights(const Image<T>&, const Shape&, int64_t, int64_t, T*);                         \
  template void pose_scores_backward(const Image<T>&, const Shape&, const T*, int64_t, int64_t, T*, T*);
AMT_INSTANTIATE(float)
AMT_INSTANTIATE(double)

}  // namespace amt::AMT_ISA
