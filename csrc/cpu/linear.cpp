// linear_fwd and linear_bwd for CPU tensors: checks, outputs, tasks.
#include "../tensors.h"
#include "inputs.h"
#include "pages.h"
#include "tasks.h"

#include <optional>
#include <tuple>
#include <vector>

namespace stgt {
namespace {

Tensor last_contiguous(const Tensor& x) { return x.size(1) == 1 || x.stride(1) == 1 ? x : as_contiguous(x); }

Tensor new_floats(const char* op, const char* name, const Tensor& like, std::initializer_list<int64_t> shape) {
  return in_huge_pages(new_tensor(op, name, like, shape, ScalarType::Float));
}

float* data(const Tensor& x) { return static_cast<float*>(x.data_ptr()); }

// Sets the tensor (M, K) or (N, K) that comes with dout or out (M, N).
void read_x(const char* op, const Tensor& x, LinearArgs& args) {
  check_shape(op, "x", x, {args.M, args.K});
  check_dtype(op, "x", x, ScalarType::Float);
  args.x = data(x), args.x_row = x.stride(0);
}
void read_weight(const char* op, const Tensor& weight, LinearArgs& args) {
  check_shape(op, "weight", weight, {args.N, args.K});
  check_dtype(op, "weight", weight, ScalarType::Float);
  args.weight = data(weight);
}

LinearArgs sizes(const char* op, int64_t M, int64_t N, int64_t K) {
  STGT_CHECK(op, M >= 1 && N >= 1 && K >= 1, "1 <= M, 1 <= N and 1 <= K, got ", M, ", ", N, " and ", K);
  LinearArgs args{};
  args.M = M, args.N = N, args.K = K;
  return args;
}

Tensor forward(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  const char* op = "linear_fwd";
  STGT_CHECK(op, x.dim() == 2 && weight.dim() == 2, "x must be (M, K) and weight (N, K), got ", x.dim(), " and ",
             weight.dim(), " dimensions");
  x = last_contiguous(x), weight = as_contiguous(weight);
  LinearArgs args = sizes(op, x.size(0), weight.size(0), x.size(1));
  read_x(op, x, args), read_weight(op, weight, args);
  if (bias) {
    check_shape(op, "bias", *bias, {args.N});
    check_dtype(op, "bias", *bias, ScalarType::Float);
    bias = as_contiguous(*bias);
    args.bias = data(*bias);
  }
  Tensor out = new_floats(op, "out", x, {args.M, args.N});
  args.out = data(out);
  const Kernels& cpu = kernels();
  run_tasks(op, args.row_blocks() * ceil_div(args.N, LinearArgs::COLUMNS), args.product(), cpu.linear_workspace(),
            [&](int64_t begin, int64_t end, char* workspace) { cpu.linear_fwd(args, begin, end, workspace); });
  return out;
}

// The gradient of x, if weight is given, and those of weight and bias, if x is given. The others are empty.
std::tuple<Tensor, Tensor, Tensor> backward(Tensor dout, std::optional<Tensor> x, std::optional<Tensor> weight) {
  const char* op = "linear_bwd";
  STGT_CHECK(op, x || weight, "x or weight must be given");
  STGT_CHECK(op, dout.dim() == 2 && (!x || x->dim() == 2) && (!weight || weight->dim() == 2),
             "dout, x and weight must have 2 dimensions");
  dout = last_contiguous(dout);
  LinearArgs args = sizes(op, dout.size(0), dout.size(1), (x ? x : weight)->size(1));
  check_dtype(op, "dout", dout, ScalarType::Float);
  args.dout = data(dout), args.dout_row = dout.stride(0);
  if (x) x = last_contiguous(*x), read_x(op, *x, args);
  if (weight) weight = as_contiguous(*weight), read_weight(op, *weight, args);
  const auto gradient = [&](const char* name, bool wanted, std::initializer_list<int64_t> shape) {
    return wanted ? new_floats(op, name, dout, shape) : new_floats(op, name, dout, {0});
  };
  Tensor dx = gradient("dx", bool(weight), {args.M, args.K});
  Tensor dweight = gradient("dweight", bool(x), {args.N, args.K}), dbias = gradient("dbias", bool(x), {args.N});
  args.dx = data(dx), args.dweight = data(dweight), args.dbias = data(dbias);
  const Kernels& cpu = kernels();
  if (weight)
    run_tasks(op, args.row_blocks() * ceil_div(args.K, LinearArgs::COLUMNS), args.product(), cpu.linear_workspace(),
              [&](int64_t begin, int64_t end, char* workspace) { cpu.linear_bwd_x(args, begin, end, workspace); });
  if (x) {
    const int64_t parts = args.parts();
    const bool several = parts > 1;
    Tensor weight_sums = several ? new_floats(op, "sums", dout, {parts, args.N, args.K}) : dweight;
    std::vector<double> bias_sums(parts * args.N);
    args.weight_sums = data(weight_sums), args.bias_sums = bias_sums.data();
    run_tasks(op, parts * args.weight_blocks(), args.product(), cpu.linear_workspace(),
              [&](int64_t begin, int64_t end, char* workspace) { cpu.linear_bwd_weight(args, begin, end, workspace); });
    run_tasks(op, args.N, several ? double(parts * args.N * args.K) : 0, 0,
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
