// What cpu_frames.cpp hands to the vector code.
#pragma once

#include <cstdint>

#include "common/cpu_isa.h"
#include "hand_frames/strides.h"

// Hands begin to end; origins [B, 22, 3] and rotations [B, 22, 3, 3] contiguous.
AMT_DECLARE_SIMD(template <class T> void hand_frames(const T* joints, FrameStrides joint_strides, T* origins,
                                                     T* rotations, int64_t begin, int64_t end))
// grad_joints [B, 21, 3] contiguous.
AMT_DECLARE_SIMD(template <class T> void hand_frames_backward(const T* grad_origins, FrameStrides origin_strides,
                                                              const T* grad_rotations, FrameStrides rotation_strides,
                                                              const T* joints, FrameStrides joint_strides,
                                                              T* grad_joints, int64_t begin, int64_t end))
