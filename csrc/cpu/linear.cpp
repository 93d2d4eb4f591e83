// linear_fwd and linear_bwd for CPU tensors: checks, outputs, tasks.
#include "../tensors.h"
#include "inputs.h"
#include "tasks.h"

#include <optional>
#include <tuple>

namespace stgt {
namespace {

Tensor last_contiguous(const Tensor& x) { return x.size(1) == 1 || x.stride(1) == 1 ? x : as_contiguous(x); }

float* data(const Tensor& x) { return static_cast<float*>(x.data_ptr()); }

LinearArgs checked(const char* op, const Tensor& x, const Tensor& weight) {
  STGT_CHECK(op, x.dim() == 2 && weight.dim() == 2, "x must be (M, K) and weight (N, K), got ", x.dim(), " and ",
             weight.dim(), " dimensions");
  LinearArgs args{};
  args.M = x.size(0), args.N = weight.size(0), args.K = x.size(1);
  STGT_CHECK(op, args.N >= 1 && args.K >= 1, "1 <= N and 1 <= K, got ", args.N, " and ", args.K);
  check_shape(op, "weight", weight, {args.N, args.K});
  check_dtype(op, "x", x, ScalarType::Float);
  check_dtype(op, "weight", weight, ScalarType::Float);
  args.x = data(x), args.x_row = x.stride(0), args.weight = data(weight);
  return args;
}

Tensor forward(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  const char* op = "linear_fwd";
  STGT_CHECK(op, x.dim() == 2 && weight.dim() == 2, "x must be (M, K) and weight (N, K), got ", x.dim(), " and ",
             weight.dim(), " dimensions");
  x = last_contiguous(x), weight = as_contiguous(weight);
  LinearArgs args = checked(op, x, weight);
  if (bias) {
    check_shape(op, "bias", *bias, {args.N});
    check_dtype(op, "bias", *bias, ScalarType::Float);
    bias = as_contiguous(*bias);
    args.bias = data(*bias);
  }
  Tensor out = new_tensor(op, "out", x, {args.M, args.N}, ScalarType::Float);
  args.out = data(out);
  const Kernels& cpu = kernels();
  run_tasks(op, ceil_div(args.M, LinearArgs::ROWS), args.product(), cpu.linear_fwd_workspace(args),
            [&](int64_t begin, int64_t end, char* workspace) { cpu.linear_fwd(args, begin, end, workspace); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor dout, Tensor x, Tensor weight, bool need_dx, bool need_dweight) {
  const char* op = "linear_bwd";
  STGT_CHECK(op, x.dim() == 2 && weight.dim() == 2 && dout.dim() == 2, "x, weight and dout must have 2 dimensions");
  x = last_contiguous(x), weight = as_contiguous(weight), dout = last_contiguous(dout);
  LinearArgs args = checked(op, x, weight);
  check_shape(op, "dout", dout, {args.M, args.N});
  check_dtype(op, "dout", dout, ScalarType::Float);
  args.dout = data(dout), args.dout_row = dout.stride(0);
  const int64_t inputs = need_dx ? args.M : 0, outputs = need_dweight ? args.N : 0;
  Tensor dx = new_tensor(op, "dx", x, {inputs, args.K}, ScalarType::Float);
  Tensor dweight = new_tensor(op, "dweight", x, {outputs, args.K}, ScalarType::Float);
  Tensor dbias = new_tensor(op, "dbias", x, {outputs}, ScalarType::Float);
  args.dx = data(dx), args.dweight = data(dweight), args.dbias = data(dbias);
  const Kernels& cpu = kernels();
  if (need_dx)
    run_tasks(op, ceil_div(args.M, LinearArgs::ROWS), args.product(), cpu.linear_bwd_x_workspace(args),
              [&](int64_t begin, int64_t end, char* workspace) { cpu.linear_bwd_x(args, begin, end, workspace); });
  if (need_dweight) {
    const int64_t parts = args.parts();
    const bool several = parts > 1;
    Tensor weight_sums = new_tensor(op, "sums", x, {several ? parts : 0, args.N, args.K}, ScalarType::Float);
    Tensor bias_sums = new_tensor(op, "sums", x, {several ? parts : 0, args.N}, ScalarType::Float);
    args.weight_sums = data(several ? weight_sums : dweight), args.bias_sums = data(several ? bias_sums : dbias);
    run_tasks(op, parts * args.output_blocks(), args.product(), cpu.linear_bwd_weight_workspace(args),
              [&](int64_t begin, int64_t end, char* workspace) { cpu.linear_bwd_weight(args, begin, end, workspace); });
    if (several)
      run_tasks(op, args.N, double(parts * args.N * args.K), 0,
                [&](int64_t begin, int64_t end, char*) { cpu.linear_bwd_join(args, begin, end); });
  }
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CPU, m) {
  m.impl("linear_fwd", TORCH_BOX(&forward));
  m.impl("linear_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
