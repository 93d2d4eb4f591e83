// Attention over the edges of ragged graphs, backward. Rows first: they give dq, and leave for each edge what the
// columns need for dk and dv. Each sum has one thread and one order.
#pragma once
#include "edge_attention_rows.h"

namespace stgt::STGT_ISA {

// Fills block.probability (before dropout) and block.product for a chunk of row i. The product dout_i . v_j is the
// gradient of the probability after dropout. Scores, factors and biases are loaded.
template <class S, class A, int DIM>
inline void probabilities_chunk(const EdgeAttentionArgs& args, RowBlocks<S, A, DIM>& block, int64_t i, int64_t slot,
                                int64_t count) {
  const int64_t H = args.H, width = block.width;
  const int32_t *node = args.rows.other + slot, *edge = args.rows.edge + slot;
  neighbour_dots(block.vectors, H, block.right, args.v, node, count, block.product, width);
  if (args.drop_threshold) drop(args, edge, count, inverse_keep_prob<A>(args), block.product, width);
  for (int64_t s = 0; s < count; ++s) copy_heads(block.score + s * width, (const A*)args.scores + edge[s] * H, H);
  block.load_values(args, edge, count);
  for (int64_t h = 0; h < width; h += lanes<A>) {
    const vec<A> top = load(block.top + h), inverse = load(block.total + h);
    for (int64_t s = 0; s < count; ++s) {
      const vec<A> z = block.logit(args, s * width + h), p = exp_nonpositive(z - top) * inverse;
      store(block.probability + s * width + h, z == -INFINITY ? vec<A>{} : p);
    }
  }
}

// The gradients of a chunk's edges, written to memory: of scale * q . k, of edge_scale and of edge_bias.
template <class S, class A, int DIM>
inline void gradients_chunk(const EdgeAttentionArgs& args, RowBlocks<S, A, DIM>& block, int64_t slot, int64_t count) {
  const int64_t H = args.H, width = block.width;
  const int32_t* edge = args.rows.edge + slot;
  const vec<A> limit = broadcast(A(args.clamp));
  A own[lanes<A>];
  for (int64_t s = 0; s < count; ++s) {
    const int64_t first = edge[s] * H;
    for (int64_t h = 0; h < width; h += lanes<A>) {
      const int64_t at = s * width + h, heads = least(lanes<A>, H - h);
      const vec<A> score = load(block.score + at), factor = load(block.factor + at), x = score * factor;
      const vec<A> dz = load(block.probability + at) * (load(block.product + at) - load(block.delta + h));
      const vec<A> dx = x <= limit ? (x >= -limit ? dz : vec<A>{}) : vec<A>{};
      const auto write = [&](void* values, vec<A> v) {
        if (heads == lanes<A>) return store((A*)values + first + h, v);
        store(own, v);
        copy_heads((A*)values + first + h, own, heads);
      };
      if (args.dbias) write(args.dbias, dz);
      if (args.dscale) write(args.dscale, dx * score);
      vec<A> dscore = dx * factor;
      if (args.dscores) {
        store(own, vec<A>{});
        copy_heads(own, (const A*)args.dscores + first + h, heads);
        dscore += load(own);
      }
      write(args.dproduct, dscore * broadcast(A(args.scale)));
    }
  }
}

template <class S, class A, int DIM>
void edge_attention_bwd_rows_tasks(const EdgeAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  RowBlocks<S, A, DIM> block(arena, args);
  const auto& vectors = block.vectors;
  const int64_t H = args.H, width = block.width, last = args.first_node(args.rows, end);
  for (int64_t i = args.first_node(args.rows, begin); i < last; ++i) {
    const int64_t row_begin = args.rows.ptr[i], row_end = args.rows.ptr[i + 1];
    load_node(vectors, H, args.dout, i, block.right);
    const A* const softmax = (const A*)args.softmax + i * 2 * H;
    for (int64_t h = 0; h < H; ++h) block.top[h] = softmax[2 * h], block.total[h] = softmax[2 * h + 1];
    memset(block.delta, 0, width * sizeof(A));
    block.clear_sum();
    for (int64_t slot = row_begin; slot < row_end; slot += CHUNK) {
      const int64_t count = least(CHUNK, row_end - slot);
      probabilities_chunk(args, block, i, slot, count);
      for (int64_t h = 0; h < width; h += lanes<A>) {
        vec<A> delta = load(block.delta + h);
        for (int64_t at = h; at < count * width; at += width)
          delta += load(block.probability + at) * load(block.product + at);
        store(block.delta + h, delta);
      }
    }
    for (int64_t slot = row_begin; slot < row_end; slot += CHUNK) {
      const int64_t count = least(CHUNK, row_end - slot);
      const int32_t *node = args.rows.other + slot, *edge = args.rows.edge + slot;
      if (row_end - row_begin > CHUNK) probabilities_chunk(args, block, i, slot, count);
      gradients_chunk(args, block, slot, count);
      add_neighbours(vectors, H, SlotWeights<A>{(const A*)args.dproduct, edge, H}, args.k, node, count, block.sum);
      if (args.drop_threshold) drop(args, edge, count, inverse_keep_prob<A>(args), block.probability, width);
      for (int64_t s = 0; s < count; ++s) copy_heads((A*)args.kept + edge[s] * H, block.probability + s * width, H);
    }
    store_node<S, A, DIM>(vectors, H, args.dq, i, block.sum, nullptr);
  }
}

template <class S, class A, int DIM>
void edge_attention_bwd_columns_tasks(const EdgeAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  RowBlocks<S, A, DIM> block(arena, args);
  const auto& vectors = block.vectors;
  const int64_t H = args.H, last = args.first_node(args.columns, end);
  for (int64_t j = args.first_node(args.columns, begin); j < last; ++j) {
    const int64_t slot = args.columns.ptr[j], count = args.columns.ptr[j + 1] - slot;
    const int32_t *node = args.columns.other + slot, *edge = args.columns.edge + slot;
    const auto sum = [&](const void* weights, const NodeHeads& right, const NodeHeads& written) {
      block.clear_sum();
      add_neighbours(vectors, H, SlotWeights<A>{(const A*)weights, edge, H}, right, node, count, block.sum);
      store_node<S, A, DIM>(vectors, H, written, j, block.sum, nullptr);
    };
    sum(args.dproduct, args.q, args.dk);
    sum(args.kept, args.dout, args.dv);
  }
}

inline void edge_attention_bwd_rows(const EdgeAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_width(args,
           [&]<class S, class A, int DIM>() { edge_attention_bwd_rows_tasks<S, A, DIM>(args, begin, end, workspace); });
}
inline void edge_attention_bwd_columns(const EdgeAttentionArgs& args, int64_t begin, int64_t end, char* workspace) {
  by_width(args, [&]<class S, class A, int DIM>() {
    edge_attention_bwd_columns_tasks<S, A, DIM>(args, begin, end, workspace);
  });
}

}  // namespace stgt::STGT_ISA
