// spatio_temporal_graph_fwd and spatio_temporal_graph_bwd for CPU tensors: checks, outputs, tasks.
#include "../tensors.h"
#include "inputs.h"
#include "pages.h"
#include "tasks.h"

#include <tuple>
#include <utility>

namespace stgt {
namespace {

SpatioTemporalGraphArgs checked(const char* op, const Tensor& x, int64_t window) {
  STGT_CHECK(op, x.dim() == 4, "x must be (B, T, P, C), got ", x.dim(), " dimensions");
  SpatioTemporalGraphArgs args{};
  args.dtype = dtype_of(op, "x", x);
  args.B = x.size(0), args.T = x.size(1), args.P = x.size(2), args.C = x.size(3), args.W = window;
  STGT_CHECK(op, args.W >= 0 && args.W < args.T, "window must satisfy 0 <= window < T=", args.T, ", got ", window);
  return args;
}

// If the squares of a token over- or underflow, which those of real features do not, everything is computed again from
// tokens that powers of two have brought into range.
void forward_in_range(const char* op, SpatioTemporalGraphArgs args, const Tensor& x) {
  const Kernels& cpu = kernels();
  const auto run = [&] {
    run_tasks(op, args.B * args.T, args.product() / 2, cpu.spatio_temporal_graph_fwd_workspace(args),
              [&](int64_t begin, int64_t end, char* workspace) {
                cpu.spatio_temporal_graph_fwd(args, begin, end, workspace);
              });
  };
  const auto run_tokens = [&](auto f) {
    run_tasks(op, args.B * args.T, double(args.B * args.T) * double(args.P * args.C), 0,
              [&](int64_t begin, int64_t end, char*) { f(begin * args.P, end * args.P); });
  };
  bool out_of_range = false;
  args.out_of_range = &out_of_range;
  run();
  if (!out_of_range) return;
  const Tensor scaled = new_tensor(op, "a copy of x", x, {args.B, args.T, args.P, args.C}, x.scalar_type());
  run_tokens(
      [&](int64_t begin, int64_t end) { cpu.spatio_temporal_graph_scale_tokens(args, scaled.data_ptr(), begin, end); });
  const void* const tokens = std::exchange(args.x, scaled.data_ptr());
  run();
  args.x = tokens;
  run_tokens([&](int64_t begin, int64_t end) { cpu.spatio_temporal_graph_scale_norms(args, begin, end); });
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor x, double threshold, int64_t window, bool differentiable) {
  const char* op = "spatio_temporal_graph_fwd";
  SpatioTemporalGraphArgs args = checked(op, x, window);
  x = as_contiguous(x);
  const ScalarType dtype = weight_dtype(x.scalar_type(), differentiable);
  Tensor weight = in_huge_pages(new_tensor(op, "weight", x, {args.B, args.T, args.P, args.band(), args.P}, dtype));
  Tensor live = new_tensor(op, "live", x, {args.B, args.T, args.tiles(), args.band(), args.tiles()}, ScalarType::Bool);
  Tensor inv_norm = new_tensor(op, "inv_norm", x, {args.B, args.T, args.P}, accumulator_dtype(x.scalar_type()));
  args.half_weight = dtype == ScalarType::Half;
  args.threshold = threshold, args.x = x.data_ptr(), args.weight = weight.data_ptr();
  args.live = static_cast<bool*>(live.data_ptr()), args.inv_norm = inv_norm.data_ptr();
  forward_in_range(op, args, x);
  return {weight, live, inv_norm};
}

Tensor backward(Tensor dweight, Tensor x, Tensor weight, Tensor inv_norm) {
  const char* op = "spatio_temporal_graph_bwd";
  STGT_CHECK(op, weight.dim() == 5, "weight must be (B, T, P, 2w+1, P), got ", weight.dim(), " dimensions");
  SpatioTemporalGraphArgs args = checked(op, x, weight.size(3) / 2);
  for (const auto& [name, tensor] : {std::pair{"weight", &weight}, std::pair{"dweight", &dweight}}) {
    check_shape(op, name, *tensor, {args.B, args.T, args.P, args.band(), args.P});
    check_dtype(op, name, *tensor, accumulator_dtype(x.scalar_type()));
  }
  check_shape(op, "inv_norm", inv_norm, {args.B, args.T, args.P});
  check_dtype(op, "inv_norm", inv_norm, accumulator_dtype(x.scalar_type()));
  x = as_contiguous(x), weight = as_contiguous(weight);
  dweight = as_contiguous(dweight), inv_norm = as_contiguous(inv_norm);
  Tensor dx = new_tensor(op, "dx", x, {args.B, args.T, args.P, args.C}, x.scalar_type());
  args.x = x.data_ptr(), args.weight = weight.data_ptr(), args.dweight = dweight.data_ptr();
  args.inv_norm = inv_norm.data_ptr(), args.dx = dx.data_ptr();
  const Kernels& cpu = kernels();
  run_tasks(
      op, args.B * args.T * args.tiles(), args.product(), cpu.spatio_temporal_graph_bwd_workspace(args),
      [&](int64_t begin, int64_t end, char* workspace) { cpu.spatio_temporal_graph_bwd(args, begin, end, workspace); });
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CPU, m) {
  m.impl("spatio_temporal_graph_fwd", TORCH_BOX(&forward));
  m.impl("spatio_temporal_graph_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
