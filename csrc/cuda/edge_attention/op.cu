// edge_attention_fwd and edge_attention_bwd for CUDA tensors: checks of arguments, outputs and launches. The node
// numbers in the graph are not checked, since the CPU would have to wait for the GPU.
#include "../../tensors.h"
#include "../common/launch.h"
#include "bwd_columns_sm80.cuh"
#include "bwd_rows_sm80.cuh"
#include "bwd_types_sm80.cuh"
#include "fwd_sm80.cuh"
#include "long_sm80.cuh"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>
#include <tuple>

namespace stgt {
namespace {

using edges::EdgeParams;
typedef std::optional<Tensor> MaybeTensor;

constexpr int SPLIT = 256;  // a node with more edges is cut into pieces
// The runs of edges for the gradients of types: a run has at least RUN edges, and there are at most MOST_RUNS runs.
constexpr int RUN = 1024, MOST_RUNS = 256;

// Returns x, or a copy if the kernels cannot read x, because its last dimension is not contiguous or its stride over
// nodes is too large.
Tensor readable(const Tensor& x) {
  const bool last = x.size(2) == 1 || x.stride(2) == 1, near = x.size(0) <= 1 || x.stride(0) <= INT32_MAX / 4;
  return last && near ? x : as_contiguous(x);
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A call of the op, and its launches.
struct Call {
  const char* op;
  const Launcher& launch;
  ScalarType dtype;
  EdgeParams p;

  dim3 grid(int64_t blocks, unsigned y = 1) const {
    STGT_CHECK(op, blocks <= INT32_MAX, "q or the graph is too large: ", blocks, " blocks");
    return dim3(unsigned(blocks), y);
  }
  int64_t segments() const { return p.E > p.split ? divide_up(p.E, p.split) : 0; }
  int64_t pieces() const { return 2 * segments(); }

  // Launches a kernel with a team for each head of each piece and of each node.
  void teams(void (*kernel)(EdgeParams)) const {
    const int64_t blocks = p.piece_blocks + divide_up(int64_t(p.N) * p.H, edges::THREADS / p.lanes);
    launch(kernel, grid(blocks), edges::THREADS, 0, p);
  }
  // Launches a kernel with `sums` blocks for each head of each segment. The blocks end at once if no node is long. The
  // CPU does not know whether one is.
  void long_nodes(void (*kernel)(EdgeParams), int sums = 1) const {
    if (segments() == 0) return;
    launch(kernel, grid(segments() * p.H, sums), edges::LONG_THREADS, edges::LONG_SHARED_BYTES, p);
  }

  // Calls f.template operator()<T>() with the type of the tensors.
  template <class F> void specialize(F f) const {
    if (dtype == ScalarType::Float) return f.template operator()<float>();
    if (dtype == ScalarType::BFloat16) return f.template operator()<ptx::bf16>();
    f.template operator()<ptx::f16>();
  }
};

edges::SortedEdges sorted_edges(const char* op, const char* name, const Tensor& ptr, const Tensor& other,
                                const Tensor& edge, const Tensor& q, int64_t E) {
  for (const Tensor* x : {&ptr, &other, &edge}) {
    check_shape(op, name, *x, {x == &ptr ? q.size(0) + 1 : E});
    check_dtype(op, name, *x, ScalarType::Int);
    check_device(op, name, *x, q);
    STGT_CHECK(op, x->is_contiguous(), name, " must be contiguous");
  }
  const auto integers = [](const Tensor& x) { return static_cast<const int*>(x.data_ptr()); };
  return {integers(ptr), integers(other), integers(edge)};
}

// Checks edge_scale or edge_bias, and makes `values` contiguous. The tensor has to live as long as the result, which
// points into it.
edges::EdgeValues edge_values(const char* op, const char* name, MaybeTensor& values, const MaybeTensor& type,
                              const Tensor& q, int64_t E) {
  if (!values) return {};
  STGT_CHECK(op, values->dim() == 2, name, " must be (E, H) or (types, H), got ", values->dim(), " dimensions");
  check_shape(op, name, *values, {type ? values->size(0) : E, q.size(1)});
  check_dtype(op, name, *values, ScalarType::Float);
  check_device(op, name, *values, q);
  values = as_contiguous(*values);
  const float* const data = static_cast<const float*>(values->data_ptr());
  if (!type) return {data, nullptr};
  check_shape(op, "edge_type", *type, {E});
  check_dtype(op, "edge_type", *type, ScalarType::Byte);
  check_device(op, "edge_type", *type, q);
  STGT_CHECK(op, type->is_contiguous(), "edge_type must be contiguous");
  return {data, static_cast<const uint8_t*>(type->data_ptr())};
}

EdgeParams checked(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, MaybeTensor& edge_scale,
                   MaybeTensor& edge_bias, const Tensor& row_ptr, const Tensor& source, const Tensor& row_edge,
                   const MaybeTensor& scale_type, const MaybeTensor& bias_type, const MaybeTensor& seed, double clamp,
                   double scale, double dropout_p) {
  STGT_CHECK(op, q.dim() == 3 && source.dim() == 1, "q must be (N, H, D) and source (E)");
  const ScalarType dtype = q.scalar_type();
  STGT_CHECK(op, dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
             "q must be float32, bfloat16 or float16");
  const int64_t N = q.size(0), H = q.size(1), D = q.size(2), E = source.size(0);
  STGT_CHECK(op, H >= 1 && D >= 1 && D <= 128, "q must have H >= 1 and 1 <= D <= 128, got H=", H, ", D=", D);
  STGT_CHECK(op, N < INT32_MAX && E < INT32_MAX && H * D <= INT32_MAX / 4 && N * H <= UINT32_MAX - edges::THREADS,
             "q or the graph is too large");
  EdgeParams p{};
  p.N = int(N), p.E = int(E), p.H = int(H), p.D = int(D), p.split = SPLIT;
  p.scale = float(scale), p.clamp = float(clamp);
  for (const auto& [name, x] : {std::pair{"k", &k}, std::pair{"v", &v}}) {
    check_shape(op, name, *x, {N, H, D});
    check_dtype(op, name, *x, dtype);
    check_device(op, name, *x, q);
  }
  p.rows = sorted_edges(op, "row_ptr, source or row_edge", row_ptr, source, row_edge, q, E);
  p.edge_scale = edge_values(op, "edge_scale", edge_scale, scale_type, q, E);
  p.edge_bias = edge_values(op, "edge_bias", edge_bias, bias_type, q, E);
  p.inverse_keep = 1;
  if (dropout_p > 0) {
    STGT_CHECK(op, dropout_p < 1 && seed.has_value(), "dropout needs a seed and a probability below 1");
    check_shape(op, "seed", *seed, {1});
    check_dtype(op, "seed", *seed, ScalarType::Long);
    check_device(op, "seed", *seed, q);
    p.drop_threshold = uint32_t(std::min(std::nearbyint(dropout_p * 65536), 65535.0));
    p.inverse_keep = 65536.0f / float(65536 - p.drop_threshold);
    p.seed = static_cast<const int64_t*>(seed->data_ptr());
  }
  return p;
}

int bytes_of(ScalarType dtype) { return dtype == ScalarType::Float ? 4 : 2; }

// Returns the data and strides of a tensor that `readable` returned. The stride of a dimension of one element is set to
// 0, since it is never used and may have any value.
edges::NodeHeads node_heads(const Tensor& x) {
  const int bytes = bytes_of(x.scalar_type());
  return {x.data_ptr(), x.size(1) == 1 ? 0 : x.stride(1) * bytes, x.size(0) == 1 ? 0 : int(x.stride(0) * bytes)};
}

// Sets the number of threads of a team, whether heads are read in whole chunks, and the number of blocks for pieces.
Call prepared(const char* op, const Launcher& launch, ScalarType dtype, EdgeParams p,
              std::initializer_list<edges::NodeHeads> inputs) {
  const int64_t head_bytes = int64_t(p.D) * bytes_of(dtype);
  p.lanes = std::max(4, int(std::bit_ceil(unsigned(divide_up(head_bytes, 16)))));
  uint64_t ends = head_bytes;
  for (const edges::NodeHeads& x : inputs) ends |= reinterpret_cast<uintptr_t>(x.data) | x.n | x.h;
  p.whole = ends % 16 == 0;
  Call call{op, launch, dtype, p};
  call.p.piece_blocks = int(call.grid(divide_up(call.pieces() * p.H, edges::THREADS / p.lanes)).x);
  return call;
}

float* floats(const Tensor& x) { return static_cast<float*>(x.data_ptr()); }

std::tuple<Tensor, Tensor, Tensor> forward(Tensor q, Tensor k, Tensor v, MaybeTensor edge_scale, MaybeTensor edge_bias,
                                           Tensor row_ptr, Tensor source, Tensor row_edge, MaybeTensor scale_type,
                                           MaybeTensor bias_type, MaybeTensor seed, double clamp, double scale,
                                           double dropout_p) {
  const char* op = "edge_attention_fwd";
  EdgeParams p = checked(op, q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type, seed,
                         clamp, scale, dropout_p);
  const Launcher launch(op, q);
  q = readable(q), k = readable(k), v = readable(v);
  Tensor out = new_tensor(op, "out", q, {p.N, p.H, p.D}, q.scalar_type());
  Tensor scores = new_tensor(op, "scores", q, {p.E, p.H}, ScalarType::Float);
  Tensor softmax = new_tensor(op, "softmax", q, {p.N, p.H, 2}, ScalarType::Float);
  if (p.N == 0) return {out, scores, softmax};
  p.q = node_heads(q), p.k = node_heads(k), p.v = node_heads(v);
  p.out = out.data_ptr(), p.scores = floats(scores), p.softmax = floats(softmax);
  Call call = prepared(op, launch, q.scalar_type(), p, {p.q, p.k, p.v});
  Tensor piece_sums = new_tensor(op, "sums of pieces", q, {call.pieces(), p.H, p.D}, ScalarType::Float);
  Tensor piece_numbers = new_tensor(op, "numbers of pieces", q, {call.pieces(), p.H, 2}, ScalarType::Float);
  call.p.piece_sums = floats(piece_sums), call.p.piece_numbers = floats(piece_numbers);
  call.specialize([&]<class T>() {
    call.teams(edges::edge_attention_fwd_sm80<T>);
    call.long_nodes(edges::edge_attention_fwd_long_sm80<T>);
  });
  return {out, scores, softmax};
}

// Returns the gradient of edge_scale or edge_bias, from the gradient for each edge. It is empty if it is not needed.
Tensor gradient_of(const Call& call, bool needed, const MaybeTensor& values, const MaybeTensor& type,
                   const Tensor& per_edge) {
  if (!needed) return new_tensor(call.op, "no gradient", per_edge, {0}, per_edge.scalar_type());
  if (!type) return per_edge;
  const int64_t types = values->size(0), E = call.p.E, H = call.p.H;
  Tensor sums = new_tensor(call.op, "sums of types", per_edge, {types, H}, ScalarType::Float);
  if (types == 0) return sums;
  edges::TypeParams p{};
  p.E = int(E), p.H = int(H), p.types = int(types);
  p.width = int(std::min<unsigned>(std::bit_ceil(unsigned(H)), 32));
  p.run = int(std::max<int64_t>(RUN, divide_up(E, MOST_RUNS))), p.runs = int(divide_up(E, p.run));
  Tensor partial = new_tensor(call.op, "sums of types", per_edge, {p.runs, types, H}, ScalarType::Float);
  p.per_edge = floats(per_edge), p.type = static_cast<const uint8_t*>(type->data_ptr());
  p.partial = floats(partial), p.sums = floats(sums);
  if (p.runs > 0)
    call.launch(edges::edge_attention_bwd_types_sm80, call.grid(p.runs * types * divide_up(H, p.width)),
                edges::TYPE_THREADS, edges::TYPE_SHARED_BYTES, p);
  call.launch(edges::edge_attention_bwd_types_sum_sm80, call.grid(divide_up(types * H, edges::TYPE_THREADS)),
              edges::TYPE_THREADS, 0, p);
  return sums;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    Tensor dout, MaybeTensor dscores, Tensor q, Tensor k, Tensor v, MaybeTensor edge_scale, MaybeTensor edge_bias,
    Tensor row_ptr, Tensor source, Tensor row_edge, Tensor col_ptr, Tensor target, Tensor col_edge,
    MaybeTensor scale_type, MaybeTensor bias_type, MaybeTensor seed, Tensor scores, Tensor softmax, double clamp,
    double scale, double dropout_p, bool need_dscale, bool need_dbias) {
  const char* op = "edge_attention_bwd";
  EdgeParams p = checked(op, q, k, v, edge_scale, edge_bias, row_ptr, source, row_edge, scale_type, bias_type, seed,
                         clamp, scale, dropout_p);
  p.columns = sorted_edges(op, "col_ptr, target or col_edge", col_ptr, target, col_edge, q, p.E);
  check_shape(op, "dout", dout, {p.N, p.H, p.D});
  check_dtype(op, "dout", dout, q.scalar_type());
  check_device(op, "dout", dout, q);
  const auto check_floats = [&](const char* name, const Tensor& x, std::initializer_list<int64_t> shape) {
    check_shape(op, name, x, shape);
    check_dtype(op, name, x, ScalarType::Float);
    check_device(op, name, x, q);
  };
  check_floats("scores", scores, {p.E, p.H});
  check_floats("softmax", softmax, {p.N, p.H, 2});
  STGT_CHECK(op, (!need_dscale || edge_scale) && (!need_dbias || edge_bias),
             "need_dscale must come with edge_scale, and need_dbias with edge_bias, got no tensor for one of them");
  if (dscores) {
    check_floats("dscores", *dscores, {p.E, p.H});
    dscores = as_contiguous(*dscores);
    p.dscores = floats(*dscores);
  }
  const Launcher launch(op, q);
  q = readable(q), k = readable(k), v = readable(v), dout = readable(dout);
  scores = as_contiguous(scores), softmax = as_contiguous(softmax);
  const auto node_tensor = [&](const char* name) { return new_tensor(op, name, q, {p.N, p.H, p.D}, q.scalar_type()); };
  Tensor dq = node_tensor("dq"), dk = node_tensor("dk"), dv = node_tensor("dv");
  const auto per_edge = [&](const char* name, bool needed) {
    return new_tensor(op, name, q, {needed ? p.E : 0, p.H}, ScalarType::Float);
  };
  Tensor dproduct = per_edge("dproduct", true), kept = per_edge("kept", true);
  Tensor dscale = per_edge("dscale", need_dscale), dbias = per_edge("dbias", need_dbias);
  Tensor delta = new_tensor(op, "delta", q, {p.N, p.H}, ScalarType::Float);
  p.q = node_heads(q), p.k = node_heads(k), p.v = node_heads(v), p.dout = node_heads(dout);
  p.scores = floats(scores), p.softmax = floats(softmax), p.delta = floats(delta);
  p.dq = dq.data_ptr(), p.dk = dk.data_ptr(), p.dv = dv.data_ptr();
  p.dproduct = floats(dproduct), p.kept = floats(kept);
  p.dscale = need_dscale ? floats(dscale) : nullptr, p.dbias = need_dbias ? floats(dbias) : nullptr;
  Call call = prepared(op, launch, q.scalar_type(), p, {p.q, p.k, p.v, p.dout});
  Tensor piece_sums = new_tensor(op, "sums of pieces", q, {3, call.pieces(), p.H, p.D}, ScalarType::Float);
  Tensor piece_numbers = new_tensor(op, "numbers of pieces", q, {call.pieces(), p.H}, ScalarType::Float);
  call.p.piece_sums = floats(piece_sums), call.p.piece_numbers = floats(piece_numbers);
  if (p.N > 0)
    call.specialize([&]<class T>() {
      call.teams(edges::edge_attention_bwd_delta_sm80<T>);
      call.long_nodes(edges::edge_attention_bwd_delta_long_sm80);
      call.teams(edges::edge_attention_bwd_rows_sm80<T>);
      call.teams(edges::edge_attention_bwd_columns_sm80<T>);
      call.long_nodes(edges::edge_attention_bwd_long_sm80<T>, 3);
    });
  return {dq, dk, dv, gradient_of(call, need_dscale, edge_scale, scale_type, dscale),
          gradient_of(call, need_dbias, edge_bias, bias_type, dbias)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CUDA, m) {
  m.impl("edge_attention_fwd", TORCH_BOX(&forward));
  m.impl("edge_attention_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
