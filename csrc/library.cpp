// The schemas of all ops, and the Python module that loads the CPU kernels.
#include <pybind11/pybind11.h>
#include <torch/csrc/stable/library.h>

#include "cpu/args.h"
#include "cpu/dispatch.h"

STABLE_TORCH_LIBRARY(stgt_kernels, m) {
  m.def(
      "spatio_temporal_graph_fwd(Tensor x, float threshold, int window, bool differentiable) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("spatio_temporal_graph_bwd(Tensor dweight, Tensor x, Tensor weight, Tensor inv_norm) -> Tensor");
  m.def(
      "graph_attention_fwd(Tensor q, Tensor k, Tensor v, Tensor weight, Tensor live, Tensor? seed, float scale, "
      "float dropout_p) -> (Tensor, Tensor)");
  m.def(
      "graph_attention_bwd(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor weight, Tensor live, Tensor? seed, "
      "Tensor out, Tensor lse, Tensor? dlse, float scale, float dropout_p, bool need_dweight) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  m.def("dense_attention_fwd(Tensor q, Tensor k, Tensor v, Tensor? bias, float scale) -> (Tensor, Tensor)");
  m.def(
      "dense_attention_bwd(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor out, Tensor stats, "
      "float scale, int tensors) -> (Tensor, Tensor, Tensor)");
  m.def("linear_fwd(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  m.def("linear_bwd(Tensor dout, Tensor? x, Tensor? weight) -> (Tensor, Tensor, Tensor)");
  m.def(
      "edge_attention_fwd(Tensor q, Tensor k, Tensor v, Tensor? edge_scale, Tensor? edge_bias, Tensor row_ptr, "
      "Tensor source, Tensor row_edge, Tensor? scale_type, Tensor? bias_type, Tensor? seed, float clamp, float scale, "
      "float dropout_p) -> (Tensor, Tensor, Tensor)");
  m.def(
      "edge_attention_bwd(Tensor dout, Tensor? dscores, Tensor q, Tensor k, Tensor v, Tensor? edge_scale, "
      "Tensor? edge_bias, Tensor row_ptr, Tensor source, Tensor row_edge, Tensor col_ptr, Tensor target, "
      "Tensor col_edge, Tensor? scale_type, Tensor? bias_type, Tensor? seed, Tensor scores, Tensor softmax, "
      "float clamp, float scale, float dropout_p, bool need_dscale, bool need_dbias) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "CPU kernels. Importing this module registers torch.ops.stgt_kernels.";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["compiler"] = STGT_COMPILER;
        info["flags"] = STGT_FLAGS;
        info["cuda_architectures"] = STGT_CUDA_ARCHITECTURES;
        info["torch_target"] = STGT_TORCH_TARGET;
        info["cpu_isa"] = stgt::kernels().name;
        info["cpu_vendor"] = stgt::vendor();
        return info;
      },
      "The compiler, its flags, the CUDA architectures ('' if none), the oldest torch that works, the CPU instruction "
      "set in use, and the CPU's vendor as CPUID names it ('' if it is not x86).");
  m.def(
      "cpu_isa",
      [](const std::string& vendor, bool avx2, bool avx512, bool avx512_bf16, bool amx, const std::string& asked) {
        return stgt::isa_of({vendor, avx2, avx512, avx512_bf16, amx}, asked);
      },
      pybind11::arg("vendor"), pybind11::kw_only(), pybind11::arg("avx2"), pybind11::arg("avx512"),
      pybind11::arg("avx512_bf16"), pybind11::arg("amx"), pybind11::arg("asked") = "",
      "The CPU instruction set that is chosen on a processor with these features if STGT_CPU_ISA is `asked`.");
  m.def("graph_attention_bwd_segments", &stgt::graph_attention_bwd_segments, pybind11::arg("heads"),
        pybind11::arg("frames"), pybind11::arg("window"), pybind11::arg("threads"),
        "The parts of a head that run on different threads in the backward pass of B * H = heads.");
}
