// Launches of graph attention's float32 kernels.
#include "fp32.cuh"
#include "launch.h"

namespace stgt {
namespace {

// Calls f.template operator()<D, DROPOUT>() with the smallest of 64, 96 and 128 that holds the head dimension.
template <class F> void specialize_fp32(const AttentionCall& call, F f) {
  const auto with_dim = [&]<int D>() {
    call.p.drop_threshold ? f.template operator()<D, true>() : f.template operator()<D, false>();
  };
  if (call.p.D <= 64) return with_dim.template operator()<64>();
  if (call.p.D <= 96) return with_dim.template operator()<96>();
  with_dim.template operator()<128>();
}

}  // namespace

void forward_fp32(const AttentionCall& call) {
  specialize_fp32(call, [&]<int D, bool DROPOUT>() {
    call.launch(fp32::graph_attention_fwd_fp32<D, DROPOUT>, call.blocks(fp32::ROWS<D>), fp32::THREADS,
                fp32::FORWARD_SHARED_BYTES<D>, call.p);
  });
}

void backward_fp32(const AttentionCall& call) {
  specialize_fp32(call, [&]<int D, bool DROPOUT>() {
    call.launch(fp32::graph_attention_bwd_dkdv_fp32<D, DROPOUT>, call.blocks(fp32::COLUMNS), fp32::THREADS,
                fp32::BACKWARD_SHARED_BYTES<D>, call.p);
    call.launch(fp32::graph_attention_bwd_dq_fp32<D, DROPOUT>, call.blocks(fp32::ROWS<D>), fp32::THREADS,
                fp32::BACKWARD_SHARED_BYTES<D>, call.p);
  });
}

void dweight_fp32(const AttentionCall& call) {
  specialize_fp32(call, [&]<int D, bool DROPOUT>() {
    const int64_t down = (call.p.P + fp32::ROWS<D> - 1) / fp32::ROWS<D>;
    const int64_t across = (call.p.P + fp32::COLUMNS - 1) / fp32::COLUMNS;
    call.launch(fp32::graph_attention_bwd_dweight_fp32<D, DROPOUT>,
                call.grid(int64_t(call.p.B) * call.p.T * down * (2 * call.p.W + 1) * across), fp32::THREADS,
                fp32::DWEIGHT_SHARED_BYTES<D>, call.p);
  });
}

}  // namespace stgt
