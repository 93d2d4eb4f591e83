// spatio_temporal_graph_fwd and spatio_temporal_graph_bwd for CPU tensors: checks, outputs, tasks.
#include "../checks.h"
#include "args.h"
#include "pages.h"
#include "tasks.h"

#include <tuple>

namespace stgt {
namespace {

GraphArgs checked(const char* op, const Tensor& x, int64_t window) {
  STGT_CHECK(op, x.dim() == 4, "x must be (B, T, P, C), got ", x.dim(), " dimensions");
  GraphArgs args{};
  switch (x.scalar_type()) {
    case ScalarType::Float: args.dtype = Dtype::f32; break;
    case ScalarType::Double: args.dtype = Dtype::f64; break;
    case ScalarType::BFloat16: args.dtype = Dtype::bf16; break;
    case ScalarType::Half: args.dtype = Dtype::f16; break;
    default: STGT_CHECK(op, false, "x must be float32, float64, bfloat16 or float16");
  }
  args.B = x.size(0), args.T = x.size(1), args.P = x.size(2), args.C = x.size(3), args.W = window;
  STGT_CHECK(op, args.W >= 0 && args.W < args.T, "0 <= window < T=", args.T, ", got ", window);
  return args;
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor x, double threshold, int64_t window) {
  GraphArgs args = checked("spatio_temporal_graph_fwd", x, window);
  x = torch::stable::contiguous(x);
  const ScalarType dtype = x.scalar_type();
  Tensor weight = in_huge_pages(
      torch::stable::new_empty(x, {args.B, args.T, args.P, args.band(), args.P}, weight_dtype(dtype)));
  Tensor live = torch::stable::new_empty(x, {args.B, args.T, args.tiles(), args.band(), args.tiles()}, ScalarType::Bool);
  Tensor inv_norm = torch::stable::new_empty(x, {args.B, args.T, args.P}, accumulator_dtype(dtype));
  args.threshold = threshold, args.x = x.data_ptr(), args.weight = weight.data_ptr();
  args.live = static_cast<bool*>(live.data_ptr()), args.inv_norm = inv_norm.data_ptr();
  const Kernels& cpu = kernels();
  run_tasks(args.B * args.T, cpu.graph_forward_workspace(args),
            [&](int64_t begin, int64_t end, char* workspace) { cpu.graph_forward(args, begin, end, workspace); });
  return {weight, live, inv_norm};
}

Tensor backward(Tensor dweight, Tensor x, Tensor weight, Tensor inv_norm) {
  const char* op = "spatio_temporal_graph_bwd";
  STGT_CHECK(op, weight.dim() == 5, "weight must be (B, T, P, 2w+1, P)");
  GraphArgs args = checked(op, x, weight.size(3) / 2);
  for (const auto& [name, tensor] : {std::pair{"weight", &weight}, std::pair{"dweight", &dweight}}) {
    check_shape(op, name, *tensor, {args.B, args.T, args.P, args.band(), args.P});
    check_dtype(op, name, *tensor, weight_dtype(x.scalar_type()));
  }
  check_shape(op, "inv_norm", inv_norm, {args.B, args.T, args.P});
  check_dtype(op, "inv_norm", inv_norm, accumulator_dtype(x.scalar_type()));
  x = torch::stable::contiguous(x), weight = torch::stable::contiguous(weight);
  dweight = torch::stable::contiguous(dweight), inv_norm = torch::stable::contiguous(inv_norm);
  Tensor dx = torch::stable::new_empty(x, x.sizes());
  args.x = x.data_ptr(), args.weight = weight.data_ptr(), args.dweight = dweight.data_ptr();
  args.inv_norm = inv_norm.data_ptr(), args.dx = dx.data_ptr();
  const Kernels& cpu = kernels();
  run_tasks(args.B * args.T * args.tiles(), cpu.graph_backward_workspace(args),
            [&](int64_t begin, int64_t end, char* workspace) { cpu.graph_backward(args, begin, end, workspace); });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CPU, m) {
  m.impl("spatio_temporal_graph_fwd", TORCH_BOX(&forward));
  m.impl("spatio_temporal_graph_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
