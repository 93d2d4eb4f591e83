// edge_attention_fwd and edge_attention_bwd for CPU tensors: checks, outputs, tasks.
#include "../tensors.h"
#include "inputs.h"
#include "tasks.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

namespace stgt {
namespace {

typedef std::optional<Tensor> MaybeTensor;

Tensor last_contiguous(const Tensor& x) { return x.size(2) == 1 || x.stride(2) == 1 ? x : as_contiguous(x); }

NodeHeads node_heads(const Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1)}; }

const int32_t* integers(const Tensor& x) { return static_cast<const int32_t*>(x.data_ptr()); }

// Edges sorted by one end. A wrong index would read memory outside the tensors, so every index is checked.
SortedEdges sorted_edges(const char* op, const char* name, const Tensor& ptr, const Tensor& other, const Tensor& edge,
                         int64_t N, int64_t E) {
  for (const Tensor* x : {&ptr, &other, &edge}) {
    check_shape(op, name, *x, {x == &ptr ? N + 1 : E});
    check_dtype(op, name, *x, ScalarType::Int);
    STGT_CHECK(op, x->is_contiguous(), name, " must be contiguous, got a stride of ", x->stride(0));
  }
  const SortedEdges edges{integers(ptr), integers(other), integers(edge)};
  bool rises = edges.ptr[0] == 0 && edges.ptr[N] == E;
  for (int64_t i = 0; i < N; ++i) rises &= edges.ptr[i] <= edges.ptr[i + 1];
  STGT_CHECK(op, rises, name, " must begin with 0, never fall, and end with the number of edges ", E,
             ", got one that begins with ", edges.ptr[0], ", ends with ", edges.ptr[N], " or falls");
  int64_t wrong = -1;
  for (int64_t s = 0; s < E; ++s)
    if (uint32_t(edges.other[s]) >= uint64_t(N) || uint32_t(edges.edge[s]) >= uint64_t(E)) wrong = s;
  STGT_CHECK(op, wrong < 0, name, " has a node or an edge out of range: there are ", N, " nodes and ", E,
             " edges, got node ", edges.other[wrong], " and edge ", edges.edge[wrong], " at place ", wrong);
  return edges;
}

// Checks edge_scale or edge_bias, and makes `values` contiguous. The tensor has to live as long as the result, which
// points into it.
EdgeValues edge_values(const char* op, const char* name, MaybeTensor& values, const MaybeTensor& type,
                       const EdgeAttentionArgs& args, ScalarType dtype) {
  if (!values) return {};
  STGT_CHECK(op, values->dim() == 2, name, " must be (E, H) or (types, H), got ", values->dim(), " dimensions");
  check_shape(op, name, *values, {type ? values->size(0) : args.E, args.H});
  check_dtype(op, name, *values, dtype);
  values = as_contiguous(*values);
  if (!type) return {values->data_ptr(), nullptr};
  check_shape(op, "edge_type", *type, {args.E});
  check_dtype(op, "edge_type", *type, ScalarType::Byte);
  STGT_CHECK(op, type->is_contiguous(), "edge_type must be contiguous, got a stride of ", type->stride(0));
  const uint8_t* const types = static_cast<const uint8_t*>(type->data_ptr());
  uint8_t most = 0;
  for (int64_t e = 0; e < args.E; ++e) most = std::max(most, types[e]);
  STGT_CHECK(op, args.E == 0 || most < values->size(0), name, " has ", values->size(0), " rows, and an edge has type ",
             int(most));
  return {values->data_ptr(), types};
}

EdgeAttentionArgs checked(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, MaybeTensor& edge_scale,
                          MaybeTensor& edge_bias, const Tensor& row_ptr, const Tensor& source, const Tensor& row_edge,
                          const MaybeTensor& scale_type, const MaybeTensor& bias_type, const MaybeTensor& seed,
                          double clamp, double scale, double dropout_p) {
  STGT_CHECK(op, q.dim() == 3 && source.dim() == 1, "q must be (N, H, D) and source (E), got ", q.dim(), " and ",
             source.dim(), " dimensions");
  EdgeAttentionArgs args{};
  args.dtype = dtype_of(op, "q", q);
  args.N = q.size(0), args.H = q.size(1), args.D = q.size(2), args.E = source.size(0);
  args.scale = scale, args.clamp = clamp;
  STGT_CHECK(op, args.H >= 1 && args.D >= 1 && args.D <= 128, "q must have H >= 1 and 1 <= D <= 128, got H=", args.H,
             ", D=", args.D);
  for (const auto& [name, x] : {std::pair{"k", &k}, std::pair{"v", &v}}) {
    check_shape(op, name, *x, {args.N, args.H, args.D});
    check_dtype(op, name, *x, q.scalar_type());
  }
  args.rows = sorted_edges(op, "row_ptr, source or row_edge", row_ptr, source, row_edge, args.N, args.E);
  const ScalarType wide = accumulator_dtype(q.scalar_type());
  args.edge_scale = edge_values(op, "edge_scale", edge_scale, scale_type, args, wide);
  args.edge_bias = edge_values(op, "edge_bias", edge_bias, bias_type, args, wide);
  read_dropout(op, seed, dropout_p, args);
  return args;
}

// Sums of the rows of x (E, H) with the same type: edges in blocks, each in order, and then the blocks in order.
template <class A> void sum_types(const char* op, const EdgeAttentionArgs& args, const A* x, const uint8_t* type,
                                  Tensor& sums) {
  constexpr int64_t BLOCK = 4096;
  const int64_t blocks = ceil_div(args.E, BLOCK), size = sums.size(0) * args.H;
  Tensor partial = new_tensor(op, "sums of types", sums, {blocks, sums.size(0), args.H}, sums.scalar_type());
  run_tasks(op, blocks, double(args.E * args.H), 0, [&](int64_t begin, int64_t end, char*) {
    for (int64_t block = begin; block < end; ++block) {
      A* const own = static_cast<A*>(partial.data_ptr()) + block * size;
      std::memset(own, 0, size * sizeof(A));
      for (int64_t e = block * BLOCK; e < std::min(args.E, (block + 1) * BLOCK); ++e)
        for (int64_t h = 0; h < args.H; ++h) own[type[e] * args.H + h] += x[e * args.H + h];
    }
  });
  A* const total = static_cast<A*>(sums.data_ptr());
  std::memset(total, 0, size * sizeof(A));
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t i = 0; i < size; ++i) total[i] += static_cast<const A*>(partial.data_ptr())[block * size + i];
}

// The gradient of edge_scale or edge_bias, from that for each edge; empty if it is not needed.
Tensor gradient_of(const char* op, const EdgeAttentionArgs& args, bool needed, const MaybeTensor& values,
                   const MaybeTensor& type, Tensor per_edge) {
  if (!needed) return new_tensor(op, "no gradient", per_edge, {0}, per_edge.scalar_type());
  if (!type) return per_edge;
  const uint8_t* const types = static_cast<const uint8_t*>(type->data_ptr());
  Tensor sums = new_tensor(op, "sums of types", per_edge, {values->size(0), args.H}, per_edge.scalar_type());
  if (per_edge.scalar_type() == ScalarType::Double)
    sum_types(op, args, static_cast<const double*>(per_edge.data_ptr()), types, sums);
  else
    sum_types(op, args, static_cast<const float*>(per_edge.data_ptr()), types, sums);
  return sums;
}

Tensor node_tensor(const char* op, const char* name, const EdgeAttentionArgs& args, const Tensor& like) {
  return new_tensor(op, name, like, {args.N, args.H, args.D}, like.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor q, Tensor k, Tensor v, MaybeTensor edge_scale, MaybeTensor edge_bias,
                                           Tensor row_ptr, Tensor source, Tensor row_edge, MaybeTensor scale_type,
                                           MaybeTensor bias_type, MaybeTensor seed, double clamp, double scale,
                                           double dropout_p) {
  const char* op = "edge_attention_fwd";
  EdgeAttentionArgs args = checked(op, q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type,
                                   seed, clamp, scale, dropout_p);
  q = last_contiguous(q), k = last_contiguous(k), v = last_contiguous(v);
  const ScalarType wide = accumulator_dtype(q.scalar_type());
  Tensor out = node_tensor(op, "out", args, q);
  Tensor scores = new_tensor(op, "scores", q, {args.E, args.H}, wide);
  Tensor softmax = new_tensor(op, "softmax", q, {args.N, args.H, 2}, wide);
  args.q = node_heads(q), args.k = node_heads(k), args.v = node_heads(v), args.out = node_heads(out);
  args.scores = scores.data_ptr(), args.softmax = softmax.data_ptr();
  const Kernels& cpu = kernels();
  run_attention_tasks(
      op, args.tasks(), 2 * args.product(), cpu.edge_attention_workspace(args),
      [&](int64_t begin, int64_t end, char* workspace) { cpu.edge_attention_fwd(args, begin, end, workspace); });
  return {out, scores, softmax};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    Tensor dout, MaybeTensor dscores, Tensor q, Tensor k, Tensor v, MaybeTensor edge_scale, MaybeTensor edge_bias,
    Tensor row_ptr, Tensor source, Tensor row_edge, Tensor col_ptr, Tensor target, Tensor col_edge,
    MaybeTensor scale_type, MaybeTensor bias_type, MaybeTensor seed, Tensor scores, Tensor softmax, double clamp,
    double scale, double dropout_p, bool need_dscale, bool need_dbias) {
  const char* op = "edge_attention_bwd";
  EdgeAttentionArgs args = checked(op, q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type,
                                   seed, clamp, scale, dropout_p);
  const ScalarType wide = accumulator_dtype(q.scalar_type());
  args.columns = sorted_edges(op, "col_ptr, target or col_edge", col_ptr, target, col_edge, args.N, args.E);
  check_shape(op, "dout", dout, {args.N, args.H, args.D});
  check_dtype(op, "dout", dout, q.scalar_type());
  check_shape(op, "scores", scores, {args.E, args.H});
  check_dtype(op, "scores", scores, wide);
  check_shape(op, "softmax", softmax, {args.N, args.H, 2});
  check_dtype(op, "softmax", softmax, wide);
  STGT_CHECK(op, (!need_dscale || edge_scale) && (!need_dbias || edge_bias),
             "need_dscale must come with edge_scale, and need_dbias with edge_bias, got no tensor for one of them");
  if (dscores) {
    check_shape(op, "dscores", *dscores, {args.E, args.H});
    check_dtype(op, "dscores", *dscores, wide);
    dscores = as_contiguous(*dscores);
    args.dscores = dscores->data_ptr();
  }
  q = last_contiguous(q), k = last_contiguous(k), v = last_contiguous(v), dout = last_contiguous(dout);
  scores = as_contiguous(scores), softmax = as_contiguous(softmax);
  args.q = node_heads(q), args.k = node_heads(k), args.v = node_heads(v), args.dout = node_heads(dout);
  args.scores = scores.data_ptr(), args.softmax = softmax.data_ptr();
  Tensor dq = node_tensor(op, "dq", args, q), dk = node_tensor(op, "dk", args, q), dv = node_tensor(op, "dv", args, q);
  args.dq = node_heads(dq), args.dk = node_heads(dk), args.dv = node_heads(dv);
  const auto per_edge = [&](const char* name, bool needed) {
    return new_tensor(op, name, q, {needed ? args.E : 0, args.H}, wide);
  };
  Tensor dproduct = per_edge("dproduct", true), kept = per_edge("kept", true);
  Tensor dscale = per_edge("dscale", need_dscale), dbias = per_edge("dbias", need_dbias);
  args.dproduct = dproduct.data_ptr(), args.kept = kept.data_ptr();
  args.dscale = need_dscale ? dscale.data_ptr() : nullptr, args.dbias = need_dbias ? dbias.data_ptr() : nullptr;
  const Kernels& cpu = kernels();
  const int64_t workspace_bytes = cpu.edge_attention_workspace(args);
  run_attention_tasks(
      op, args.tasks(), 3 * args.product(), workspace_bytes,
      [&](int64_t begin, int64_t end, char* workspace) { cpu.edge_attention_bwd_rows(args, begin, end, workspace); });
  run_attention_tasks(op, args.tasks(), 3 * args.product(), workspace_bytes,
                      [&](int64_t begin, int64_t end, char* workspace) {
                        cpu.edge_attention_bwd_columns(args, begin, end, workspace);
                      });
  return {dq, dk, dv, gradient_of(op, args, need_dscale, edge_scale, scale_type, dscale),
          gradient_of(op, args, need_dbias, edge_bias, bias_type, dbias)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CPU, m) {
  m.impl("edge_attention_fwd", TORCH_BOX(&forward));
  m.impl("edge_attention_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
