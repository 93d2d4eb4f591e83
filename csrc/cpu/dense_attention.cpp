// dense_attention_fwd and dense_attention_bwd for CPU tensors: checks, outputs, tasks.
#include "../tensors.h"
#include "inputs.h"
#include "tasks.h"

#include <optional>
#include <tuple>

namespace stgt {
namespace {

// Returns the tensor (B, H, N, D) as the kernels read it, without a copy.
Heads heads(const char* op, const char* name, const Tensor& x) {
  STGT_CHECK(op, x.size(3) == 1 || x.stride(3) == 1, name, " must have a contiguous last dimension");
  return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)};
}

DenseAttentionArgs checked(const char* op, const Tensor& q, const Tensor& k, const Tensor& v,
                           const std::optional<Tensor>& bias, double scale) {
  STGT_CHECK(op, q.dim() == 4 && k.dim() == 4, "q must be (B, H, M, D) and k (B, H, N, D), got ", q.dim(), " and ",
             k.dim(), " dimensions");
  DenseAttentionArgs args{};
  args.dtype = dtype_of(op, "q", q);
  STGT_CHECK(op, args.dtype == Dtype::f32 || args.dtype == Dtype::f64, "q must be float32 or float64, got ",
             dtype_name(q.scalar_type()));
  args.B = q.size(0), args.H = q.size(1), args.M = q.size(2), args.D = q.size(3), args.N = k.size(2);
  args.scale = scale;
  STGT_CHECK(op, args.D >= 1 && args.N >= 1, "1 <= D and 1 <= N, got ", args.D, " and ", args.N);
  check_shape(op, "k", k, {args.B, args.H, args.N, args.D});
  check_shape(op, "v", v, {args.B, args.H, args.N, args.D});
  check_dtype(op, "k", k, q.scalar_type());
  check_dtype(op, "v", v, q.scalar_type());
  args.q = heads(op, "q", q), args.k = heads(op, "k", k), args.v = heads(op, "v", v);
  if (bias) {
    check_shape(op, "bias", *bias, {args.B, args.H, args.M, args.N});
    check_dtype(op, "bias", *bias, q.scalar_type());
    args.bias = heads(op, "bias", *bias);
  }
  return args;
}

std::tuple<Tensor, Tensor> forward(Tensor q, Tensor k, Tensor v, std::optional<Tensor> bias, double scale) {
  const char* op = "dense_attention_fwd";
  DenseAttentionArgs args = checked(op, q, k, v, bias, scale);
  Tensor out = new_heads_last(op, "out", q);
  Tensor stats = new_tensor(op, "stats", q, {args.B, args.H, args.M, 2}, q.scalar_type());
  args.out = heads(op, "out", out), args.stats = stats.data_ptr();
  const Kernels& cpu = kernels();
  run_attention_tasks(
      op, args.B * args.H * args.row_blocks(), 2 * args.product(), cpu.dense_attention_fwd_workspace(args),
      [&](int64_t begin, int64_t end, char* workspace) { cpu.dense_attention_fwd(args, begin, end, workspace); });
  return {out, stats};
}

void backward(Tensor dout, Tensor q, Tensor k, Tensor v, std::optional<Tensor> bias, Tensor out, Tensor stats,
              double scale, Tensor dq, Tensor dk, Tensor dv) {
  const char* op = "dense_attention_bwd";
  DenseAttentionArgs args = checked(op, q, k, v, bias, scale);
  const auto like = [&](const char* name, const Tensor& x, int64_t rows) {
    check_shape(op, name, x, {args.B, args.H, rows, args.D});
    check_dtype(op, name, x, q.scalar_type());
    return heads(op, name, x);
  };
  dout = dout.stride(3) == 1 || args.D == 1 ? dout : as_contiguous(dout);
  args.dout = like("dout", dout, args.M), args.out = like("out", out, args.M);
  args.dq = like("dq", dq, args.M), args.dk = like("dk", dk, args.N), args.dv = like("dv", dv, args.N);
  check_shape(op, "stats", stats, {args.B, args.H, args.M, 2});
  check_dtype(op, "stats", stats, q.scalar_type());
  stats = as_contiguous(stats);
  args.stats = stats.data_ptr();
  const Kernels& cpu = kernels();
  run_attention_tasks(
      op, args.B * args.H, 5 * args.product(), cpu.dense_attention_bwd_workspace(args),
      [&](int64_t begin, int64_t end, char* workspace) { cpu.dense_attention_bwd(args, begin, end, workspace); });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CPU, m) {
  m.impl("dense_attention_fwd", TORCH_BOX(&forward));
  m.impl("dense_attention_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
