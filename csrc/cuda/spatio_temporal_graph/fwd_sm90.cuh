// The graph of half-precision tokens on Hopper, with wgmma and the tensor copy engine.
//
// The way from the L2 to shared memory limits it. At B=20, T=8, P=256, C=1408 there are 44 GFLOP to multiply (56 us at
// 790 TFLOP/s), and 115 MB of tokens to read and 63 MB of weights to write (45 us at 4 TB/s). In blocks of 128x128,
// every token would go through the L2 5.5 times: 630 MB, or 115 us at its 5.5 TB/s. Blocks of 128x256, whose
// accumulators take half of the registers, read 480 MB in 87 us. Within a frame the rows are among the columns and are
// not loaded again, and tiles below the diagonal are neither loaded nor multiplied. So the two blocks of a frame are
// 7/8 and 3/8 of a whole block. The blocks of about 33 frames run at a time and share their tokens in the L2. One block
// fills a multiprocessor (four stages of 48 KB, which the staged edges use afterwards), so 600 blocks run in 3.6 turns.
//
// One warp loads and three wait for the norms, while two warpgroups multiply 64 rows each by up to 256 columns. The 168
// registers that each of 384 threads has are enough for them, so no registers are moved between warpgroups.
#pragma once
#include "../common/ptx_sm90.cuh"
#include "edges.cuh"

#include <type_traits>

namespace stgt::graph {

struct ForwardSm90 {
  static constexpr int ROWS = 128, COLUMNS = 256, DEPTH = 64, STAGES = 4, THREADS = 384;
  template <bool WIDE> using Edges = graph::Edges<ROWS, COLUMNS, 4, WIDE>;
  using Norms = graph::Norms<ROWS, COLUMNS>;
  using Block = graph::Block<ROWS, COLUMNS>;
  // A panel has 64 tokens by 64 channels, in swizzled rows of 128 bytes. A stage has the panels of the columns, and
  // then those of the rows.
  static constexpr int PANEL_BYTES = TILE * DEPTH * 2, STAGE_BYTES = (ROWS + COLUMNS) / TILE * PANEL_BYTES;
  static constexpr int ROW_PANEL = COLUMNS / TILE;  // the first panel of the rows
  static constexpr int RING_BYTES = STAGES * STAGE_BYTES;
  static_assert(Edges<false>::EDGE_BYTES <= RING_BYTES);
  static constexpr int SHARED_BYTES = RING_BYTES + Norms::BYTES + 2 * STAGES * 8 + Edges<false>::FLAGS;
  enum Barrier { NORMS = 1, EDGES = 2 };
};

// A ring of stages. The thread that fills it and the warps that read it go around it in the same order.
struct Ring {
  static constexpr int STAGES = ForwardSm90::STAGES;
  char* memory;
  uint64_t *full, *empty;
  int stage = 0, parity = 0;

  STGT_DEVICE char* panel(int number) const {
    return memory + stage * ForwardSm90::STAGE_BYTES + number * ForwardSm90::PANEL_BYTES;
  }
  STGT_DEVICE void advance() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

// Computes a warpgroup's products: the 64 tokens of panel `left` by the N tokens of the panels from `right` on.
template <class T, int N>
STGT_DEVICE void multiply(float (&d)[N / 2], Ring ring, int left, int right, int steps) {
  int previous = 0;
  for (int step = 0; step < steps; ++step) {
    ptx::barrier_wait(&ring.full[ring.stage], ring.parity);
    const uint64_t a = ptx::descriptor(ring.panel(left), 0, 1024, ptx::Swizzle::B128);
    const uint64_t b = ptx::descriptor(ring.panel(right), 0, 1024, ptx::Swizzle::B128);
    ptx::wgmma_fence();
#pragma unroll
    for (int k = 0; k < ForwardSm90::DEPTH / 16; ++k)  // 16 channels are 32 bytes, 2 units of a descriptor
      ptx::wgmma<T, N>(d, a + 2 * k, b + 2 * k, step > 0 || k > 0);
    ptx::wgmma_commit();
    if (step > 0) {  // the products before these are done
      ptx::wgmma_wait<1>();
      if (threadIdx.x % 32 == 0) ptx::barrier_arrive(&ring.empty[previous]);
    }
    previous = ring.stage;
    ring.advance();
  }
  ptx::wgmma_wait<0>();
  ptx::wgmma_registers(d);
}

// The work of a warpgroup whose rows start at row `row` of the block. It multiplies them by the N columns from `column`
// on.
template <class T, int N, class Edges>
STGT_DEVICE void rows_by_columns(const GraphParams& p, const ForwardSm90::Block& block, const Edges& edges,
                                 const Ring& ring, int row, int column) {
  using S = ForwardSm90;
  const int warp = threadIdx.x / 32 % 4;
  float d[N / 2];
  multiply<T, N>(d, ring, (block.diagonal ? 0 : S::ROW_PANEL) + row / TILE, column / TILE,
                 (p.C + S::DEPTH - 1) / S::DEPTH);
  if (block.diagonal) edges.template publish_norms<8>(d, row + 16 * warp, column);
  ptx::sync_named(S::NORMS, S::THREADS - 32);  // all norms have arrived, and no warp reads the ring any more
#pragma unroll
  for (int tile = 0; tile < N / TILE; ++tile) {
    const bool edge =
        edges.template add<8>(&d[32 * tile], row + 16 * warp, column + TILE * tile, tile == 0 && block.diagonal);
    edges.mark(row, column + TILE * tile, warp, edge);
  }
}

// Launch B T (W + 1) ceil(P / 128) ceil(P / 256) blocks of ForwardSm90::THREADS threads with ForwardSm90::SHARED_BYTES.
// x: the tokens as (B T, P, C), in boxes of 64 tokens by 64 channels. WIDE: float32 weights.
template <class T, bool WIDE>
__global__ void __launch_bounds__(384, 1)
    spatio_temporal_graph_fwd_sm90(const __grid_constant__ GraphParams p, const __grid_constant__ ptx::TensorMap x) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)  // the launcher runs it on no other GPU
  using S = ForwardSm90;
  char* const memory = ptx::shared_memory();
  const S::Norms norms{reinterpret_cast<float*>(memory + S::RING_BYTES)};
  const S::Block block(p, p.next_block(norms.memory));
  if (!block.needed) return;
  if (!block.in_clip) return clear<std::conditional_t<WIDE, float, uint16_t>>(p, block);

  uint64_t* const barriers = reinterpret_cast<uint64_t*>(memory + S::RING_BYTES + S::Norms::BYTES);
  bool* const flags = reinterpret_cast<bool*>(barriers + 2 * S::STAGES);
  Ring ring{memory, barriers, barriers + S::STAGES};
  const int group = threadIdx.x / 128;
  const int row_panels = min(S::ROWS / TILE, p.tiles() - block.row / TILE);
  const int column_panels = (block.end - block.column) / TILE;

  if (threadIdx.x == 0) {
    for (int stage = 0; stage < S::STAGES; ++stage) {
      ptx::barrier_init(&ring.full[stage], 1);
      ptx::barrier_init(&ring.empty[stage], 4 * row_panels);  // the warps that multiply arrive here
    }
    ptx::barrier_init_fence();
  }
  ptx::sync_threads();

  if (group == 2) {
    if (threadIdx.x >= 256 + 32) {
      norms.gather(p, block, threadIdx.x - 256 - 32, 96);
      ptx::sync_named(S::NORMS, S::THREADS - 32);
    } else if (ptx::elect()) {
      const int panels = column_panels + (block.diagonal ? 0 : row_panels);
      for (int channel = 0; channel < p.C; channel += S::DEPTH, ring.advance()) {
        uint64_t* const full = &ring.full[ring.stage];
        ptx::barrier_wait(&ring.empty[ring.stage], ring.parity ^ 1);
        ptx::barrier_expect(full, panels * S::PANEL_BYTES);
        for (int i = 0; i < column_panels; ++i)
          ptx::tma_load(ring.panel(i), x, full, channel, block.column + i * TILE, int(block.column_frame));
        for (int i = 0; i < panels - column_panels; ++i)
          ptx::tma_load(ring.panel(S::ROW_PANEL + i), x, full, channel, block.row + i * TILE, int(block.row_frame));
      }
    }
    return;
  }

  const S::Edges<WIDE> edges(p, block, norms, flags);
  const int row = group * TILE, column = block.diagonal ? row : 0;
  switch (group < row_panels ? column_panels - column / TILE : 0) {
    case 4: rows_by_columns<T, 256>(p, block, edges, ring, row, column); break;
    case 3: rows_by_columns<T, 192>(p, block, edges, ring, row, column); break;
    case 2: rows_by_columns<T, 128>(p, block, edges, ring, row, column); break;
    case 1: rows_by_columns<T, 64>(p, block, edges, ring, row, column); break;
    default: ptx::sync_named(S::NORMS, S::THREADS - 32);  // this warpgroup has no tokens
  }
  ptx::sync_named(S::EDGES, 256);
  edges.template store<256>();
#endif
}

}  // namespace stgt::graph
