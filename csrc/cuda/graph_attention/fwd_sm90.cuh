// Graph-masked attention on Hopper, forward: softmax of scale (q . k) W over the edges, times v.
//
// A block has 64 * GROUPS rows of one frame and one head. A warpgroup computes 64 of these rows, and one more warp
// loads. The block walks along the tiles of 64 columns that are live for any of its rows. K, V and W of these tiles
// come through a ring of stages. Four warpgroups (256 rows, which is a frame of the ViT-g) read each tile of K and V
// once for 256 rows: this takes 14 KB of L2 traffic for 64x64 scores. With 128 rows it would be 19 KB, and the L2's 5.5
// TB/s alone would limit the kernel to 420 TFLOP/s. P stays in registers. A warpgroup waits for its own products, since
// the scores of two tiles would not fit its registers. Meanwhile the other three multiply.
#pragma once
#include "common_sm90.cuh"

namespace stgt::sm90 {

template <int N, int GROUPS, bool WIDE> struct Forward {
  static constexpr int THREADS = 128 * (GROUPS + 1);
  static constexpr int STAGE_BYTES = 2 * Shape<N>::TILE_BYTES + GROUPS * WEIGHT_BYTES<WIDE>;  // K, V, W
  static constexpr int FIXED_BYTES = GROUPS * Shape<N>::TILE_BYTES;                           // Q, later out
  static constexpr int STAGES = stages(FIXED_BYTES, STAGE_BYTES);
  static constexpr int SHARED_BYTES = FIXED_BYTES + STAGES * STAGE_BYTES + Ring<STAGES>::BYTES + 8;
  static constexpr int REGISTERS = GROUPS == 4 ? 112 : 232, LOADER_REGISTERS = GROUPS == 4 ? 32 : 40;
};

// One step of the online softmax: turns the scores q . k of a tile into exp(z - scale top) with z = scale score W, and
// adds them to the thread's part of the totals of its rows. s: an accumulator (rows, columns). c: scale log2(e). The
// running maximum `top` of score * W may lag behind the true one as long as the exponentials do not exceed 2^8, which
// costs no accuracy. Only beyond that, the totals and outputs so far are scaled to a new maximum.
template <class Pair, int O>
STGT_DEVICE void online_softmax(float (&s)[32], const char* weight, float c, float (&top)[2], float (&total)[2],
                                float (&out)[O]) {
  float highest[2] = {top[0], top[1]};
#pragma unroll
  for (int block = 0; block < 4; ++block) {
    Pair pairs[4];
    row_weights(pairs, weight, block);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 w = values(pairs[i]);
      float &first = s[8 * block + 2 * i], &second = s[8 * block + 2 * i + 1];
      first *= w.x, second *= w.y;
      where_edge(pairs[i], first, second, -INFINITY);
      highest[i % 2] = fmaxf(highest[i % 2], fmaxf(first, second));
    }
  }
  bool rises = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    highest[r] = fmaxf(highest[r], ptx::shuffle_xor(highest[r], 1));
    highest[r] = fmaxf(highest[r], ptx::shuffle_xor(highest[r], 2));
    rises |= (highest[r] - top[r]) * c > 8;
  }
  if (ptx::ballot(rises)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float shrink = ptx::exp2((top[r] - highest[r]) * c);
      top[r] = highest[r];
      total[r] *= shrink;
#pragma unroll
      for (int i = r; i < O / 2; i += 2) out[2 * i] *= shrink, out[2 * i + 1] *= shrink;
    }
  }
  const float offset[2] = {top[0] * c, top[1] * c};
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    s[i] = ptx::exp2(fmaf(s[i], c, -offset[i / 2 % 2]));
    total[i / 2 % 2] += s[i];
  }
}

// Launch H * ceil(P / (64 GROUPS)) * T * B blocks of Forward::THREADS threads with Forward::SHARED_BYTES. WIDE: float32
// weights. The scale must not be negative.
template <class T, int N, int GROUPS, bool DROPOUT, bool WIDE>
__global__ void __launch_bounds__(128 * (GROUPS + 1), 1)
    graph_attention_fwd_sm90(const __grid_constant__ AttentionParams p, const __grid_constant__ AttentionMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)  // the launcher runs it on no other GPU
  using S = Forward<N, GROUPS, WIDE>;
  using Pair = typename WeightTile<WIDE, TILE, TILE>::Pair;
  constexpr int TILE_BYTES = Shape<N>::TILE_BYTES;
  char* const q = ptx::shared_memory();
  char* const stage_memory = q + S::FIXED_BYTES;
  uint64_t* const q_full = reinterpret_cast<uint64_t*>(stage_memory + S::STAGES * S::STAGE_BYTES);
  Ring<S::STAGES> ring(reinterpret_cast<char*>(q_full + 1));

  const Place place(p, TILE * GROUPS);
  const int b = place.b, h = place.h, t = place.t, first_tile = place.first / TILE;
  const int group = ptx::shuffle(threadIdx.x / 128, 0);

  if (threadIdx.x == 0) {
    ring.init(1, 4 * GROUPS);
    ptx::barrier_init(q_full, 1);
    ptx::barrier_init_fence();
  }
  ptx::sync_threads();

  if (group == GROUPS) {
    ptx::registers_shrink<S::LOADER_REGISTERS>();
    if (threadIdx.x / 32 % 4 != 0) return;
    const bool leader = ptx::elect();
    if (leader) {
      ptx::barrier_expect(q_full, GROUPS * TILE_BYTES);
      for (int g = 0; g < GROUPS; ++g)
        load_tile<N>(q + g * TILE_BYTES, maps.q, q_full, b, h, t, (first_tile + g) * TILE);
    }
    for (LiveTiles<false, GROUPS> walk(p, b, t, first_tile); walk.next(); ring.advance()) {
      if (!leader) continue;
      ring.wait_free();
      ring.announce({walk.live, walk.frame, walk.tile});
      char* const k = stage_memory + ring.stage * S::STAGE_BYTES;
      ptx::barrier_expect(ring.full(), S::STAGE_BYTES);
      load_tile<N>(k, maps.k, ring.full(), b, h, walk.frame, walk.tile * TILE);
#pragma unroll 1  // the addresses of four copies at a time would not fit the loader's registers
      for (int g = 0; g < GROUPS; ++g)
        load_weights<WIDE>(k + 2 * TILE_BYTES + g * WEIGHT_BYTES<WIDE>, maps.weight, ring.full(), walk.tile * TILE,
                           walk.offset, (first_tile + g) * TILE, b * p.T + t);
      load_tile<N>(k + TILE_BYTES, maps.v, ring.full(), b, h, walk.frame, walk.tile * TILE);
    }
    if (leader) {
      ring.wait_free();
      ring.announce({0, 0, 0});
      ptx::barrier_arrive(ring.full());
    }
    return;
  }

  ptx::registers_grow<S::REGISTERS>();
  const char* const own_q = q + group * TILE_BYTES;
  const int row = t * p.P + (first_tile + group) * TILE;
  const float scale = fmaxf(p.scale, 1e-30f), c = scale * LOG2E;                   // 0 * -inf would be NaN
  float out[Shape<N>::COLUMNS / 2], top[2] = {-1e30f, -1e30f}, total[2] = {0, 0};  // -inf - -inf would be NaN
#pragma unroll
  for (int i = 0; i < Shape<N>::COLUMNS / 2; ++i) out[i] = 0;
  ptx::barrier_wait(q_full, 0);
  for (;; ring.advance()) {
    const Step step = ring.wait_full();
    if (step.live == 0) break;
    if (step.live >> group & 1) {
      const char* const k = stage_memory + ring.stage * S::STAGE_BYTES;
      float s[32];
      uint32_t probability[4][4];
      ptx::wgmma_fence();
      scores<T, N>(s, own_q, k);
      uint32_t drop = 0;  // the bits are drawn while the scores are multiplied
      if (DROPOUT) drop = dropped_rows(p, b * p.H + h, row, step.frame, step.tile);
      ptx::wgmma_wait<0>();
      ptx::wgmma_registers(s);
      online_softmax<Pair>(s, k + 2 * TILE_BYTES + group * WEIGHT_BYTES<WIDE>, c, top, total, out);
#pragma unroll
      for (int i = 0; i < 32; ++i) s[i] = DROPOUT && drop >> i & 1 ? 0 : s[i];
      pack_left<T>(probability, s);
      ptx::wgmma_fence();
      add_product<T, N>(out, probability, k + TILE_BYTES);
      ptx::wgmma_commit();
      ptx::wgmma_wait<0>();
      ptx::wgmma_registers(out);
    }
    ring.release(ring.stage);
  }

  float inverse[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    total[r] += ptx::shuffle_xor(total[r], 1);
    total[r] += ptx::shuffle_xor(total[r], 2);
    inverse[r] = total[r] == 0 ? 0.0f : p.inverse_keep / total[r];  // the total of a row without edges is 0
    const int token = (first_tile + group) * TILE + accumulator_row() + 8 * r;
    if (threadIdx.x % 4 == 0 && token < p.P)
      p.lse[(int64_t(b) * p.H + h) * p.T * p.P + t * p.P + token] =
          total[r] == 0 ? -INFINITY : top[r] * scale + logf(total[r]);
  }
  store_tile<T, N>(out, inverse[0], inverse[1], q + group * TILE_BYTES, maps.out, group, b, h, t,
                   (first_tile + group) * TILE);
#endif
}

}  // namespace stgt::sm90
