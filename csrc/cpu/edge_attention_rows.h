// The workspace for the edges of one row. It holds a chunk of slots at a time: blocks with a value for each edge and
// head, whose heads are padded to whole vectors.
#pragma once
#include "dropout.h"
#include "edge_attention_gather.h"

namespace stgt::STGT_ISA {

constexpr int64_t CHUNK = 64;  // slots of a row at a time

template <class A> STGT_INLINE void copy_heads(A* dst, const A* src, int64_t H) {
  if (H % lanes<A> == 0)
    for (int64_t h = 0; h < H; h += lanes<A>) store(dst + h, load(src + h));
  else
    for (int64_t h = 0; h < H; ++h) dst[h] = src[h];
}

// The blocks of one node in the workspace, beside its heads. They are (CHUNK, width); width is H padded to vectors.
template <class S, class A, int DIM = 0> struct RowBlocks {
  HeadVectors<S, A, DIM> vectors;
  int64_t H, width;
  vec<A>*left, *right, *sum;  // (H, vectors.count()): q of the row (forward), dout of the row (backward), the sums
  A *score, *factor, *bias, *probability, *product;  // product: dout . v (backward)
  A *top, *total, *delta;  // (width). Backward, total is 1 / sum. Forward, delta is the factor that shrinks the sums.

  RowBlocks(Arena& arena, const EdgeAttentionArgs& args)
      : vectors(args.D),
        H(args.H),
        width(round_up(args.H, lanes<A>)),
        left(arena.take<vec<A>>(H * vectors.count())),
        right(arena.take<vec<A>>(H * vectors.count())),
        sum(arena.take<vec<A>>(H * vectors.count())),
        score(arena.take<A>(CHUNK * width)),
        factor(arena.take<A>(CHUNK * width)),
        bias(arena.take<A>(CHUNK * width)),
        probability(arena.take<A>(CHUNK * width)),
        product(arena.take<A>(CHUNK * width)),
        top(arena.take<A>(width)),
        total(arena.take<A>(width)),
        delta(arena.take<A>(width)) {
    if (!arena.base) return;
    // Padding keeps these values. A factor of 1 and a bias of 0 change nothing. If the op got no factors or no biases,
    // all entries keep them.
    for (int64_t i = 0; i < CHUNK * width; ++i) score[i] = 0, factor[i] = 1, bias[i] = 0;
    for (int64_t h = 0; h < width; ++h) top[h] = 0, total[h] = 0;
  }

  void clear_sum() { memset((void*)sum, 0, H * vectors.count() * sizeof(vec<A>)); }

  // The factors and biases of a chunk's edges.
  void load_values(const EdgeAttentionArgs& args, const int32_t* edge, int64_t count) {
    for (int64_t s = 0; s < count; ++s) {
      if (args.edge_scale.data) copy_heads(factor + s * width, args.edge_scale.of<A>(edge[s], H), H);
      if (args.edge_bias.data) copy_heads(bias + s * width, args.edge_bias.of<A>(edge[s], H), H);
    }
  }
  // z of a vector of heads at an offset into the blocks.
  STGT_INLINE vec<A> logit(const EdgeAttentionArgs& args, int64_t at) const {
    const vec<A> limit = broadcast(A(args.clamp));
    vec<A> z = load(score + at) * load(factor + at);
    z = z > limit ? limit : z;
    z = z < -limit ? -limit : z;
    return z + load(bias + at);
  }
};

template <class A> inline A inverse_keep_prob(const EdgeAttentionArgs& args) {
  return A(65536.0 / (65536.0 - args.drop_threshold));
}

// Zeroes the dropped elements of a block, and multiplies the others by `keep`. The mask is that of
// stgt_kernels/ops/edge_attention/dropout.py, whose docstring defines it.
template <class A>
inline void drop(const EdgeAttentionArgs& args, const int32_t* edge, int64_t count, A keep, A* block, int64_t width) {
  uint32_t c0[CHUNK], c1[CHUNK], c2[CHUNK], c3[CHUNK];
  for (int64_t group = 0; group * 8 < args.H; ++group) {
    for (int64_t s = 0; s < CHUNK; ++s) {
      c0[s] = uint32_t(group);
      c1[s] = uint32_t(s < count ? edge[s] : 0);
      c2[s] = c3[s] = 0;
    }
    philox<CHUNK>(args.seed, c0, c1, c2, c3);
    for (int64_t s = 0; s < count; ++s) {
      const uint32_t words[4] = {c0[s], c1[s], c2[s], c3[s]};
      for (int64_t l = 0; l < least(8, args.H - group * 8); ++l) {
        const uint32_t lane = words[l / 2] >> (16 * (l % 2)) & 0xffff;
        A& x = block[s * width + group * 8 + l];
        x = lane >= args.drop_threshold ? x * keep : A(0);
      }
    }
  }
}

// Calls f.template operator()<S, A, DIM>() with the types of the tensors, and D if there are kernels for it alone.
template <class F> inline void by_width(const EdgeAttentionArgs& args, F f) {
  by_dtype(args.dtype, [&]<class S, class A>() {
    if (args.D == 32) return f.template operator()<S, A, 32>();
    if (args.D == 64) return f.template operator()<S, A, 64>();
    f.template operator()<S, A, 0>();
  });
}

}  // namespace stgt::STGT_ISA
