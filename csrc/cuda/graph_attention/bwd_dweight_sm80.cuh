// The gradient of graph attention's edge weights on mma.sync and cp.async (sm_80 and later):
//   dW_ij = scale sum_h dz_ij (q_i . k_j),  where bwd_sm80.cuh defines dz.
//
// A block computes one tile of 64 x 64 edges and sums over the heads itself, so that every element has one writer and
// one order of summation. Each of its four warps has 32 x 32 of the edges, so that fragments from shared memory serve
// two mma. Tiles without edges are written as zeros.
//
// Q and K of the next head arrive while dP is computed, and dO and V arrive while Q K^T is computed. So half of the
// work hides each copy, and no copy needs a second buffer. Weights and their gradients are float32, since most
// gradients would be 0 in float16.
#pragma once
#include "common_sm80.cuh"

namespace stgt::sm80 {

constexpr int DWEIGHT_THREADS = 128;

// Shared memory holds Q, K, dO and V (64 x DEPTH each), and W (64 x 64), and in the end its gradient.
template <int D> constexpr int DWEIGHT_SHARED_BYTES = 8 * TILE * DEPTH<D> + WideTile<TILE, TILE>::BYTES;

// Computes s = a b^T over the features, of 32 rows of a and 32 rows of b.
template <class T, int D, class Operand>
STGT_DEVICE void multiply(float (&s)[2][4][4], const Operand& a, const Operand& b) {
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n) s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
#pragma unroll
  for (int d = 0; d < DEPTH<D> / 16; ++d) {
    uint32_t left[2][4];
    a.read_down(left[0], 0, 2 * d);
    a.read_down(left[1], 16, 2 * d);
#pragma unroll
    for (int n = 0; n < 4; n += 2) {
      uint32_t right[4];
      b.read_across(right, 8 * n, 2 * d);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        ptx::mma<T>(s[m][n], left[m], right[0], right[1]);
        ptx::mma<T>(s[m][n + 1], left[m], right[2], right[3]);
      }
    }
  }
}

// T: ptx::bf16 or ptx::f16. D: 64, 88 or 128, at least the head dimension. Launch as many blocks of DWEIGHT_THREADS
// threads as `live` has elements, with DWEIGHT_SHARED_BYTES<D>.
template <class T, int D, bool DROPOUT>
__global__ void __launch_bounds__(DWEIGHT_THREADS, 2)
    graph_attention_bwd_dweight_sm80(const __grid_constant__ AttentionParams p) {
  const Tile<TILE, DEPTH<D>> q{0}, k{q.end()}, dout{k.end()}, v{dout.end()};
  const WideTile<TILE, TILE> weight{v.end()};
  const int tiles = p.tiles(), band = p.band();
  const int j0 = blockIdx.x % tiles * TILE, offset = blockIdx.x / tiles % band, row_tile = blockIdx.x / tiles / band;
  const int i0 = row_tile % tiles * TILE, t = row_tile / tiles % p.T, b = row_tile / tiles / p.T;
  const int frame = t + offset - p.W;
  const bool live = frame >= 0 && frame < p.T && p.live[blockIdx.x];

  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 64 * 32, warp_column = threadIdx.x / 32 % 2 * 32;
  const float scale_2 = p.scale * LOG2E;
  float sum[2][4][4] = {};
  const auto copy_scores_operands = [&](int h) {
    q.template copy_async<DWEIGHT_THREADS>(tokens<uint16_t>(p, p.q, p.q_at, b, h, t, i0));
    k.template copy_async<DWEIGHT_THREADS>(tokens<uint16_t>(p, p.k, p.k_at, b, h, frame, j0));
    ptx::copy_async_commit();
  };
  if (live) {
    weight.template copy_async<DWEIGHT_THREADS>(edges<const float>(p, p.weight, b, t, i0, offset, j0));
    copy_scores_operands(0);
  }
#pragma unroll 1
  for (int h = 0; h < (live ? p.H : 0); ++h) {
    ptx::copy_async_wait<0>();
    ptx::sync_threads();  // Q and K have arrived, and no warp reads dO and V any more
    dout.template copy_async<DWEIGHT_THREADS>(tokens<uint16_t>(p, p.dout, p.dout_at, b, h, t, i0));
    v.template copy_async<DWEIGHT_THREADS>(tokens<uint16_t>(p, p.v, p.v_at, b, h, frame, j0));
    ptx::copy_async_commit();
    float lse[2][2], delta[2][2];
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = i0 + warp_row + 16 * m + 8 * r + lane / 4;
        const int64_t at = ((int64_t(b) * p.H + h) * p.T + t) * p.P + row;
        lse[m][r] = row < p.P ? subtracted(p.lse[at]) : 0;
        delta[m][r] = row < p.P ? p.delta[at] : 0;
      }
    float s[2][4][4], dp[2][4][4];
    multiply<T, D>(s, q.below(warp_row), k.below(warp_column));

    ptx::copy_async_wait<0>();
    ptx::sync_threads();  // dO and V have arrived, and no warp reads Q and K any more
    if (h + 1 < p.H) copy_scores_operands(h + 1);
    multiply<T, D>(dp, dout.below(warp_row), v.below(warp_column));

#pragma unroll
    for (int m = 0; m < 2; ++m) {
      uint32_t words[4][2];
      if (DROPOUT) draw_rows(words, p, b * p.H + h, t * p.P + i0 + warp_row + 16 * m, frame, j0 + warp_column);
#pragma unroll
      for (int n = 0; n < 4; n += 2) {
        float2 weights[4];
        weight.below(warp_row).read_down(weights, 16 * m, n + warp_column / 8);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int block = n + i / 2, r = i % 2;
          const float w[2] = {weights[i].x, weights[i].y}, log_sum = lse[m][r] * LOG2E;
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float score = s[m][block][2 * r + e];
            const float x = w[e] != 0 ? ptx::exp2_at_most_one(fmaf(score * w[e], scale_2, -log_sum)) : 0.0f;
            float m_dp = dp[m][block][2 * r + e];
            if (DROPOUT) m_dp = is_kept(words[block][r], e, p.drop_threshold) ? m_dp * p.inverse_keep : 0.0f;
            sum[m][block][2 * r + e] += x * (m_dp - delta[m][r]) * score;
          }
        }
      }
    }
  }

#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r)  // only this warp has read weights from this place
        *reinterpret_cast<float2*>(
            weight.at(warp_row + 16 * m + 8 * r + lane / 4, warp_column + 8 * n + lane % 4 * 2)) = {
            sum[m][n][2 * r] * p.scale, sum[m][n][2 * r + 1] * p.scale};
  ptx::sync_threads();
  weight.template store<DWEIGHT_THREADS>(edges<float>(p, p.dweight, b, t, i0, offset, j0));
}

}  // namespace stgt::sm80
