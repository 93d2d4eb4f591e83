// Graph-masked attention on Hopper, backward. With z = scale (q . k) W, P = exp(z - lse), M the dropout mask divided by
// the probability of keeping, and delta from bwd_delta.cuh:
//   dP = M (do . v),  dz = P (dP - delta),  dv = sum_i M P do,  dk = scale sum_i dz W q,  dq = scale sum_j dz W k.
//
// There are two kernels, so every gradient has one writer, and the bits are the same every time without atomics.
// Together they compute 7 products. One kernel with a shared dq would need 5, but it would have to pass 6 partial sums
// of dq (two blocks of columns in each of three frames) through memory, in turns.
//
// Both have two warpgroups of 64 tokens each, which keep their operands in shared memory and their gradients in
// registers, and a warp that loads the opposite tiles. The products of the scores and of dP are in flight together. At
// the end a mask sets to 0 those packed values that belong to no edge, even if they are NaN.
#pragma once
#include "common_sm90.cuh"

namespace stgt::sm90 {

constexpr int GROUPS = 2;

template <int N, bool WIDE> struct BackwardRows {  // dq
  static constexpr int THREADS = 128 * (GROUPS + 1);
  static constexpr int STAGE_BYTES = 2 * Shape<N>::TILE_BYTES + GROUPS * WEIGHT_BYTES<WIDE>;  // K, V, W
  static constexpr int FIXED_BYTES = 2 * GROUPS * Shape<N>::TILE_BYTES;                       // Q, later dq; dO
  static constexpr int STAGES = stages(FIXED_BYTES, STAGE_BYTES);
  static constexpr int SHARED_BYTES = FIXED_BYTES + STAGES * STAGE_BYTES + Ring<STAGES>::BYTES + 8;
};

template <int N, bool WIDE> struct BackwardColumns {  // dk and dv
  static constexpr int THREADS = 128 * (GROUPS + 1);
  static constexpr int LOADED_BYTES = 2 * Shape<N>::TILE_BYTES + GROUPS * WEIGHT_BYTES<WIDE>;  // Q, dO, W
  static constexpr int STAGE_BYTES = LOADED_BYTES + 1024;                // Q, dO, W, lse and delta
  static constexpr int FIXED_BYTES = 2 * GROUPS * Shape<N>::TILE_BYTES;  // K, later dk; V, later dv
  static constexpr int STAGES = stages(FIXED_BYTES, STAGE_BYTES);
  static constexpr int SHARED_BYTES = FIXED_BYTES + STAGES * STAGE_BYTES + Ring<STAGES>::BYTES + 8;
};

constexpr int BACKWARD_REGISTERS = 232, LOADER_REGISTERS = 40;

// Launch H * ceil(P / 128) * T * B blocks of BackwardRows::THREADS threads with BackwardRows::SHARED_BYTES. WIDE:
// float32 weights.
template <class T, int N, bool DROPOUT, bool WIDE>
__global__ void __launch_bounds__(BackwardRows<N, WIDE>::THREADS, 1)
    graph_attention_bwd_dq_sm90(const __grid_constant__ AttentionParams p, const __grid_constant__ AttentionMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)  // the launcher runs it on no other GPU
  using S = BackwardRows<N, WIDE>;
  using Pair = typename WeightTile<WIDE, TILE, TILE>::Pair;
  constexpr int TILE_BYTES = Shape<N>::TILE_BYTES;
  char* const q = ptx::shared_memory();
  char* const dout = q + GROUPS * TILE_BYTES;
  char* const stage_memory = q + S::FIXED_BYTES;
  uint64_t* const fixed_full = reinterpret_cast<uint64_t*>(stage_memory + S::STAGES * S::STAGE_BYTES);
  Ring<S::STAGES> ring(reinterpret_cast<char*>(fixed_full + 1));

  const Place place(p, TILE * GROUPS);
  const int b = place.b, h = place.h, t = place.t, first_tile = place.first / TILE;
  const int group = ptx::shuffle(threadIdx.x / 128, 0);

  if (threadIdx.x == 0) {
    ring.init(1, 4 * GROUPS);
    ptx::barrier_init(fixed_full, 1);
    ptx::barrier_init_fence();
  }
  ptx::sync_threads();

  if (group == GROUPS) {
    ptx::registers_shrink<LOADER_REGISTERS>();
    if (threadIdx.x / 32 % 4 != 0) return;
    const bool leader = ptx::elect();
    if (leader) {
      ptx::barrier_expect(fixed_full, S::FIXED_BYTES);
      for (int g = 0; g < GROUPS; ++g) {
        load_tile<N>(q + g * TILE_BYTES, maps.q, fixed_full, b, h, t, (first_tile + g) * TILE);
        load_tile<N>(dout + g * TILE_BYTES, maps.dout, fixed_full, b, h, t, (first_tile + g) * TILE);
      }
    }
    for (LiveTiles<false, GROUPS> walk(p, b, t, first_tile); walk.next(); ring.advance()) {
      if (!leader) continue;
      ring.wait_free();
      ring.announce({walk.live, walk.frame, walk.tile});
      char* const k = stage_memory + ring.stage * S::STAGE_BYTES;
      ptx::barrier_expect(ring.full(), S::STAGE_BYTES);
      load_tile<N>(k, maps.k, ring.full(), b, h, walk.frame, walk.tile * TILE);
      load_tile<N>(k + TILE_BYTES, maps.v, ring.full(), b, h, walk.frame, walk.tile * TILE);
      for (int g = 0; g < GROUPS; ++g)
        load_weights<WIDE>(k + 2 * TILE_BYTES + g * WEIGHT_BYTES<WIDE>, maps.weight, ring.full(), walk.tile * TILE,
                           walk.offset, (first_tile + g) * TILE, b * p.T + t);
    }
    if (leader) {
      ring.wait_free();
      ring.announce({0, 0, 0});
      ptx::barrier_arrive(ring.full());
    }
    return;
  }

  ptx::registers_grow<BACKWARD_REGISTERS>();
  const int row = t * p.P + (first_tile + group) * TILE, head = b * p.H + h;
  const float c = p.scale * LOG2E;
  float dq[Shape<N>::COLUMNS / 2], offset[2], delta[2];
#pragma unroll
  for (int i = 0; i < Shape<N>::COLUMNS / 2; ++i) dq[i] = 0;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = (first_tile + group) * TILE + accumulator_row() + 8 * r;
    const int64_t at = int64_t(head) * p.T * p.P + t * p.P + token;
    offset[r] = token < p.P ? subtracted(p.lse[at]) * LOG2E : 0;
    delta[r] = token < p.P ? p.delta[at] : 0;
  }
  ptx::barrier_wait(fixed_full, 0);
  for (;; ring.advance()) {
    const Step step = ring.wait_full();
    if (step.live == 0) break;
    if (step.live >> group & 1) {
      const char* const k = stage_memory + ring.stage * S::STAGE_BYTES;
      const char* const weight = k + 2 * TILE_BYTES + group * WEIGHT_BYTES<WIDE>;
      float s[32], dp[32];
      uint32_t edges[4][4], dz[4][4];
      ptx::wgmma_fence();
      scores<T, N>(s, q + group * TILE_BYTES, k);
      scores<T, N>(dp, dout + group * TILE_BYTES, k + TILE_BYTES);
      const uint32_t drop = DROPOUT ? dropped_rows(p, head, row, step.frame, step.tile) : 0;
      ptx::wgmma_wait<1>();
      ptx::wgmma_registers(s);
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        Pair pairs[4];
        row_weights(pairs, weight, block);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 w = values(pairs[i]);
          float &first = s[8 * block + 2 * i], &second = s[8 * block + 2 * i + 1];
          first = w.x * ptx::exp2_at_most_one(fmaf(first * w.x, c, -offset[i % 2]));
          second = w.y * ptx::exp2_at_most_one(fmaf(second * w.y, c, -offset[i % 2]));
          edges[block][i] = edge_mask(pairs[i]);
        }
      }
      ptx::wgmma_wait<0>();
      ptx::wgmma_registers(dp);
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        if (DROPOUT) dp[i] = drop >> i & 1 ? 0 : dp[i] * p.inverse_keep;
        s[i] *= dp[i] - delta[i / 2 % 2];
      }
      pack_left<T>(dz, s);
#pragma unroll
      for (int i = 0; i < 16; ++i) dz[i / 4][i % 4] &= edges[i / 4][i % 4];
      ptx::wgmma_fence();
      add_product<T, N>(dq, dz, k);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::wgmma_registers(dq);
    }
    ring.release(ring.stage);
  }
  store_tile<T, N>(dq, p.scale, p.scale, q + group * TILE_BYTES, maps.dq, group, b, h, t, (first_tile + group) * TILE);
#endif
}

// Launch H * ceil(P / 128) * T * B blocks of BackwardColumns::THREADS threads with BackwardColumns::SHARED_BYTES.
template <class T, int N, bool DROPOUT, bool WIDE>
__global__ void __launch_bounds__(BackwardColumns<N, WIDE>::THREADS, 1)
    graph_attention_bwd_dkdv_sm90(const __grid_constant__ AttentionParams p,
                                  const __grid_constant__ AttentionMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)  // the launcher runs it on no other GPU
  using S = BackwardColumns<N, WIDE>;
  using Pair = typename WeightTile<WIDE, TILE, TILE>::Pair;
  constexpr int TILE_BYTES = Shape<N>::TILE_BYTES;
  char* const k = ptx::shared_memory();
  char* const v = k + GROUPS * TILE_BYTES;
  char* const stage_memory = k + S::FIXED_BYTES;
  uint64_t* const fixed_full = reinterpret_cast<uint64_t*>(stage_memory + S::STAGES * S::STAGE_BYTES);
  Ring<S::STAGES> ring(reinterpret_cast<char*>(fixed_full + 1));

  const Place place(p, TILE * GROUPS);
  const int b = place.b, h = place.h, t = place.t, first_tile = place.first / TILE;
  const int group = ptx::shuffle(threadIdx.x / 128, 0), head = b * p.H + h;

  if (threadIdx.x == 0) {
    ring.init(33, 4 * GROUPS);  // one arrival for the copies, and 32 for a warp's stores of lse and delta
    ptx::barrier_init(fixed_full, 1);
    ptx::barrier_init_fence();
  }
  ptx::sync_threads();

  if (group == GROUPS) {
    ptx::registers_shrink<LOADER_REGISTERS>();
    if (threadIdx.x / 32 % 4 != 0) return;
    const bool leader = ptx::elect();
    const int lane = threadIdx.x % 32;
    if (leader) {
      ptx::barrier_expect(fixed_full, S::FIXED_BYTES);
      for (int g = 0; g < GROUPS; ++g) {
        load_tile<N>(k + g * TILE_BYTES, maps.k, fixed_full, b, h, t, (first_tile + g) * TILE);
        load_tile<N>(v + g * TILE_BYTES, maps.v, fixed_full, b, h, t, (first_tile + g) * TILE);
      }
    }
    for (LiveTiles<true, GROUPS> walk(p, b, t, first_tile); walk.next(); ring.advance()) {
      ring.wait_free();
      char* const q = stage_memory + ring.stage * S::STAGE_BYTES;
      if (leader) {
        ring.announce({walk.live, walk.frame, walk.tile});
        ptx::barrier_expect(ring.full(), S::LOADED_BYTES);
        load_tile<N>(q, maps.q, ring.full(), b, h, walk.frame, walk.tile * TILE);
        load_tile<N>(q + TILE_BYTES, maps.dout, ring.full(), b, h, walk.frame, walk.tile * TILE);
        for (int g = 0; g < GROUPS; ++g)
          load_weights<WIDE>(q + 2 * TILE_BYTES + g * WEIGHT_BYTES<WIDE>, maps.weight, ring.full(),
                             (first_tile + g) * TILE, walk.offset, walk.tile * TILE, b * p.T + walk.frame);
      }
      float* const rows = reinterpret_cast<float*>(q + S::LOADED_BYTES);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = walk.tile * TILE + lane + 32 * i;
        const int64_t at = int64_t(head) * p.T * p.P + walk.frame * p.P + token;
        rows[lane + 32 * i] = token < p.P ? subtracted(p.lse[at]) * LOG2E : 0;
        rows[TILE + lane + 32 * i] = token < p.P ? p.delta[at] : 0;
      }
      ptx::barrier_arrive(ring.full());
    }
    ring.wait_free();
    if (leader) {
      ring.announce({0, 0, 0});
      ptx::barrier_arrive(ring.full());
    }
    ptx::barrier_arrive(ring.full());
    return;
  }

  ptx::registers_grow<BACKWARD_REGISTERS>();
  const float c = p.scale * LOG2E;
  float dk[Shape<N>::COLUMNS / 2], dv[Shape<N>::COLUMNS / 2];
#pragma unroll
  for (int i = 0; i < Shape<N>::COLUMNS / 2; ++i) dk[i] = dv[i] = 0;
  ptx::barrier_wait(fixed_full, 0);
  for (;; ring.advance()) {
    const Step step = ring.wait_full();
    if (step.live == 0) break;
    if (step.live >> group & 1) {
      const char* const q = stage_memory + ring.stage * S::STAGE_BYTES;
      const char* const weight = q + 2 * TILE_BYTES + group * WEIGHT_BYTES<WIDE>;
      const float* const rows = reinterpret_cast<const float*>(q + S::LOADED_BYTES);
      float s[32], dp[32];  // transposed: (columns, rows)
      uint32_t probability[4][4], dz[4][4];
      ptx::wgmma_fence();
      scores<T, N>(s, k + group * TILE_BYTES, q);
      scores<T, N>(dp, v + group * TILE_BYTES, q + TILE_BYTES);
      uint32_t drop = 0;
      if (DROPOUT) drop = dropped_columns(p, head, step.frame * p.P + step.tile * TILE, t, first_tile + group);
      ptx::wgmma_wait<0>();
      ptx::wgmma_registers(s);
      ptx::wgmma_registers(dp);
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        Pair pairs[4];
        column_weights(pairs, weight, block);
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const int rows8 = 2 * block + part;
          const float2 offset = *reinterpret_cast<const float2*>(rows + 8 * rows8 + accumulator_column());
          const float2 delta = *reinterpret_cast<const float2*>(rows + TILE + 8 * rows8 + accumulator_column());
          float dropped[4];  // P after dropout
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 pair = values(pairs[2 * part + i / 2]);
            const float w = i % 2 ? pair.y : pair.x;
            const int at = 4 * rows8 + i;
            const float p_ij = ptx::exp2_at_most_one(fmaf(s[at] * w, c, i % 2 ? -offset.y : -offset.x));
            dropped[i] = p_ij;
            if (DROPOUT) {
              dropped[i] = drop >> at & 1 ? 0 : p_ij * p.inverse_keep;
              dp[at] = drop >> at & 1 ? 0 : dp[at] * p.inverse_keep;
            }
            dp[at] = w * p_ij * (dp[at] - (i % 2 ? delta.y : delta.x));
          }
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            const uint32_t edges = edge_mask(pairs[2 * part + r]);
            probability[block][2 * part + r] = ptx::pack<T>(dropped[2 * r], dropped[2 * r + 1]) & edges;
            dz[block][2 * part + r] = ptx::pack<T>(dp[4 * rows8 + 2 * r], dp[4 * rows8 + 2 * r + 1]) & edges;
          }
        }
      }
      ptx::wgmma_fence();
      add_product<T, N>(dv, probability, q + TILE_BYTES);
      add_product<T, N>(dk, dz, q);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::wgmma_registers(dk);
      ptx::wgmma_registers(dv);
    }
    ring.release(ring.stage);
  }
  const int token = (first_tile + group) * TILE;
  store_tile<T, N>(dk, p.scale, p.scale, k + group * TILE_BYTES, maps.dk, group, b, h, t, token);
  store_tile<T, N>(dv, 1, 1, v + group * TILE_BYTES, maps.dv, group, b, h, t, token);
#endif
}

}  // namespace stgt::sm90
