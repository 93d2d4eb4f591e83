// What the kernels that build the graph share: their arguments, how pairs of frames are cut into blocks, and the norms.
//
// Norms cost no pass over x of their own: |x_i|^2 is on the diagonal of the product of a frame with itself, which the
// graph needs anyway. The block that has it there writes 1 / |x_i| to inv_norm, which starts as NaN; the others wait
// until it is a number. And as tensor cores truncate their sums, a norm from another unit would lie a few units of the
// last place above all products: a token's similarity with itself would miss 1.
//
// CUDA does not say in which order the blocks of a grid start, and a GPU full of waiting blocks would wait for ever. So
// blocks take their work in the order in which they start (next_block), and a block waits only for work before its
// own: for blocks that run already, or have ended, and that write their norms before they wait for any themselves.
#pragma once
#include "../common/ptx.cuh"

namespace stgt::graph {

constexpr int TILE = 64;  // tokens of one frame per tile of `live`

struct GraphParams {
  int B, T, P, C, W;  // W: the window; the band has 2W+1 frames
  float threshold;
  const void* x;         // (B, T, P, C) contiguous
  void* weight;          // (B, T, P, 2W+1, P), written forward: float32, or float16 if x is half-precision as well
  bool* live;            // (B, T, tiles, 2W+1, tiles), written forward
  float* inv_norm;       // (B, T, P), NaN before the forward pass writes it: 1 / |x|, 0 for a token that is not finite
                         // and for one of zeros
  uint32_t* last_block;  // forward: the number of the block that started last, -1 before the first
  const float* dweight;  // backward: like weight, which is float32 then
  const uint32_t* largest;  // backward, for float16 x: the bits of max |dweight|; else null
  void* dx;                 // backward, written: like x

  STGT_DEVICE int tiles() const { return (P + TILE - 1) / TILE; }
  STGT_DEVICE int band() const { return 2 * W + 1; }
  // The channels of a frame's tokens (of B T frames) from token `first` on.
  template <class E> STGT_DEVICE const E* tokens(int64_t frame, int first) const {
    return static_cast<const E*>(x) + (frame * P + first) * C;
  }
  // Where in weight the edges start from token `row` of a frame (of B T) to token `column` of the frame at this offset.
  STGT_DEVICE int64_t edge(int64_t frame, int row, int offset, int column) const {
    return ((frame * P + row) * band() + offset) * P + column;
  }
  // Which part of the forward pass's work is this block's: its place in the order in which blocks start. By all
  // threads. shared: any four bytes of shared memory, free again afterwards.
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

// What a block multiplies: rows, tokens of one frame, by columns, tokens of the same or of a later one. The weights are
// written twice, as (row, column) and as (column, row). Frames run backwards in a circle: what comes before a clip's
// first frame is, by its mirror, what comes after its last, and both are 0.
template <int ROWS, int COLUMNS> struct Block {
  int64_t row_frame, column_frame;  // of B T
  int offset, mirror_offset;        // the column frame in the row frame's band, and the reverse
  int row, column, end;             // first tokens; one past the last column, a multiple of TILE
  bool in_clip;
  bool needed;    // within a frame, what lies below the diagonal is the mirror of what lies above
  bool diagonal;  // columns start with the rows themselves

  // Block number `index` of the work. Of one frame, the last rows come first, and of those the block with the diagonal:
  // nobody waits for a later block.
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

// Products of tokens whose squares lie between 2^-80 and 2^100 neither overflow nor lose what counts in them. Of other
// tokens the forward kernels make no edges; fwd_rescue.cuh does.
STGT_DEVICE float inverse_norm(float square) {
  return square >= 0x1p-80f && square <= 0x1p100f ? 1.0f / sqrtf(square) : 0.0f;
}

// The norms of a block's rows and columns, in shared memory.
template <int ROWS, int COLUMNS> struct Norms {
  static constexpr int BYTES = (ROWS + COLUMNS) * 4;
  float* memory;

  STGT_DEVICE float row(int i) const { return memory[i]; }
  STGT_DEVICE float column(int i) const { return memory[ROWS + i]; }
  STGT_DEVICE float2 column_pair(int i) const { return *reinterpret_cast<const float2*>(memory + ROWS + i); }

  // Sets the norm of row i of a block with the diagonal, for this block and for all.
  STGT_DEVICE void publish(const GraphParams& p, const Block<ROWS, COLUMNS>& block, int i, float square) const {
    memory[i] = memory[ROWS + i] = inverse_norm(square);
    if (block.row + i < p.P)
      *const_cast<volatile float*>(p.inv_norm + block.row_frame * p.P + block.row + i) = memory[i];
  }

  // Waits for all other norms. By `threads` threads, of which this is number `thread`.
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

// A block beyond the ends of the clip: no edges. By all threads.
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

// Which tokens and channels a block has: channels fastest.
struct BackwardBlock {
  int row, channel, t;
  int64_t frame;

  STGT_DEVICE BackwardBlock(const GraphParams& p, int rows, int channels) {
    const int across = (p.C + channels - 1) / channels, down = (p.P + rows - 1) / rows, index = blockIdx.x;
    channel = index % across * channels, row = index / across % down * rows, frame = index / across / down;
    t = int(frame % p.T);
  }
};

// Where a block's walk along the band stands.
struct Band {
  int offset, column, end;  // the place of a frame in the band, its first token, and the end of the offsets

  STGT_DEVICE Band(const GraphParams& p, int t)
      : offset(max(0, p.W - t)), column(0), end(min(p.band(), p.T + p.W - t)) {}
  STGT_DEVICE bool over() const { return offset >= end; }
  STGT_DEVICE void advance(const GraphParams& p, int columns) {
    column += columns;
    if (column >= p.P) column = 0, ++offset;
  }
};

}  // namespace stgt::graph
