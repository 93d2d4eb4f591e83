// Token similarity, frame mask and threshold in one kernel. The product of a pair of frames is computed once and
// written twice.
#pragma once
#include "blocks.h"

namespace stgt::STGT_ISA {

inline constexpr int64_t DEPTH = 256;  // channels per pass over a tile, so that the packed operand stays in the cache

// Computes |x|^2 of up to TILE tokens, which are also packed as columns. It adds in the order of gemm, so two identical
// tokens have exactly this number as their product. Only the last three roundings can then keep their similarity from
// being 1. left: room for TILE rows of DEPTH channels.
template <class S, class E, class A>
inline void sums_of_squares(const S* x, int64_t rows, int64_t C, const E* packed, E* left, A* squares) {
  memset(squares, 0, TILE * sizeof(A));
  for (int64_t c0 = 0; c0 < C; c0 += DEPTH, packed += steps<E>(DEPTH) * TILE) {
    const int64_t depth = least(DEPTH, C - c0), K = steps<E>(depth);
    if constexpr (PAIRS_AT_A_TIME > 1 && reach<E> > 1) {  // the order of a matrix unit is known to itself alone
      A products[ROWS_AT_A_TIME * ROWS_AT_A_TIME];
      for (int64_t r0 = 0; r0 < rows; r0 += ROWS_AT_A_TIME) {
        const int64_t some = least(ROWS_AT_A_TIME, rows - r0);
        pack_left(x + r0 * C + c0, C, some, depth, left);
        gemm(some, ROWS_AT_A_TIME, K, left, K, 1, packed + r0, TILE, products, ROWS_AT_A_TIME, false);
        for (int64_t r = 0; r < some; ++r) squares[r0 + r] += products[r * ROWS_AT_A_TIME + r];
      }
    } else {
      vec<A> sums[TILE / lanes<A>] = {};
      for (int64_t k = 0; k < K; ++k)
#pragma GCC unroll 32
        for (int n = 0; n < TILE / lanes<A>; ++n) {
          const vec<E> token = load(packed + k * TILE + n * lanes<E>);
          sums[n] = multiply_add(sums[n], token, token);
        }
      for (int n = 0; n < TILE / lanes<A>; ++n) store(squares + n * lanes<A>, load(squares + n * lanes<A>) + sums[n]);
    }
  }
}

// Returns the e with 2^(e-1) <= max |x| < 2^e, or 0 for a token of zeros and for one that is not finite.
template <class S> inline int token_exponent(const S* x, int64_t C) {
  double peak = 0;
  for (int64_t c = 0; c < C; ++c) {
    const double size = fabs(double(widen(x[c])));
    if (!finite(size)) return 0;
    peak = size > peak ? size : peak;
  }
  int exponent = 0;
  frexp(peak, &exponent);
  return exponent;
}

// If the squares of tokens lie between these bounds, their products neither overflow nor lose significant digits.
template <class A> inline constexpr A LEAST_SQUARE = sizeof(A) == 4 ? A(0x1p-80) : A(0x1p-800);
template <class A> inline constexpr A LARGEST_SQUARE = sizeof(A) == 4 ? A(0x1p100) : A(0x1p800);

template <class S> inline bool is_finite_and_not_zero(const S* x, int64_t C) {
  bool zero = true;
  for (int64_t c = 0; c < C; ++c) {
    if (!finite(widen(x[c]))) return false;
    zero &= widen(x[c]) == 0;
  }
  return !zero;
}

// Multiplies the tokens [begin, end) by powers of two that bring their largest channels between 1/2 and 1.
inline void spatio_temporal_graph_scale_tokens(const SpatioTemporalGraphArgs& args, void* scaled, int64_t begin,
                                               int64_t end) {
  by_dtype(args.dtype, [&]<class S, class A>() {
    for (int64_t token = begin; token < end; ++token) {
      const S* x = (const S*)args.x + token * args.C;
      S* to = (S*)scaled + token * args.C;
      const int exponent = token_exponent(x, args.C);
      for (int64_t c = 0; c < args.C; ++c) to[c] = narrow<S>(A(ldexp(double(widen(x[c])), -exponent)));
    }
  });
}

template <class A> inline constexpr A LIFT = A(0x1p64);

// Turns the inverse norms of the scaled tokens into those of the tokens themselves. The inverse norm of a token whose
// channels are all denormal may overflow. It gets -1 / (LIFT |x|), which stands for a token that has no gradient.
inline void spatio_temporal_graph_scale_norms(const SpatioTemporalGraphArgs& args, int64_t begin, int64_t end) {
  by_dtype(args.dtype, [&]<class S, class A>() {
    constexpr int SMALLEST = sizeof(A) == 4 ? -125 : -1021;  // the exponent of the smallest normal number
    for (int64_t token = begin; token < end; ++token) {
      const int exponent = token_exponent((const S*)args.x + token * args.C, args.C);
      A& inverse = ((A*)args.inv_norm)[token];
      inverse = exponent < SMALLEST ? A(-ldexp(double(inverse) / LIFT<double>, -exponent))
                                    : A(ldexp(double(inverse), -exponent));
    }
  });
}

// The frames t to t + W with the inverse norms of their tokens. Each is transposed once while t moves through the clip.
template <class E, class A> struct TransposedFrames {
  int64_t slots, tiles, C;
  int64_t* held;
  E* tokens;    // per slot and tile: (steps(C), TILE) transposed
  A* inv_norm;  // (slots, tiles * TILE)

  TransposedFrames(Arena& arena, const SpatioTemporalGraphArgs& args)
      : slots(least(args.W + 1, args.T)),
        tiles(args.tiles()),
        C(args.C),
        held(arena.take<int64_t>(slots)),
        tokens(arena.take<E>(slots * tiles * steps<E>(C) * TILE)),
        inv_norm(arena.take<A>(slots * tiles * TILE)) {
    if (arena.base)
      for (int64_t s = 0; s < slots; ++s) held[s] = -1;
  }

  // The slot of a frame, which is packed if it is not held yet. left: room for TILE rows of DEPTH channels.
  template <class S> int64_t slot(const SpatioTemporalGraphArgs& args, int64_t b, int64_t frame, E* left) {
    const int64_t s = frame % slots, id = b * args.T + frame;
    if (held[s] == id) return s;
    held[s] = id;
    const S* x = (const S*)args.x + id * args.P * C;
    for (int64_t tile = 0, j0 = 0; tile < tiles; ++tile, j0 += TILE) {
      const int64_t rows = least(TILE, args.P - j0);
      A* inverse = inv_norm + (s * tiles + tile) * TILE;
      E* packed = tokens + (s * tiles + tile) * steps<E>(C) * TILE;
      pack_right_transposed(x + j0 * C, C, rows, C, packed);
      sums_of_squares(x + j0 * C, rows, C, packed, left, inverse);
      for (int64_t j = 0; j < TILE; ++j) {
        const A square = inverse[j];
        const bool in_range = square >= LEAST_SQUARE<A> && square <= LARGEST_SQUARE<A>;
        inverse[j] = in_range ? A(1) / A(sqrt(square)) : A(0);
        if (!in_range && j < rows && is_finite_and_not_zero(x + (j0 + j) * C, C))
          __atomic_store_n(args.out_of_range, true, __ATOMIC_RELAXED);
      }
    }
    return s;
  }
};

template <class E, class A> struct GraphForwardBlocks {
  TransposedFrames<E, A> frames;
  E* rows;
  A *similarity, *transposed;
  GraphForwardBlocks(Arena& arena, const SpatioTemporalGraphArgs& args)
      : frames(arena, args),
        rows(arena.take<E>(TILE * DEPTH)),
        similarity(arena.take<A>(TILE * TILE)),
        transposed(arena.take<A>(TILE * TILE)) {}
};

// The largest number that is rounded to 0 when it is stored as WT.
template <class WT> inline constexpr float ROUNDED_TO_ZERO = sizeof(WT) == 2 ? 0x1p-25f : 0;

// Turns a tile of products into weights: they are divided by both norms, and those below the threshold become 0, as do
// those that WT cannot hold. Returns whether there is an edge. Rows and columns beyond the last token give no edges.
template <class WT, class A>
inline bool products_to_weights(A* tile, int64_t rows, const A* row_norms, const A* column_norms, A threshold) {
  vec<A> largest{};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < TILE; c += lanes<A>) {
      const vec<A> s = load(tile + r * TILE + c) * (row_norms[r] * load(column_norms + c));
      const vec<A> size = s < A(0) ? -s : s;
      const auto kept = (s >= threshold) & (size > A(ROUNDED_TO_ZERO<WT>));  // false for NaN
      largest = vmax<A>(largest, kept ? size : vec<A>{});
      store(tile + r * TILE + c, kept ? s : vec<A>{});
    }
  return horizontal_max<A>(largest) > 0;
}

template <class A> inline void transpose_tile(const A* from, A* to) {
  for (int64_t r = 0; r < TILE; r += lanes<A>)
    for (int64_t c = 0; c < TILE; c += lanes<A>) {
      vec<A> square[lanes<A>];
#pragma GCC unroll 16
      for (int i = 0; i < lanes<A>; ++i) square[i] = load(from + (r + i) * TILE + c);
      transpose<A>(square);
#pragma GCC unroll 16
      for (int i = 0; i < lanes<A>; ++i) store(to + (c + i) * TILE + r, square[i]);
    }
}

template <class WT, class A>
inline void write_tile(WT* weight, int64_t stride, int64_t rows, int64_t columns, const A* tile) {
  for (int64_t r = 0; r < rows; ++r) {
    int64_t c = 0;
    for (; c + lanes<A> <= columns; c += lanes<A>) store_rounded<A>(weight + r * stride + c, load(tile + r * TILE + c));
    for (; c < columns; ++c) weight[r * stride + c] = WT(tile[r * TILE + c]);
  }
}

// The tasks are (b, frame): the pairs of this frame with itself and with the W frames that follow.
template <class S, class A, class WT>
void spatio_temporal_graph_fwd_tasks(const SpatioTemporalGraphArgs& args, int64_t begin, int64_t end, char* workspace) {
  typedef typename Operand<S, A>::type E;
  Arena arena{workspace};
  GraphForwardBlocks<E, A> block(arena, args);
  const int64_t P = args.P, C = args.C, W = args.W, tiles = args.tiles(), band = args.band(), stride = band * P;
  const A threshold = A(args.threshold);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t t = task % args.T, b = task / args.T;
    const int64_t own = block.frames.template slot<S>(args, b, t, block.rows);
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
      const int64_t slot = block.frames.template slot<S>(args, b, t + ahead, block.rows);
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
            // The error of one running sum over all channels would grow with their number, so sums of DEPTH channels
            // are added up instead.
            gemm(rows, vector_columns<A>(columns), steps<E>(depth), block.rows, steps<E>(depth), 1,
                 packed + steps<E>(c0) * TILE, TILE, block.similarity, TILE, c0 > 0);
          }
          const bool edge = products_to_weights<WT>(block.similarity, rows, own_norm + i0, norm, threshold);
          transpose_tile(block.similarity, block.transposed);
          write_tile(weight + i0 * stride + (W + ahead) * P + j0, stride, rows, columns, block.similarity);
          write_tile(mirrored + j0 * stride + i0, stride, columns, rows, block.transposed);
          live[(ti * band + W + ahead) * tiles + tj] = edge;
          mirrored_live[tj * band * tiles + ti] = edge;
        }
    }
  }
}

template <class A> struct GraphBackwardBlocks {
  int64_t columns;
  A *tokens, *sums, *edges;
  GraphBackwardBlocks(Arena& arena, const SpatioTemporalGraphArgs& args)
      : columns(round_up(args.C, lanes<A>)),
        tokens(arena.take<A>(TILE * columns)),
        sums(arena.take<A>(TILE * columns)),
        edges(arena.take<A>(TILE * TILE)) {}
};

// dx_i = (g_i - (g_i . x^_i) x^_i) / |x_i|  with  g_i = sum_j (dW_ij + dW_ji) x^_j over edges and x^ = x / |x|.
// The tasks are (b, frame, tile of rows). Weights and their gradients have the accumulator's type.
template <class S, class A>
void spatio_temporal_graph_bwd_tasks(const SpatioTemporalGraphArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  GraphBackwardBlocks<A> block(arena, args);
  const int64_t P = args.P, C = args.C, T = args.T, W = args.W, tiles = args.tiles(), band = args.band();
  const int64_t stride = band * P, width = block.columns;
  const auto edge = [&](const void* base, int64_t frame, int64_t p, int64_t o) {
    return (const A*)base + (frame * P + p) * stride + o * P;
  };
  const auto normalized = [&](int64_t token,
                              int64_t rows) {  // writes the normalized tokens from this one on to block.tokens
    pack_right((const S*)args.x + token * C, C, rows, C, block.tokens, width);
    for (int64_t r = 0; r < rows; ++r) {
      const A inverse = ((const A*)args.inv_norm)[token + r], lift = inverse < 0 ? -LIFT<A> : A(1);
      for (int64_t c = 0; c < width; ++c) block.tokens[r * width + c] = block.tokens[r * width + c] * lift * inverse;
    }
  };
  for (int64_t task = begin; task < end; ++task) {
    const int64_t i0 = task % tiles * TILE, t = task / tiles % T, frame = task / tiles, rows = least(TILE, P - i0);
    memset(block.sums, 0, rows * width * sizeof(A));
    for (int64_t o = most(0, W - t); o < least(band, T + W - t); ++o) {
      const int64_t other = frame + o - W;
      for (int64_t j0 = 0; j0 < P; j0 += TILE) {
        const int64_t columns = least(TILE, P - j0);
        bool any = false;
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c) {
            const bool kept = edge(args.weight, frame, i0 + r, o)[j0 + c] != 0;
            block.edges[r * TILE + c] = kept ? edge(args.dweight, frame, i0 + r, o)[j0 + c] +
                                                   edge(args.dweight, other, j0 + c, band - 1 - o)[i0 + r]
                                             : A(0);
            any |= kept;
          }
        if (!any) continue;
        normalized(other * P + j0, columns);
        gemm(rows, width, columns, block.edges, TILE, 1, block.tokens, width, block.sums, width, true);
      }
    }
    normalized(frame * P + i0, rows);
    for (int64_t r = 0; r < rows; ++r) {
      const A norm = ((const A*)args.inv_norm)[frame * P + i0 + r], inverse = norm > 0 ? norm : A(0);
      const A *y = block.tokens + r * width, *g = block.sums + r * width;
      // The error of one running sum over all channels would grow with their number. Columns beyond C hold 0.
      A radial = 0;
      for (int64_t c0 = 0; c0 < width; c0 += DEPTH) {
        vec<A> products{};
        for (int64_t c = c0; c < least(c0 + DEPTH, width); c += lanes<A>) products += load(g + c) * load(y + c);
        radial += horizontal_sum<A>(products);
      }
      S* dx = (S*)args.dx + (frame * P + i0 + r) * C;
      for (int64_t c = 0; c < C; ++c) dx[c] = narrow<S>(inverse * (g[c] - radial * y[c]));
    }
  }
}

inline int64_t spatio_temporal_graph_fwd_workspace(const SpatioTemporalGraphArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A>() { GraphForwardBlocks<typename Operand<S, A>::type, A>(arena, args); });
  return arena.used;
}
inline void spatio_temporal_graph_fwd(const SpatioTemporalGraphArgs& args, int64_t begin, int64_t end,
                                      char* workspace) {
  const MatrixUnit unit;
  by_dtypes(args, [&]<class S, class A, class WT>() {
    spatio_temporal_graph_fwd_tasks<S, A, WT>(args, begin, end, workspace);
  });
}
inline int64_t spatio_temporal_graph_bwd_workspace(const SpatioTemporalGraphArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A>() { GraphBackwardBlocks<A>(arena, args); });
  return arena.used;
}
inline void spatio_temporal_graph_bwd(const SpatioTemporalGraphArgs& args, int64_t begin, int64_t end,
                                      char* workspace) {
  by_dtype(args.dtype, [&]<class S, class A>() { spatio_temporal_graph_bwd_tasks<S, A>(args, begin, end, workspace); });
}

}  // namespace stgt::STGT_ISA
