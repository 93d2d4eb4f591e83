// Launches of graph attention's kernels for Hopper.
#include "../common/tensor_map.h"
#include "aligned_weights.cuh"
#include "bwd_sm90.cuh"
#include "fwd_sm90.cuh"
#include "launch.h"

namespace stgt {
namespace {

sm90::AttentionMaps tensor_maps(const AttentionCall& call) {
  const AttentionParams& p = call.p;
  const int64_t band = 2 * p.W + 1, pitch = call.weight_rows.pitch;
  const auto tokens = [&](const void* data, const Strides& at) {
    return tensor_map<5>(call.launch, call.op, data, call.dtype, {p.D, p.P, p.T, p.H, p.B},
                         {at.n, at.n * p.P, at.h, at.b}, {32, TILE, 1, 1, 1}, ptx::Swizzle::B64);
  };
  const Strides own{int64_t(p.T) * p.P * p.H * p.D, p.D, int64_t(p.H) * p.D};
  sm90::AttentionMaps maps{};
  maps.q = tokens(p.q, p.q_at), maps.k = tokens(p.k, p.k_at), maps.v = tokens(p.v, p.v_at);
  maps.weight =
      tensor_map<4>(call.launch, call.op, call.weight_rows.data, call.wide ? ScalarType::Float : ScalarType::Half,
                    {p.P, band, p.P, int64_t(p.B) * p.T}, {pitch, band * pitch, band * p.P * pitch},
                    {call.wide ? TILE / 2 : TILE, 1, TILE, 1}, ptx::Swizzle::B128);
  if (p.dout) {
    maps.dout = tokens(p.dout, p.dout_at);
    maps.dq = tokens(p.dq, own), maps.dk = tokens(p.dk, own), maps.dv = tokens(p.dv, own);
  } else {
    maps.out = tokens(p.out, own);
  }
  return maps;
}

// Raises an error for calls with dropout and wide heads. fits_sm90 returns false for them, and no kernel is compiled
// for them here.
void refuse(const AttentionCall& call) {
  STGT_CHECK(call.op, false, "Hopper's kernels take no dropout with D > 88, got D=", call.p.D);
}

template <class T, int N, int GROUPS, bool DROPOUT, bool WIDE>
void forward(const AttentionCall& call, const sm90::AttentionMaps& maps) {
  using S = sm90::Forward<N, GROUPS, WIDE>;
  call.launch(sm90::graph_attention_fwd_sm90<T, N, GROUPS, DROPOUT, WIDE>, call.blocks(TILE * GROUPS), S::THREADS,
              S::SHARED_BYTES, call.p, maps);
}

}  // namespace

bool fits_sm90(const Launcher& launch, const AttentionParams& p) {
  return launch.runs_sm90a() && p.D % 8 == 0 &&
         !(p.D > 88 && p.drop_threshold) &&  // the gradients of wider heads leave no registers for the dropout mask
         p.scale >= 0;                       // the maximum is taken before scaling
}

void align_weights(const AttentionCall& call, void* aligned, int pitch) {
  const AttentionParams& p = call.p;
  const int64_t rows = int64_t(p.B) * p.T * p.P * (2 * p.W + 1);
  const auto copy = [&]<class T>() {
    const int64_t chunks = rows * (pitch * int64_t(sizeof(T)) / 16);
    call.launch(graph_attention_align_weights<T>, call.grid((chunks + ALIGN_THREADS - 1) / ALIGN_THREADS),
                ALIGN_THREADS, 0, static_cast<const T*>(p.weight), static_cast<T*>(aligned), rows, p.P, pitch);
  };
  call.wide ? copy.template operator()<float>() : copy.template operator()<uint16_t>();
}

void forward_sm90(const AttentionCall& call) {
  const auto maps = tensor_maps(call);
  specialize(call, [&]<class T, int N, bool DROPOUT, bool WIDE>() {
    // Four tiles of rows share the reads of K and V. But a graph without frames may have few tiles that are live for
    // several of them. The outputs of four groups do not fit the registers if heads are wide, and float32 weights leave
    // too little shared memory for their stages.
    if constexpr (N <= 88 && !WIDE)
      if (call.p.T > 1 && call.p.P > 2 * TILE) return forward<T, N, 4, DROPOUT, WIDE>(call, maps);
    if constexpr (N <= 88 || !DROPOUT)
      forward<T, N, 2, DROPOUT, WIDE>(call, maps);
    else
      refuse(call);
  });
}

void backward_sm90(const AttentionCall& call) {
  const auto maps = tensor_maps(call);
  specialize(call, [&]<class T, int N, bool DROPOUT, bool WIDE>() {
    if constexpr (N <= 88 || !DROPOUT) {
      using Rows = sm90::BackwardRows<N, WIDE>;
      using Columns = sm90::BackwardColumns<N, WIDE>;
      const dim3 blocks = call.blocks(TILE * sm90::GROUPS);
      call.launch(sm90::graph_attention_bwd_dkdv_sm90<T, N, DROPOUT, WIDE>, blocks, Columns::THREADS,
                  Columns::SHARED_BYTES, call.p, maps);
      call.launch(sm90::graph_attention_bwd_dq_sm90<T, N, DROPOUT, WIDE>, blocks, Rows::THREADS, Rows::SHARED_BYTES,
                  call.p, maps);
    } else {
      refuse(call);
    }
  });
}

}  // namespace stgt
