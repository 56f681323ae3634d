// The CUDA kernels of hand_frames: eight lanes a hand, one for each finger and one for the palm; two idle. The
// arithmetic is in math.h. Launch latency is most of the cost, so the fingers run side by side.
#pragma once

#include <cstdint>

#if defined(AMT_CUDA_ON_HOST)
#include "cuda_on_host.h"
#endif

#include "hand_frames/math.h"
#include "hand_frames/strides.h"

namespace amt::frames::cuda {

constexpr int lanes_per_hand = 8, palm_lane = num_fingers, threads_per_block = 128;

template <class T>
__device__ Vec3<T> point(const T* hand, FrameStrides s, int item) {
  const T* at = hand + item * s.item;
  return {at[0], at[s.column], at[2 * s.column]};
}

template <class T>
__device__ Frame<T> matrix(const T* hand, FrameStrides s, int item) {
  const T* at = hand + item * s.item;
  const int64_t r = s.row, c = s.column;
  return {{at[0], at[r], at[2 * r]}, {at[c], at[r + c], at[2 * r + c]}, {at[2 * c], at[r + 2 * c], at[2 * r + 2 * c]}};
}

template <class T, class C>
__device__ void put(T* at, Vec3<C> v) {
  at[0] = static_cast<T>(v.x), at[1] = static_cast<T>(v.y), at[2] = static_cast<T>(v.z);
}

template <class T, class C>
__device__ void put(T* at, const Frame<C>& f) {
  put(at, Vec3<C>{f.x.x, f.y.x, f.z.x});
  put(at + 3, Vec3<C>{f.x.y, f.y.y, f.z.y});
  put(at + 6, Vec3<C>{f.x.z, f.y.z, f.z.z});
}

template <class T>
__device__ Vec3<Exact> exact_point(const T* hand, FrameStrides s, int item) {
  const Vec3<T> p = point(hand, s, item);
  return {p.x, p.y, p.z};
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    forward_kernel(const T* joints, FrameStrides strides, T* origins, T* rotations, int64_t hands) {
  const int64_t thread = blockIdx.x * int64_t(threads_per_block) + threadIdx.x, hand = thread / lanes_per_hand;
  const int lane = threadIdx.x % lanes_per_hand;
  if (hand >= hands || lane > palm_lane) return;
  joints += hand * strides.hand;
  origins += hand * num_frames * 3;
  rotations += hand * num_frames * 9;
  const Vec3<Exact> root_joint = exact_point(joints, strides, wrist);
  Frame<Exact> frame =
      palm_of(root_joint, exact_point(joints, strides, index_base), exact_point(joints, strides, little_base)).frame;
  if (lane == palm_lane) {
    Vec3<Exact> sum = root_joint;
    for (int finger = 0; finger < num_fingers; ++finger) sum = sum + exact_point(joints, strides, joint_of(finger, 0));
    put(origins + 3 * wrist_frame, root_joint);
    put(origins + 3 * palm_frame, sum * (1.0 / (1 + num_fingers)));
    put(rotations + 9 * wrist_frame, frame);
    put(rotations + 9 * palm_frame, frame);
    return;
  }
  Vec3<Exact> from = root_joint;
#pragma unroll
  for (int i = 0; i < bones_per_finger; ++i) {
    const Vec3<Exact> to = exact_point(joints, strides, joint_of(lane, i));
    transport(frame, to - from);
    put(origins + 3 * frame_of(lane, i), to);
    put(rotations + 9 * frame_of(lane, i), frame);
    from = to;
  }
}

// The sum over a hand's lanes, the same in all of them and in the same order every time.
template <class T>
__device__ Vec3<T> sum_over_lanes(Vec3<T> v) {
#pragma unroll
  for (int step = 1; step < lanes_per_hand; step *= 2)
    v = v + Vec3<T>{__shfl_xor_sync(~0u, v.x, step), __shfl_xor_sync(~0u, v.y, step), __shfl_xor_sync(~0u, v.z, step)};
  return v;
}

template <class T>
__global__ void __launch_bounds__(threads_per_block)
    backward_kernel(const T* grad_origins, FrameStrides origin_strides, const T* grad_rotations,
                    FrameStrides rotation_strides, const T* joints, FrameStrides joint_strides, T* grad_joints,
                    int64_t hands) {
  const int64_t thread = blockIdx.x * int64_t(threads_per_block) + threadIdx.x, number = thread / lanes_per_hand;
  const bool there = number < hands;
  const int64_t hand = there ? number : hands - 1;  // lanes past the end stay for the sums and write nothing
  const int lane = threadIdx.x % lanes_per_hand;
  grad_origins += hand * origin_strides.hand;
  grad_rotations += hand * rotation_strides.hand;
  joints += hand * joint_strides.hand;
  grad_joints += hand * num_joints * 3;

  const Vec3<T> root_joint = point(joints, joint_strides, wrist);
  const Palm<T> palm =
      palm_of(root_joint, point(joints, joint_strides, index_base), point(joints, joint_strides, little_base));
  const Vec3<T> center = point(grad_origins, origin_strides, palm_frame) * T(1.0 / (1 + num_fingers));
  Vec3<T> torque = zero3<T>(), grad_wrist = zero3<T>(), grad_base = zero3<T>();
  if (lane == palm_lane) {
    torque = torque_of(palm.frame, matrix(grad_rotations, rotation_strides, wrist_frame)) +
             torque_of(palm.frame, matrix(grad_rotations, rotation_strides, palm_frame));
    grad_wrist = point(grad_origins, origin_strides, wrist_frame) + center;
  } else if (lane < num_fingers) {
    Frame<T> frame[bones_per_finger + 1];
    Bone<T> bone[bones_per_finger];
    frame[0] = palm.frame;
    Vec3<T> from = root_joint, grad_next_bone = zero3<T>();
#pragma unroll
    for (int i = 0; i < bones_per_finger; ++i) {
      const Vec3<T> to = point(joints, joint_strides, joint_of(lane, i));
      frame[i + 1] = frame[i];
      bone[i] = transport(frame[i + 1], to - from);
      from = to;
    }
#pragma unroll
    for (int i = bones_per_finger - 1; i >= 0; --i) {
      torque = torque + torque_of(frame[i + 1], matrix(grad_rotations, rotation_strides, frame_of(lane, i)));
      const Vec3<T> grad_bone = transport_backward(bone[i], torque);
      grad_base = point(grad_origins, origin_strides, frame_of(lane, i)) + grad_bone - grad_next_bone;
      if (i > 0 && there) put(grad_joints + 3 * joint_of(lane, i), grad_base);
      grad_next_bone = grad_bone;
    }
    grad_base = grad_base + center;
    grad_wrist = -grad_next_bone;
  }
  Vec3<T> grad_index, grad_little;
  palm_backward(palm, sum_over_lanes(torque), grad_index, grad_little);
  grad_wrist = sum_over_lanes(grad_wrist) - grad_index - grad_little;
  if (joint_of(lane, 0) == index_base) grad_base = grad_base + grad_index;
  if (joint_of(lane, 0) == little_base) grad_base = grad_base + grad_little;
  if (there && lane < num_fingers) put(grad_joints + 3 * joint_of(lane, 0), grad_base);
  if (there && lane == palm_lane) put(grad_joints + 3 * wrist, grad_wrist);
}

}  // namespace amt::frames::cuda
