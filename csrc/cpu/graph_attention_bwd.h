// Graph-masked attention, backward. Probabilities are recomputed from the log-sum-exp, tile by tile.
#pragma once
#include "dropout.h"
#include "graph_attention_borders.h"

namespace stgt::STGT_ISA {

// Computes the probabilities of one tile and the gradients of its scores, from the scores q k^T and dP = dout v^T: P =
// exp(z - lse) and dz = P (dP - delta), with dropout. `scores` becomes P after dropout and its rescaling. `dp` becomes
// dz * W, the gradient of scale * q k^T; or, if dweight is given, dz * scale * q k^T is added to dweight.
template <class A, class WT>
inline void softmax_backward(const GraphAttentionArgs& args, int64_t head, int64_t row0, int64_t frame, int64_t column0,
                             int64_t rows, WeightTile<WT> weight, const A* lse, const A* delta, A* scores, A* dp,
                             A* dweight) {
  const A scale = A(args.scale);
  A kept[TILE];
  for (int64_t r = 0; r < rows; ++r) {
    const vec<A> row_lse = broadcast(lse[r]), row_delta = broadcast(delta[r]);
    const bool empty = lse[r] == A(-INFINITY);  // there may be edges, whose scores all overflow
    for (int64_t c = 0; c < TILE; ++c) kept[c] = inverse_keep_prob<A>(args);
    if (args.drop_threshold) drop_row(args, head, row0 + r, frame, column0, kept);
    for (int64_t c = 0; c < TILE; c += lanes<A>) {
      const vec<A> w = empty ? vec<A>{} : load_wide<A>(weight.data + r * weight.row + c);
      const vec<A> score = load(scores + r * TILE + c);
      // Large scores have to be rounded as they were for lse. The difference would be above 0 otherwise, and p above 1.
      const vec<A> p = w != A(0) ? exp_nonpositive(rounded(score * (w * scale)) - row_lse) : vec<A>{};
      const vec<A> keep = load(kept + c);
      // These are selected and not multiplied, since a NaN of dP or delta must not pass where there is no edge.
      const vec<A> dz = w != A(0) ? p * (load(dp + r * TILE + c) * keep - row_delta) : vec<A>{};
      if (dweight) {
        store(dweight + r * TILE + c, load(dweight + r * TILE + c) + (w != A(0) ? dz * score * scale : vec<A>{}));
      } else {
        store(scores + r * TILE + c, p * keep);
        store(dp + r * TILE + c, dz * w);
      }
    }
  }
}

// The packed frames in the window of the row frame, and the sums of their gradients.
template <class E, class A> struct AttendedFrameGradients {
  int64_t slots, tiles, D, columns;  // columns: D padded to whole vectors
  bool* nonfinite;                   // whether a tile's keys hold NaN or infinity
  E *keys_t, *values_t, *keys;       // per slot and tile: (steps(D), TILE) transposed; (steps(TILE), columns)
  A *dkeys, *dvalues;                // per slot and tile: (TILE, columns)

  AttendedFrameGradients(Arena& arena, const GraphAttentionArgs& args)
      : slots(least(args.band(), args.T)),
        tiles(args.tiles()),
        D(args.D),
        columns(round_up(args.D, lanes<E>)),
        nonfinite(arena.take<bool>(slots * tiles)),
        keys_t(arena.take<E>(slots * tiles * steps<E>(D) * TILE)),
        values_t(arena.take<E>(slots * tiles * steps<E>(D) * TILE)),
        keys(arena.take<E>(slots * tiles * steps<E>(TILE) * columns)),
        dkeys(arena.take<A>(slots * tiles * TILE * columns)),
        dvalues(arena.take<A>(slots * tiles * TILE * columns)) {}

  int64_t transposed(int64_t slot, int64_t tile) const { return (slot * tiles + tile) * steps<E>(D) * TILE; }
  int64_t natural(int64_t slot, int64_t tile) const { return (slot * tiles + tile) * steps<E>(TILE) * columns; }
  int64_t gradient(int64_t slot, int64_t tile) const { return (slot * tiles + tile) * TILE * columns; }

  template <class S> void open(const GraphAttentionArgs& args, int64_t b, int64_t h, int64_t frame) {
    const int64_t s = frame % slots;
    for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
      const int64_t rows = least(TILE, args.P - j0);
      const S *k = args.k.rows<S>(b, h, frame * args.P + j0), *v = args.v.rows<S>(b, h, frame * args.P + j0);
      pack_right_transposed(k, args.k.n, rows, D, keys_t + transposed(s, tile));
      pack_right_transposed(v, args.v.n, rows, D, values_t + transposed(s, tile));
      nonfinite[s * tiles + tile] = pack_right(k, args.k.n, rows, D, keys + natural(s, tile), columns);
    }
    memset(dkeys + gradient(s, 0), 0, tiles * TILE * columns * sizeof(A));
    memset(dvalues + gradient(s, 0), 0, tiles * TILE * columns * sizeof(A));
  }

  template <class S> void close(const GraphAttentionArgs& args, int64_t b, int64_t h, int64_t frame) const {
    const int64_t first = gradient(frame % slots, 0), token = frame * args.P;
    write_rows(args.dk.rows<S>(b, h, token), args.dk.n, args.P, D, A(args.scale), dkeys + first, columns);
    write_rows(args.dv.rows<S>(b, h, token), args.dv.n, args.P, D, A(1), dvalues + first, columns);
  }
};

template <class E, class A> struct BackwardBlocks {
  AttendedFrameGradients<E, A> frames;
  E *q_left, *dout_left, *q_right, *dout_right, *left;
  A *dq, *scores, *dp;
  BackwardBlocks(Arena& arena, const GraphAttentionArgs& args)
      : frames(arena, args),
        q_left(arena.take<E>(TILE * steps<E>(args.D))),
        dout_left(arena.take<E>(TILE * steps<E>(args.D))),
        q_right(arena.take<E>(steps<E>(TILE) * frames.columns)),
        dout_right(arena.take<E>(steps<E>(TILE) * frames.columns)),
        left(arena.take<E>(TILE * steps<E>(TILE))),
        dq(arena.take<A>(TILE * frames.columns)),
        scores(arena.take<A>(TILE * TILE)),
        dp(arena.take<A>(TILE * TILE)) {}
};

// Computes delta_i = do_i . o_i - dlse_i, which the gradient of softmax and log-sum-exp subtracts from dP in row i.
template <class S, class A>
void row_deltas(const GraphAttentionArgs& args, int64_t head, int64_t first_frame, int64_t end_frame) {
  const int64_t N = args.T * args.P, b = head / args.H, h = head % args.H;
  const A* dlse = (const A*)args.dlse;
  for (int64_t i = first_frame * args.P; i < end_frame * args.P; ++i) {
    const A delta = dot<A>(args.dout.rows<S>(b, h, i), args.out.rows<S>(b, h, i), args.D);
    ((A*)args.delta)[head * N + i] = delta - (dlse ? dlse[head * N + i] : A(0));
  }
}

// The tasks are (b, h, segment). One thread walks along the row frames of a segment in order, so dk and dv are summed
// in one fixed order. The dk and dv of a frame leave the workspace when the last row frame that has the frame in its
// window is done.
template <class S, class A, class WT>
void graph_attention_bwd_tasks(const GraphAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  typedef typename Operand<S, A>::type E;
  Arena arena{workspace};
  BackwardBlocks<E, A> block(arena, args);
  auto& frames = block.frames;
  const int64_t P = args.P, D = args.D, T = args.T, W = args.W, tiles = args.tiles(), band = args.band();
  const int64_t width = frames.columns, depth = steps<E>(D);
  WT padded[TILE * TILE];
  const Border<A> layout(args, width);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t segment = task % args.segments, head = task / args.segments, b = head / args.H, h = head % args.H;
    const int64_t first = args.first_frame(segment), last = args.first_frame(segment + 1);
    // Frames before `own` also belong to the segment before this one, and frames from `foreign` on to the one after it.
    const int64_t own = first > 0 ? first + W : 0, foreign = last < T ? last - W : T;
    const auto finish = [&](int64_t frame) {
      if (frame >= own && frame < foreign) frames.template close<S>(args, b, h, frame);
      if (frame < foreign) return;
      const int64_t sums = frames.gradient(frame % frames.slots, 0), bytes = layout.numbers * sizeof(A);
      memcpy(layout.at(args, head, segment, false).sum(frame - foreign), frames.dkeys + sums, bytes);
      memcpy(layout.at(args, head, segment, true).sum(frame - foreign), frames.dvalues + sums, bytes);
    };
    row_deltas<S, A>(args, head, first, last);
    for (int64_t frame = most(first - W, 0); frame < least(first + W, T); ++frame)
      frames.template open<S>(args, b, h, frame);
    for (int64_t t = first; t < last; ++t) {
      if (t + W < T) frames.template open<S>(args, b, h, t + W);
      for (int64_t i0 = 0; i0 < P; i0 += TILE) {
        const int64_t rows = least(TILE, P - i0), row = t * P + i0;
        const S *q = args.q.rows<S>(b, h, row), *dout = args.dout.rows<S>(b, h, row);
        const A *lse = (const A*)args.lse + head * T * P + row, *delta = (const A*)args.delta + head * T * P + row;
        pack_left(q, args.q.n, rows, D, block.q_left);
        pack_left(dout, args.dout.n, rows, D, block.dout_left);
        const bool q_nonfinite = pack_right(q, args.q.n, rows, D, block.q_right, width);
        const bool dout_nonfinite = pack_right(dout, args.dout.n, rows, D, block.dout_right, width);
        memset(block.dq, 0, rows * width * sizeof(A));
        for (int64_t frame = most(t - W, 0); frame <= least(t + W, T - 1); ++frame) {
          const int64_t slot = frame % frames.slots, o = frame - t + W;
          const bool* live = args.live + (((b * T + t) * tiles + i0 / TILE) * band + o) * tiles;
          for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
            if (!live[tile]) continue;
            const int64_t columns = least(TILE, P - j0), wide = vector_columns<A>(columns);
            const auto weight = weight_tile(args.edges<WT>(b, row, o, j0), band * P, rows, columns, padded);
            const E *keys_t = frames.keys_t + frames.transposed(slot, tile),
                    *values_t = frames.values_t + frames.transposed(slot, tile);
            A *dkeys = frames.dkeys + frames.gradient(slot, tile),
              *dvalues = frames.dvalues + frames.gradient(slot, tile);
            if (frame < own) {
              const int64_t place = frame - first + W, row_tile = i0 / TILE, offset = j0 * width;
              dkeys = layout.at(args, head, segment - 1, false).product(place, t - first, row_tile) + offset;
              dvalues = layout.at(args, head, segment - 1, true).product(place, t - first, row_tile) + offset;
            }
            gemm(rows, wide, depth, block.q_left, depth, 1, keys_t, TILE, block.scores, TILE, false);
            gemm(rows, wide, depth, block.dout_left, depth, 1, values_t, TILE, block.dp, TILE, false);
            softmax_backward<A, WT>(args, head, row, frame, j0, rows, weight, lse, delta, block.scores, block.dp,
                                    nullptr);
            gemm(columns, width, steps<E>(rows), as_left_transposed(block.scores, rows, block.left),
                 transposed<E>.column, transposed<E>.step, block.dout_right, width, dvalues, width, frame >= own);
            gemm(columns, width, steps<E>(rows), as_left_transposed(block.dp, rows, block.left), transposed<E>.column,
                 transposed<E>.step, block.q_right, width, dkeys, width, frame >= own);
            gemm(rows, width, steps<E>(columns), as_left(block.dp, rows, block.left), steps<E>(TILE), 1,
                 frames.keys + frames.natural(slot, tile), width, block.dq, width, true);
            if (dout_nonfinite)
              add_nonfinite(dout, args.dout.n, columns, rows, D, weight.data, 1, weight.row, block.scores, 1, TILE,
                            dvalues, width);
            if (q_nonfinite)
              add_nonfinite(q, args.q.n, columns, rows, D, weight.data, 1, weight.row, block.dp, 1, TILE, dkeys, width);
            if (frames.nonfinite[slot * tiles + tile])
              add_nonfinite(args.k.rows<S>(b, h, frame * P + j0), args.k.n, rows, columns, D, weight.data, weight.row,
                            1, block.dp, TILE, 1, block.dq, width);
          }
        }
        write_rows(args.dq.rows<S>(b, h, row), args.dq.n, rows, D, A(args.scale), block.dq, width);
      }
      if (t - W >= 0) finish(t - W);
    }
    for (int64_t frame = most(last - W, 0); frame < least(last + W, T); ++frame) finish(frame);
  }
}

template <class E, class A> struct WeightGradientBlocks {
  E *q, *dout, *keys_t, *values_t;
  A *scores, *dp, *dweight;
  WeightGradientBlocks(Arena& arena, const GraphAttentionArgs& args)
      : q(arena.take<E>(TILE * steps<E>(args.D))),
        dout(arena.take<E>(TILE * steps<E>(args.D))),
        keys_t(arena.take<E>(steps<E>(args.D) * TILE)),
        values_t(arena.take<E>(steps<E>(args.D) * TILE)),
        scores(arena.take<A>(TILE * TILE)),
        dp(arena.take<A>(TILE * TILE)),
        dweight(arena.take<A>(TILE * TILE)) {}
};

// The tasks are (b, frame, tile of rows). The heads share a weight, and their gradients of it are summed in order,
// inside one task. Weights and their gradients have the accumulator's type.
template <class S, class A>
void graph_attention_bwd_dweight_tasks(const GraphAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  typedef typename Operand<S, A>::type E;
  Arena arena{workspace};
  WeightGradientBlocks<E, A> block(arena, args);
  const int64_t P = args.P, D = args.D, T = args.T, W = args.W, tiles = args.tiles(), band = args.band();
  const int64_t depth = steps<E>(D);
  A padded[TILE * TILE];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t i0 = task % tiles * TILE, t = task / tiles % T, b = task / tiles / T;
    const int64_t rows = least(TILE, P - i0), row = t * P + i0;
    for (int64_t frame = most(t - W, 0); frame <= least(t + W, T - 1); ++frame)
      for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
        const int64_t o = frame - t + W, columns = least(TILE, P - j0), wide = vector_columns<A>(columns);
        if (!args.live[(task * band + o) * tiles + tile]) continue;
        const A* edges = args.edges<A>(b, row, o, j0);
        const auto weight = weight_tile(edges, band * P, rows, columns, padded);
        memset(block.dweight, 0, rows * TILE * sizeof(A));
        for (int64_t h = 0; h < args.H; ++h) {
          const int64_t head = b * args.H + h, column = frame * P + j0;
          pack_left(args.q.rows<S>(b, h, row), args.q.n, rows, D, block.q);
          pack_left(args.dout.rows<S>(b, h, row), args.dout.n, rows, D, block.dout);
          pack_right_transposed(args.k.rows<S>(b, h, column), args.k.n, columns, D, block.keys_t);
          pack_right_transposed(args.v.rows<S>(b, h, column), args.v.n, columns, D, block.values_t);
          gemm(rows, wide, depth, block.q, depth, 1, block.keys_t, TILE, block.scores, TILE, false);
          gemm(rows, wide, depth, block.dout, depth, 1, block.values_t, TILE, block.dp, TILE, false);
          softmax_backward(args, head, row, frame, j0, rows, weight, (const A*)args.lse + head * T * P + row,
                           (const A*)args.delta + head * T * P + row, block.scores, block.dp, block.dweight);
        }
        A* dweight = (A*)args.dweight + (edges - (const A*)args.weight);
        for (int64_t r = 0; r < rows; ++r)
          memcpy(dweight + r * band * P, block.dweight + r * TILE, columns * sizeof(A));
      }
  }
}

inline int64_t graph_attention_bwd_workspace(const GraphAttentionArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A>() { BackwardBlocks<typename Operand<S, A>::type, A>(arena, args); });
  return arena.used;
}
inline void graph_attention_bwd(const GraphAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  const MatrixUnit unit;
  by_dtypes(args,
            [&]<class S, class A, class WT>() { graph_attention_bwd_tasks<S, A, WT>(args, begin, end, workspace); });
}
inline int64_t graph_attention_bwd_dweight_workspace(const GraphAttentionArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A>() { WeightGradientBlocks<typename Operand<S, A>::type, A>(arena, args); });
  return arena.used;
}
inline void graph_attention_bwd_dweight(const GraphAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  const MatrixUnit unit;
  by_dtype(args.dtype,
           [&]<class S, class A>() { graph_attention_bwd_dweight_tasks<S, A>(args, begin, end, workspace); });
}

}  // namespace stgt::STGT_ISA
