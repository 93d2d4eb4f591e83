// Attention over the edges of ragged graphs, forward: each row goes through its edges once.
#pragma once
#include "edge_attention_rows.h"

namespace stgt::STGT_ISA {

// Turns the scores of a chunk into exp(z - top), where top is the row's maximum so far. Returns whether there was an
// earlier chunk, whose sums have to shrink by the factors in block.delta.
template <class S, class A, int DIM>
inline bool softmax_chunk(const EdgeAttentionArgs& args, RowBlocks<S, A, DIM>& block, int64_t count, bool first) {
  const int64_t width = block.width;
  for (int64_t h = 0; h < width; h += lanes<A>) {
    const vec<A> before = first ? broadcast(A(-INFINITY)) : load(block.top + h);
    vec<A> top = before;
    for (int64_t s = 0; s < count; ++s) {
      const vec<A> z = block.logit(args, s * width + h);
      store(block.probability + s * width + h, z);
      top = vmax<A>(z, top);
    }
    store(block.top + h, top);
    const vec<A> base = top == -INFINITY ? vec<A>{} : top;
    const vec<A> shrink = before == -INFINITY ? vec<A>{} : exp_nonpositive(before - base);
    vec<A> total = first ? vec<A>{} : load(block.total + h) * shrink;
    for (int64_t s = 0; s < count; ++s) {
      A* const at = block.probability + s * width + h;
      const vec<A> z = load(at), p = z == -INFINITY ? vec<A>{} : exp_nonpositive(z - base);
      store(at, p);
      total += p;
    }
    store(block.total + h, total);
    store(block.delta + h, shrink);
  }
  return !first;
}

template <class S, class A, int DIM>
void edge_attention_fwd_tasks(const EdgeAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  RowBlocks<S, A, DIM> block(arena, args);
  const auto& vectors = block.vectors;
  const int64_t H = args.H, width = block.width, last = args.first_node(args.rows, end);
  for (int64_t i = args.first_node(args.rows, begin); i < last; ++i) {
    const int64_t row_begin = args.rows.ptr[i], row_end = args.rows.ptr[i + 1];
    load_node(vectors, H, args.q, i, block.left);
    block.clear_sum();
    for (int64_t h = 0; h < width; ++h) block.top[h] = A(-INFINITY), block.total[h] = 0;
    for (int64_t slot = row_begin; slot < row_end; slot += CHUNK) {
      const int64_t count = least(CHUNK, row_end - slot);
      const int32_t *node = args.rows.other + slot, *edge = args.rows.edge + slot;
      neighbour_dots(vectors, H, block.left, args.k, node, count, block.score, width);
      for (int64_t j = 0; j < count * width; j += lanes<A>)
        store(block.score + j, load(block.score + j) * broadcast(A(args.scale)));
      for (int64_t s = 0; s < count; ++s) copy_heads((A*)args.scores + edge[s] * H, block.score + s * width, H);
      block.load_values(args, edge, count);
      if (softmax_chunk(args, block, count, slot == row_begin))
        for (int64_t h = 0; h < H; ++h)
          for (int64_t n = 0; n < vectors.count(); ++n) block.sum[h * vectors.count() + n] *= block.delta[h];
      if (args.drop_threshold) drop(args, edge, count, A(1), block.probability, width);
      add_neighbours(vectors, H, SlotWeights<A>{block.probability, nullptr, width}, args.v, node, count, block.sum);
    }
    A* const softmax = (A*)args.softmax + i * 2 * H;
    for (int64_t h = 0; h < H; ++h) {
      softmax[2 * h] = block.top[h] == A(-INFINITY) ? A(0) : block.top[h];
      softmax[2 * h + 1] = block.total[h] == 0 ? A(0) : 1 / block.total[h];
      block.delta[h] = softmax[2 * h + 1] * inverse_keep_prob<A>(args);
    }
    store_node(vectors, H, args.out, i, block.sum, block.delta);
  }
}

inline int64_t edge_attention_workspace(const EdgeAttentionArgs& args) {
  Arena arena{nullptr};
  by_dtype(args.dtype, [&]<class S, class A>() { RowBlocks<S, A>(arena, args); });
  return arena.used;
}
inline void edge_attention_fwd(const EdgeAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_width(args,
           [&]<class S, class A, int DIM>() { edge_attention_fwd_tasks<S, A, DIM>(args, begin, end, workspace); });
}

}  // namespace stgt::STGT_ISA
