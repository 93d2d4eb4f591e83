// The sm_80 and float32 kernels of graph attention on the emulator. test_emulated_graph_attention.py calls them.
#include "../../csrc/cuda/graph_attention/bwd_dweight_sm80.cuh"
#include "../../csrc/cuda/graph_attention/bwd_sm80.cuh"
#include "../../csrc/cuda/graph_attention/fp32.cuh"
#include "../../csrc/cuda/graph_attention/fwd_sm80.cuh"

using namespace stgt;

namespace {

enum class Dtype { f32, bf16, f16 };

unsigned parts(const AttentionParams& p, int tokens) { return (p.P + tokens - 1) / tokens; }
uint3 blocks(const AttentionParams& p, int tokens) { return {p.B * p.T * parts(p, tokens) * p.H, 1, 1}; }
uint3 tiles(const AttentionParams& p, int rows, int columns) {
  return {p.B * p.T * parts(p, rows) * (2 * p.W + 1) * parts(p, columns), 1, 1};
}

template <class T, int D, bool DROPOUT, bool WIDE> struct HalfPrecision {
  template <int ROWS> static void forward_rows(const AttentionParams& p) {
    emulate(blocks(p, ROWS), ROWS, sm80::FORWARD_SHARED_BYTES<D, ROWS, WIDE>,
            [&] { sm80::graph_attention_fwd_sm80<T, D, ROWS, DROPOUT, WIDE>(p); });
  }
  static void forward(const AttentionParams& p) { p.P <= 64 ? forward_rows<64>(p) : forward_rows<128>(p); }
  static void backward(const AttentionParams& p) {
    emulate(blocks(p, TILE), sm80::BACKWARD_THREADS, sm80::Backward<D, true, WIDE>::SHARED_BYTES,
            [&] { sm80::graph_attention_bwd_dkdv_sm80<T, D, DROPOUT, WIDE>(p); });
    emulate(blocks(p, TILE), sm80::BACKWARD_THREADS, sm80::Backward<D, false, WIDE>::SHARED_BYTES,
            [&] { sm80::graph_attention_bwd_dq_sm80<T, D, DROPOUT, WIDE>(p); });
    if (WIDE)
      emulate(tiles(p, TILE, TILE), sm80::DWEIGHT_THREADS, sm80::DWEIGHT_SHARED_BYTES<D>,
              [&] { sm80::graph_attention_bwd_dweight_sm80<T, D, DROPOUT>(p); });
  }
};

template <int D, bool DROPOUT> struct Float {
  static void forward(const AttentionParams& p) {
    emulate(blocks(p, fp32::ROWS<D>), fp32::THREADS, fp32::FORWARD_SHARED_BYTES<D>,
            [&] { fp32::graph_attention_fwd_fp32<D, DROPOUT>(p); });
  }
  static void backward(const AttentionParams& p) {
    emulate(blocks(p, fp32::COLUMNS), fp32::THREADS, fp32::BACKWARD_SHARED_BYTES<D>,
            [&] { fp32::graph_attention_bwd_dkdv_fp32<D, DROPOUT>(p); });
    emulate(blocks(p, fp32::ROWS<D>), fp32::THREADS, fp32::BACKWARD_SHARED_BYTES<D>,
            [&] { fp32::graph_attention_bwd_dq_fp32<D, DROPOUT>(p); });
    emulate(tiles(p, fp32::ROWS<D>, fp32::COLUMNS), fp32::THREADS, fp32::DWEIGHT_SHARED_BYTES<D>,
            [&] { fp32::graph_attention_bwd_dweight_fp32<D, DROPOUT>(p); });
  }
};

// Calls run(Kernels{}) with the kernels for this call.
template <bool DROPOUT, class Run> void with_dropout(const AttentionParams& p, Dtype dtype, bool wide, Run run) {
  const auto with_weights = [&]<class T, bool WIDE>() {
    if (p.D <= 64) return run(HalfPrecision<T, 64, DROPOUT, WIDE>{});
    if (p.D <= 88) return run(HalfPrecision<T, 88, DROPOUT, WIDE>{});
    run(HalfPrecision<T, 128, DROPOUT, WIDE>{});
  };
  const auto half = [&]<class T>() {
    wide ? with_weights.template operator()<T, true>() : with_weights.template operator()<T, false>();
  };
  if (dtype == Dtype::bf16) return half.template operator()<ptx::bf16>();
  if (dtype == Dtype::f16) return half.template operator()<ptx::f16>();
  if (p.D <= 64) return run(Float<64, DROPOUT>{});
  if (p.D <= 96) return run(Float<96, DROPOUT>{});
  run(Float<128, DROPOUT>{});
}
template <class Run> void with_kernels(const AttentionParams& p, Dtype dtype, bool wide, bool eager, Run run) {
  emulator::eager = eager;
  p.drop_threshold ? with_dropout<true>(p, dtype, wide, run) : with_dropout<false>(p, dtype, wide, run);
}

}  // namespace

extern "C" int params_size() { return sizeof(AttentionParams); }

extern "C" void graph_attention_fwd(const AttentionParams* p, Dtype dtype, bool wide, bool eager) {
  with_kernels(*p, dtype, wide, eager, [&](auto kernels) { kernels.forward(*p); });
}

extern "C" void graph_attention_bwd(const AttentionParams* p, Dtype dtype, bool wide, bool eager) {
  with_kernels(*p, dtype, wide, eager, [&](auto kernels) { kernels.backward(*p); });
}
