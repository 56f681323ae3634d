// The FP8 product with scales, bias and GELU, in bf16.
// A file of its own: nvcc takes a minute for each epilogue.
#include "fp8_linear/cutlass_product.cuh"

namespace amt::fp8 {

const char* linear_gelu(const Product& product) { return launch<LinearGeluOp>(product); }

}  // namespace amt::fp8
