// The FP8 product with scales, bias, GELU and a factor, in e4m3.
// A file of its own: nvcc takes a minute for each epilogue.
#include "fp8_linear/cutlass_product.cuh"

namespace amt::fp8 {

const char* linear_gelu_e4m3(const Product& product) { return launch<LinearGeluE4m3Op>(product); }

}  // namespace amt::fp8
