// Graph-masked attention, backward: probabilities are recomputed from the log-sum-exp, tile by tile.
#pragma once
#include "dropout.h"

namespace stgt::STGT_ISA {

// One tile's probabilities and score gradients, from its scores and dP = dout v^T (both overwritten):
// P = exp(z - lse), dz = P (dP - delta) with dropout inside. `scores` becomes P as dropped and rescaled, `dp` becomes
// dz * W, the gradient of the scores; with dweight given, dz * score is added to it instead.
template <class A, class WT>
inline void softmax_backward(const AttentionArgs& args, int64_t head, int64_t row0, int64_t frame, int64_t column0,
                             int64_t rows, int64_t columns, WeightTile<WT> weight, const A* lse, const A* delta,
                             A* scores, A* dp, A* dweight) {
  A keep[TILE];
  for (int64_t r = 0; r < rows; ++r) {
    const vec<A> row_lse = broadcast(lse[r]), row_delta = broadcast(delta[r]);
    if (args.drop_threshold) {
      keep_row(args, head, row0 + r, frame, column0, keep);
      for (int64_t c = 0; c < columns; ++c) keep[c] *= inverse_keep_prob<A>(args);
    }
    for (int64_t c = 0; c < columns; c += lanes<A>) {
      const vec<A> w = load_wide<A>(weight.data + r * weight.row + c), score = load(scores + r * TILE + c);
      const vec<A> p = w != A(0) ? exp_nonpositive(score * w - row_lse) : vec<A>{};
      const vec<A> kept = args.drop_threshold ? load(keep + c) : broadcast(A(1));
      // Selected, not multiplied: where there is no edge neither a NaN of dP nor one of delta may pass.
      const vec<A> dz = w != A(0) ? p * (load(dp + r * TILE + c) * kept - row_delta) : vec<A>{};
      if (dweight) {
        store(dweight + r * TILE + c, load(dweight + r * TILE + c) + (w != A(0) ? dz * score : vec<A>{}));
      } else {
        store(scores + r * TILE + c, p * kept);
        store(dp + r * TILE + c, dz * w);
      }
    }
  }
}

template <class A> struct AttendedFrameGradients {
  int64_t slots, tiles, D, columns;
  bool* nonfinite;               // of a tile of keys
  A *keys_t, *values_t;          // (slots, tiles, D, TILE)
  A *keys, *dkeys, *dvalues;     // (slots, tiles * TILE, columns)

  AttendedFrameGradients(Arena& arena, const AttentionArgs& args)
      : slots(least(args.band(), args.T)), tiles(args.tiles()), D(args.D), columns(round_up(args.D, lanes<A>)),
        nonfinite(arena.take<bool>(slots * tiles)),
        keys_t(arena.take<A>(slots * tiles * D * TILE)), values_t(arena.take<A>(slots * tiles * D * TILE)),
        keys(arena.take<A>(slots * tiles * TILE * columns)), dkeys(arena.take<A>(slots * tiles * TILE * columns)),
        dvalues(arena.take<A>(slots * tiles * TILE * columns)) {}

  int64_t transposed(int64_t slot, int64_t tile) const { return (slot * tiles + tile) * D * TILE; }
  int64_t natural(int64_t slot, int64_t tile) const { return (slot * tiles + tile) * TILE * columns; }

  template <class S> void open(const AttentionArgs& args, int64_t b, int64_t h, int64_t frame) {
    const int64_t s = frame % slots;
    const S* k = (const S*)args.k.data + b * args.k.b + h * args.k.h + frame * args.P * args.k.n;
    const S* v = (const S*)args.v.data + b * args.v.b + h * args.v.h + frame * args.P * args.v.n;
    for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
      const int64_t rows = least(TILE, args.P - j0);
      pack_transposed(k + j0 * args.k.n, args.k.n, rows, D, keys_t + transposed(s, tile));
      pack_transposed(v + j0 * args.v.n, args.v.n, rows, D, values_t + transposed(s, tile));
      nonfinite[s * tiles + tile] =
          pack_rows(k + j0 * args.k.n, args.k.n, rows, D, A(1), keys + natural(s, tile), columns);
    }
    memset(dkeys + natural(s, 0), 0, tiles * TILE * columns * sizeof(A));
    memset(dvalues + natural(s, 0), 0, tiles * TILE * columns * sizeof(A));
  }

  template <class S> void close(const AttentionArgs& args, int64_t b, int64_t h, int64_t frame) const {
    const int64_t s = frame % slots;
    write_rows((S*)args.dk.data + b * args.dk.b + h * args.dk.h + frame * args.P * args.dk.n, args.dk.n, args.P, A(1),
               dkeys + natural(s, 0));
    write_rows((S*)args.dv.data + b * args.dv.b + h * args.dv.h + frame * args.P * args.dv.n, args.dv.n, args.P, A(1),
               dvalues + natural(s, 0));
  }

  template <class S> void write_rows(S* dst, int64_t stride, int64_t rows, A scale, const A* src) const {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < D; ++d) dst[r * stride + d] = narrow<S>(src[r * columns + d] * scale);
  }
};

template <class A> struct BackwardBlocks {
  AttendedFrameGradients<A> frames;
  A *q, *dout, *dq, *scores, *dp;
  BackwardBlocks(Arena& arena, const AttentionArgs& args)
      : frames(arena, args), q(arena.take<A>(TILE * frames.columns)), dout(arena.take<A>(TILE * frames.columns)),
        dq(arena.take<A>(TILE * frames.columns)), scores(arena.take<A>(TILE * TILE)), dp(arena.take<A>(TILE * TILE)) {}
};

// Tasks: (b, h). One thread walks the clip's row frames in order, so dk and dv add up in one fixed order; a frame's
// dk and dv leave the workspace when the last row frame that sees it is done.
template <class S, class A, class WT>
void attention_backward_tasks(const AttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  BackwardBlocks<A> block(arena, args);
  auto& frames = block.frames;
  const int64_t P = args.P, D = args.D, T = args.T, W = args.W, tiles = args.tiles(), band = args.band();
  const int64_t width = frames.columns;
  WT padded[TILE * TILE];
  for (int64_t head = begin; head < end; ++head) {
    const int64_t b = head / args.H, h = head % args.H;
    for (int64_t frame = 0; frame < least(W, T); ++frame) frames.template open<S>(args, b, h, frame);
    for (int64_t t = 0; t < T; ++t) {
      if (t + W < T) frames.template open<S>(args, b, h, t + W);
      for (int64_t i0 = 0; i0 < P; i0 += TILE) {
        const int64_t rows = least(TILE, P - i0), row = t * P + i0;
        const S* q = (const S*)args.q.data + b * args.q.b + h * args.q.h + row * args.q.n;
        const S* dout = (const S*)args.dout.data + b * args.dout.b + h * args.dout.h + row * args.dout.n;
        const A* lse = (const A*)args.lse + head * T * P + row;
        const A* delta = (const A*)args.delta + head * T * P + row;
        const bool q_nonfinite = pack_rows(q, args.q.n, rows, D, A(args.scale), block.q, width);
        const bool dout_nonfinite = pack_rows(dout, args.dout.n, rows, D, A(1), block.dout, width);
        memset(block.dq, 0, rows * width * sizeof(A));
        for (int64_t frame = most(t - W, 0); frame <= least(t + W, T - 1); ++frame) {
          const int64_t slot = frame % frames.slots, o = frame - t + W;
          const bool* live = args.live + (((b * T + t) * tiles + i0 / TILE) * band + o) * tiles;
          for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
            if (!live[tile]) continue;
            const int64_t columns = least(TILE, P - j0), wide = vector_columns<A>(columns);
            const auto weight = weight_tile((const WT*)args.weight + ((b * T * P + row) * band + o) * P + j0, band * P, rows, columns, padded);
            const int64_t at = frames.natural(slot, tile), at_t = frames.transposed(slot, tile);
            gemm(rows, wide, D, block.q, width, int64_t(1), frames.keys_t + at_t, TILE, block.scores, TILE, false);
            gemm(rows, wide, D, block.dout, width, int64_t(1), frames.values_t + at_t, TILE, block.dp, TILE, false);
            softmax_backward<A, WT>(args, head, row, frame, j0, rows, wide, weight, lse, delta, block.scores, block.dp, nullptr);
            gemm(columns, width, rows, block.scores, int64_t(1), TILE, block.dout, width, frames.dvalues + at, width, true);
            gemm(columns, width, rows, block.dp, int64_t(1), TILE, block.q, width, frames.dkeys + at, width, true);
            gemm(rows, width, columns, block.dp, TILE, int64_t(1), frames.keys + at, width, block.dq, width, true);
            if (dout_nonfinite)
              add_nonfinite(dout, args.dout.n, columns, rows, D, weight.data, int64_t(1), weight.row, block.scores, int64_t(1), TILE, frames.dvalues + at, width);
            if (q_nonfinite)
              add_nonfinite(q, args.q.n, columns, rows, D, weight.data, int64_t(1), weight.row, block.dp, int64_t(1), TILE, frames.dkeys + at, width);
            if (frames.nonfinite[slot * tiles + tile])
              add_nonfinite((const S*)args.k.data + b * args.k.b + h * args.k.h + (frame * P + j0) * args.k.n, args.k.n, rows,
                            columns, D, weight.data, weight.row, int64_t(1), block.dp, TILE, int64_t(1), block.dq, width);
          }
        }
        frames.write_rows((S*)args.dq.data + b * args.dq.b + h * args.dq.h + row * args.dq.n, args.dq.n, rows, A(args.scale), block.dq);
      }
      if (t - W >= 0) frames.template close<S>(args, b, h, t - W);
    }
    for (int64_t frame = most(T - W, 0); frame < T; ++frame) frames.template close<S>(args, b, h, frame);
  }
}

template <class A> struct WeightGradientBlocks {
  A *q, *dout, *keys_t, *values_t, *scores, *dp, *dweight;
  WeightGradientBlocks(Arena& arena, const AttentionArgs& args)
      : q(arena.take<A>(TILE * args.D)), dout(arena.take<A>(TILE * args.D)), keys_t(arena.take<A>(args.D * TILE)),
        values_t(arena.take<A>(args.D * TILE)), scores(arena.take<A>(TILE * TILE)), dp(arena.take<A>(TILE * TILE)),
        dweight(arena.take<A>(TILE * TILE)) {}
};

// Tasks: (b, frame, tile of rows). The heads share a weight; their gradients add up in order, inside one task.
template <class S, class A, class WT>
void attention_dweight_tasks(const AttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  WeightGradientBlocks<A> block(arena, args);
  const int64_t P = args.P, D = args.D, T = args.T, W = args.W, tiles = args.tiles(), band = args.band();
  WT padded[TILE * TILE];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t i0 = task % tiles * TILE, t = task / tiles % T, b = task / tiles / T;
    const int64_t rows = least(TILE, P - i0), row = t * P + i0;
    for (int64_t frame = most(t - W, 0); frame <= least(t + W, T - 1); ++frame)
      for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
        const int64_t o = frame - t + W;
        if (!args.live[((task * band) + o) * tiles + tile]) continue;
        const int64_t columns = least(TILE, P - j0), wide = vector_columns<A>(columns);
        const int64_t edge = ((b * T * P + row) * band + o) * P + j0;
        const auto weight = weight_tile((const WT*)args.weight + edge, band * P, rows, columns, padded);
        memset(block.dweight, 0, rows * TILE * sizeof(A));
        for (int64_t h = 0; h < args.H; ++h) {
          const int64_t head = b * args.H + h, column = frame * P + j0;
          const auto rows_of = [&](const Heads& x, int64_t n) { return (const S*)x.data + b * x.b + h * x.h + n * x.n; };
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t d = 0; d < D; ++d) {
              block.q[r * D + d] = widen(rows_of(args.q, row + r)[d]) * A(args.scale);
              block.dout[r * D + d] = widen(rows_of(args.dout, row + r)[d]);
            }
          pack_transposed(rows_of(args.k, column), args.k.n, columns, D, block.keys_t);
          pack_transposed(rows_of(args.v, column), args.v.n, columns, D, block.values_t);
          gemm(rows, wide, D, block.q, D, int64_t(1), block.keys_t, TILE, block.scores, TILE, false);
          gemm(rows, wide, D, block.dout, D, int64_t(1), block.values_t, TILE, block.dp, TILE, false);
          softmax_backward(args, head, row, frame, j0, rows, wide, weight, (const A*)args.lse + head * T * P + row,
                           (const A*)args.delta + head * T * P + row, block.scores, block.dp, block.dweight);
        }
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c)
            ((WT*)args.dweight)[edge + r * band * P + c] = narrow<WT>(block.dweight[r * TILE + c]);
      }
  }
}

inline int64_t attention_backward_workspace(const AttentionArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { BackwardBlocks<A>(arena, args); });
  return arena.used;
}
inline void attention_backward(const AttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { attention_backward_tasks<S, A, WT>(args, begin, end, workspace); });
}
inline int64_t attention_dweight_workspace(const AttentionArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { WeightGradientBlocks<A>(arena, args); });
  return arena.used;
}
inline void attention_dweight(const AttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { attention_dweight_tasks<S, A, WT>(args, begin, end, workspace); });
}

}  // namespace stgt::STGT_ISA
