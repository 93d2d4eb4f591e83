// The backward pass over the edges of each row: the first kernel computes delta, the sum of p dp, and the second one dq
// and all gradients of edges. Between the two kernels, dproduct holds dp.
#pragma once
#include "pieces.cuh"

namespace stgt::edges {

// The probability of an edge before dropout, from the score and the softmax that the forward pass has written.
STGT_DEVICE float probability(const EdgeParams& p, float score, Terms terms, float2 softmax) {
  return ptx::exp2((logit(p, score, terms) - softmax.x) * LOG2E) * softmax.y;
}
STGT_DEVICE float2 softmax_of(const EdgeParams& p, const Span& span) {
  return span.there() ? reinterpret_cast<const float2*>(p.softmax)[span.node_head(p)] : float2{0, 0};
}

// Computes delta, and writes dp to dproduct and the probabilities after dropout to kept. T: float, ptx::bf16 or
// ptx::f16. Launch it with the blocks and threads of edge_attention_fwd_sm80.
template <class T>
__global__ void __launch_bounds__(THREADS) edge_attention_bwd_delta_sm80(const __grid_constant__ EdgeParams p) {
  constexpr int SIZE = Chunk<T>::SIZE;
  const Team team(p);
  const Span span(p, p.rows, team);
  const float2 softmax = softmax_of(p, span);
  const uint64_t seed = p.drop_threshold ? uint64_t(*p.seed) : 0;
  float dout[SIZE], delta = 0;
  team.load<T>(p, p.dout, span.head, span.node, span.there()).widen(dout);
  const char* const v_place = team.place(p.v, span.head);
  for_each_step(p.rows, span, team, [&](const Slot& slot, int count) {
    Chunk<T> values[STEP];
    team.gather(values, p, v_place, p.v.n, slot.node, count);
    const int64_t at = int64_t(slot.edge) * p.H + span.head;
    float own = 0;  // the probability of the own edge; its terms are read while the heads are loaded
    if (slot.inside) own = probability(p, p.scores[at], terms_of(p, slot.edge, span.head), softmax);
    float part[STEP], x[SIZE];
#pragma unroll
    for (int u = 0; u < STEP; ++u) {
      values[u].widen(x);
      part[u] = product(dout, x);
    }
    const float dkept = team.own_sum(part);
    if (!slot.inside) return;
    const bool keep = !p.drop_threshold || is_kept(p, seed, slot.edge, span.head);
    const float dp = keep ? dkept * p.inverse_keep : 0;
    delta = fmaf(own, dp, delta);
    if (team.writes()) p.dproduct[at] = dp, p.kept[at] = keep ? own * p.inverse_keep : 0;
  });
  delta = team.sum_of_edges(delta);
  if (!span.there() || team.lane != 0) return;
  if (span.piece >= 0)
    p.piece_numbers[span.piece_head(p)] = delta;
  else
    p.delta[span.node_head(p)] = delta;
}

// Writes the gradients of one edge in one head, and returns the gradient of its q . k.
STGT_DEVICE float edge_gradients(const EdgeParams& p, int edge, int head, float2 softmax, float delta) {
  const int64_t at = int64_t(edge) * p.H + head;
  const Terms terms = terms_of(p, edge, head);
  const float score = p.scores[at], x = score * terms.factor;
  const float dz = probability(p, score, terms, softmax) * (p.dproduct[at] - delta);
  const float dx = x <= p.clamp && x >= -p.clamp ? dz : 0;
  if (p.dbias) p.dbias[at] = dz;
  if (p.dscale) p.dscale[at] = dx * score;
  const float dscore = (dx * terms.factor + (p.dscores ? p.dscores[at] : 0)) * p.scale;
  p.dproduct[at] = dscore;
  return dscore;
}

// Computes dq and the gradients of edges. T: float, ptx::bf16 or ptx::f16. Launch it with the blocks and threads of
// edge_attention_fwd_sm80, after delta is complete, also for long rows.
template <class T>
__global__ void __launch_bounds__(THREADS) edge_attention_bwd_rows_sm80(const __grid_constant__ EdgeParams p) {
  constexpr int SIZE = Chunk<T>::SIZE;
  const Team team(p);
  const Span span(p, p.rows, team);
  const float2 softmax = softmax_of(p, span);
  const float delta = span.there() ? p.delta[span.node_head(p)] : 0;
  const char* const k_place = team.place(p.k, span.head);
  float sum[SIZE] = {};
  for_each_step(p.rows, span, team, [&](const Slot& slot, int count) {
    Chunk<T> keys[STEP];
    team.gather(keys, p, k_place, p.k.n, slot.node, count);
    float dscore = 0, x[SIZE];
    // Only one thread reads dproduct of an edge and replaces it.
    if (slot.inside && team.writes()) dscore = edge_gradients(p, slot.edge, span.head, softmax, delta);
#pragma unroll
    for (int u = 0; u < STEP; ++u) {
      keys[u].widen(x);
      add(sum, team.of_edge(dscore, u), x);
    }
  });
  if (!span.there()) return;
  if (span.piece >= 0)
    team.store_each(p, piece_sums(p) + span.piece_head(p) * p.D, sum);
  else
    team.store(p, static_cast<T*>(p.dq) + span.node_head(p) * p.D, sum);
}

}  // namespace stgt::edges
