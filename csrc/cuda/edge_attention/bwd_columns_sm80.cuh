// The backward pass over the edges of each column: dk and dv, from the two numbers per edge and head that the kernel
// for rows has written.
#pragma once
#include "pieces.cuh"

namespace stgt::edges {

// T: float, ptx::bf16 or ptx::f16. Launch it with the blocks and threads of edge_attention_fwd_sm80, after
// edge_attention_bwd_rows_sm80.
template <class T>
__global__ void __launch_bounds__(THREADS) edge_attention_bwd_columns_sm80(const __grid_constant__ EdgeParams p) {
  constexpr int SIZE = Chunk<T>::SIZE;
  const Team team(p);
  const Span span(p, p.columns, team);
  const char *const q_place = team.place(p.q, span.head), *const dout_place = team.place(p.dout, span.head);
  float dk[SIZE] = {}, dv[SIZE] = {};
  for_each_step(p.columns, span, team, [&](const Slot& slot, int count) {
    Chunk<T> queries[STEP], douts[STEP];
    team.gather(queries, p, q_place, p.q.n, slot.node, count);
    team.gather(douts, p, dout_place, p.dout.n, slot.node, count);
    const int64_t at = int64_t(slot.edge) * p.H + span.head;
    const float dproduct = slot.inside ? p.dproduct[at] : 0, kept = slot.inside ? p.kept[at] : 0;
    float x[SIZE];
#pragma unroll
    for (int u = 0; u < STEP; ++u) {
      queries[u].widen(x);
      add(dk, team.of_edge(dproduct, u), x);
      douts[u].widen(x);
      add(dv, team.of_edge(kept, u), x);
    }
  });
  if (!span.there()) return;
  if (span.piece >= 0) {
    team.store_each(p, piece_sums(p, 1) + span.piece_head(p) * p.D, dk);
    team.store_each(p, piece_sums(p, 2) + span.piece_head(p) * p.D, dv);
    return;
  }
  team.store(p, static_cast<T*>(p.dk) + span.node_head(p) * p.D, dk);
  team.store(p, static_cast<T*>(p.dv) + span.node_head(p) * p.D, dv);
}

}  // namespace stgt::edges
