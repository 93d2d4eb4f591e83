// Edge weights as the kernels of attention read them: float16, or float32 if they are differentiable. Registers hold
// pairs of neighbouring weights, as uint32_t for float16 and as float2 for float32.
#pragma once
#include "tile.cuh"

namespace stgt {

// Returns the two weights of a pair in float32.
STGT_DEVICE float2 values(uint32_t pair) { return ptx::unpack<ptx::f16>(pair); }
STGT_DEVICE float2 values(float2 pair) { return pair; }

// Returns the pair with both signs changed if `sign` is 0x80008000, or unchanged if `sign` is 0.
STGT_DEVICE uint32_t turned(uint32_t pair, uint32_t sign) { return pair ^ sign; }
STGT_DEVICE float2 turned(float2 pair, uint32_t sign) { return sign ? float2{-pair.x, -pair.y} : pair; }

// Returns a mask for a pair of 16-bit values that belong to these weights: all bits of a value are set if it belongs to
// an edge.
STGT_DEVICE uint32_t edge_mask(uint32_t pair) { return ptx::nonzero_mask(pair); }
STGT_DEVICE uint32_t edge_mask(float2 pair) { return (pair.x != 0 ? 0xffffu : 0) | (pair.y != 0 ? 0xffff0000u : 0); }

// Keeps first and second if their weights belong to an edge, and otherwise sets them to `otherwise`.
STGT_DEVICE void where_edge(uint32_t pair, float& first, float& second, float otherwise) {
  ptx::where_nonzero(pair, first, second, otherwise);
}
STGT_DEVICE void where_edge(float2 pair, float& first, float& second, float otherwise) {
  first = pair.x != 0 ? first : otherwise, second = pair.y != 0 ? second : otherwise;
}

// A tile of float32 values in shared memory, which is read in the order of Tile's fragments. It has panels of at most
// 32 columns, whose 16-byte chunks are swizzled within rows as the copy engine does it. A panel of 32 columns that the
// copy engine writes must start at a multiple of 1024 bytes.
template <int ROWS, int COLUMNS> struct WideTile {
  using Element = float;
  using Pair = float2;
  static constexpr int WIDTH = COLUMNS < 32 ? COLUMNS : 32, BYTES = ROWS * COLUMNS * 4;
  static_assert((WIDTH == 32 || WIDTH == 16) && COLUMNS % WIDTH == 0);

  int offset;  // in shared memory

  STGT_DEVICE int end() const { return offset + BYTES; }

  // Returns the tile from a row on, which must be a multiple of 8.
  STGT_DEVICE WideTile below(int row) const { return {offset + row * WIDTH * 4}; }

  STGT_DEVICE float* at(int row, int column) const {
    const int swizzle = WIDTH == 32 ? row % 8 : row / 2 % 4;
    const int place =
        (column / WIDTH * ROWS + row) * WIDTH * 4 + ((column % WIDTH / 4 ^ swizzle) << 4) + column % 4 * 4;
    return reinterpret_cast<float*>(ptx::shared_memory() + offset + place);
  }

  // Reads in the order of Tile::read_down: rows 0-7 and 8-15 of a chunk of 8 columns, and then those of the next chunk.
  // `row` must be a multiple of 8 and `chunk` a multiple of 2, so that the places of a lane's values differ by a xor
  // with constants.
  STGT_DEVICE void read_down(float2 (&r)[4], int row, int chunk) const {
    const int lane = threadIdx.x % 32;
    if constexpr (WIDTH == 32) {
      const int own = lane / 4 * 128 + ((lane % 4 / 2 ^ lane / 4) << 4) + lane % 2 * 8;
      const char* const from = panel(row, chunk);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        r[i] = *reinterpret_cast<const float2*>(from + (own ^ chunk % 4 * 32 ^ i / 2 * 32) + i % 2 * 1024);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        r[i] = *reinterpret_cast<const float2*>(at(row + i % 2 * 8 + lane / 4, (chunk + i / 2) * 8 + lane % 4 * 2));
    }
  }

  // Reads in the order of Tile::read_across<true>: a chunk of 8 columns and the next chunk of rows 0-7, and then of
  // rows 8-15. `row` must be a multiple of 8 and `chunk` a multiple of 2.
  template <bool TRANSPOSE> STGT_DEVICE void read_across(float2 (&r)[4], int row, int chunk) const {
    static_assert(TRANSPOSE && WIDTH == 32);
    const int lane = threadIdx.x % 32;
    const int own = lane % 4 * 256 + ((lane / 16 ^ lane % 4 * 2) << 4) + lane / 4 % 4 * 4;
    const char* const from = panel(row, chunk);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const char* const pair = from + i / 2 * 1024;
      const int place = own ^ chunk % 4 * 32 ^ i % 2 * 32;
      r[i] = {*reinterpret_cast<const float*>(pair + place),
              *reinterpret_cast<const float*>(pair + (place ^ 16) + 128)};
    }
  }

  // Fills the tile, with zeros beyond the rows' ends. All THREADS threads of the block must call it.
  template <int THREADS> STGT_DEVICE void copy_async(const Rows<const float>& from) const {
    const bool aligned = from.alignment() == 16;
#pragma unroll 1  // more addresses would not fit the registers beside the gradients of wide heads
    for (int i = threadIdx.x; i < ROWS * COLUMNS / 4; i += THREADS) {
      const int row = i / (COLUMNS / 4), column = i % (COLUMNS / 4) * 4;
      const float* const source = from.row(row) + column;
      if (aligned) {
        ptx::copy_async<16>(at(row, column), source, row < from.count && column < from.columns);
      } else {
#pragma unroll
        for (int k = 0; k < 4; ++k)
          ptx::copy_async<4>(at(row, column) + k, source + k, row < from.count && column + k < from.columns);
      }
    }
  }

  // Stores the tile, whose values were written through `at`, to the rows in global memory. Values beyond their ends are
  // not stored. All THREADS threads of the block must call it.
  template <int THREADS> STGT_DEVICE void store(const Rows<float>& to) const {
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * COLUMNS; i += THREADS) {
      const int row = i / COLUMNS, column = i % COLUMNS;
      if (row < to.count && column < to.columns) to.row(row)[column] = *at(row, column);
    }
  }

 private:
  // Points at the start of a row, in the panel with this chunk of 8 columns.
  STGT_DEVICE const char* panel(int row, int chunk) const {
    return ptx::shared_memory() + offset + (chunk * 8 / WIDTH * ROWS + row) * WIDTH * 4;
  }
};

template <bool WIDE, int ROWS, int COLUMNS> struct WeightTileOf { using type = Tile<ROWS, COLUMNS>; };
template <int ROWS, int COLUMNS> struct WeightTileOf<true, ROWS, COLUMNS> { using type = WideTile<ROWS, COLUMNS>; };
// A tile of weights, float32 (WIDE) or float16.
template <bool WIDE, int ROWS, int COLUMNS> using WeightTile = typename WeightTileOf<WIDE, ROWS, COLUMNS>::type;

}  // namespace stgt
