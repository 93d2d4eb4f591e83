// Graph-masked attention, forward: an online softmax over the tiles of the band. Scores never leave the cache.
#pragma once
#include "dropout.h"

namespace stgt::STGT_ISA {

// The packed frames in the window of the row frame. Each is packed once while the row frame moves through the clip.
template <class E> struct AttendedFrames {
  int64_t slots, tiles, D, columns;  // columns: D padded to whole vectors
  int64_t* held;                     // which (b, h, frame) a slot holds
  bool* nonfinite;                   // whether a tile's values hold NaN or infinity
  E *keys, *values;                  // per slot and tile: (steps(D), TILE) transposed; (steps(TILE), columns)

  AttendedFrames(Arena& arena, const GraphAttentionArgs& args)
      : slots(least(args.band(), args.T)),
        tiles(args.tiles()),
        D(args.D),
        columns(round_up(args.D, lanes<E>)),
        held(arena.take<int64_t>(slots)),
        nonfinite(arena.take<bool>(slots * tiles)),
        keys(arena.take<E>(slots * tiles * steps<E>(D) * TILE)),
        values(arena.take<E>(slots * tiles * steps<E>(TILE) * columns)) {
    if (arena.base)
      for (int64_t s = 0; s < slots; ++s) held[s] = -1;
  }

  template <class S> int64_t slot(const GraphAttentionArgs& args, int64_t b, int64_t h, int64_t frame) {
    const int64_t s = frame % slots, id = (b * args.H + h) * args.T + frame;
    if (held[s] == id) return s;
    held[s] = id;
    const S *k = args.k.rows<S>(b, h, frame * args.P), *v = args.v.rows<S>(b, h, frame * args.P);
    for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
      const int64_t rows = least(TILE, args.P - j0);
      pack_right_transposed(k + j0 * args.k.n, args.k.n, rows, D, key_tile(s, tile));
      nonfinite[s * tiles + tile] = pack_right(v + j0 * args.v.n, args.v.n, rows, D, value_tile(s, tile), columns);
    }
    return s;
  }
  E* key_tile(int64_t slot, int64_t tile) const { return keys + (slot * tiles + tile) * steps<E>(D) * TILE; }
  E* value_tile(int64_t slot, int64_t tile) const { return values + (slot * tiles + tile) * steps<E>(TILE) * columns; }
};

template <class E, class A> struct ForwardBlocks {
  AttendedFrames<E> frames;
  E *q, *left;
  A *scores, *out, *row_max, *row_sum;
  ForwardBlocks(Arena& arena, const GraphAttentionArgs& args)
      : frames(arena, args),
        q(arena.take<E>(TILE * steps<E>(args.D))),
        left(arena.take<E>(TILE * steps<E>(TILE))),
        scores(arena.take<A>(TILE * TILE)),
        out(arena.take<A>(TILE * frames.columns)),
        row_max(arena.take<A>(TILE)),
        row_sum(arena.take<A>(TILE * lanes<A>)) {}
};

// Turns one row of scores into exp(z - max), with z = score * scale * weight on edges. Updates the row's maximum and
// its sums (one per lane), and scales its output so far to the new maximum.
template <class A, class WT>
STGT_INLINE void softmax_row(A* score, const WT* weight, A scale, A& row_max, A* row_sum, A* out, int64_t out_columns) {
  constexpr int VECTORS = TILE / lanes<A>;  // beyond the last column the scores are garbage, but there are no edges
  const vec<A> none = broadcast(A(-INFINITY));
  vec<A> z[VECTORS], top = none;
#pragma GCC unroll 32
  for (int n = 0; n < VECTORS; ++n) {
    const vec<A> w = load_wide<A>(weight + n * lanes<A>);
    z[n] = w != A(0) ? load(score + n * lanes<A>) * (w * scale) : none;
    top = vmax<A>(top, z[n]);
  }
  const A tile_max = horizontal_max<A>(top);
  vec<A> sum = load(row_sum);
  if (tile_max > row_max) {
    const vec<A> shrink = broadcast(exp_nonpositive(broadcast(row_max - tile_max))[0]);
    sum *= shrink;
    for (int64_t d = 0; d < out_columns; d += lanes<A>) store(out + d, load(out + d) * shrink);
    row_max = tile_max;
  }
  const vec<A> base = broadcast(row_max == A(-INFINITY) ? A(0) : row_max);  // -inf - -inf would make a NaN
#pragma GCC unroll 32
  for (int n = 0; n < VECTORS; ++n) {
    const vec<A> p = z[n] == none ? vec<A>{} : exp_nonpositive(z[n] - base);
    store(score + n * lanes<A>, p);
    sum += p;
  }
  store(row_sum, sum);
}

// The tasks are (b, h, frame, block of rows), in this order, so that consecutive tasks share packed frames.
template <class S, class A, class WT>
void graph_attention_fwd_tasks(const GraphAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  typedef typename Operand<S, A>::type E;
  Arena arena{workspace};
  ForwardBlocks<E, A> block(arena, args);
  const int64_t P = args.P, D = args.D, tiles = args.tiles(), band = args.band(), width = block.frames.columns;
  const A scale = A(args.scale);
  WT padded[TILE * TILE];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t part = task % args.row_blocks(), t = task / args.row_blocks() % args.T;
    const int64_t head = task / args.row_blocks() / args.T, b = head / args.H, h = head % args.H;
    for (int64_t i0 = part * ROW_BLOCK; i0 < least(P, (part + 1) * ROW_BLOCK); i0 += TILE) {
      const int64_t rows = least(TILE, P - i0), row = t * P + i0;
      pack_left(args.q.rows<S>(b, h, row), args.q.n, rows, D, block.q);
      for (int64_t r = 0; r < rows; ++r) block.row_max[r] = A(-INFINITY);
      memset(block.row_sum, 0, rows * lanes<A> * sizeof(A));
      memset(block.out, 0, rows * width * sizeof(A));
      for (int64_t frame = most(t - args.W, 0); frame <= least(t + args.W, args.T - 1); ++frame) {
        const int64_t o = frame - t + args.W;
        const bool* live = args.live + (((b * args.T + t) * tiles + i0 / TILE) * band + o) * tiles;
        for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
          if (!live[tile]) continue;
          const int64_t slot = block.frames.template slot<S>(args, b, h, frame);
          const int64_t columns = least(TILE, P - j0);
          const auto weight = weight_tile(args.edges<WT>(b, row, o, j0), band * P, rows, columns, padded);
          gemm(rows, vector_columns<A>(columns), steps<E>(D), block.q, steps<E>(D), 1,
               block.frames.key_tile(slot, tile), TILE, block.scores, TILE, false);
          for (int64_t r = 0; r < rows; ++r) {
            A* p = block.scores + r * TILE;
            softmax_row(p, weight.data + r * weight.row, scale, block.row_max[r], block.row_sum + r * lanes<A>,
                        block.out + r * width, width);
            if (args.drop_threshold) drop_row(args, head, row + r, frame, j0, p);
          }
          const E* left = as_left(block.scores, rows, block.left);
          gemm(rows, width, steps<E>(columns), left, steps<E>(TILE), 1, block.frames.value_tile(slot, tile), width,
               block.out, width, true);
          if (block.frames.nonfinite[slot * tiles + tile])
            add_nonfinite(args.v.rows<S>(b, h, frame * P + j0), args.v.n, rows, columns, D, weight.data, weight.row, 1,
                          block.scores, TILE, 1, block.out, width);
        }
      }
      S* out = args.out.rows<S>(b, h, row);
      A* lse = (A*)args.lse + head * args.T * P + row;
      for (int64_t r = 0; r < rows; ++r) {
        const A sum = horizontal_sum<A>(load(block.row_sum + r * lanes<A>));
        const A inverse = sum == 0 ? A(0) : inverse_keep_prob<A>(args) / sum;
        for (int64_t d = 0; d < D; ++d) out[r * args.out.n + d] = narrow<S>(block.out[r * width + d] * inverse);
        lse[r] = sum == 0 ? A(-INFINITY) : block.row_max[r] + A(log(double(sum)));
      }
    }
  }
}

inline int64_t graph_attention_fwd_workspace(const GraphAttentionArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A>() { ForwardBlocks<typename Operand<S, A>::type, A>(arena, args); });
  return arena.used;
}
inline void graph_attention_fwd(const GraphAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  const MatrixUnit unit;
  by_dtypes(args,
            [&]<class S, class A, class WT>() { graph_attention_fwd_tasks<S, A, WT>(args, begin, end, workspace); });
}

}  // namespace stgt::STGT_ISA
