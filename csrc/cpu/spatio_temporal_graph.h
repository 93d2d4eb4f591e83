// Token similarity, frame mask and threshold, fused; each frame pair's product is computed once and written twice.
#pragma once
#include "blocks.h"

namespace stgt::STGT_ISA {

inline constexpr int64_t DEPTH = 256;  // channels per pass over a tile, so that the packed operand stays in the cache

template <class A, class S> inline A sum_of_squares(const S* x, int64_t C) {
  vec<A> sum = {};
  int64_t c = 0;
  for (; c + lanes<A> <= C; c += lanes<A>) sum += load_wide<A>(x + c) * load_wide<A>(x + c);
  A total = horizontal_sum<A>(sum);
  for (; c < C; ++c) total += A(widen(x[c])) * A(widen(x[c]));
  return total;
}

// Frames t..t+W, transposed once while t moves through the clip, with their tokens' inverse norms.
template <class E, class A> struct TransposedFrames {
  int64_t slots, tiles, C;
  int64_t* held;
  E* tokens;    // per slot and tile: (steps(C), TILE) transposed
  A* inv_norm;  // (slots, tiles * TILE)

  TransposedFrames(Arena& arena, const GraphArgs& args)
      : slots(least(args.W + 1, args.T)), tiles(args.tiles()), C(args.C), held(arena.take<int64_t>(slots)),
        tokens(arena.take<E>(slots * tiles * steps<E>(C) * TILE)), inv_norm(arena.take<A>(slots * tiles * TILE)) {
    if (arena.base)
      for (int64_t s = 0; s < slots; ++s) held[s] = -1;
  }

  template <class S> int64_t slot(const GraphArgs& args, int64_t b, int64_t frame) {
    const int64_t s = frame % slots, id = b * args.T + frame;
    if (held[s] == id) return s;
    held[s] = id;
    const S* x = (const S*)args.x + id * args.P * C;
    for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
      const int64_t rows = least(TILE, args.P - j0);
      A* inverse = inv_norm + (s * tiles + tile) * TILE;
      pack_right_transposed(x + j0 * C, C, rows, C, tokens + (s * tiles + tile) * steps<E>(C) * TILE);
      for (int64_t j = 0; j < TILE; ++j) {
        // Not below 1e-12, as torch's normalize: 1 / (|x_i| |x_j|) of smaller ones would overflow. NaN passes.
        const A norm = j < rows ? A(sqrt(sum_of_squares<A>(x + (j0 + j) * C, C))) : A(1);
        inverse[j] = A(1) / (norm < A(1e-12) ? A(1e-12) : norm);
      }
    }
    return s;
  }
};

template <class E, class A> struct GraphForwardBlocks {
  TransposedFrames<E, A> frames;
  E* rows;
  A *similarity, *partial;
  GraphForwardBlocks(Arena& arena, const GraphArgs& args)
      : frames(arena, args), rows(arena.take<E>(TILE * DEPTH)), similarity(arena.take<A>(TILE * TILE)),
        partial(arena.take<A>(TILE * TILE)) {}
};

template <class WT, class A>
inline bool write_tile(WT* weight, int64_t stride, int64_t rows, int64_t columns, const A* tile, int64_t row,
                       int64_t column) {
  bool edge = false;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      const WT w = narrow<WT>(tile[r * row + c * column]);
      weight[r * stride + c] = w;
      edge |= w != 0;
    }
  return edge;
}

// Tasks: (b, frame): the pairs of this frame with itself and with the W that follow.
template <class S, class A, class WT>
void graph_forward_tasks(const GraphArgs& args, int64_t begin, int64_t end, char* workspace) {
  typedef typename Operand<S, A>::type E;
  Arena arena{workspace};
  GraphForwardBlocks<E, A> block(arena, args);
  const int64_t P = args.P, C = args.C, W = args.W, tiles = args.tiles(), band = args.band(), stride = band * P;
  const A threshold = A(args.threshold);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t t = task % args.T, b = task / args.T;
    const int64_t own = block.frames.template slot<S>(args, b, t);
    const A* own_norm = block.frames.inv_norm + own * tiles * TILE;
    memcpy((A*)args.inv_norm + task * P, own_norm, P * sizeof(A));
    WT* weight = (WT*)args.weight + task * P * stride;
    bool* live = args.live + task * tiles * band * tiles;
    for (int64_t o = 0; o < band; ++o) {
      if (t + o - W >= 0 && t + o - W < args.T) continue;
      for (int64_t p = 0; p < P; ++p) memset(weight + p * stride + o * P, 0, P * sizeof(WT));
      for (int64_t i = 0; i < tiles; ++i) memset(live + (i * band + o) * tiles, 0, tiles);
    }
    const S* x = (const S*)args.x + task * P * C;
    for (int64_t ahead = 0; ahead <= W && t + ahead < args.T; ++ahead) {
      const int64_t slot = block.frames.template slot<S>(args, b, t + ahead);
      WT* mirrored = (WT*)args.weight + (task + ahead) * P * stride + (W - ahead) * P;
      bool* mirrored_live = args.live + (task + ahead) * tiles * band * tiles + (W - ahead) * tiles;
      for (int64_t ti = 0, i0 = 0; ti < tiles; ++ti, i0 += TILE)
        for (int64_t tj = ahead ? 0 : ti; tj < tiles; ++tj) {
          const int64_t j0 = tj * TILE, rows = least(TILE, P - i0), columns = least(TILE, P - j0);
          const E* packed = block.frames.tokens + (slot * tiles + tj) * steps<E>(C) * TILE;
          const A* norm = block.frames.inv_norm + (slot * tiles + tj) * TILE;
          for (int64_t c0 = 0; c0 < C; c0 += DEPTH) {
            const int64_t depth = least(DEPTH, C - c0);
            pack_left(x + i0 * C + c0, C, rows, depth, block.rows);
            gemm(rows, vector_columns<A>(columns), steps<E>(depth), block.rows, steps<E>(depth), 1,
                 packed + steps<E>(c0) * TILE, TILE, c0 ? block.partial : block.similarity, TILE, false);
            // One running sum over all channels would err with their number: sums of DEPTH are added up instead.
            for (int64_t r = 0; c0 && r < rows; ++r)
              for (int64_t c = 0; c < columns; ++c) block.similarity[r * TILE + c] += block.partial[r * TILE + c];
          }
          for (int64_t r = 0; r < rows; ++r)
            for (int64_t c = 0; c < columns; ++c) {
              A& s = block.similarity[r * TILE + c];
              s *= own_norm[i0 + r] * norm[c];
              s = s >= threshold ? s : A(0);
            }
          bool edge = write_tile(weight + i0 * stride + (W + ahead) * P + j0, stride, rows, columns, block.similarity, TILE, 1);
          write_tile(mirrored + j0 * stride + i0, stride, columns, rows, block.similarity, 1, TILE);
          live[(ti * band + W + ahead) * tiles + tj] = edge;
          mirrored_live[tj * band * tiles + ti] = edge;
        }
    }
  }
}

template <class A> struct GraphBackwardBlocks {
  int64_t columns;
  A *tokens, *sums, *edges;
  GraphBackwardBlocks(Arena& arena, const GraphArgs& args)
      : columns(round_up(args.C, lanes<A>)), tokens(arena.take<A>(TILE * columns)), sums(arena.take<A>(TILE * columns)),
        edges(arena.take<A>(TILE * TILE)) {}
};

// dx_i = (g_i - (g_i . x^_i) x^_i) / |x_i|  with  g_i = sum_j (dW_ij + dW_ji) x^_j over edges and x^ = x / |x|.
// Tasks: (b, frame, tile of rows).
template <class S, class A, class WT>
void graph_backward_tasks(const GraphArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  GraphBackwardBlocks<A> block(arena, args);
  const int64_t P = args.P, C = args.C, T = args.T, W = args.W, tiles = args.tiles(), band = args.band();
  const int64_t stride = band * P, width = block.columns;
  const auto edge = [&](const void* base, int64_t frame, int64_t p, int64_t o) {
    return (const WT*)base + (frame * P + p) * stride + o * P;
  };
  for (int64_t task = begin; task < end; ++task) {
    const int64_t i0 = task % tiles * TILE, t = task / tiles % T, frame = task / tiles, rows = least(TILE, P - i0);
    memset(block.sums, 0, rows * width * sizeof(A));
    for (int64_t o = most(0, W - t); o < least(band, T + W - t); ++o) {
      const int64_t other = frame + o - W;
      for (int64_t j0 = 0; j0 < P; j0 += TILE) {
        const int64_t columns = least(TILE, P - j0);
        const A* norm = (const A*)args.inv_norm + other * P + j0;
        bool any = false;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c) {
            const bool kept = edge(args.weight, frame, i0 + r, o)[j0 + c] != 0;
            const A gradient = kept ? widen(edge(args.dweight, frame, i0 + r, o)[j0 + c]) +
                                          widen(edge(args.dweight, other, j0 + c, band - 1 - o)[i0 + r])
                                    : A(0);
            block.edges[r * TILE + c] = kept ? gradient * norm[c] : A(0);
            any |= kept;
          }
        if (!any) continue;
        pack_right((const S*)args.x + (other * P + j0) * C, C, columns, C, block.tokens, width);
        gemm(rows, width, columns, block.edges, TILE, 1, block.tokens, width, block.sums, width, true);
      }
    }
    pack_right((const S*)args.x + (frame * P + i0) * C, C, rows, C, block.tokens, width);
    for (int64_t r = 0; r < rows; ++r) {
      const A norm = ((const A*)args.inv_norm)[frame * P + i0 + r], inverse = finite(norm) ? norm : A(0);
      const A *x = block.tokens + r * width, *g = block.sums + r * width;
      A radial = 0;
      for (int64_t c = 0; c < C; ++c) radial += g[c] * x[c];
      S* dx = (S*)args.dx + (frame * P + i0 + r) * C;
      for (int64_t c = 0; c < C; ++c) dx[c] = narrow<S>(inverse * (g[c] - radial * inverse * inverse * x[c]));
    }
  }
}

inline int64_t graph_forward_workspace(const GraphArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { GraphForwardBlocks<typename Operand<S, A>::type, A>(arena, args); });
  return arena.used;
}
inline void graph_forward(const GraphArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { graph_forward_tasks<S, A, WT>(args, begin, end, workspace); });
}
inline int64_t graph_backward_workspace(const GraphArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { GraphBackwardBlocks<A>(arena, args); });
  return arena.used;
}
inline void graph_backward(const GraphArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_dtype(args.dtype, [&]<class S, class A, class WT>() { graph_backward_tasks<S, A, WT>(args, begin, end, workspace); });
}

}  // namespace stgt::STGT_ISA
