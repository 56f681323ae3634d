// Schema of fp8_linear: an FP8 product with scales, bias, GELU and e4m3 in its epilogue. Its one implementation is
// CUTLASS's, in cutlass_*.cu, which is compiled where AMT_CUTLASS=on asks for it.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) {
  m.def(
      "fp8_linear(Tensor x, Tensor x_scale, Tensor weight, Tensor weight_scale, Tensor? bias, bool gelu, Tensor? "
      "factor) "
      "-> Tensor");
}
