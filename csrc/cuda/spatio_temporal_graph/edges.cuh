// Turns the accumulators of tensor cores into edges in memory: norms, threshold, and both triangles of a pair of frames
// from the same products. The edges of a block are staged in shared memory, straight and transposed, and stored in
// whole rows. Float32 weights (WIDE) would not fit there. They are written straight from registers, 32 bytes of a row
// at a time.
#pragma once
#include "../common/tile.cuh"
#include "common.cuh"

namespace stgt::graph {

// The edges of a block, which are staged from the beginning of shared memory on. WARPS warps work on each tile of the
// graph.
template <int ROWS, int COLUMNS, int WARPS, bool WIDE> class Edges {
 public:
  static constexpr int EDGE_BYTES = 2 * ROWS * COLUMNS * 2;
  static constexpr int ACROSS = COLUMNS / TILE, FLAGS = ROWS / TILE * ACROSS * WARPS;

  STGT_DEVICE Edges(const GraphParams& p, const Block<ROWS, COLUMNS>& block, const Norms<ROWS, COLUMNS>& norms,
                    bool* flags)
      : p_(p), block_(block), norms_(norms), flags_(flags) {}

  // Publishes the norms that lie on the diagonal of a warp's 16 x 8 COUNT accumulator at this place of the block.
  template <int COUNT> STGT_DEVICE void publish_norms(const float* d, int row, int column) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int place = row + 8 * half - column;
      float square = 0;
#pragma unroll
      for (int n = 0; n < COUNT; ++n)
        if (8 * n == place) square = lane / 4 % 2 ? d[4 * n + 2 * half + 1] : d[4 * n + 2 * half];
      if (place >= 0 && place < 8 * COUNT && lane % 4 == lane / 8)
        norms_.publish(p_, block_, row + 8 * half + lane / 4, square);
    }
  }

  // Adds a warp's 16 x 8 COUNT accumulator of products at this place of the block, within one tile of the graph.
  // Returns whether this thread has an edge.
  template <int COUNT> STGT_DEVICE bool add(const float* d, int row, int column, bool on_diagonal) const {
    const int r = threadIdx.x % 32 / 4, c = threadIdx.x % 4 * 2;
    const float row_norm[2] = {norms_.row(row + r), norms_.row(row + r + 8)};
    uint32_t any = 0;
#pragma unroll
    for (int n = 0; n < COUNT; ++n) {
      const float2 column_norm = norms_.column_pair(column + 8 * n + c);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int above = column + 8 * n - row - 8 * half;
        if (on_diagonal && above < 0) continue;  // both weights of such a pair come from the product above the diagonal
        const float first = edge(d[4 * n + 2 * half], row_norm[half] * column_norm.x);
        const float second = edge(d[4 * n + 2 * half + 1], row_norm[half] * column_norm.y);
        if constexpr (WIDE) {
          const int own = row + 8 * half + r, other = column + 8 * n + c;
          const bool below[2] = {on_diagonal && own > other, on_diagonal && own > other + 1};
          if (!below[0]) write(own, other, first), any |= first != 0;
          if (!below[1]) write(own, other + 1, second), any |= second != 0;
          continue;
        }
        uint32_t pair = ptx::pack<ptx::f16>(first, second);
        const uint32_t transposed = ptx::transpose_matrix(pair);
        if (on_diagonal && above == 0) {
          const uint32_t upper = (r <= c ? 0xffffu : 0) | (r <= c + 1 ? 0xffff0000u : 0);
          pair = (pair & upper) | (transposed & ~upper);
        } else if (on_diagonal) {
          straight_.pair(column + 8 * n, row + 8 * half) = transposed;
        } else {
          mirror_.pair(column + 8 * n, row + 8 * half) = transposed;
        }
        straight_.pair(row + 8 * half, column + 8 * n) = pair;
        any |= pair;
      }
    }
    return (any & (WIDE ? 1u : 0x7fff7fffu)) != 0;
  }

  // Notes whether warp number `warp` of those that work on the tile at this place has an edge in it.
  STGT_DEVICE void mark(int row, int column, int warp, bool edge) const {
    const bool any = ptx::ballot(edge) != 0;
    if (threadIdx.x % 32 == 0) flags_[(row / TILE * ACROSS + column / TILE) * WARPS + warp] = any;
  }

  // Writes the edges to the graph, after all were added. THREADS threads call it, numbered from 0.
  template <int THREADS> STGT_DEVICE void store() const {
    const int rows = min(ROWS, p_.P - block_.row), columns = min(block_.end, p_.P) - block_.column;
    uint16_t* const weight = static_cast<uint16_t*>(p_.weight);
    const int64_t stride = int64_t(p_.band()) * p_.P;
    // In a block with the diagonal, tiles below it are the mirrors of tiles above it. A tile on the diagonal holds its
    // own mirror.
    const auto above = [&](int row, int column) { return !block_.diagonal || column / TILE >= row / TILE; };
    const auto below = [&](int row, int column) { return !block_.diagonal || column / TILE < row / TILE; };
    if constexpr (!WIDE) {
      straight_.template store<THREADS>(
          {weight + p_.edge(block_.row_frame, block_.row, block_.offset, block_.column), stride, rows, columns}, above);
      mirror_.template store<THREADS>(
          {weight + p_.edge(block_.column_frame, block_.column, block_.mirror_offset, block_.row), stride, columns,
           rows},
          below);
    }
    for (int i = threadIdx.x; i < ROWS / TILE * ACROSS; i += THREADS) {
      const int row = i / ACROSS * TILE, column = i % ACROSS * TILE;
      if (row >= rows || column >= columns || (block_.diagonal && column < row)) continue;
      bool live = false;
      for (int warp = 0; warp < WARPS; ++warp) live |= flags_[i * WARPS + warp];
      mark_tile(p_, block_, block_.row + row, block_.column + column, live);
    }
  }

 private:
  const GraphParams& p_;
  const Block<ROWS, COLUMNS>& block_;
  Norms<ROWS, COLUMNS> norms_;
  Tile<ROWS, COLUMNS> straight_{0};
  Tile<COLUMNS, ROWS> mirror_{Tile<ROWS, COLUMNS>::BYTES};
  bool* flags_;

  // Writes the weight of an edge and of its mirror.
  STGT_DEVICE void write(int row, int column, float edge) const {
    row += block_.row, column += block_.column;
    if (row >= p_.P || column >= min(block_.end, p_.P)) return;
    float* const weight = static_cast<float*>(p_.weight);
    weight[p_.edge(block_.row_frame, row, block_.offset, column)] = edge;
    weight[p_.edge(block_.column_frame, column, block_.mirror_offset, row)] = edge;
  }

  STGT_DEVICE float edge(float product, float norms) const {
    const float similarity = product * norms;
    return similarity >= p_.threshold ? similarity : 0.0f;
  }
};

}  // namespace stgt::graph
