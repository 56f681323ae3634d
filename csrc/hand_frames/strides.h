// The tensors of hand_frames as its kernels take them, on either device.
#pragma once

#include <cstdint>

namespace amt {

// In elements; an expanded gradient has strides of 0.
struct FrameStrides {
  int64_t hand, item, row, column;
};

}  // namespace amt
