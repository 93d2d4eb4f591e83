// Graph attention's backward pass on mma.sync and cp.async (sm_80 and later). With z = scale (q . k) W,
// P = exp(z - lse) and M the dropout mask divided by the probability of keeping:
//   dP = M (do . v),  dz = P (dP - delta),  dv = sum_i M P do,  dk = scale sum_i dz W q,  dq = scale sum_j dz W k.
//
// There are two kernels with one body. A block owns 64 columns (dk and dv) or 64 rows (dq) of one head, and walks along
// the live tiles opposite to them, so that every gradient has one writer. A warp owns 16 tokens. They are the rows of
// all its accumulators, even if they are columns of the scores, so that P and dz are left operands straight from
// registers. The warp's own operands stay in registers, too, because shared memory limits these kernels: a fragment
// that is read from it serves only one mma. (dk and dv at D = 128 leave room for one of the two operands.)
//
// The opposite tokens have two buffers. The next ones arrive while those before are computed, and the block waits once
// for each buffer. They are taken in steps of STEP tokens, whose scores fit the registers beside the gradients.
#pragma once
#include "common_sm80.cuh"

namespace stgt::sm80 {

constexpr int BACKWARD_THREADS = 128;

// Shared memory holds two buffers, and then v if it is not kept in registers. The block's own operands pass through the
// second buffer on their way into registers, and the gradients on their way out.
template <int D, bool OF_COLUMNS, bool WIDE> struct Backward {
  static constexpr bool KEEPS_BOTH = !OF_COLUMNS || D <= 88;
  static constexpr int TOKENS = KEEPS_BOTH ? 64 : 32;  // tokens in a buffer
  static constexpr int STEP = KEEPS_BOTH ? 32 : 16;

  struct Buffer {
    Tile<TOKENS, DEPTH<D>> a, b;  // q and dout for columns, k and v for rows
    using Weight = WeightTile<WIDE, OF_COLUMNS ? TOKENS : TILE, OF_COLUMNS ? TILE : TOKENS>;
    Weight weight;       // (rows, columns)
    float *lse, *delta;  // of the buffer's rows, if its tokens are rows

    static constexpr int BYTES = 4 * TOKENS * DEPTH<D> + Weight::BYTES + (OF_COLUMNS ? 2 * TOKENS * 4 : 0);

    STGT_DEVICE explicit Buffer(int number)
        : a{number * BYTES},
          b{a.end()},
          weight{b.end()},
          lse(reinterpret_cast<float*>(ptx::shared_memory() + weight.end())),
          delta(lse + TOKENS) {}
  };

  using Own = Tile<TILE, DEPTH<D>>;
  static constexpr int OWN_A = Buffer::BYTES, OWN_B = KEEPS_BOTH ? OWN_A + Own::BYTES : 2 * Buffer::BYTES;
  static constexpr int SHARED_BYTES = 2 * Buffer::BYTES + (KEEPS_BOTH ? 0 : Own::BYTES);
};

// Draws the random bits for dropout of 8 N rows and 16 columns, in the order of accumulators (columns, rows). They are
// drawn as (rows, columns) and transposed. Half of the drawn bits are not used.
template <int N>
STGT_DEVICE void draw_columns(uint32_t (&words)[N][2], const AttentionParams& p, int sample_head, int row, int frame,
                              int column) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const uint4 drawn = dropout_words(*p.seed, sample_head, row + 8 * n + lane / 4, frame, column / 32, lane % 4);
    words[n][0] = ptx::transpose_matrix(column % 32 ? drawn.z : drawn.x);
    words[n][1] = ptx::transpose_matrix(column % 32 ? drawn.w : drawn.y);
  }
}

// The body of both kernels: dk and dv of 64 columns (OF_COLUMNS), or dq of 64 rows.
template <class T, int D, bool DROPOUT, bool WIDE, bool OF_COLUMNS>
STGT_DEVICE void backward(const AttentionParams& p) {
  using S = Backward<D, OF_COLUMNS, WIDE>;
  using Buffer = typename S::Buffer;
  using Weight = typename Buffer::Weight;
  constexpr int STEP = S::STEP, THREADS = BACKWARD_THREADS;
  const Place place(p, TILE);
  const int b = place.b, h = place.h, t = place.t, first = place.first, head = b * p.H + h;
  const int lane = threadIdx.x % 32, own = threadIdx.x / 32 * 16;  // the first token of the warp
  const typename S::Own own_a{S::OWN_A}, own_b{S::OWN_B};
  const int64_t head_rows = int64_t(head) * p.T * p.P;
  const float scale_2 = p.scale * LOG2E;

  own_a.template copy_async<THREADS>(OF_COLUMNS ? tokens<uint16_t>(p, p.k, p.k_at, b, h, t, first)
                                                : tokens<uint16_t>(p, p.q, p.q_at, b, h, t, first));
  own_b.template copy_async<THREADS>(OF_COLUMNS ? tokens<uint16_t>(p, p.v, p.v_at, b, h, t, first)
                                                : tokens<uint16_t>(p, p.dout, p.dout_at, b, h, t, first));
  ptx::copy_async_commit();
  Steps<OF_COLUMNS, 1, S::TOKENS> walk(p, b, t, first);
  const auto copy = [&](const Buffer& to) {
    const int frame = walk.frame, token = walk.token;
    if (OF_COLUMNS) {
      to.a.template copy_async<THREADS>(tokens<uint16_t>(p, p.q, p.q_at, b, h, frame, token));
      to.b.template copy_async<THREADS>(tokens<uint16_t>(p, p.dout, p.dout_at, b, h, frame, token));
      to.weight.template copy_async<THREADS>(
          edges<const typename Weight::Element>(p, p.weight, b, frame, token, walk.offset, first));
      const int row = token + threadIdx.x % S::TOKENS;
      if (threadIdx.x < 2 * S::TOKENS)
        ptx::copy_async<4>(to.lse + threadIdx.x,
                           (threadIdx.x < S::TOKENS ? p.lse : p.delta) + head_rows + frame * p.P + row, row < p.P);
    } else {
      to.a.template copy_async<THREADS>(tokens<uint16_t>(p, p.k, p.k_at, b, h, frame, token));
      to.b.template copy_async<THREADS>(tokens<uint16_t>(p, p.v, p.v_at, b, h, frame, token));
      to.weight.template copy_async<THREADS>(
          edges<const typename Weight::Element>(p, p.weight, b, t, first, walk.offset, token));
    }
    ptx::copy_async_commit();
  };

  int buffer = 0;
  bool more = walk.next();
  if (more) copy(Buffer(0));

  float own_lse[2] = {}, own_delta[2] = {};
  if (!OF_COLUMNS)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first + own + 8 * r + lane / 4;
      if (row >= p.P) continue;
      own_lse[r] = subtracted(p.lse[head_rows + t * p.P + row]);
      own_delta[r] = p.delta[head_rows + t * p.P + row];
    }

  ptx::copy_async_wait<0>();
  ptx::sync_threads();
  uint32_t left_a[DEPTH<D> / 16][4], left_b[DEPTH<D> / 16][4];
#pragma unroll
  for (int d = 0; d < DEPTH<D> / 16; ++d) {
    own_a.below(own).read_down(left_a[d], 0, 2 * d);
    if (S::KEEPS_BOTH) own_b.below(own).read_down(left_b[d], 0, 2 * d);
  }
  float sum_a[D / 8][4] = {}, sum_b[OF_COLUMNS ? D / 8 : 1][4] = {};  // dk and dv, or dq
  while (more) {
    ptx::copy_async_wait<0>();
    ptx::sync_threads();  // this buffer is filled, and no warp reads the other one any more, nor own_a in it
    const Buffer from(buffer);
    const int frame = walk.frame, opposite = walk.token;
    buffer ^= 1;
    more = walk.next();
    if (more) copy(Buffer(buffer));

#pragma unroll 1
    for (int step = 0; step < S::TOKENS && opposite + step < p.P; step += STEP) {
      const auto tile_a = from.a.below(step), tile_b = from.b.below(step);
      float s[STEP / 8][4] = {}, dp[STEP / 8][4] = {};
#pragma unroll
      for (int d = 0; d < DEPTH<D> / 16; ++d) {
        if (!S::KEEPS_BOTH) own_b.below(own).read_down(left_b[d], 0, 2 * d);
#pragma unroll
        for (int n = 0; n < STEP / 8; n += 2) {
          uint32_t right[4];
          tile_a.read_across(right, 8 * n, 2 * d);
          ptx::mma<T>(s[n], left_a[d], right[0], right[1]);
          ptx::mma<T>(s[n + 1], left_a[d], right[2], right[3]);
          tile_b.read_across(right, 8 * n, 2 * d);
          ptx::mma<T>(dp[n], left_b[d], right[0], right[1]);
          ptx::mma<T>(dp[n + 1], left_b[d], right[2], right[3]);
        }
      }

      uint32_t words[STEP / 8][2];
      if constexpr (DROPOUT && OF_COLUMNS) draw_columns(words, p, head, frame * p.P + opposite + step, t, first + own);
      if constexpr (DROPOUT && !OF_COLUMNS) draw_rows(words, p, head, t * p.P + first + own, frame, opposite + step);

      uint32_t probability[STEP / 16][4], dz[STEP / 16][4];  // P after dropout; dz times W
#pragma unroll
      for (int n = 0; n < STEP / 8; n += 2) {
        typename Weight::Pair weights[4];
        if constexpr (OF_COLUMNS)
          from.weight.below(step).template read_across<true>(weights, 8 * n, own / 8);
        else
          from.weight.below(own).read_down(weights, 0, step / 8 + n);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int block = n + i / 2, r = i % 2;
          float2 lse{own_lse[r], own_lse[r]}, delta{own_delta[r], own_delta[r]};
          if (OF_COLUMNS) {
            const int row = step + 8 * block + 2 * (lane % 4);
            lse = *reinterpret_cast<const float2*>(from.lse + row);
            lse = {subtracted(lse.x), subtracted(lse.y)};
            delta = *reinterpret_cast<const float2*>(from.delta + row);
          }
          const float2 pair = values(weights[i]);
          const float w[2] = {pair.x, pair.y}, off[2] = {lse.x * LOG2E, lse.y * LOG2E}, d[2] = {delta.x, delta.y};
          float kept_p[2], dz_w[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float z = s[block][2 * r + e] * w[e];
            const float x = w[e] != 0 ? ptx::exp2_at_most_one(fmaf(z, scale_2, -off[e])) : 0.0f;
            float m_dp = dp[block][2 * r + e];
            kept_p[e] = x;
            if (DROPOUT) {
              const bool kept = is_kept(words[block][r], e, p.drop_threshold);
              m_dp = kept ? m_dp * p.inverse_keep : 0.0f;
              kept_p[e] = kept ? x : 0.0f;
            }
            dz_w[e] = x * w[e] * (m_dp - d[e]);
          }
          probability[n / 2][i] = ptx::pack<T>(kept_p[0], kept_p[1]);
          dz[n / 2][i] = ptx::pack<T>(dz_w[0], dz_w[1]);
        }
      }

#pragma unroll
      for (int j = 0; j < STEP / 16; ++j)
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
          uint32_t right[4];
          tile_a.template read_down<true>(right, 16 * j, n);
          ptx::mma<T>(sum_a[n], dz[j], right[0], right[1]);
          if (n + 1 < D / 8) ptx::mma<T>(sum_a[n + 1], dz[j], right[2], right[3]);
          if constexpr (OF_COLUMNS) {
            tile_b.template read_down<true>(right, 16 * j, n);
            ptx::mma<T>(sum_b[n], probability[j], right[0], right[1]);
            if (n + 1 < D / 8) ptx::mma<T>(sum_b[n + 1], probability[j], right[2], right[3]);
          }
        }
    }
  }

  ptx::sync_threads();
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      own_a.pair(own + 8 * r, 8 * n) = ptx::pack<T>(sum_a[n][2 * r] * p.scale, sum_a[n][2 * r + 1] * p.scale);
      if constexpr (OF_COLUMNS)
        own_b.pair(own + 8 * r, 8 * n) =
            ptx::pack<T>(sum_b[n][2 * r] * p.inverse_keep, sum_b[n][2 * r + 1] * p.inverse_keep);
    }
  ptx::sync_threads();
  own_a.template store<THREADS>(result<uint16_t>(p, OF_COLUMNS ? p.dk : p.dq, b, h, t, first));
  if (OF_COLUMNS) own_b.template store<THREADS>(result<uint16_t>(p, p.dv, b, h, t, first));
}

// T: ptx::bf16 or ptx::f16. D: 64, 88 or 128, at least the head dimension. WIDE: float32 weights. Launch
// H * ceil(P / 64) * T * B blocks of BACKWARD_THREADS threads, with Backward<D, true, WIDE>::SHARED_BYTES.
template <class T, int D, bool DROPOUT, bool WIDE>
__global__ void __launch_bounds__(BACKWARD_THREADS, 2)
    graph_attention_bwd_dkdv_sm80(const __grid_constant__ AttentionParams p) {
  backward<T, D, DROPOUT, WIDE, true>(p);
}
// T: ptx::bf16 or ptx::f16. D: 64, 88 or 128, at least the head dimension. WIDE: float32 weights. Launch
// H * ceil(P / 64) * T * B blocks of BACKWARD_THREADS threads, with Backward<D, false, WIDE>::SHARED_BYTES.
template <class T, int D, bool DROPOUT, bool WIDE>
__global__ void __launch_bounds__(BACKWARD_THREADS, 2)
    graph_attention_bwd_dq_sm80(const __grid_constant__ AttentionParams p) {
  backward<T, D, DROPOUT, WIDE, false>(p);
}

}  // namespace stgt::sm80
