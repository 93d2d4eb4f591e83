// Graph attention in float32, forward and backward, with ordinary multiply-adds and without tf32.
//
// All kernels compute tiles of scores with ROWS<D> rows and 32 columns in registers, from tiles of tokens in shared
// memory. Four threads with c = thread % 4 share a row. Each has the 8 columns 8 s + 2 c and 8 s + 2 c + 1 for s < 4,
// whose bits for dropout one call of dropout_words returns. Probabilities and their gradients then go through shared
// memory, from where products over the tile's rows or columns read them. In these products a thread has D / 8 features
// of every 16th token. Copies and math do not overlap within a block: several blocks share a multiprocessor, and the
// math takes far longer.
#pragma once
#include "common_sm80.cuh"

namespace stgt::fp32 {

using sm80::edges, sm80::is_kept, sm80::result, sm80::Steps, sm80::tokens;

constexpr int THREADS = 128, COLUMNS = 32;
template <int D> constexpr int ROWS = D > 96 ? 32 : 64;  // so that the backward kernels fit into 99 KB

// Tokens in shared memory, in chunks of 4 features. Chunk c of token i stands at place c ^ i % 8, so that the same
// chunk of eight tokens lies in different banks.
template <int TOKENS, int D> struct Tile {
  static constexpr int BYTES = TOKENS * D * 4;
  int offset;

  STGT_DEVICE int end() const { return offset + BYTES; }
  STGT_DEVICE float4& at(int token, int chunk) const {
    return reinterpret_cast<float4*>(ptx::shared_memory() + offset)[token * (D / 4) + (chunk ^ token % 8)];
  }
  // Fills the tile. Features beyond the last one are zero up to the next multiple of 16; the rest is left as it is.
  STGT_DEVICE void copy_async(const Rows<const float>& from) const {
    const bool aligned = from.alignment() == 16;
#pragma unroll 1
    for (int token = threadIdx.x / 8; token < TOKENS; token += THREADS / 8)
      for (int d = threadIdx.x % 8 * 4; d < (from.columns + 15) / 16 * 16; d += 32) {
        float* const to = &at(token, d / 4).x;
        const float* const source = from.row(token) + d;
        if (aligned) {
          ptx::copy_async<16>(to, source, token < from.count && d < from.columns);
        } else {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            ptx::copy_async<4>(to + i, source + i, token < from.count && d + i < from.columns);
        }
      }
  }
};

// A tile of probabilities or of gradients of scores. The pitch of its rows puts writes in pairs into different banks.
template <int TOKENS> struct Scores {
  static constexpr int PITCH = COLUMNS + 8, BYTES = TOKENS * PITCH * 4;
  int offset;

  STGT_DEVICE int end() const { return offset + BYTES; }
  STGT_DEVICE float& at(int row, int column) const {
    return reinterpret_cast<float*>(ptx::shared_memory() + offset)[row * PITCH + column];
  }
};

STGT_DEVICE int own_row(int m) { return threadIdx.x / 4 + 32 * m; }
STGT_DEVICE int own_column(int n) { return n / 2 * 8 + threadIdx.x % 4 * 2 + n % 2; }

// Computes s = a b^T over `features`. It adds sums of 16 products, since the error of one long sum would be several
// times larger.
template <int M, class A, class B>
STGT_DEVICE void multiply(float (&s)[M][8], const A& a, const B& b, int features) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < 8; ++n) s[m][n] = 0;
#pragma unroll 1
  for (int first = 0; first < features; first += 16) {
    float part[M][8] = {};
#pragma unroll
    for (int chunk = 0; chunk < 4; ++chunk) {
      float4 x[M];
#pragma unroll
      for (int m = 0; m < M; ++m) x[m] = a.at(own_row(m), first / 4 + chunk);
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float4 y = b.at(own_column(n), first / 4 + chunk);
#pragma unroll
        for (int m = 0; m < M; ++m)
          part[m][n] = fmaf(x[m].x, y.x, fmaf(x[m].y, y.y, fmaf(x[m].z, y.z, fmaf(x[m].w, y.w, part[m][n]))));
      }
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < 8; ++n) s[m][n] += part[m][n];
  }
}

// Adds scores x, or (TRANSPOSED) scores^T x, over `count` tokens of x to sum. The m-th token of a thread is thread / 8
// + 16 m, and its n-th chunk of features is thread % 8 + 8 n.
template <bool TRANSPOSED, int M, int N, class S, class X>
STGT_DEVICE void accumulate(float4 (&sum)[M][N], const S& scores, const X& x, int count) {
  const int token = threadIdx.x / 8;
#pragma unroll 4
  for (int k = 0; k < count; ++k) {
    float4 y[N];
#pragma unroll
    for (int n = 0; n < N; ++n) y[n] = x.at(k, threadIdx.x % 8 + 8 * n);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const float s = TRANSPOSED ? scores.at(k, token + 16 * m) : scores.at(token + 16 * m, k);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        sum[m][n].x = fmaf(s, y[n].x, sum[m][n].x), sum[m][n].y = fmaf(s, y[n].y, sum[m][n].y);
        sum[m][n].z = fmaf(s, y[n].z, sum[m][n].z), sum[m][n].w = fmaf(s, y[n].w, sum[m][n].w);
      }
    }
  }
}

// Writes factor * sum. Tokens and features are those of accumulate.
template <int M, int N> STGT_DEVICE void store(const float4 (&sum)[M][N], float factor, const Rows<float>& to) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const int token = threadIdx.x / 8 + 16 * m;
    if (token >= to.count) continue;
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float values[4] = {sum[m][n].x, sum[m][n].y, sum[m][n].z, sum[m][n].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int d = (threadIdx.x % 8 + 8 * n) * 4 + i;
        if (d < to.columns) to.row(token)[d] = factor * values[i];
      }
    }
  }
}

// Reads the weights of the thread's own scores; they are 0 beyond the frames.
template <int M> STGT_DEVICE void load_weights(float (&w)[M][8], const Rows<const float>& from) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < 8; ++n)
      w[m][n] = own_row(m) < from.count && own_column(n) < from.columns ? from.row(own_row(m))[own_column(n)] : 0;
}

// Returns a bit for each of the thread's own columns in row `row` of the clip: whether dropout keeps the edge.
STGT_DEVICE uint32_t kept_columns(const AttentionParams& p, int sample_head, int row, int frame, int column) {
  const uint4 drawn = dropout_words(*p.seed, sample_head, row, frame, column / COLUMNS, threadIdx.x % 4);
  const uint32_t words[4] = {drawn.x, drawn.y, drawn.z, drawn.w};
  uint32_t kept = 0;
#pragma unroll
  for (int n = 0; n < 8; ++n) kept |= uint32_t(is_kept(words[n / 2], n % 2, p.drop_threshold)) << n;
  return kept;
}

template <int D> constexpr int FORWARD_SHARED_BYTES =
    Tile<ROWS<D>, D>::BYTES + 2 * Tile<COLUMNS, D>::BYTES + Scores<ROWS<D>>::BYTES + ROWS<D> * 4;

// D: 64, 96 or 128, at least the head dimension. Launch H * ceil(P / ROWS<D>) * T * B blocks of THREADS threads, with
// FORWARD_SHARED_BYTES<D>: Q, K, V, the probabilities, and a factor for each row.
template <int D, bool DROPOUT>
__global__ void __launch_bounds__(THREADS, 2) graph_attention_fwd_fp32(const __grid_constant__ AttentionParams p) {
  constexpr int M = ROWS<D> / 32;
  const Tile<ROWS<D>, D> q{0};
  const Tile<COLUMNS, D> k{q.end()}, v{k.end()};
  const Scores<ROWS<D>> probability{v.end()};
  float* const factor = reinterpret_cast<float*>(ptx::shared_memory() + probability.end());
  const Place place(p, ROWS<D>);
  const int b = place.b, h = place.h, t = place.t, i0 = place.first;

  float4 out[2 * M][D / 32] = {};
  float top[M], total[M] = {};
#pragma unroll
  for (int m = 0; m < M; ++m) top[m] = -1e30f;  // finite, since -inf - -inf would be NaN
  q.copy_async(tokens<float>(p, p.q, p.q_at, b, h, t, i0));
  for (Steps<false, 1, COLUMNS> walk(p, b, t, i0); walk.next();) {
    ptx::sync_threads();  // no warp reads K, V and the probabilities any more
    k.copy_async(tokens<float>(p, p.k, p.k_at, b, h, walk.frame, walk.token));
    v.copy_async(tokens<float>(p, p.v, p.v_at, b, h, walk.frame, walk.token));
    ptx::copy_async_commit();
    float w[M][8], s[M][8];
    load_weights(w, edges<const float>(p, p.weight, b, t, i0, walk.offset, walk.token));
    ptx::copy_async_wait<0>();
    ptx::sync_threads();
    multiply(s, q, k, p.D);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      float highest = top[m];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        s[m][n] = w[m][n] != 0 ? s[m][n] * w[m][n] * p.scale : -INFINITY;
        highest = fmaxf(highest, s[m][n]);
      }
      highest = fmaxf(highest, ptx::shuffle_xor(highest, 1));
      highest = fmaxf(highest, ptx::shuffle_xor(highest, 2));
      const float shrink = ptx::exp2((top[m] - highest) * LOG2E);
      if (threadIdx.x % 4 == 0) factor[own_row(m)] = shrink;
      top[m] = highest;
      total[m] *= shrink;
      const uint32_t kept =
          DROPOUT ? kept_columns(p, b * p.H + h, t * p.P + i0 + own_row(m), walk.frame, walk.token) : ~0u;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float x = ptx::exp2((s[m][n] - highest) * LOG2E);
        total[m] += x;
        probability.at(own_row(m), own_column(n)) = kept >> n & 1 ? x : 0;
      }
    }
    ptx::sync_threads();
#pragma unroll
    for (int m = 0; m < 2 * M; ++m) {
      const float shrink = factor[threadIdx.x / 8 + 16 * m];
#pragma unroll
      for (int n = 0; n < D / 32; ++n)
        out[m][n] = {out[m][n].x * shrink, out[m][n].y * shrink, out[m][n].z * shrink, out[m][n].w * shrink};
    }
    accumulate<false>(out, probability, v, COLUMNS);
  }

  ptx::copy_async_commit();  // the copy of Q is still open if there was no live tile
  ptx::copy_async_wait<0>();
  ptx::sync_threads();
#pragma unroll
  for (int m = 0; m < M; ++m) {
    total[m] += ptx::shuffle_xor(total[m], 1);
    total[m] += ptx::shuffle_xor(total[m], 2);
    if (threadIdx.x % 4 != 0) continue;
    factor[own_row(m)] = total[m] == 0 ? 0 : p.inverse_keep / total[m];  // the total of a row without edges is 0
    if (i0 + own_row(m) < p.P)
      p.lse[((int64_t(b) * p.H + h) * p.T + t) * p.P + i0 + own_row(m)] = top[m] + logf(total[m]);
  }
  ptx::sync_threads();
#pragma unroll
  for (int m = 0; m < 2 * M; ++m) {
    const float inverse = factor[threadIdx.x / 8 + 16 * m];
#pragma unroll
    for (int n = 0; n < D / 32; ++n)
      out[m][n] = {out[m][n].x * inverse, out[m][n].y * inverse, out[m][n].z * inverse, out[m][n].w * inverse};
  }
  store(out, 1, result<float>(p, p.out, b, h, t, i0));
}

// Turns s from scores q.k into probabilities after dropout, and dp from dP into the gradients dz, for the thread's own
// edges. They lead from row i0 + own_row(m) of frame t to column j0 + own_column(n) of `frame`.
template <bool DROPOUT, int M>
STGT_DEVICE void softmax_backward(float (&s)[M][8], float (&dp)[M][8], const float (&w)[M][8], const AttentionParams& p,
                                  int sample_head, int t, int i0, int frame, int j0) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const int row = t * p.P + i0 + own_row(m);
    const bool inside = i0 + own_row(m) < p.P;
    const int64_t at = int64_t(sample_head) * p.T * p.P + row;
    const float lse = inside ? subtracted(p.lse[at]) : 0, delta = inside ? p.delta[at] : 0;
    const uint32_t kept = DROPOUT ? kept_columns(p, sample_head, row, frame, j0) : ~0u;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      // The product is rounded as it was for lse, and not fused with the difference.
      const float z = ptx::product(s[m][n] * w[m][n], p.scale);
      const float x = w[m][n] != 0 ? ptx::exp2_at_most_one((z - lse) * LOG2E) : 0;
      dp[m][n] = x * ((kept >> n & 1 ? dp[m][n] * p.inverse_keep : 0) - delta);
      s[m][n] = kept >> n & 1 ? x : 0;
    }
  }
}

template <int D> constexpr int BACKWARD_SHARED_BYTES =
    2 * (Tile<ROWS<D>, D>::BYTES + Tile<COLUMNS, D>::BYTES + Scores<ROWS<D>>::BYTES);

// The body of two kernels: dk and dv of 32 columns (OF_COLUMNS), or dq of ROWS<D> rows. Shared memory holds q and dout
// of ROWS<D> rows, k and v of 32 columns, and the probabilities and gradients of their scores.
template <int D, bool DROPOUT, bool OF_COLUMNS> STGT_DEVICE void backward(const AttentionParams& p) {
  constexpr int M = ROWS<D> / 32, OWN = OF_COLUMNS ? COLUMNS : ROWS<D>;
  const Tile<ROWS<D>, D> q{0}, dout{q.end()};
  const Tile<COLUMNS, D> k{dout.end()}, v{k.end()};
  const Scores<ROWS<D>> probability{v.end()}, gradient{probability.end()};
  const Place place(p, OWN);
  const int b = place.b, h = place.h, t = place.t, first = place.first;

  const auto copy_rows = [&](int frame, int i) {
    q.copy_async(tokens<float>(p, p.q, p.q_at, b, h, frame, i));
    dout.copy_async(tokens<float>(p, p.dout, p.dout_at, b, h, frame, i));
  };
  const auto copy_columns = [&](int frame, int j) {
    k.copy_async(tokens<float>(p, p.k, p.k_at, b, h, frame, j));
    v.copy_async(tokens<float>(p, p.v, p.v_at, b, h, frame, j));
  };
  float4 sum_a[OWN / 16][D / 32] = {}, sum_b[OWN / 16][D / 32] = {};  // dk and dv, or dq
  OF_COLUMNS ? copy_columns(t, first) : copy_rows(t, first);
  for (Steps<OF_COLUMNS, 1, OF_COLUMNS ? ROWS<D> : COLUMNS> walk(p, b, t, first); walk.next();) {
    ptx::sync_threads();  // no warp reads the tiles any more that are now overwritten
    OF_COLUMNS ? copy_rows(walk.frame, walk.token) : copy_columns(walk.frame, walk.token);
    ptx::copy_async_commit();
    const int row_frame = OF_COLUMNS ? walk.frame : t, i0 = OF_COLUMNS ? walk.token : first;
    const int frame = OF_COLUMNS ? t : walk.frame, j0 = OF_COLUMNS ? first : walk.token;
    float w[M][8], s[M][8], dp[M][8];
    load_weights(w, edges<const float>(p, p.weight, b, row_frame, i0, walk.offset, j0));
    ptx::copy_async_wait<0>();
    ptx::sync_threads();
    multiply(s, q, k, p.D);
    multiply(dp, dout, v, p.D);
    softmax_backward<DROPOUT>(s, dp, w, p, b * p.H + h, row_frame, i0, frame, j0);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        if (OF_COLUMNS) probability.at(own_row(m), own_column(n)) = s[m][n];
        gradient.at(own_row(m), own_column(n)) = dp[m][n] * w[m][n];
      }
    ptx::sync_threads();
    if (OF_COLUMNS) {
      accumulate<true>(sum_a, gradient, q, ROWS<D>);
      accumulate<true>(sum_b, probability, dout, ROWS<D>);
    } else {
      accumulate<false>(sum_a, gradient, k, COLUMNS);
    }
  }
  ptx::copy_async_commit();  // the copy of the own tokens is still open if there was no live tile
  ptx::copy_async_wait<0>();
  store(sum_a, p.scale, result<float>(p, OF_COLUMNS ? p.dk : p.dq, b, h, t, first));
  if (OF_COLUMNS) store(sum_b, p.inverse_keep, result<float>(p, p.dv, b, h, t, first));
}

// D: 64, 96 or 128, at least the head dimension. Launch H * ceil(P / COLUMNS) * T * B blocks of THREADS threads, with
// BACKWARD_SHARED_BYTES<D>.
template <int D, bool DROPOUT>
__global__ void __launch_bounds__(THREADS, 2) graph_attention_bwd_dkdv_fp32(const __grid_constant__ AttentionParams p) {
  backward<D, DROPOUT, true>(p);
}
// D: 64, 96 or 128, at least the head dimension. Launch H * ceil(P / ROWS<D>) * T * B blocks of THREADS threads, with
// BACKWARD_SHARED_BYTES<D>.
template <int D, bool DROPOUT>
__global__ void __launch_bounds__(THREADS, 2) graph_attention_bwd_dq_fp32(const __grid_constant__ AttentionParams p) {
  backward<D, DROPOUT, false>(p);
}

template <int D> constexpr int DWEIGHT_SHARED_BYTES = 2 * (Tile<ROWS<D>, D>::BYTES + Tile<COLUMNS, D>::BYTES);

// A block has ROWS<D> x 32 edges and sums over the heads. It writes zeros where there are no edges. Launch B * T *
// ceil(P / ROWS<D>) * (2W+1) * ceil(P / COLUMNS) blocks of THREADS threads, with DWEIGHT_SHARED_BYTES<D>.
template <int D, bool DROPOUT>
__global__ void __launch_bounds__(THREADS, 2)
    graph_attention_bwd_dweight_fp32(const __grid_constant__ AttentionParams p) {
  constexpr int M = ROWS<D> / 32;
  const Tile<ROWS<D>, D> q{0}, dout{q.end()};
  const Tile<COLUMNS, D> k{dout.end()}, v{k.end()};
  const int parts = (p.P + COLUMNS - 1) / COLUMNS, row_parts = (p.P + ROWS<D> - 1) / ROWS<D>, band = p.band();
  const int j0 = blockIdx.x % parts * COLUMNS, offset = blockIdx.x / parts % band, rest = blockIdx.x / parts / band;
  const int i0 = rest % row_parts * ROWS<D>, t = rest / row_parts % p.T, b = rest / row_parts / p.T;
  const int frame = t + offset - p.W, tiles = p.tiles();
  const int64_t tile = (((int64_t(b) * p.T + t) * tiles + i0 / TILE) * band + offset) * tiles + j0 / TILE;
  const bool live = frame >= 0 && frame < p.T && p.live[tile];

  float w[M][8], sum[M][8] = {};
  load_weights(w, edges<const float>(p, p.weight, b, t, i0, offset, j0));
  for (int h = 0; h < (live ? p.H : 0); ++h) {
    ptx::sync_threads();
    q.copy_async(tokens<float>(p, p.q, p.q_at, b, h, t, i0));
    k.copy_async(tokens<float>(p, p.k, p.k_at, b, h, frame, j0));
    dout.copy_async(tokens<float>(p, p.dout, p.dout_at, b, h, t, i0));
    v.copy_async(tokens<float>(p, p.v, p.v_at, b, h, frame, j0));
    ptx::copy_async_commit();
    ptx::copy_async_wait<0>();
    ptx::sync_threads();
    float s[M][8], score[M][8], dp[M][8];
    multiply(s, q, k, p.D);
    multiply(dp, dout, v, p.D);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < 8; ++n) score[m][n] = s[m][n];
    softmax_backward<DROPOUT>(s, dp, w, p, b * p.H + h, t, i0, frame, j0);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < 8; ++n) sum[m][n] = fmaf(dp[m][n], score[m][n], sum[m][n]);
  }
  const Rows<float> to = edges<float>(p, p.dweight, b, t, i0, offset, j0);
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < 8; ++n)
      if (own_row(m) < to.count && own_column(n) < to.columns) to.row(own_row(m))[own_column(n)] = sum[m][n] * p.scale;
}

}  // namespace stgt::fp32
