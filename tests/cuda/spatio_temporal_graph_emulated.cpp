// The kernels that build the graph on the emulator. test_emulated_spatio_temporal_graph.py calls them.
#include "../../csrc/cuda/spatio_temporal_graph/bwd_fp32.cuh"
#include "../../csrc/cuda/spatio_temporal_graph/bwd_sm80.cuh"
#include "../../csrc/cuda/spatio_temporal_graph/fwd_fp32.cuh"
#include "../../csrc/cuda/spatio_temporal_graph/fwd_rescue.cuh"
#include "../../csrc/cuda/spatio_temporal_graph/fwd_sm80.cuh"
#include "../../csrc/cuda/spatio_temporal_graph/fwd_sm90.cuh"

using namespace stgt;
using graph::GraphParams;

namespace {

template <int ROWS, int COLUMNS> unsigned forward_blocks(const GraphParams& p) {
  const graph::Blocks<ROWS, COLUMNS> blocks(p.P);
  return p.B * p.T * (p.W + 1) * blocks.down * blocks.across;
}

template <class T, bool WIDE> void rescue(const GraphParams& p) {
  emulate({unsigned(p.B) * p.T * ((p.P + graph::TILE - 1) / graph::TILE), 1, 1}, graph::RESCUE_THREADS, 0,
          [&] { graph::spatio_temporal_graph_fwd_rescue<T, WIDE>(p); });
}

template <class T, bool WIDE> void forward_half(const GraphParams& p, bool hopper) {
  if (hopper) {
    using S = graph::ForwardSm90;
    const ptx::TensorMap x{
        static_cast<const char*>(p.x), 3, 2, {p.C, p.P, int64_t(p.B) * p.T}, {2, 2 * p.C, 2 * int64_t(p.P) * p.C},
        {S::DEPTH, graph::TILE, 1},    1};
    emulate({forward_blocks<S::ROWS, S::COLUMNS>(p), 1, 1}, S::THREADS, S::SHARED_BYTES,
            [&] { graph::spatio_temporal_graph_fwd_sm90<T, WIDE>(p, x); });
  } else {
    using S = graph::ForwardSm80<WIDE>;
    emulate({forward_blocks<S::ROWS, S::ROWS>(p), 1, 1}, S::THREADS, S::SHARED_BYTES,
            [&] { graph::spatio_temporal_graph_fwd_sm80<T, WIDE>(p); });
  }
  if constexpr (std::is_same_v<T, ptx::bf16>) rescue<T, WIDE>(p);
}

void forward_fp32(const GraphParams& p) {
  using S = graph::ForwardFp32;
  emulate({forward_blocks<graph::TILE, graph::TILE>(p), 1, 1}, S::THREADS, S::SHARED_BYTES,
          [&] { graph::spatio_temporal_graph_fwd_fp32(p); });
  rescue<float, true>(p);
}

template <class S> uint3 backward_blocks(const GraphParams& p) {
  return {unsigned(p.B) * p.T * ((p.P + S::ROWS - 1) / S::ROWS) * ((p.C + S::DEPTH - 1) / S::DEPTH), 1, 1};
}

template <class T> void backward_half(GraphParams p) {
  using S = graph::Backward;
  uint32_t largest = 0;
  if constexpr (std::is_same_v<T, ptx::f16>) {
    const int64_t size = int64_t(p.B) * p.T * p.P * p.band() * p.P;
    emulate({2, 1, 1}, graph::LARGEST_THREADS, 0,
            [&] { graph::spatio_temporal_graph_bwd_largest(p.dweight, size, &largest); });
    p.largest = &largest;
  }
  emulate(backward_blocks<S>(p), S::THREADS, S::SHARED_BYTES, [&] { graph::spatio_temporal_graph_bwd_sm80<T>(p); });
}

void backward_fp32(const GraphParams& p) {
  using S = graph::BackwardFp32;
  emulate(backward_blocks<S>(p), S::THREADS, S::SHARED_BYTES, [&] { graph::spatio_temporal_graph_bwd_fp32(p); });
}

}  // namespace

extern "C" int params_size() { return sizeof(GraphParams); }

enum Kind { FP32, BF16, FP16 };

extern "C" void forward(const GraphParams* p, Kind kind, bool wide, bool hopper, bool eager) {
  emulator::eager = eager;
  if (kind == FP32) return forward_fp32(*p);
  const auto half = [&]<class T>() { wide ? forward_half<T, true>(*p, hopper) : forward_half<T, false>(*p, hopper); };
  kind == BF16 ? half.template operator()<ptx::bf16>() : half.template operator()<ptx::f16>();
}

extern "C" void backward(const GraphParams* p, Kind kind, bool eager) {
  emulator::eager = eager;
  if (kind == FP32) return backward_fp32(*p);
  return kind == BF16 ? backward_half<ptx::bf16>(*p) : backward_half<ptx::f16>(*p);
}
