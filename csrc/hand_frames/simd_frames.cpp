// hand_frames on the CPU, one hand a vector lane. A last group that is not full repeats its last hand, so that every
// hand goes through the same instructions wherever it stands in the batch. T is the tensors' type, C the arithmetic's.
#include "hand_frames/math.h"
#include "hand_frames/simd_frames.h"

namespace amt::AMT_ISA {
namespace {

using namespace amt::frames;

constexpr int small_bytes = 16;  // a short vector divides faster: for the last few hands, and for a batch of one
#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

template <class T, int Bytes>
struct Lanes {
  static constexpr int count = Bytes / sizeof(T);
  typedef T Vector __attribute__((vector_size(Bytes)));
};

// One tensor as a group of `filled` hands reads it: hand i in lane i.
template <class T, class C, int Bytes>
struct Reader {
  using V = typename Lanes<C, Bytes>::Vector;
  const T* first;
  FrameStrides strides;
  int filled;
};

template <class T, class C, int Bytes>
AMT_INLINE auto lanes(const Reader<T, C, Bytes>& r, const T* at) {
  typename Lanes<C, Bytes>::Vector v;
  for (int i = 0; i < Lanes<C, Bytes>::count; ++i) v[i] = at[(i < r.filled ? i : r.filled - 1) * r.strides.hand];
  return v;
}

template <class T, class C, int Bytes>
AMT_INLINE auto point(const Reader<T, C, Bytes>& r, int item) {
  const T* at = r.first + item * r.strides.item;
  return Vec3{lanes(r, at), lanes(r, at + r.strides.column), lanes(r, at + 2 * r.strides.column)};
}

template <class T, class C, int Bytes>
AMT_INLINE auto matrix(const Reader<T, C, Bytes>& r, int item) {
  const T* at = r.first + item * r.strides.item;
  const int64_t row = r.strides.row, column = r.strides.column;
  return Frame{Vec3{lanes(r, at), lanes(r, at + row), lanes(r, at + 2 * row)},
               Vec3{lanes(r, at + column), lanes(r, at + row + column), lanes(r, at + 2 * row + column)},
               Vec3{lanes(r, at + 2 * column), lanes(r, at + row + 2 * column), lanes(r, at + 2 * row + 2 * column)}};
}

// Rows of a buffer [K][lanes] become the hands' contiguous records of K numbers.
template <int K, class V, class T>
AMT_INLINE void store_records(const V* buffer, T* records, int filled) {
  for (int lane = 0; lane < filled; ++lane)
    for (int k = 0; k < K; ++k) records[lane * K + k] = static_cast<T>(buffer[k][lane]);
}

template <class V>
AMT_INLINE void put(V* at, Vec3<V> v) {
  at[0] = v.x, at[1] = v.y, at[2] = v.z;
}
template <class V>
AMT_INLINE void put(V* at, Frame<V> f) {
  at[0] = f.x.x, at[1] = f.y.x, at[2] = f.z.x;
  at[3] = f.x.y, at[4] = f.y.y, at[5] = f.z.y;
  at[6] = f.x.z, at[7] = f.y.z, at[8] = f.z.z;
}
template <class V>
AMT_INLINE Vec3<V> take(const V* at) {
  return {at[0], at[1], at[2]};
}

template <class T, int Bytes>
void forward(Reader<T, Exact, Bytes> joints, T* origins, T* rotations) {
  using V = typename Lanes<Exact, Bytes>::Vector;
  V origin[num_frames * 3], rotation[num_frames * 9];
  const Vec3<V> root_joint = point(joints, wrist);
  const Frame<V> palm = palm_of(root_joint, point(joints, index_base), point(joints, little_base)).frame;
  Vec3<V> sum = root_joint;
  for (int finger = 0; finger < num_fingers; ++finger) {
    Frame<V> frame = palm;
    Vec3<V> from = root_joint;
    for (int i = 0; i < bones_per_finger; ++i) {
      const Vec3<V> to = point(joints, joint_of(finger, i));
      if (i == 0) sum = sum + to;
      transport(frame, to - from);
      put(origin + 3 * frame_of(finger, i), to);
      put(rotation + 9 * frame_of(finger, i), frame);
      from = to;
    }
  }
  put(origin + 3 * wrist_frame, root_joint);
  put(origin + 3 * palm_frame, sum * constant<V>(1.0 / (1 + num_fingers)));
  put(rotation + 9 * wrist_frame, palm);
  put(rotation + 9 * palm_frame, palm);
  store_records<num_frames * 3>(origin, origins, joints.filled);
  store_records<num_frames * 9>(rotation, rotations, joints.filled);
}

template <class T, int Bytes>
void backward(Reader<T, T, Bytes> grad_origins, Reader<T, T, Bytes> grad_rotations, Reader<T, T, Bytes> joints,
              T* grad_joints) {
  using V = typename Lanes<T, Bytes>::Vector;
  V grad[num_joints * 3];
  const Vec3<V> root_joint = point(joints, wrist);
  const Palm<V> palm = palm_of(root_joint, point(joints, index_base), point(joints, little_base));
  const Vec3<V> center = point(grad_origins, palm_frame) * constant<V>(1.0 / (1 + num_fingers));
  Vec3<V> palm_torque = torque_of(palm.frame, matrix(grad_rotations, wrist_frame)) +
                        torque_of(palm.frame, matrix(grad_rotations, palm_frame));
  Vec3<V> grad_wrist = point(grad_origins, wrist_frame) + center;
  for (int finger = 0; finger < num_fingers; ++finger) {
    Frame<V> frame[bones_per_finger + 1] = {palm.frame};
    Bone<V> bone[bones_per_finger];
    Vec3<V> from = root_joint;
    for (int i = 0; i < bones_per_finger; ++i) {
      const Vec3<V> to = point(joints, joint_of(finger, i));
      frame[i + 1] = frame[i];
      bone[i] = transport(frame[i + 1], to - from);
      from = to;
    }
    Vec3<V> torque = zero3<V>(),
            grad_next_bone = zero3<V>();  // grad_next_bone: gradient of the bone that starts at this joint
    for (int i = bones_per_finger - 1; i >= 0; --i) {
      torque = torque + torque_of(frame[i + 1], matrix(grad_rotations, frame_of(finger, i)));
      const Vec3<V> grad_bone = transport_backward(bone[i], torque);
      Vec3<V> grad_joint = point(grad_origins, frame_of(finger, i)) + grad_bone - grad_next_bone;
      if (i == 0) grad_joint = grad_joint + center;
      put(grad + 3 * joint_of(finger, i), grad_joint);
      grad_next_bone = grad_bone;
    }
    grad_wrist = grad_wrist - grad_next_bone;
    palm_torque = palm_torque + torque;
  }
  Vec3<V> grad_index, grad_little;
  palm_backward(palm, palm_torque, grad_index, grad_little);
  put(grad + 3 * index_base, take(grad + 3 * index_base) + grad_index);
  put(grad + 3 * little_base, take(grad + 3 * little_base) + grad_little);
  put(grad + 3 * wrist, grad_wrist - grad_index - grad_little);
  store_records<num_joints * 3>(grad, grad_joints, joints.filled);
}

// Calls group(first, filled, bytes) for hands begin to end.
template <class T, class Function>
AMT_INLINE void for_each_group(int64_t begin, int64_t end, Function group) {
  for (int64_t first = begin; first < end;) {
    const int64_t left = end - first;
    if (left <= Lanes<T, small_bytes>::count) {
      group.template operator()<small_bytes>(first, static_cast<int>(left));
      return;
    }
    constexpr int count = Lanes<T, vector_bytes>::count;
    const int filled = left < count ? static_cast<int>(left) : count;
    group.template operator()<vector_bytes>(first, filled);
    first += filled;
  }
}

}  // namespace

template <class T>
void hand_frames(const T* joints, FrameStrides strides, T* origins, T* rotations, int64_t begin, int64_t end) {
  for_each_group<Exact>(begin, end, [&]<int Bytes>(int64_t first, int filled) {
    forward<T, Bytes>({joints + first * strides.hand, strides, filled}, origins + first * num_frames * 3,
                      rotations + first * num_frames * 9);
  });
}

template <class T>
void hand_frames_backward(const T* grad_origins, FrameStrides origin_strides, const T* grad_rotations,
                          FrameStrides rotation_strides, const T* joints, FrameStrides joint_strides, T* grad_joints,
                          int64_t begin, int64_t end) {
  for_each_group<T>(begin, end, [&]<int Bytes>(int64_t first, int filled) {
    backward<T, Bytes>({grad_origins + first * origin_strides.hand, origin_strides, filled},
                       {grad_rotations + first * rotation_strides.hand, rotation_strides, filled},
                       {joints + first * joint_strides.hand, joint_strides, filled},
                       grad_joints + first * num_joints * 3);
  });
}

#define AMT_INSTANTIATE(T)                                                                                       \
  template void hand_frames(const T*, FrameStrides, T*, T*, int64_t, int64_t);                                   \
  template void hand_frames_backward(const T*, FrameStrides, const T*, FrameStrides, const T*, FrameStrides, T*, \
                                     int64_t, int64_t);
AMT_INSTANTIATE(float)
AMT_INSTANTIATE(double)

}  // namespace amt::AMT_ISA
