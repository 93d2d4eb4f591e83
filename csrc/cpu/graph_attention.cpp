// graph_attention_fwd and graph_attention_bwd for CPU tensors: checks, outputs, tasks.
#include "../tensors.h"
#include "inputs.h"
#include "pages.h"
#include "tasks.h"

#include <optional>
#include <tuple>

namespace stgt {
namespace {

// The most bytes that the segments of heads share in the backward pass. They grow with the square of the window. Fewer
// segments give the same bits on fewer threads.
constexpr int64_t MOST_SHARED = int64_t(1) << 30;

Tensor last_contiguous(const Tensor& x) { return x.size(3) == 1 || x.stride(3) == 1 ? x : as_contiguous(x); }

Heads heads(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)}; }

Tensor heads_last(const char* op, const char* name, const Tensor& like) {
  return in_huge_pages(new_heads_last(op, name, like));
}

GraphAttentionArgs checked(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weight,
                           const Tensor& live, const std::optional<Tensor>& seed, double scale, double dropout_p) {
  STGT_CHECK(op, q.dim() == 4 && weight.dim() == 5, "q must be (B, H, N, D) and weight (B, T, P, 2w+1, P), got ",
             q.dim(), " and ", weight.dim(), " dimensions");
  GraphAttentionArgs args{};
  args.dtype = dtype_of(op, "q", q);
  args.B = q.size(0), args.H = q.size(1), args.D = q.size(3);
  args.T = weight.size(1), args.P = weight.size(2), args.W = weight.size(3) / 2;
  args.scale = scale;
  STGT_CHECK(op, args.D >= 1 && args.D <= 128, "q must have 1 <= D <= 128, got ", args.D);
  check_shape(op, "q", q, {args.B, args.H, args.T * args.P, args.D});
  check_shape(op, "k", k, {args.B, args.H, args.T * args.P, args.D});
  check_shape(op, "v", v, {args.B, args.H, args.T * args.P, args.D});
  check_shape(op, "weight", weight, {args.B, args.T, args.P, args.band(), args.P});
  check_shape(op, "live", live, {args.B, args.T, args.tiles(), args.band(), args.tiles()});
  check_dtype(op, "k", k, q.scalar_type());
  check_dtype(op, "v", v, q.scalar_type());
  check_weight_dtype(op, weight, q.scalar_type());
  args.half_weight = weight.scalar_type() == ScalarType::Half;
  check_dtype(op, "live", live, ScalarType::Bool);
  read_dropout(op, seed, dropout_p, args);
  return args;
}

std::tuple<Tensor, Tensor> forward(Tensor q, Tensor k, Tensor v, Tensor weight, Tensor live, std::optional<Tensor> seed,
                                   double scale, double dropout_p) {
  const char* op = "graph_attention_fwd";
  GraphAttentionArgs args = checked(op, q, k, v, weight, live, seed, scale, dropout_p);
  q = last_contiguous(q), k = last_contiguous(k), v = last_contiguous(v);
  weight = as_contiguous(weight), live = as_contiguous(live);
  Tensor out = heads_last(op, "out", q);
  Tensor lse = new_tensor(op, "lse", q, {args.B, args.H, args.T * args.P}, accumulator_dtype(q.scalar_type()));
  args.q = heads(q), args.k = heads(k), args.v = heads(v), args.out = heads(out);
  args.weight = weight.data_ptr(), args.live = static_cast<const bool*>(live.data_ptr()), args.lse = lse.data_ptr();
  const Kernels& cpu = kernels();
  run_attention_tasks(
      op, args.B * args.H * args.T * args.row_blocks(), 2 * args.product(), cpu.graph_attention_fwd_workspace(args),
      [&](int64_t begin, int64_t end, char* workspace) { cpu.graph_attention_fwd(args, begin, end, workspace); });
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor weight,
                                                    Tensor live, std::optional<Tensor> seed, Tensor out, Tensor lse,
                                                    std::optional<Tensor> dlse, double scale, double dropout_p,
                                                    bool need_dweight) {
  const char* op = "graph_attention_bwd";
  GraphAttentionArgs args = checked(op, q, k, v, weight, live, seed, scale, dropout_p);
  check_shape(op, "dout", dout, {args.B, args.H, args.T * args.P, args.D});
  check_shape(op, "out", out, {args.B, args.H, args.T * args.P, args.D});
  check_shape(op, "lse", lse, {args.B, args.H, args.T * args.P});
  check_dtype(op, "dout", dout, q.scalar_type());
  check_dtype(op, "out", out, q.scalar_type());
  check_dtype(op, "lse", lse, accumulator_dtype(q.scalar_type()));
  if (dlse) {
    check_shape(op, "dlse", *dlse, {args.B, args.H, args.T * args.P});
    check_dtype(op, "dlse", *dlse, lse.scalar_type());
    dlse = as_contiguous(*dlse);
    args.dlse = dlse->data_ptr();
  }
  q = last_contiguous(q), k = last_contiguous(k), v = last_contiguous(v);
  dout = last_contiguous(dout), out = last_contiguous(out);
  weight = as_contiguous(weight), live = as_contiguous(live);
  lse = as_contiguous(lse);
  Tensor delta = new_tensor(op, "delta", lse, {args.B, args.H, args.T * args.P}, lse.scalar_type());
  Tensor dq = heads_last(op, "dq", q), dk = heads_last(op, "dk", q), dv = heads_last(op, "dv", q);
  args.q = heads(q), args.k = heads(k), args.v = heads(v), args.dout = heads(dout);
  args.dq = heads(dq), args.dk = heads(dk), args.dv = heads(dv), args.out = heads(out);
  args.weight = weight.data_ptr(), args.live = static_cast<const bool*>(live.data_ptr());
  args.lse = lse.data_ptr(), args.delta = delta.data_ptr();
  const Kernels& cpu = kernels();
  args.segments = graph_attention_bwd_segments(args.B * args.H, args.T, args.W, torch::stable::get_num_threads());
  const int64_t most = MOST_SHARED / int64_t(lse.element_size());
  while (args.segments > 1 && cpu.graph_attention_bwd_shared(args) > most) --args.segments;
  Tensor shared = new_tensor(op, "sums of segments", lse, {cpu.graph_attention_bwd_shared(args)}, lse.scalar_type());
  if (args.segments > 1) shared = torch::stable::zero_(shared);
  args.shared = shared.data_ptr();
  run_attention_tasks(
      op, args.B * args.H * args.segments, 5 * args.product(), cpu.graph_attention_bwd_workspace(args),
      [&](int64_t begin, int64_t end, char* workspace) { cpu.graph_attention_bwd(args, begin, end, workspace); });
  run_attention_tasks(op, args.B * args.H * (args.segments - 1) * 2 * args.W, args.product(), 0,
                      [&](int64_t begin, int64_t end, char*) { cpu.graph_attention_bwd_join(args, begin, end); });
  Tensor dweight = new_tensor(op, "dweight", weight, {0}, weight.scalar_type());
  if (need_dweight) {
    STGT_CHECK(op, !args.half_weight, "gradients of weights need weights in float32, got float16");
    dweight = new_tensor(op, "dweight", weight, {args.B, args.T, args.P, args.band(), args.P}, weight.scalar_type());
    dweight = torch::stable::zero_(dweight);
    args.dweight = dweight.data_ptr();
    run_attention_tasks(op, args.B * args.T * args.tiles(), 2 * args.product(),
                        cpu.graph_attention_bwd_dweight_workspace(args),
                        [&](int64_t begin, int64_t end, char* workspace) {
                          cpu.graph_attention_bwd_dweight(args, begin, end, workspace);
                        });
  }
  return {dq, dk, dv, dweight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CPU, m) {
  m.impl("graph_attention_fwd", TORCH_BOX(&forward));
  m.impl("graph_attention_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
