// The kernels of edge attention on the emulator. test_emulated_edge_attention.py calls them.
#include "../../csrc/cuda/edge_attention/bwd_columns_sm80.cuh"
#include "../../csrc/cuda/edge_attention/bwd_rows_sm80.cuh"
#include "../../csrc/cuda/edge_attention/bwd_types_sm80.cuh"
#include "../../csrc/cuda/edge_attention/fwd_sm80.cuh"
#include "../../csrc/cuda/edge_attention/long_sm80.cuh"

using namespace stgt;
using namespace stgt::edges;

namespace {

enum class Dtype { f32, bf16, f16 };

unsigned parts(int64_t size, int64_t part) { return unsigned((size + part - 1) / part); }
unsigned segments(const EdgeParams& p) { return p.E > p.split ? parts(p.E, p.split) : 0; }

// Runs a kernel with a team for each head of each piece and node, and one with blocks for the heads of segments.
template <class Kernel> void teams(const EdgeParams& p, Kernel kernel) {
  emulate({p.piece_blocks + parts(int64_t(p.N) * p.H, THREADS / p.lanes), 1, 1}, THREADS, 0, [&] { kernel(p); });
}
template <class Kernel> void long_nodes(const EdgeParams& p, unsigned sums, Kernel kernel) {
  emulate({segments(p) * p.H, sums, 1}, LONG_THREADS, LONG_SHARED_BYTES, [&] { kernel(p); });
}

template <class T> void forward(const EdgeParams& p) {
  teams(p, edge_attention_fwd_sm80<T>);
  long_nodes(p, 1, edge_attention_fwd_long_sm80<T>);
}
template <class T> void backward(const EdgeParams& p) {
  teams(p, edge_attention_bwd_delta_sm80<T>);
  long_nodes(p, 1, edge_attention_bwd_delta_long_sm80);
  teams(p, edge_attention_bwd_rows_sm80<T>);
  teams(p, edge_attention_bwd_columns_sm80<T>);
  long_nodes(p, 3, edge_attention_bwd_long_sm80<T>);
}

}  // namespace

extern "C" int params_size() { return sizeof(EdgeParams); }
extern "C" int type_params_size() { return sizeof(TypeParams); }
extern "C" int threads() { return THREADS; }

extern "C" void edge_attention_fwd(const EdgeParams* p, Dtype dtype) {
  dtype == Dtype::f32 ? forward<float>(*p) : dtype == Dtype::bf16 ? forward<ptx::bf16>(*p) : forward<ptx::f16>(*p);
}
extern "C" void edge_attention_bwd(const EdgeParams* p, Dtype dtype) {
  dtype == Dtype::f32 ? backward<float>(*p) : dtype == Dtype::bf16 ? backward<ptx::bf16>(*p) : backward<ptx::f16>(*p);
}
extern "C" void edge_attention_bwd_types(const TypeParams* p) {
  emulate({p->runs * p->types * parts(p->H, p->width), 1, 1}, TYPE_THREADS, TYPE_SHARED_BYTES,
          [&] { edge_attention_bwd_types_sm80(*p); });
  emulate({parts(int64_t(p->types) * p->H, TYPE_THREADS), 1, 1}, TYPE_THREADS, 0,
          [&] { edge_attention_bwd_types_sum_sm80(*p); });
}
