// Schema of normalize. Implementation: cpu_normalize.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY_FRAGMENT(amt, m) { m.def("normalize(Tensor image, Tensor mean, Tensor scale) -> Tensor"); }
