// Graph-masked attention, forward: online softmax over the tiles of the band, scores never leave the cache.
#pragma once
#include "dropout.h"

namespace stgt::STGT_ISA {

// The frames in the window of the row frame, packed once while the row frame moves through the clip.
template <class A> struct AttendedFrames {
  int64_t slots, tiles, D, columns;  // columns: D padded to whole vectors
  int64_t* held;                     // which (b, h, frame) a slot holds
  bool* nonfinite;                   // whether a tile's values hold NaN or infinity
  A *keys, *values;                  // (slots, tiles, D, TILE) transposed; (slots, tiles * TILE, columns)

  AttendedFrames(Arena& arena, const AttentionArgs& args)
      : slots(least(args.band(), args.T)), tiles(args.tiles()), D(args.D), columns(round_up(args.D, lanes<A>)),
        held(arena.take<int64_t>(slots)), nonfinite(arena.take<bool>(slots * tiles)),
        keys(arena.take<A>(slots * tiles * D * TILE)), values(arena.take<A>(slots * tiles * TILE * columns)) {
    if (arena.base)
      for (int64_t s = 0; s < slots; ++s) held[s] = -1;
  }

  template <class S> int64_t slot(const AttentionArgs& args, int64_t b, int64_t h, int64_t frame) {
    const int64_t s = frame % slots, id = (b * args.H + h) * args.T + frame;
    if (held[s] == id) return s;
    held[s] = id;
    const S* k = (const S*)args.k.data + b * args.k.b + h * args.k.h + frame * args.P * args.k.n;
    const S* v = (const S*)args.v.data + b * args.v.b + h * args.v.h + frame * args.P * args.v.n;
    for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
      const int64_t rows = least(TILE, args.P - j0);
      pack_transposed(k + j0 * args.k.n, args.k.n, rows, D, key_tile(s, tile));
      nonfinite[s * tiles + tile] =
          pack_rows(v + j0 * args.v.n, args.v.n, rows, D, A(1), value_tile(s, tile), columns);
    }
    return s;
  }
  A* key_tile(int64_t slot, int64_t tile) const { return keys + (slot * tiles + tile) * D * TILE; }
  A* value_tile(int64_t slot, int64_t tile) const { return values + (slot * tiles + tile) * TILE * columns; }
};

template <class A> struct ForwardBlocks {
  AttendedFrames<A> frames;
  A *q, *scores, *out, *row_max, *row_sum;
  ForwardBlocks(Arena& arena, const AttentionArgs& args)
      : frames(arena, args), q(arena.take<A>(TILE * args.D)), scores(arena.take<A>(TILE * TILE)),
        out(arena.take<A>(TILE * frames.columns)), row_max(arena.take<A>(TILE)), row_sum(arena.take<A>(TILE)) {}
};

// Turns one row of scores into exp(z - max), z = score * weight on edges; updates the row's maximum and sum and scales
// its output so far to the new maximum.
template <class A, class WT>
STGT_INLINE void softmax_row(A* score, const WT* weight, int64_t columns, A& row_max, A& row_sum, A* out,
                             int64_t out_columns) {
  const vec<A> none = broadcast(A(-INFINITY));
  const int vectors = int(columns / lanes<A>);
  vec<A> top = none;
  for (int n = 0; n < vectors; ++n) {
    const vec<A> w = load_wide<A>(weight + n * lanes<A>);
    const vec<A> z = w != A(0) ? load(score + n * lanes<A>) * w : none;
    store(score + n * lanes<A>, z);
    top = vmax<A>(top, z);
  }
  const A tile_max = horizontal_max<A>(top), new_max = tile_max > row_max ? tile_max : row_max;
  if (new_max > row_max) {
    const vec<A> shrink = broadcast(exp_nonpositive(broadcast(row_max - new_max))[0]);
    row_sum *= shrink[0];
    for (int64_t d = 0; d < out_columns; d += lanes<A>) store(out + d, load(out + d) * shrink);
    row_max = new_max;
  }
  const vec<A> base = broadcast(new_max == A(-INFINITY) ? A(0) : new_max);  // -inf - -inf would make a NaN
  vec<A> sum = {};
  for (int n = 0; n < vectors; ++n) {
    const vec<A> z = load(score + n * lanes<A>);
    const vec<A> p = z == none ? vec<A>{} : exp_nonpositive(z - base);
    store(score + n * lanes<A>, p);
    sum += p;
  }
  row_sum += horizontal_sum<A>(sum);
}

// Tasks: (b, h, frame, block of rows), in this order, so that consecutive tasks share packed frames.
template <class S, class A, class WT>
void attention_forward_tasks(const AttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  ForwardBlocks<A> block(arena, args);
  const int64_t P = args.P, D = args.D, tiles = args.tiles(), band = args.band(), columns_out = block.frames.columns;
  WT padded[TILE * TILE];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t part = task % args.row_blocks(), t = task / args.row_blocks() % args.T;
    const int64_t head = task / args.row_blocks() / args.T, b = head / args.H, h = head % args.H;
    const S* q = (const S*)args.q.data + b * args.q.b + h * args.q.h + t * P * args.q.n;
    S* out = (S*)args.out.data + b * args.out.b + h * args.out.h + t * P * args.out.n;
    A* lse = (A*)args.lse + (head * args.T + t) * P;
    for (int64_t i0 = part * ROW_BLOCK; i0 < least(P, (part + 1) * ROW_BLOCK); i0 += TILE) {
      const int64_t rows = least(TILE, P - i0);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t d = 0; d < D; ++d) block.q[r * D + d] = widen(q[(i0 + r) * args.q.n + d]) * A(args.scale);
        block.row_max[r] = A(-INFINITY);
        block.row_sum[r] = 0;
      }
      memset(block.out, 0, rows * columns_out * sizeof(A));
      for (int64_t o = 0; o < band; ++o) {
        const int64_t frame = t + o - args.W;
        if (frame < 0 || frame >= args.T) continue;
        const int64_t token = (b * args.T + t) * P + i0;
        const bool* live = args.live + (((b * args.T + t) * tiles + i0 / TILE) * band + o) * tiles;
        for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
          if (!live[tile]) continue;
          const int64_t slot = block.frames.template slot<S>(args, b, h, frame);
          const int64_t columns = least(TILE, P - j0), padded_columns = vector_columns<A>(columns);
          const auto weight = weight_tile((const WT*)args.weight + (token * band + o) * P + j0, band * P, rows, columns, padded);
          gemm(rows, padded_columns, D, block.q, D, int64_t(1), block.frames.key_tile(slot, tile), TILE, block.scores, TILE, false);
          for (int64_t r = 0; r < rows; ++r) {
            A* p = block.scores + r * TILE;
            softmax_row(p, weight.data + r * weight.row, padded_columns, block.row_max[r], block.row_sum[r],
                        block.out + r * columns_out, columns_out);
            if (args.drop_threshold) {
              A keep[TILE];
              keep_row(args, head, t * P + i0 + r, frame, j0, keep);
              for (int64_t c = 0; c < padded_columns; ++c) p[c] *= keep[c];
            }
          }
          gemm(rows, columns_out, columns, block.scores, TILE, int64_t(1), block.frames.value_tile(slot, tile), columns_out, block.out, columns_out, true);
          if (block.frames.nonfinite[slot * tiles + tile])
            add_nonfinite((const S*)args.v.data + b * args.v.b + h * args.v.h + (frame * P + j0) * args.v.n, args.v.n, rows,
                          columns, D, weight.data, weight.row, int64_t(1), block.scores, TILE, int64_t(1), block.out, columns_out);
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        const A sum = block.row_sum[r];
        const A inverse = sum == 0 ? A(0) : inverse_keep_prob<A>(args) / sum;
        for (int64_t d = 0; d < D; ++d) out[(i0 + r) * args.out.n + d] = narrow<S>(block.out[r * columns_out + d] * inverse);
        lse[i0 + r] = sum == 0 ? A(-INFINITY) : block.row_max[r] + A(log(double(sum)));
      }
    }
  }
}

inline int64_t attention_forward_workspace(const AttentionArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { ForwardBlocks<A>(arena, args); });
  return arena.used;
}
inline void attention_forward(const AttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { attention_forward_tasks<S, A, WT>(args, begin, end, workspace); });
}

}  // namespace stgt::STGT_ISA
