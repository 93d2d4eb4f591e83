// Prints the number of stages of each pipelined kernel, which its header defines: "kernel numeric arguments: stages".
#include "../../csrc/cuda/graph_attention_bwd_sm90.cuh"
#include "../../csrc/cuda/graph_attention_fwd_sm90.cuh"
#include "../../csrc/cuda/spatio_temporal_graph_fwd_sm80.cuh"
#include "../../csrc/cuda/spatio_temporal_graph_fwd_sm90.cuh"

#include <cstdio>

template <int N> void attention() {
  using namespace stgt::sm90;
  std::printf("graph_attention_fwd_sm90 %d, 2: %d\n", N, Forward<N, 2>::STAGES);
  std::printf("graph_attention_fwd_sm90 %d, 4: %d\n", N, Forward<N, 4>::STAGES);
  std::printf("graph_attention_bwd_dq_sm90 %d: %d\n", N, BackwardRows<N>::STAGES);
  std::printf("graph_attention_bwd_dkdv_sm90 %d: %d\n", N, BackwardColumns<N>::STAGES);
}

int main() {
  attention<64>(), attention<88>(), attention<128>();
  std::printf("spatio_temporal_graph_fwd_sm80 : %d\n", stgt::graph::ForwardSm80::STAGES);
  std::printf("spatio_temporal_graph_fwd_sm90 : %d\n", stgt::graph::ForwardSm90::STAGES);
}
