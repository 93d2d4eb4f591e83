// The common parts of the kernels that build the graph: their parameters, the cut of pairs of frames into blocks, and
// the norms.
//
// The norms need no separate pass over x: |x_i|^2 is on the diagonal of the product of a frame with itself, which the
// graph needs anyway. The block that computes it writes 1 / |x_i| to inv_norm, which starts as NaN. The other blocks
// wait until it is a number. There is a second reason: tensor cores truncate their sums, so a norm from another unit
// would lie a few units of the last place above all products, and the similarity of a token with itself would be less
// than 1.
//
// CUDA does not say in which order the blocks of a grid start, and a GPU full of waiting blocks would wait for ever. So
// blocks take their work in the order in which they start (next_block), and a block waits only for work before its own.
// The blocks with that work run already or have ended, and they write their norms before they wait themselves.
#pragma once
#include "../common/ptx.cuh"

namespace stgt::graph {

constexpr int TILE = 64;  // tokens of one frame per tile of `live`
constexpr float LIFT = 0x1p64f;

struct GraphParams {
  int B, T, P, C, W;  // W: the window; the band has 2W+1 frames
  float threshold;
  const void* x;    // (B, T, P, C) contiguous
  void* weight;     // (B, T, P, 2W+1, P), written forward: float32, or float16, which needs x of half precision
  bool* live;       // (B, T, tiles, 2W+1, tiles), written forward
  float* inv_norm;  // (B, T, P), NaN before the forward pass writes it. It is 1 / |x|, or 0 for a token that is not
                    // finite and for one of zeros. 1 / |x| may be too large if all channels are denormal. Such a token
                    // has -1 / (LIFT |x|) and no gradient.
  uint32_t* last_block;     // forward: the number of the block that started last, or -1 before the first
  const float* dweight;     // backward: like weight, which is float32 in the backward pass
  const uint32_t* largest;  // backward, for float16 x: the bits of max |dweight|; otherwise null
  void* dx;                 // backward, written: like x

  STGT_DEVICE int tiles() const { return (P + TILE - 1) / TILE; }
  STGT_DEVICE int band() const { return 2 * W + 1; }
  // Points at the channels of token `first` of a frame. Frame t of sample b has number b T + t.
  template <class E> STGT_DEVICE const E* tokens(int64_t frame, int first) const {
    return static_cast<const E*>(x) + (frame * P + first) * C;
  }
  // Returns the place in weight of the edge from token `row` of a frame to token `column` of the frame at this offset.
  STGT_DEVICE int64_t edge(int64_t frame, int row, int offset, int column) const {
    return ((frame * P + row) * band() + offset) * P + column;
  }
  // Returns the number of the part of the forward pass's work that this block does, which is its place in the order in
  // which blocks start. All threads must call it. shared: any four bytes of shared memory, which are free again
  // afterwards.
  STGT_DEVICE int next_block(void* shared) const {
    uint32_t* const number = static_cast<uint32_t*>(shared);
    if (threadIdx.x == 0) *number = atomicAdd(last_block, 1) + 1;
    ptx::sync_threads();
    const int own = int(*number);
    ptx::sync_threads();
    return own;
  }
  STGT_DEVICE bool* live_tile(int64_t frame, int row, int offset, int column) const {  // row, column: tokens
    return live + ((frame * tiles() + row / TILE) * band() + offset) * tiles() + column / TILE;
  }
};

// Blocks of ROWS x COLUMNS products that cover frames of P tokens.
template <int ROWS, int COLUMNS> struct Blocks {
  int down, across;
  STGT_DEVICE explicit Blocks(int P) : down((P + ROWS - 1) / ROWS), across((P + COLUMNS - 1) / COLUMNS) {}
};

// The tokens that a block multiplies: rows of one frame by columns of the same frame or of a later one. The weights are
// written twice, as (row, column) and as (column, row). A row frame before the clip's first frame is replaced by one at
// the clip's end, as if frames went round in a circle. The edges before the first frame and those after the last one,
// which are all 0, are then written by the same block.
template <int ROWS, int COLUMNS> struct Block {
  int64_t row_frame, column_frame;  // of B T
  int offset, mirror_offset;        // the place of each frame in the band of the other: the column frame's comes first
  int row, column, end;             // the first tokens; the end of the columns, a multiple of TILE
  bool in_clip;
  bool needed;    // false for a block below the diagonal of a frame, which is the mirror of one above
  bool diagonal;  // whether the columns start with the rows themselves

  // Block number `index` of the work. The last rows of a frame come first, and among these the block with the diagonal,
  // so that no block waits for a later one.
  STGT_DEVICE Block(const GraphParams& p, int index) {
    const Blocks<ROWS, COLUMNS> blocks(p.P);
    const int pair = index / blocks.across / blocks.down;
    const int i = blocks.down - 1 - index / blocks.across % blocks.down;
    const int distance = pair % (p.W + 1), t = pair / (p.W + 1) % p.T;
    column_frame = pair / (p.W + 1);
    in_clip = t >= distance;
    row_frame = column_frame - distance + (in_clip ? 0 : p.T);
    offset = p.W + distance, mirror_offset = p.W - distance;
    row = i * ROWS, column = index % blocks.across * COLUMNS;
    end = min(column + COLUMNS, p.tiles() * TILE);
    needed = distance > 0 || row < end;
    diagonal = distance == 0 && column <= row;
    if (diagonal) column = row;
  }
};

// If the squares of tokens lie between 2^-80 and 2^100, their products neither overflow nor lose significant digits.
// For other tokens the forward kernels make no edges, and fwd_rescue.cuh makes them.
STGT_DEVICE float inverse_norm(float square) {
  return square >= 0x1p-80f && square <= 0x1p100f ? 1.0f / sqrtf(square) : 0.0f;
}

// Returns a channel of the unit vector of a token. inverse: of GraphParams::inv_norm.
STGT_DEVICE float unit(float x, float inverse) {
  return inverse > 0 ? x * inverse : inverse < 0 ? x * LIFT * -inverse : 0.0f;
}

// The norms of a block's rows and columns, in shared memory.
template <int ROWS, int COLUMNS> struct Norms {
  static constexpr int BYTES = (ROWS + COLUMNS) * 4;
  float* memory;

  STGT_DEVICE float row(int i) const { return memory[i]; }
  STGT_DEVICE float column(int i) const { return memory[ROWS + i]; }
  STGT_DEVICE float2 column_pair(int i) const { return *reinterpret_cast<const float2*>(memory + ROWS + i); }

  // Sets the norm of row i of a block with the diagonal, for this block and for all others.
  STGT_DEVICE void publish(const GraphParams& p, const Block<ROWS, COLUMNS>& block, int i, float square) const {
    memory[i] = memory[ROWS + i] = inverse_norm(square);
    if (block.row + i < p.P)
      *const_cast<volatile float*>(p.inv_norm + block.row_frame * p.P + block.row + i) = memory[i];
  }

  // Waits for all other norms. `threads` threads call it, and this is number `thread` of them.
  STGT_DEVICE void gather(const GraphParams& p, const Block<ROWS, COLUMNS>& block, int thread, int threads) const {
    for (int i = (block.diagonal ? 2 * ROWS : 0) + thread; i < ROWS + COLUMNS; i += threads) {
      const int token = i < ROWS ? block.row + i : block.column + i - ROWS;
      if (token >= (i < ROWS ? p.P : min(p.P, block.end))) continue;
      const volatile float* source = p.inv_norm + (i < ROWS ? block.row_frame : block.column_frame) * p.P + token;
      float inverse = *source;
      while (inverse != inverse) inverse = *source;
      memory[i] = inverse;
    }
  }
};

// Marks one tile of the graph, and its mirror.
template <int ROWS, int COLUMNS>
STGT_DEVICE void mark_tile(const GraphParams& p, const Block<ROWS, COLUMNS>& block, int row, int column, bool live) {
  *p.live_tile(block.row_frame, row, block.offset, column) = live;
  *p.live_tile(block.column_frame, column, block.mirror_offset, row) = live;
}

// Writes a block beyond the ends of the clip, which has no edges. All threads must call it.
template <class E, int ROWS, int COLUMNS>
STGT_DEVICE void clear(const GraphParams& p, const Block<ROWS, COLUMNS>& block) {
  E* const weight = static_cast<E*>(p.weight);
  for (int i = threadIdx.x; i < ROWS * COLUMNS; i += blockDim.x) {
    const int row = block.row + i / COLUMNS, column = block.column + i % COLUMNS;
    if (row < p.P && column < p.P) weight[p.edge(block.row_frame, row, block.offset, column)] = 0;
  }
  for (int i = threadIdx.x; i < ROWS * COLUMNS; i += blockDim.x) {
    const int column = block.column + i / ROWS, row = block.row + i % ROWS;
    if (row < p.P && column < p.P) weight[p.edge(block.column_frame, column, block.mirror_offset, row)] = 0;
  }
  for (int i = threadIdx.x; i < ROWS / TILE * (COLUMNS / TILE); i += blockDim.x) {
    const int row = block.row + i / (COLUMNS / TILE) * TILE, column = block.column + i % (COLUMNS / TILE) * TILE;
    if (row < p.P && column < p.P) mark_tile(p, block, row, column, false);
  }
}

// The tokens and channels of a block of the backward pass. Blocks that follow each other have different channels.
struct BackwardBlock {
  int row, channel, t;
  int64_t frame;

  STGT_DEVICE BackwardBlock(const GraphParams& p, int rows, int channels) {
    const int across = (p.C + channels - 1) / channels, down = (p.P + rows - 1) / rows, index = blockIdx.x;
    channel = index % across * channels, row = index / across % down * rows, frame = index / across / down;
    t = int(frame % p.T);
  }
};

// The position of a block's walk along the band.
struct Band {
  int offset, column, end;  // the place of a frame in the band, a token of it, and the end of the offsets

  STGT_DEVICE Band(const GraphParams& p, int t)
      : offset(max(0, p.W - t)), column(0), end(min(p.band(), p.T + p.W - t)) {}
  STGT_DEVICE bool over() const { return offset >= end; }
  STGT_DEVICE void advance(const GraphParams& p, int columns) {
    column += columns;
    if (column >= p.P) column = 0, ++offset;
  }
};

}  // namespace stgt::graph
