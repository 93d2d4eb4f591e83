// Dense attention of short sequences, forward and backward: softmax(scale * q k^T + bias) v.
//
// The scores of a few rows with all keys lie in the cache, so that softmax sees whole rows. There are no edges here:
// NaN and infinity reach all results that PyTorch's own attention lets them reach.
#pragma once
#include "blocks.h"

namespace stgt::STGT_ISA {

// Both passes compute the scores of some rows. This struct holds what they need for that: the transposed keys, the
// scores of these rows, and one row of bias.
template <class A> struct DenseScores {
  int64_t ld, most_rows;      // ld: N padded to whole vectors; most_rows: those whose scores fit the second-level cache
  A *keys_t, *scores, *bias;  // per tile of keys: (D, up to TILE); (most_rows, ld); (ld)

  DenseScores(Arena& arena, const DenseAttentionArgs& args)
      : ld(round_up(args.N, lanes<A>)),
        most_rows(most(8, least(TILE, (1 << 15) / ld))),
        keys_t(arena.take<A>(args.tiles() * args.D * TILE)),
        scores(arena.take<A>(most_rows * ld)),
        bias(arena.take<A>(ld)) {
    if (!arena.base) return;
    for (int64_t n = 0; n < ld; ++n) bias[n] = n < args.N ? A(0) : A(-INFINITY);  // the padding holds no keys
  }

  static void transpose_rows(const DenseAttentionArgs& args, const A* src, int64_t stride, A* dst) {
    for (int64_t j0 = 0; j0 < args.N; j0 += TILE, src += TILE * stride, dst += args.D * TILE)
      transposed_copy(src, stride, least(TILE, args.N - j0), args.D, dst, least(TILE, round_up(args.N - j0, lanes<A>)));
  }

  // The product of rows (`rows`, D) with transposed keys or values: (rows, ld).
  void multiply(const DenseAttentionArgs& args, const A* left, int64_t stride, int64_t rows, const A* right_t,
                A* to) const {
    for (int64_t j0 = 0; j0 < args.N; j0 += TILE, right_t += args.D * TILE) {
      const int64_t width = least(TILE, ld - j0);
      gemm(rows, width, args.D, left, stride, 1, right_t, width, to + j0, ld, false);
    }
  }

  // Turns row r of the scores into z = score * scale + bias, and returns its maximum. `row` is its number in the head.
  A add_bias(const DenseAttentionArgs& args, int64_t b, int64_t h, int64_t row, int64_t r) const {
    if (args.bias.data) memcpy(bias, args.bias.rows<A>(b, h, row), args.N * sizeof(A));
    A* const z = scores + r * ld;
    const vec<A> scale = broadcast(A(args.scale));
    vec<A> top = broadcast(A(-INFINITY));
    for (int64_t n = 0; n < ld; n += lanes<A>) {
      // Without rounded, one pass could fuse both operations and the other not, and p would exceed 1 for large scores.
      const vec<A> value = rounded(load(z + n) * scale) + load(bias + n);
      store(z + n, value);
      top = vmax<A>(top, value);
    }
    return horizontal_max<A>(top);
  }
};

// exp(z - max), and 0 where that is no normal number, so that a key whose bias is large and negative gets nothing.
template <class A> STGT_INLINE vec<A> dense_exp(vec<A> z, vec<A> max) {
  const vec<A> x = z - max;
  return x < A(sizeof(A) == 4 ? -87 : -708) ? vec<A>{} : exp_nonpositive(x);
}

template <class A> struct DenseForward {
  DenseScores<A> block;
  int64_t width;  // D padded to whole vectors
  A *values, *out;
  DenseForward(Arena& arena, const DenseAttentionArgs& args)
      : block(arena, args),
        width(round_up(args.D, lanes<A>)),
        values(arena.take<A>(args.N * width)),
        out(arena.take<A>(block.most_rows * width)) {}
};

// The tasks are (b, h, block of rows), in this order, so that consecutive tasks share packed keys and values.
template <class A>
void dense_attention_fwd_tasks(const DenseAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  DenseForward<A> pass(arena, args);
  const DenseScores<A>& block = pass.block;
  const int64_t D = args.D, N = args.N, ld = block.ld, width = pass.width;
  int64_t packed = -1;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t head = task / args.row_blocks(), b = head / args.H, h = head % args.H;
    const int64_t first = task % args.row_blocks() * ROW_BLOCK, last = least(args.M, first + ROW_BLOCK);
    if (packed != head) {
      block.transpose_rows(args, args.k.rows<A>(b, h, 0), args.k.n, block.keys_t);
      copy_rows(args.v.rows<A>(b, h, 0), args.v.n, N, D, pass.values, width);
      packed = head;
    }
    for (int64_t row = first; row < last; row += block.most_rows) {
      const int64_t rows = least(block.most_rows, last - row);
      A* const stats = (A*)args.stats + (head * args.M + row) * 2;
      block.multiply(args, args.q.rows<A>(b, h, row), args.q.n, rows, block.keys_t, block.scores);
      for (int64_t r = 0; r < rows; ++r) {
        const A top = block.add_bias(args, b, h, row + r, r), max = top == A(-INFINITY) ? A(0) : top;
        A* const p = block.scores + r * ld;
        vec<A> sum{};
        for (int64_t n = 0; n < ld; n += lanes<A>) {
          const vec<A> e = dense_exp<A>(load(p + n), broadcast(max));
          store(p + n, e);
          sum += e;
        }
        const A total = horizontal_sum<A>(sum);
        stats[2 * r] = max, stats[2 * r + 1] = total == 0 ? A(0) : 1 / total;
      }
      gemm(rows, width, N, block.scores, ld, 1, pass.values, width, pass.out, width, false);
      for (int64_t r = 0; r < rows; ++r)
        write_rows(args.out.rows<A>(b, h, row + r), 0, 1, D, stats[2 * r + 1], pass.out + r * width, width);
    }
  }
}

template <class A> struct DenseBackward {
  DenseScores<A> block;
  int64_t width;  // D padded to whole vectors
  A *values_t, *keys, *dkeys, *dvalues, *q, *dout, *dq, *dscores;
  DenseBackward(Arena& arena, const DenseAttentionArgs& args)
      : block(arena, args),
        width(round_up(args.D, lanes<A>)),
        values_t(arena.take<A>(args.tiles() * args.D * TILE)),
        keys(arena.take<A>(args.N * width)),
        dkeys(arena.take<A>(args.N * width)),
        dvalues(arena.take<A>(args.N * width)),
        q(arena.take<A>(block.most_rows * width)),
        dout(arena.take<A>(block.most_rows * width)),
        dq(arena.take<A>(block.most_rows * width)),
        dscores(arena.take<A>(block.most_rows * block.ld)) {}
};

// The tasks are (b, h). One thread walks along the rows of a head, so dk and dv are summed in one fixed order.
template <class A>
void dense_attention_bwd_tasks(const DenseAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  DenseBackward<A> pass(arena, args);
  const DenseScores<A>& block = pass.block;
  const int64_t D = args.D, N = args.N, ld = block.ld, width = pass.width;
  for (int64_t head = begin; head < end; ++head) {
    const int64_t b = head / args.H, h = head % args.H;
    block.transpose_rows(args, args.k.rows<A>(b, h, 0), args.k.n, block.keys_t);
    block.transpose_rows(args, args.v.rows<A>(b, h, 0), args.v.n, pass.values_t);
    copy_rows(args.k.rows<A>(b, h, 0), args.k.n, N, D, pass.keys, width);
    memset(pass.dkeys, 0, N * width * sizeof(A));
    memset(pass.dvalues, 0, N * width * sizeof(A));
    for (int64_t row = 0; row < args.M; row += block.most_rows) {
      const int64_t rows = least(block.most_rows, args.M - row);
      const A *const stats = (const A*)args.stats + (head * args.M + row) * 2, *out = args.out.rows<A>(b, h, row);
      copy_rows(args.q.rows<A>(b, h, row), args.q.n, rows, D, pass.q, width);
      copy_rows(args.dout.rows<A>(b, h, row), args.dout.n, rows, D, pass.dout, width);
      block.multiply(args, pass.q, width, rows, block.keys_t, block.scores);
      block.multiply(args, pass.dout, width, rows, pass.values_t, pass.dscores);
      for (int64_t r = 0; r < rows; ++r, out += args.out.n) {
        block.add_bias(args, b, h, row + r, r);
        const A delta = dot<A>(pass.dout + r * width, out, D);
        const vec<A> max = broadcast(stats[2 * r]), inverse = broadcast(stats[2 * r + 1]);
        for (int64_t n = r * ld; n < (r + 1) * ld; n += lanes<A>) {
          const vec<A> p = dense_exp<A>(load(block.scores + n), max) * inverse;
          store(block.scores + n, p);
          store(pass.dscores + n, p * (load(pass.dscores + n) - delta));
        }
      }
      gemm(N, width, rows, block.scores, 1, ld, pass.dout, width, pass.dvalues, width, true);
      gemm(N, width, rows, pass.dscores, 1, ld, pass.q, width, pass.dkeys, width, true);
      gemm(rows, width, N, pass.dscores, ld, 1, pass.keys, width, pass.dq, width, false);
      write_rows(args.dq.rows<A>(b, h, row), args.dq.n, rows, D, A(args.scale), pass.dq, width);
    }
    write_rows(args.dk.rows<A>(b, h, 0), args.dk.n, N, D, A(args.scale), pass.dkeys, width);
    write_rows(args.dv.rows<A>(b, h, 0), args.dv.n, N, D, A(1), pass.dvalues, width);
  }
}

// Calls f with float or double.
template <class F> inline void by_precision(const DenseAttentionArgs& args, F f) {
  args.dtype == Dtype::f64 ? f.template operator()<double>() : f.template operator()<float>();
}
inline int64_t dense_attention_fwd_workspace(const DenseAttentionArgs& args) {
  Arena arena{nullptr};
  by_precision(args, [&]<class A>() { DenseForward<A>(arena, args); });
  return arena.used;
}
inline void dense_attention_fwd(const DenseAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_precision(args, [&]<class A>() { dense_attention_fwd_tasks<A>(args, begin, end, workspace); });
}
inline int64_t dense_attention_bwd_workspace(const DenseAttentionArgs& args) {
  Arena arena{nullptr};
  by_precision(args, [&]<class A>() { DenseBackward<A>(arena, args); });
  return arena.used;
}
inline void dense_attention_bwd(const DenseAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_precision(args, [&]<class A>() { dense_attention_bwd_tasks<A>(args, begin, end, workspace); });
}

}  // namespace stgt::STGT_ISA
