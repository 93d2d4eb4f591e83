// The graph of float32 tokens, without tf32. A block multiplies 64 tokens by 64, and a thread 8 by 4 of them. Sums of
// 32 channels are added up, since the error of one running sum over all channels would grow with their number.
#pragma once
#include "common.cuh"

namespace stgt::graph {

struct ForwardFp32 {
  static constexpr int DEPTH = 32, THREADS = 128;
  static constexpr int PITCH = DEPTH + 4;  // in floats, so that 16 bytes of eight rows lie in different banks
  static constexpr int OPERAND = TILE * PITCH, RING = 2 * 2 * OPERAND;
  static constexpr int EDGE_PITCH = TILE + 1;
  static_assert(TILE * EDGE_PITCH <= RING);
  using Norms = graph::Norms<TILE, TILE>;
  static constexpr int SHARED_BYTES = RING * 4 + Norms::BYTES + THREADS / 32;
};

// Fills `to` with channels first to first + 31 of the `rows` tokens from `from` on, and with zeros beyond them.
STGT_DEVICE void load_tokens(float* to, const float* from, int rows, int first, int C) {
  using S = ForwardFp32;
  if (C % 4 == 0 && reinterpret_cast<uintptr_t>(from) % 16 == 0) {
#pragma unroll
    for (int i = threadIdx.x; i < TILE * S::DEPTH / 4; i += S::THREADS) {
      const int row = i / (S::DEPTH / 4), k = i % (S::DEPTH / 4) * 4;
      ptx::copy_async<16>(to + row * S::PITCH + k, from + int64_t(row) * C + first + k, row < rows && first + k < C);
    }
  } else {
    for (int i = threadIdx.x; i < TILE * S::DEPTH; i += S::THREADS) {
      const int row = i / S::DEPTH, k = i % S::DEPTH;
      ptx::copy_async<4>(to + row * S::PITCH + k, from + int64_t(row) * C + first + k, row < rows && first + k < C);
    }
  }
}

// Adds the products of rows y, y + 8, ... of left with rows x, x + 16, ... of right to sum.
STGT_DEVICE void add_products(float (&sum)[8][4], const float* left, const float* right) {
  using S = ForwardFp32;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  float partial[8][4] = {};
#pragma unroll
  for (int k = 0; k < S::DEPTH; k += 4) {
    float4 b[4];
#pragma unroll
    for (int n = 0; n < 4; ++n) b[n] = *reinterpret_cast<const float4*>(right + (x + 16 * n) * S::PITCH + k);
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      const float4 a = *reinterpret_cast<const float4*>(left + (y + 8 * m) * S::PITCH + k);
#pragma unroll
      for (int n = 0; n < 4; ++n)
        partial[m][n] = fmaf(a.w, b[n].w, fmaf(a.z, b[n].z, fmaf(a.y, b[n].y, fmaf(a.x, b[n].x, partial[m][n]))));
    }
  }
#pragma unroll
  for (int m = 0; m < 8; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n) sum[m][n] += partial[m][n];
}

// Launch B T (W + 1) ceil(P / 64)^2 blocks of ForwardFp32::THREADS threads with ForwardFp32::SHARED_BYTES.
__global__ void __launch_bounds__(128, 3) spatio_temporal_graph_fwd_fp32(const __grid_constant__ GraphParams p) {
  using S = ForwardFp32;
  float* const ring = reinterpret_cast<float*>(ptx::shared_memory());
  const S::Norms norms{ring + S::RING};
  const Block<TILE, TILE> block(p, p.next_block(norms.memory));
  if (!block.needed) return;
  if (!block.in_clip) return clear<float>(p, block);

  bool* const flags = reinterpret_cast<bool*>(norms.memory) + S::Norms::BYTES;
  const int rows = min(TILE, p.P - block.row), columns = min(TILE, p.P - block.column);
  const auto load = [&](int step) {
    if (step * S::DEPTH < p.C) {
      float* const left = ring + step % 2 * 2 * S::OPERAND;
      load_tokens(left, p.tokens<float>(block.row_frame, block.row), rows, step * S::DEPTH, p.C);
      const float* const opposite = p.tokens<float>(block.column_frame, block.column);
      if (!block.diagonal) load_tokens(left + S::OPERAND, opposite, columns, step * S::DEPTH, p.C);
    }
    ptx::copy_async_commit();
  };

  float product[8][4] = {};
  load(0);
  for (int step = 0; step * S::DEPTH < p.C; ++step) {
    load(step + 1);
    ptx::copy_async_wait<1>();
    ptx::sync_threads();
    const float* const left = ring + step % 2 * 2 * S::OPERAND;
    add_products(product, left, block.diagonal ? left : left + S::OPERAND);
    ptx::sync_threads();
  }

  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  if (block.diagonal && x % 8 == y) {
#pragma unroll
    for (int n = 0; n < 4; ++n) norms.publish(p, block, x + 16 * n, x == y ? product[2 * n][n] : product[2 * n + 1][n]);
  }
  norms.gather(p, block, threadIdx.x, S::THREADS);
  ptx::sync_threads();

  bool any = false;
#pragma unroll
  for (int m = 0; m < 8; ++m)
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int row = y + 8 * m, column = x + 16 * n;
      const float similarity = product[m][n] * (norms.row(row) * norms.column(column));
      const float edge = similarity >= p.threshold ? similarity : 0.0f;
      if (block.diagonal && row > column)
        continue;  // both weights of such a pair come from the product above the diagonal
      ring[row * S::EDGE_PITCH + column] = edge;
      if (block.diagonal) ring[column * S::EDGE_PITCH + row] = edge;
      any |= edge != 0;
    }
  any = ptx::ballot(any) != 0;
  if (threadIdx.x % 32 == 0) flags[threadIdx.x / 32] = any;
  ptx::sync_threads();

  float* const weight = static_cast<float*>(p.weight);
  for (int i = threadIdx.x; i < TILE * TILE; i += S::THREADS) {
    const int row = i / TILE, column = i % TILE;
    if (row < rows && column < columns)
      weight[p.edge(block.row_frame, block.row + row, block.offset, block.column + column)] =
          ring[row * S::EDGE_PITCH + column];
    if (row < columns && column < rows && !block.diagonal)
      weight[p.edge(block.column_frame, block.column + row, block.mirror_offset, block.row + column)] =
          ring[column * S::EDGE_PITCH + row];
  }
  if (threadIdx.x == 0) mark_tile(p, block, block.row, block.column, flags[0] | flags[1] | flags[2] | flags[3]);
}

}  // namespace stgt::graph
