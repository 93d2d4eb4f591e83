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

// The gradients of the packed tensors (B, L, parts, H, D): of qkv, of q and kv, or of q, k and v. `tensors` is their
// number, and the rest of the results is empty.
std::tuple<Tensor, Tensor, Tensor> backward(Tensor dout, Tensor q, Tensor k, Tensor v, std::optional<Tensor> bias,
                                            Tensor out, Tensor stats, double scale, int64_t tensors) {
  const char* op = "dense_attention_bwd";
  DenseAttentionArgs args = checked(op, q, k, v, bias, scale);
  const auto like = [&](const char* name, const Tensor& x, int64_t rows) {
    check_shape(op, name, x, {args.B, args.H, rows, args.D});
    check_dtype(op, name, x, q.scalar_type());
    return heads(op, name, x);
  };
  check_shape(op, "dout", dout, {args.B, args.H, args.M, args.D});
  dout = dout.stride(3) == 1 || args.D == 1 ? dout : as_contiguous(dout);
  args.dout = like("dout", dout, args.M), args.out = like("out", out, args.M);
  STGT_CHECK(op, tensors >= 1 && tensors <= 3 && (tensors > 1 || args.M == args.N),
             "tensors must be 1 for as many queries as keys, 2 or 3, got ", tensors);
  Tensor gradients[3];
  Heads* const parts[] = {&args.dq, &args.dk, &args.dv};
  for (int64_t number = 0, part = 0; number < 3; ++number) {
    const int64_t held = number + 1 < tensors ? 1 : number < tensors ? 3 - part : 0, L = part ? args.N : args.M;
    gradients[number] = held ? new_tensor(op, "gradients", q, {args.B, L, held, args.H, args.D}, q.scalar_type())
                             : new_tensor(op, "gradients", q, {0}, q.scalar_type());
    char* const data = static_cast<char*>(gradients[number].data_ptr());
    for (int64_t own = 0; own < held; ++own, ++part)
      *parts[part] = {data + own * args.H * args.D * int64_t(q.element_size()), L * held * args.H * args.D, args.D,
                      held * args.H * args.D};
  }
  check_shape(op, "stats", stats, {args.B, args.H, args.M, 2});
  check_dtype(op, "stats", stats, q.scalar_type());
  stats = as_contiguous(stats);
  args.stats = stats.data_ptr();
  const Kernels& cpu = kernels();
  run_attention_tasks(
      op, args.B * args.H, 5 * args.product(), cpu.dense_attention_bwd_workspace(args),
      [&](int64_t begin, int64_t end, char* workspace) { cpu.dense_attention_bwd(args, begin, end, workspace); });
  return {gradients[0], gradients[1], gradients[2]};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CPU, m) {
  m.impl("dense_attention_fwd", TORCH_BOX(&forward));
  m.impl("dense_attention_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
