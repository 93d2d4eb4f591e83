// The Hopper kernels of graph attention on the emulator. test_emulated_graph_attention_sm90.py calls them.
#include "../../csrc/cuda/graph_attention/aligned_weights.cuh"
#include "../../csrc/cuda/graph_attention/bwd_delta.cuh"
#include "../../csrc/cuda/graph_attention/bwd_sm90.cuh"
#include "../../csrc/cuda/graph_attention/fwd_sm90.cuh"

using namespace stgt;

namespace {

ptx::TensorMap heads_map(const AttentionParams& p, const void* data, Strides at) {
  return {static_cast<const char*>(data),
          5,
          2,
          {p.D, p.P, p.T, p.H, p.B},
          {2, 2 * at.n, 2 * at.n * p.P, 2 * at.h, 2 * at.b},
          {32, 64, 1, 1, 1},
          2};
}

template <bool WIDE> sm90::AttentionMaps maps_of(const AttentionParams& p, const void* weights, int64_t pitch) {
  const Strides own{int64_t(p.T) * p.P * p.H * p.D, p.D, int64_t(p.H) * p.D};
  const int64_t O = 2 * p.W + 1, size = WIDE ? 4 : 2;
  sm90::AttentionMaps maps{};
  maps.q = heads_map(p, p.q, p.q_at), maps.k = heads_map(p, p.k, p.k_at), maps.v = heads_map(p, p.v, p.v_at);
  maps.dout = heads_map(p, p.dout, p.dout_at);
  maps.out = heads_map(p, p.out, own);
  maps.dq = heads_map(p, p.dq, own), maps.dk = heads_map(p, p.dk, own), maps.dv = heads_map(p, p.dv, own);
  maps.weight = {static_cast<const char*>(weights),
                 4,
                 int(size),
                 {p.P, O, p.P, int64_t(p.B) * p.T},
                 {size, size * pitch, size * O * pitch, size * O * p.P * pitch},
                 {WIDE ? 32 : 64, 1, 64, 1},
                 1};
  return maps;
}

// The weights in rows that the copy engine takes, and the maps that describe them and the other tensors.
template <bool WIDE> struct Inputs {
  using T = std::conditional_t<WIDE, float, uint16_t>;
  static constexpr int CHUNK = 16 / sizeof(T);
  int pitch;
  std::vector<T> weights;
  sm90::AttentionMaps maps;

  explicit Inputs(const AttentionParams& p)
      : pitch((p.P + CHUNK - 1) / CHUNK * CHUNK), weights(size_t(p.B) * p.T * p.P * p.band() * pitch) {
    const int64_t rows = int64_t(p.B) * p.T * p.P * p.band(), chunks = rows * (pitch / CHUNK);
    emulate({unsigned((chunks + ALIGN_THREADS - 1) / ALIGN_THREADS), 1, 1}, ALIGN_THREADS, 0, [&] {
      graph_attention_align_weights<T>(static_cast<const T*>(p.weight), weights.data(), rows, p.P, pitch);
    });
    maps = maps_of<WIDE>(p, weights.data(), pitch);
  }
};

// Calls f.template operator()<T, N, DROPOUT, WIDE>() with the kernels' template arguments.
template <class F> void specialize(const AttentionParams& p, bool bf16, bool wide, F f) {
  const auto with_weights = [&]<class T, int N, bool DROPOUT>() {
    wide ? f.template operator()<T, N, DROPOUT, true>() : f.template operator()<T, N, DROPOUT, false>();
  };
  const auto with_dim = [&]<class T, int N>() {
    p.drop_threshold ? with_weights.template operator()<T, N, true>() : with_weights.template operator()<T, N, false>();
  };
  const auto with_type = [&]<class T>() {
    if (p.D <= 64) return with_dim.template operator()<T, 64>();
    if (p.D <= 88) return with_dim.template operator()<T, 88>();
    with_dim.template operator()<T, 128>();
  };
  bf16 ? with_type.template operator()<ptx::bf16>() : with_type.template operator()<ptx::f16>();
}

template <class T, int N, int GROUPS, bool DROPOUT, bool WIDE> void forward(const AttentionParams& p) {
  using S = sm90::Forward<N, GROUPS, WIDE>;
  const Inputs<WIDE> inputs(p);
  const unsigned blocks = (p.P + 64 * GROUPS - 1) / (64 * GROUPS);
  emulate({unsigned(p.B) * p.T * blocks * p.H, 1, 1}, S::THREADS, S::SHARED_BYTES,
          [&] { sm90::graph_attention_fwd_sm90<T, N, GROUPS, DROPOUT, WIDE>(p, inputs.maps); });
}

template <class T, int N, bool DROPOUT, bool WIDE> void backward(const AttentionParams& p) {
  using Rows = sm90::BackwardRows<N, WIDE>;
  using Columns = sm90::BackwardColumns<N, WIDE>;
  const Inputs<WIDE> inputs(p);
  const uint3 blocks{unsigned(p.B) * p.T * ((p.P + 127) / 128) * p.H, 1, 1};
  emulate(blocks, Rows::THREADS, Rows::SHARED_BYTES,
          [&] { sm90::graph_attention_bwd_dq_sm90<T, N, DROPOUT, WIDE>(p, inputs.maps); });
  emulate(blocks, Columns::THREADS, Columns::SHARED_BYTES,
          [&] { sm90::graph_attention_bwd_dkdv_sm90<T, N, DROPOUT, WIDE>(p, inputs.maps); });
}

}  // namespace

extern "C" int params_size() { return sizeof(AttentionParams); }

extern "C" void graph_attention_fwd(const AttentionParams* p, bool bf16, bool wide, bool eager) {
  emulator::eager = eager;
  specialize(*p, bf16, wide, [&]<class T, int N, bool DROPOUT, bool WIDE>() {
    if constexpr (N <= 88 && !WIDE)
      if (p->P > 128) return forward<T, N, 4, DROPOUT, WIDE>(*p);
    forward<T, N, 2, DROPOUT, WIDE>(*p);
  });
}

extern "C" void graph_attention_bwd_delta(const AttentionParams* p, int type, const float* dlse) {  // f16, bf16, float
  const auto kernel = type == 0   ? stgt::graph_attention_bwd_delta<ptx::f16>
                      : type == 1 ? stgt::graph_attention_bwd_delta<ptx::bf16>
                                  : stgt::graph_attention_bwd_delta<float>;
  emulate({unsigned(p->B) * p->T * p->P, 1, 1}, DELTA_THREADS, 0,
          [&] { kernel(*p, dlse, const_cast<float*>(p->delta)); });
}

extern "C" void graph_attention_bwd(const AttentionParams* p, bool bf16, bool wide, bool eager) {
  emulator::eager = eager;
  specialize(*p, bf16, wide, [&]<class T, int N, bool DROPOUT, bool WIDE>() { backward<T, N, DROPOUT, WIDE>(*p); });
}
