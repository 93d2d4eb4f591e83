// The Python module of the CUDA kernels, which are compiled beside it and register themselves when it is loaded.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "CUDA kernels; importing it registers them with torch.ops.stgt_kernels";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["architectures"] = STGT_CUDA_ARCHITECTURES;
        return info;
      },
      "The GPUs that it was built for, as in TORCH_CUDA_ARCH_LIST.");
}
