// Prints the number of stages of each pipelined kernel, which its header defines: "kernel numeric arguments: stages".
#include "../../csrc/cuda/graph_attention/bwd_sm90.cuh"
#include "../../csrc/cuda/graph_attention/fwd_sm90.cuh"
#include "../../csrc/cuda/spatio_temporal_graph/fwd_sm80.cuh"
#include "../../csrc/cuda/spatio_temporal_graph/fwd_sm90.cuh"

#include <cstdio>

template <int N, bool WIDE> void attention() {
  using namespace stgt::sm90;
  const char* const wide = WIDE ? "true" : "false";
  std::printf("graph_attention_fwd_sm90 %d, 2, %s: %d\n", N, wide, Forward<N, 2, WIDE>::STAGES);
  if (!WIDE) std::printf("graph_attention_fwd_sm90 %d, 4, %s: %d\n", N, wide, Forward<N, 4, WIDE>::STAGES);
  std::printf("graph_attention_bwd_dq_sm90 %d, %s: %d\n", N, wide, BackwardRows<N, WIDE>::STAGES);
  std::printf("graph_attention_bwd_dkdv_sm90 %d, %s: %d\n", N, wide, BackwardColumns<N, WIDE>::STAGES);
}

int main() {
  attention<64, false>(), attention<88, false>(), attention<128, false>();
  attention<64, true>(), attention<88, true>(), attention<128, true>();
  for (const char* wide : {"false", "true"}) {
    std::printf("spatio_temporal_graph_fwd_sm80 %s: %d\n", wide, stgt::graph::ForwardSm80<false>::STAGES);
    std::printf("spatio_temporal_graph_fwd_sm90 %s: %d\n", wide, stgt::graph::ForwardSm90::STAGES);
  }
}
