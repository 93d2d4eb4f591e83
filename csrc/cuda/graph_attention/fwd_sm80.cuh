// Graph attention's forward pass on mma.sync and cp.async (sm_80 and later).
//
// A block computes ROWS rows of one head. Each of its warps has 32 of them, so that a fragment of K or V that is read
// from shared memory serves two mma. With 16 rows, shared memory would be the limit and not the tensor cores. The block
// walks along the live tiles in steps of COLUMNS columns. Scores stay in registers, where they become the left operand
// of P V. ldmatrix puts each weight beside its score.
//
// K and W of the next step arrive while P V is computed, and V arrives during Q K^T and the softmax. So half of the
// work hides each copy, no copy needs a second buffer, and two blocks fit into the shared memory of an A100.
#pragma once
#include "common_sm80.cuh"

namespace stgt::sm80 {

// The number of columns of scores per step, which is as many as the registers hold.
template <int D> constexpr int COLUMNS = D > 88 ? 32 : 64;

// Shared memory holds Q (ROWS x DEPTH), and in the end the output; K and V (COLUMNS x DEPTH each); W (ROWS x COLUMNS).
template <int D, int ROWS, bool WIDE> constexpr int FORWARD_SHARED_BYTES =
    2 * (ROWS * DEPTH<D> + 2 * COLUMNS<D> * DEPTH<D>)+WeightTile<WIDE, ROWS, COLUMNS<D>>::BYTES;

// One step of the online softmax: turns the scores q.k of 16 rows into exp(z - |scale| top) where there is an edge,
// with z = scale score weight, and adds them to the lane's part of the totals of its rows. The running maximum `top` of
// z / |scale| may lag behind the true one as long as the exponentials do not exceed 2^8, which costs no accuracy. Only
// beyond that, the totals and outputs so far are scaled to a new maximum. sign: the sign of the scale, as `turned`
// takes it. scale_2: |scale| log2(e).
template <int S, int O, class Weight>
STGT_DEVICE void online_softmax(float (&s)[S][4], const Weight& weight, uint32_t sign, float scale_2, float (&top)[2],
                                float (&total)[2], float (&out)[O][4]) {
  float highest[2] = {top[0], top[1]};
#pragma unroll
  for (int n = 0; n < S; n += 2) {
    typename Weight::Pair pairs[4];
    weight.read_down(pairs, 0, n);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float* const pair = &s[n + i / 2][i % 2 * 2];
      const float2 w = values(turned(pairs[i], sign));
      pair[0] = w.x != 0 ? pair[0] * w.x : -INFINITY;
      pair[1] = w.y != 0 ? pair[1] * w.y : -INFINITY;
      highest[i % 2] = fmaxf(highest[i % 2], fmaxf(pair[0], pair[1]));
    }
  }
  bool rises = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    highest[r] = fmaxf(highest[r], ptx::shuffle_xor(highest[r], 1));
    highest[r] = fmaxf(highest[r], ptx::shuffle_xor(highest[r], 2));
    rises |= (highest[r] - top[r]) * scale_2 > 8;
  }
  if (ptx::ballot(rises)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float shrink = ptx::exp2((top[r] - highest[r]) * scale_2);
      top[r] = highest[r];
      total[r] *= shrink;
#pragma unroll
      for (int n = 0; n < O; ++n) out[n][2 * r] *= shrink, out[n][2 * r + 1] *= shrink;
    }
  }
  const float offset[2] = {top[0] * scale_2, top[1] * scale_2};
#pragma unroll
  for (int n = 0; n < S; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = ptx::exp2(fmaf(s[n][i], scale_2, -offset[i / 2]));
      total[i / 2] += s[n][i];
    }
}

// Sets to 0 what dropout drops of the scores of 16 rows, from row `row` of the clip and column `column` of the frame
// on.
template <int S>
STGT_DEVICE void drop(float (&s)[S][4], const AttentionParams& p, int sample_head, int row, int frame, int column) {
#pragma unroll
  for (int group = 0; group < S / 4; ++group) {
    uint32_t words[4][2];
    draw_rows(words, p, sample_head, row, frame, column + 32 * group);
#pragma unroll
    for (int n = 0; n < 4; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (!is_kept(words[n][i / 2], i % 2, p.drop_threshold)) s[4 * group + n][i] = 0;
  }
}

// T: ptx::bf16 or ptx::f16. D: 64, 88 or 128, at least the head dimension. ROWS: 64 or 128. WIDE: float32 weights.
// Launch H * ceil(P / ROWS) * T * B blocks of ROWS threads, with FORWARD_SHARED_BYTES<D, ROWS, WIDE>.
template <class T, int D, int ROWS, bool DROPOUT, bool WIDE>
__global__ void __launch_bounds__(ROWS, 256 / ROWS)
    graph_attention_fwd_sm80(const __grid_constant__ AttentionParams p) {
  const Tile<ROWS, DEPTH<D>> q{0};
  const Tile<COLUMNS<D>, DEPTH<D>> k{q.end()}, v{k.end()};
  using Weight = WeightTile<WIDE, ROWS, COLUMNS<D>>;
  const Weight weight{v.end()};

  const Place place(p, ROWS);
  const int b = place.b, h = place.h, t = place.t, i0 = place.first;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * 32;
  // The maximum is taken before scaling, so the sign of the scale is applied first. The scale must not be 0, since 0
  // times the infinity of a missing edge would be NaN.
  const uint32_t sign = p.scale < 0 ? 0x80008000u : 0;
  const float scale = fmaxf(fabsf(p.scale), 1e-30f), scale_2 = scale * LOG2E;

  float out[2][D / 8][4] = {}, total[2][2] = {};
  float top[2][2] = {{-1e30f, -1e30f}, {-1e30f, -1e30f}};  // finite, since -inf - -inf would be NaN

  Steps<false, ROWS / TILE, COLUMNS<D>> walk(p, b, t, i0);
  const auto copy_keys = [&] {
    k.template copy_async<ROWS>(tokens<uint16_t>(p, p.k, p.k_at, b, h, walk.frame, walk.token));
    weight.template copy_async<ROWS>(
        edges<const typename Weight::Element>(p, p.weight, b, t, i0, walk.offset, walk.token));
    ptx::copy_async_commit();
  };
  q.template copy_async<ROWS>(tokens<uint16_t>(p, p.q, p.q_at, b, h, t, i0));
  bool more = walk.next();
  if (more) copy_keys();
  while (more) {
    ptx::copy_async_wait<0>();
    ptx::sync_threads();  // K and W have arrived, and no warp reads V any more
    v.template copy_async<ROWS>(tokens<uint16_t>(p, p.v, p.v_at, b, h, walk.frame, walk.token));
    ptx::copy_async_commit();

    const bool live = walk.live >> warp_row / TILE & 1;
    uint32_t probability[2][COLUMNS<D> / 16][4];
    if (live) {
      const auto warp_q = q.below(warp_row);
      float s[2][COLUMNS<D> / 8][4] = {};
#pragma unroll 2  // with more, the fragments that are read ahead would not fit into the registers
      for (int d = 0; d < DEPTH<D> / 16; ++d) {
        uint32_t left[2][4];
        warp_q.read_down(left[0], 0, 2 * d);
        warp_q.read_down(left[1], 16, 2 * d);
#pragma unroll
        for (int n = 0; n < COLUMNS<D> / 8; n += 2) {
          uint32_t right[4];
          k.read_across(right, 8 * n, 2 * d);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            ptx::mma<T>(s[m][n], left[m], right[0], right[1]);
            ptx::mma<T>(s[m][n + 1], left[m], right[2], right[3]);
          }
        }
      }
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const int row = warp_row + 16 * m;
        online_softmax(s[m], weight.below(row), sign, scale_2, top[m], total[m], out[m]);
        if (DROPOUT) drop(s[m], p, b * p.H + h, t * p.P + i0 + row, walk.frame, walk.token);
#pragma unroll
        for (int n = 0; n < COLUMNS<D> / 8; ++n)
#pragma unroll
          for (int r = 0; r < 2; ++r)
            probability[m][n / 2][n % 2 * 2 + r] = ptx::pack<T>(s[m][n][2 * r], s[m][n][2 * r + 1]);
      }
    }

    more = walk.next();
    ptx::copy_async_wait<0>();
    ptx::sync_threads();  // V has arrived, and no warp reads K and W any more
    if (more) copy_keys();
    if (live) {
#pragma unroll
      for (int j = 0; j < COLUMNS<D> / 16; ++j)
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
          uint32_t right[4];
          v.template read_down<true>(right, 16 * j, n);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            ptx::mma<T>(out[m][n], probability[m][j], right[0], right[1]);
            if (n + 1 < D / 8) ptx::mma<T>(out[m][n + 1], probability[m][j], right[2], right[3]);
          }
        }
    }
  }

  ptx::copy_async_commit();  // the copy of Q is still open if there was no live tile
  ptx::copy_async_wait<0>();
  ptx::sync_threads();  // every thread's copy of Q has arrived
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = total[m][r];
      sum += ptx::shuffle_xor(sum, 1);
      sum += ptx::shuffle_xor(sum, 2);
      const float inverse = sum == 0 ? 0.0f : p.inverse_keep / sum;  // the sum of a row without edges is 0
      const int row = warp_row + 16 * m + 8 * r + lane / 4;
      if (lane % 4 == 0 && i0 + row < p.P)
        p.lse[((int64_t(b) * p.H + h) * p.T + t) * p.P + i0 + row] = top[m][r] * scale + logf(sum);
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
        q.pair(warp_row + 16 * m + 8 * r, 8 * n) =
            ptx::pack<T>(out[m][n][2 * r] * inverse, out[m][n][2 * r + 1] * inverse);
    }
  ptx::sync_threads();
  q.template store<ROWS>(result<uint16_t>(p, p.out, b, h, t, i0));
}

}  // namespace stgt::sm80
