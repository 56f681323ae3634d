// One FP8 product as the kernels see it, and the functions that launch it. No file that includes this needs CUTLASS.
#pragma once

#include <cuda_runtime.h>

namespace amt::fp8 {

// A float for each row, or one for all of them.
struct RowScale {
  const float* values;
  bool one_per_row;
};

struct Product {
  const void* x;              // [rows, depth] e4m3
  const void* weight;         // [units, depth] e4m3
  void* out;                  // [rows, units] bf16, or e4m3
  RowScale x_scale;           // of x
  const float* weight_scale;  // [units]
  const float* bias;          // [units], or null
  RowScale factor;            // of the result before it becomes e4m3
  int rows, units, depth;
  int device, multiprocessors;
  cudaStream_t stream;
};

// Each launches, and returns null or the reason why it could not.
const char* linear(const Product& product);            // x weight^T * scales + bias, bf16
const char* linear_gelu(const Product& product);       // GELU of that, bf16
const char* linear_gelu_e4m3(const Product& product);  // GELU of that, times factor, e4m3

}  // namespace amt::fp8
