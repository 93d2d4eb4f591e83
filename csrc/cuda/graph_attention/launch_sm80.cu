// Launches of graph attention's half-precision kernels for every GPU from sm_80 on.
#include "bwd_dweight_sm80.cuh"
#include "bwd_sm80.cuh"
#include "fwd_sm80.cuh"
#include "launch.h"

namespace stgt {

void forward_sm80(const AttentionCall& call) {
  specialize(call, [&]<class T, int D, bool DROPOUT, bool WIDE>() {
    const auto with_rows = [&]<int ROWS>() {
      call.launch(sm80::graph_attention_fwd_sm80<T, D, ROWS, DROPOUT, WIDE>, call.blocks(ROWS), ROWS,
                  sm80::FORWARD_SHARED_BYTES<D, ROWS, WIDE>, call.p);
    };
    // Two tiles of rows halve the reads of K and V. But a graph without frames may have few tiles that are live for
    // both.
    call.p.T > 1 && call.p.P > TILE ? with_rows.template operator()<128>() : with_rows.template operator()<64>();
  });
}

void backward_sm80(const AttentionCall& call) {
  specialize(call, [&]<class T, int D, bool DROPOUT, bool WIDE>() {
    const auto with = [&](auto kernel, int shared_bytes) {
      call.launch(kernel, call.blocks(TILE), sm80::BACKWARD_THREADS, shared_bytes, call.p);
    };
    with(sm80::graph_attention_bwd_dkdv_sm80<T, D, DROPOUT, WIDE>, sm80::Backward<D, true, WIDE>::SHARED_BYTES);
    with(sm80::graph_attention_bwd_dq_sm80<T, D, DROPOUT, WIDE>, sm80::Backward<D, false, WIDE>::SHARED_BYTES);
  });
}

void dweight_sm80(const AttentionCall& call) {
  const int64_t tiles = (call.p.P + TILE - 1) / TILE;
  const dim3 blocks = call.grid(int64_t(call.p.B) * call.p.T * tiles * (2 * call.p.W + 1) * tiles);
  specialize(call, [&]<class T, int D, bool DROPOUT, bool WIDE>() {
    if constexpr (WIDE)
      call.launch(sm80::graph_attention_bwd_dweight_sm80<T, D, DROPOUT>, blocks, sm80::DWEIGHT_THREADS,
                  sm80::DWEIGHT_SHARED_BYTES<D>, call.p);
    else
      STGT_CHECK(call.op, false, "gradients of weights need weights in float32, got float16");
  });
}

}  // namespace stgt
