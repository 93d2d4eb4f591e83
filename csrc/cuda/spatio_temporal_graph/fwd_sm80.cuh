// The graph of half-precision tokens on tensor cores from sm_80 on.
//
// A block multiplies 128 tokens by 128 with 8 warps of 64x32 each. 32 channels at a time come through four stages of
// shared memory (64 KB, which the staged edges use afterwards). The multiprocessors of an A100, with 164 KB, have room
// for two blocks, and those with 100 KB have room for one. A block on the diagonal loads its tokens once.
#pragma once
#include "edges.cuh"

#include <type_traits>

namespace stgt::graph {

template <bool WIDE> struct ForwardSm80 {
  static constexpr int ROWS = 128, DEPTH = 32, STAGES = 4, THREADS = 256;
  using Operand = Tile<ROWS, DEPTH>;
  using Edges = graph::Edges<ROWS, ROWS, 2, WIDE>;
  using Norms = graph::Norms<ROWS, ROWS>;
  static constexpr int STAGE_BYTES = 2 * Operand::BYTES, RING_BYTES = STAGES * STAGE_BYTES;
  static_assert(Edges::EDGE_BYTES <= RING_BYTES);
  static constexpr int SHARED_BYTES = RING_BYTES + Norms::BYTES + Edges::FLAGS;
};

// Launch B T (W + 1) ceil(P / 128)^2 blocks of ForwardSm80::THREADS threads with ForwardSm80::SHARED_BYTES. WIDE:
// float32 weights.
template <class T, bool WIDE>
__global__ void __launch_bounds__(256, 2) spatio_temporal_graph_fwd_sm80(const __grid_constant__ GraphParams p) {
  using S = ForwardSm80<WIDE>;
  using Operand = typename S::Operand;
  char* const after_ring = ptx::shared_memory() + S::RING_BYTES;
  const typename S::Norms norms{reinterpret_cast<float*>(after_ring)};
  const Block<S::ROWS, S::ROWS> block(p, p.next_block(after_ring));
  if (!block.needed) return;
  if (!block.in_clip) return clear<std::conditional_t<WIDE, float, uint16_t>>(p, block);

  const int warp = threadIdx.x / 32, row = warp / 4 * 64, column = warp % 4 * 32;
  const bool on_diagonal = block.diagonal && column / TILE * TILE == row, mirrored = block.diagonal && column < row;
  const bool active = block.row + row < p.P && block.column + column < p.P && !mirrored;

  const auto load = [&](int step) {
    if (step * S::DEPTH < p.C) {
      const int channel = step * S::DEPTH, depth = p.C - channel;
      const Operand left{step % S::STAGES * S::STAGE_BYTES}, right{left.end()};
      const uint16_t* const rows = p.tokens<uint16_t>(block.row_frame, block.row) + channel;
      const uint16_t* const columns = p.tokens<uint16_t>(block.column_frame, block.column) + channel;
      left.template copy_async<S::THREADS>({rows, p.C, p.P - block.row, depth});
      if (!block.diagonal) right.template copy_async<S::THREADS>({columns, p.C, p.P - block.column, depth});
    }
    ptx::copy_async_commit();
  };

  float d[4][4][4] = {};
#pragma unroll
  for (int step = 0; step < S::STAGES - 1; ++step) load(step);
  for (int step = 0; step * S::DEPTH < p.C; ++step) {
    ptx::copy_async_wait<S::STAGES - 2>();
    ptx::sync_threads();
    load(step + S::STAGES - 1);
    if (!active) continue;
    const Operand left{step % S::STAGES * S::STAGE_BYTES}, right{block.diagonal ? left.offset : left.end()};
#pragma unroll
    for (int chunk = 0; chunk < S::DEPTH / 8; chunk += 2) {
      uint32_t b[2][4];
#pragma unroll
      for (int n = 0; n < 2; ++n) right.read_across(b[n], column + 16 * n, chunk);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        uint32_t a[4];
        left.read_down(a, row + 16 * m, chunk);
#pragma unroll
        for (int n = 0; n < 4; ++n) ptx::mma<T>(d[m][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      }
    }
  }

  const typename S::Edges edges(p, block, norms, reinterpret_cast<bool*>(after_ring + S::Norms::BYTES));
  if (on_diagonal && active) {
#pragma unroll
    for (int m = 0; m < 4; ++m) edges.template publish_norms<4>(d[m][0], row + 16 * m, column);
  }
  norms.gather(p, block, threadIdx.x, S::THREADS);
  ptx::sync_threads();  // all norms have arrived, and no warp reads the ring any more

  bool edge = false;
  if (active) {
#pragma unroll
    for (int m = 0; m < 4; ++m) edge |= edges.template add<4>(d[m][0], row + 16 * m, column, on_diagonal);
  }
  edges.mark(row, column, warp % 2, edge);
  ptx::sync_threads();
  edges.template store<S::THREADS>();
}

}  // namespace stgt::graph
