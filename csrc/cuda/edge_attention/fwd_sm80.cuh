// Forward: each team goes through its edges once, with a running maximum.
#pragma once
#include "pieces.cuh"

namespace stgt::edges {

// T: float, ptx::bf16 or ptx::f16. Launch p.piece_blocks blocks for pieces, and enough blocks to have a team for each
// of the N H heads of all nodes. A block has THREADS threads.
template <class T> __global__ void __launch_bounds__(THREADS)
    edge_attention_fwd_sm80(const __grid_constant__ EdgeParams p) {
  constexpr int SIZE = Chunk<T>::SIZE;
  const Team team(p);
  const Span span(p, p.rows, team);
  const uint64_t seed = p.drop_threshold ? uint64_t(*p.seed) : 0;
  float query[SIZE], sum[SIZE] = {}, top = -INFINITY, total = 0;
  team.load<T>(p, p.q, span.head, span.node, span.there()).widen(query);
  const char *const k_place = team.place(p.k, span.head), *const v_place = team.place(p.v, span.head);
  for_each_step(p.rows, span, team, [&](const Slot& slot, int count) {
    Chunk<T> keys[STEP], values[STEP];
    team.gather(keys, p, k_place, p.k.n, slot.node, count);
    team.gather(values, p, v_place, p.v.n, slot.node, count);
    // The terms are read while the loads of the heads are still running.
    const Terms terms = slot.inside ? terms_of(p, slot.edge, span.head) : Terms{1, 0};
    float part[STEP], x[SIZE];
#pragma unroll
    for (int u = 0; u < STEP; ++u) {
      keys[u].widen(x);
      part[u] = product(query, x);
    }
    const float score = team.own_sum(part) * p.scale;
    float z = -INFINITY;
    bool keep = true;
    if (slot.inside) {
      z = logit(p, score, terms);
      if (team.writes()) p.scores[int64_t(slot.edge) * p.H + span.head] = score;
      if (p.drop_threshold) keep = is_kept(p, seed, slot.edge, span.head);
    }
    const float before = top;
    top = fmaxf(top, team.largest_of_edges(z));
    const float shrink = exponential(before, top), probability = exponential(z, top);
    total = total * shrink + probability;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) sum[i] *= shrink;
#pragma unroll
    for (int u = 0; u < STEP; ++u) {
      values[u].widen(x);
      add(sum, team.of_edge(keep ? probability : 0, u), x);
    }
  });
  total = team.sum_of_edges(total);
  if (!span.there()) return;
  if (span.piece >= 0) {
    const int64_t at = span.piece_head(p);
    team.store_each(p, piece_sums(p) + at * p.D, sum);
    if (team.lane == 0) p.piece_numbers[2 * at] = top, p.piece_numbers[2 * at + 1] = total;
    return;
  }
  const int64_t at = span.node_head(p);
  const float inverse = total == 0 ? 0 : 1 / total;
#pragma unroll
  for (int i = 0; i < SIZE; ++i) sum[i] *= inverse * p.inverse_keep;
  team.store(p, static_cast<T*>(p.out) + at * p.D, sum);
  if (team.lane == 0) p.softmax[2 * at] = top == -INFINITY ? 0 : top, p.softmax[2 * at + 1] = inverse;
}

}  // namespace stgt::edges
