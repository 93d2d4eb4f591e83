// The common parts of the Hopper kernels of graph attention: the layout of tiles in shared memory, and the ring of
// stages between the warp that loads and the warpgroups that compute.
#pragma once
#include "../common/ptx_sm90.cuh"
#include "../common/weights.cuh"
#include "common.cuh"

namespace stgt::sm90 {

// The size of a tile of weights. Its rows have 128 bytes and a 128-byte swizzle. Float32 weights (WIDE) have two panels
// of 32 columns.
template <bool WIDE> constexpr int WEIGHT_BYTES = TILE * TILE * (WIDE ? 4 : 2);
constexpr int PANEL_BYTES = TILE * 64;  // 64 tokens by 32 features: rows of 64 bytes, with a 64-byte swizzle
constexpr int SHARED_LIMIT = 227 * 1024;

// The tensors for the copy engine. One copy moves a box: 32 features by 64 tokens, or 64 columns of float16 weights (32
// of float32 weights) by 64 rows.
struct AttentionMaps {
  ptx::TensorMap q, k, v, dout;    // (B, H, T, P, D)
  ptx::TensorMap weight;           // (B T, P, 2W+1, P)
  ptx::TensorMap out, dq, dk, dv;  // (B, H, T, P, D), written
};

// The sizes of a tile of tokens for head dimensions up to N.
template <int N> struct Shape {
  // 88 features take 3 panels, where columns 88 to 95 read as 0.
  static constexpr int PANELS = (N + 31) / 32, STEPS = (N + 15) / 16;
  // The columns of a product. The layouts of the PTX ISA have whole panels only, and 96 columns in place of 88 cost 4%.
  static constexpr int COLUMNS = 32 * PANELS;
  static constexpr int TILE_BYTES = PANELS * PANEL_BYTES;
};
// Returns how many stages fit into the shared memory beside fixed_bytes, at most 4.
constexpr int stages(int fixed_bytes, int stage_bytes) {
  const int fit = (SHARED_LIMIT - 1024 - fixed_bytes) / stage_bytes;
  return fit < 4 ? fit : 4;
}

// Describes a tile of tokens as an operand of a product that sums over its features, or over its tokens.
STGT_DEVICE uint64_t by_features(const char* tile) { return ptx::descriptor(tile, 0, 512, ptx::Swizzle::B64); }
STGT_DEVICE uint64_t by_tokens(const char* tile) { return ptx::descriptor(tile, PANEL_BYTES, 512, ptx::Swizzle::B64); }

template <class T, int N>  // d = a b^T over the features of two tiles
STGT_DEVICE void scores(float (&d)[32], const char* a, const char* b) {
  const uint64_t left = by_features(a), right = by_features(b);
#pragma unroll
  for (int step = 0; step < Shape<N>::STEPS; ++step) {
    const int bytes = step / 2 * PANEL_BYTES + step % 2 * 32;
    ptx::wgmma<T, 64>(d, ptx::further(left, bytes), ptx::further(right, bytes), step > 0);
  }
  ptx::wgmma_commit();
}
template <class T, int N>  // d += p x over the 64 tokens of x
STGT_DEVICE void add_product(float (&d)[Shape<N>::COLUMNS / 2], const uint32_t (&p)[4][4], const char* x) {
  const uint64_t right = by_tokens(x);
#pragma unroll
  for (int step = 0; step < 4; ++step)
    ptx::wgmma<T, Shape<N>::COLUMNS, true>(d, p[step], ptx::further(right, step * 1024), true);
}
// Packs a warpgroup's accumulator of 64 columns as the left operand of a product that sums over these columns. Values 2
// i and 2 i + 1 go to p[i / 4][i % 4]. Their weights have the same places in the results of row_weights and
// column_weights for the four blocks.
template <class T> STGT_DEVICE void pack_left(uint32_t (&p)[4][4], const float (&d)[32]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) p[i / 4][i % 4] = ptx::pack<T>(d[2 * i], d[2 * i + 1]);
}

// Reads the weights of 16 columns from column 16 * block on, for a warp with an accumulator (rows, columns): pairs[2 c
// + r] belongs to d[8 * block + 4 * c + 2 * r] and the next value.
STGT_DEVICE void row_weights(uint32_t (&pairs)[4], const char* tile, int block) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
  ptx::load_matrices(pairs, tile + ((row * 128 + ((lane / 16 ^ (row & 7)) << 4)) ^ (block << 5)));
}
STGT_DEVICE void row_weights(float2 (&pairs)[4], const char* tile, int block) {
  WideTile<TILE, TILE>{int(tile - ptx::shared_memory())}.read_down(pairs, threadIdx.x / 32 % 4 * 16, 2 * block);
}
// Reads the weights of 16 rows from row 16 * block on, for an accumulator (columns, rows). The tile is (rows, columns)
// here, too.
STGT_DEVICE void column_weights(uint32_t (&pairs)[4], const char* tile, int block) {
  const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8, chunk = threadIdx.x / 32 % 4 * 2 + lane / 8 % 2;
  ptx::load_matrices<true>(pairs, tile + row * 128 + ((chunk ^ (row & 7)) << 4) + block * 2048);
}

STGT_DEVICE void column_weights(float2 (&pairs)[4], const char* tile, int block) {
  const WideTile<TILE, TILE> weights{int(tile - ptx::shared_memory())};
  weights.read_across<true>(pairs, 16 * block, threadIdx.x / 32 % 4 * 2);
}

// A thread of a warpgroup has these values of an accumulator: rows accumulator_row() and accumulator_row() + 8, and for
// each n the columns 8 n + accumulator_column() and the next.
STGT_DEVICE int accumulator_row() { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4; }
STGT_DEVICE int accumulator_column() { return 2 * (threadIdx.x % 4); }

// Returns what dropout drops of a warpgroup's accumulator (rows, columns): bit i is set if value i is dropped. head: b
// H + h. row: the warpgroup's first row, numbered within the clip. frame, tile: those of the columns.
STGT_DEVICE uint32_t dropped_rows(const AttentionParams& p, int head, int row, int frame, int tile) {
  uint32_t bits = 0;
#pragma unroll 1  // two rounds at a time would need too many registers
  for (int half = 0; half < 2; ++half) {
    uint32_t drawn = 0;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint4 words =
          dropout_words(*p.seed, head, row + accumulator_row() + 8 * r, frame, 2 * tile + half, threadIdx.x % 4);
      const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        drawn |= uint32_t((word[i] & 0xffff) < p.drop_threshold) << (4 * i + 2 * r);
        drawn |= uint32_t((word[i] >> 16) < p.drop_threshold) << (4 * i + 2 * r + 1);
      }
    }
    bits |= drawn << (16 * half);
  }
  return bits;
}

// Returns what dropout drops of a warpgroup's accumulator (columns, rows): bit i is set if value i is dropped. head: b
// H + h. row: the first row of the tile, numbered within the clip. frame, tile: those of the columns. The bits are
// drawn for rows, one of eight rows by each thread, and transposed 8 by 8 as the accumulator is.
STGT_DEVICE uint32_t dropped_columns(const AttentionParams& p, int head, int row, int frame, int tile) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;  // a warp has 16 columns from 16 * warp on
  uint32_t bits = 0;
#pragma unroll
  for (int rows8 = 0; rows8 < 8; ++rows8) {
    const uint4 words = dropout_words(*p.seed, head, row + 8 * rows8 + lane / 4, frame, 2 * tile + warp / 2, lane % 4);
    const uint32_t word[2] = {warp % 2 ? words.z : words.x, warp % 2 ? words.w : words.y};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint32_t drop =
          uint32_t((word[r] & 0xffff) < p.drop_threshold) | uint32_t((word[r] >> 16) < p.drop_threshold) << 16;
      const uint32_t turned = ptx::transpose_matrix(drop);
      bits |= ((turned & 1) | (turned >> 15 & 2)) << (4 * rows8 + 2 * r);
    }
    ptx::settle(bits);
  }
  return bits;
}

// Loads the panels of a tile of tokens. The barrier counts Shape<N>::TILE_BYTES. One thread calls it.
template <int N>
STGT_DEVICE void load_tile(char* tile, const ptx::TensorMap& map, uint64_t* barrier, int b, int h, int t, int token) {
#pragma unroll
  for (int panel = 0; panel < Shape<N>::PANELS; ++panel)
    ptx::tma_load(tile + panel * PANEL_BYTES, map, barrier, 32 * panel, token, t, h, b);
}

// Loads a tile of weights. The barrier counts WEIGHT_BYTES<WIDE>. One thread calls it.
template <bool WIDE>
STGT_DEVICE void load_weights(char* tile, const ptx::TensorMap& map, uint64_t* barrier, int column, int offset, int row,
                              int frame) {
#pragma unroll
  for (int panel = 0; panel < (WIDE ? 2 : 1); ++panel)
    ptx::tma_load(tile + panel * WEIGHT_BYTES<false>, map, barrier, column + 32 * panel, offset, row, frame);
}

// Writes the products of d with the factors of its rows to the tile of tokens in global memory, through this
// warpgroup's tile in shared memory. group: the number of the warpgroup, from 0.
template <class T, int N>
STGT_DEVICE void store_tile(const float (&d)[Shape<N>::COLUMNS / 2], float factor0, float factor1, char* tile,
                            const ptx::TensorMap& map, int group, int b, int h, int t, int token) {
  ptx::sync_named(1 + group, 128);  // the products of all its warps have read the tile
#pragma unroll
  for (int i = 0; i < Shape<N>::COLUMNS / 4; ++i) {
    const int row = accumulator_row() + i % 2 * 8, column = i / 2 * 8 + accumulator_column();
    const float factor = i % 2 ? factor1 : factor0;
    char* at = tile + column / 32 * PANEL_BYTES + row * 64 + ((column % 32 / 8 ^ row / 2 % 4) << 4) + column % 8 * 2;
    *reinterpret_cast<uint32_t*>(at) = ptx::pack<T>(d[2 * i] * factor, d[2 * i + 1] * factor);
  }
  ptx::fence_shared();
  ptx::sync_named(1 + group, 128);
  if (threadIdx.x / 32 % 4 == 0 && ptx::elect()) {
#pragma unroll
    for (int panel = 0; panel < Shape<N>::PANELS; ++panel)
      ptx::tma_store(map, tile + panel * PANEL_BYTES, 32 * panel, token, t, h, b);
    ptx::tma_store_wait();
  }
}

// The content of a stage, which the warp that loads announces to those that compute.
struct Step {
  uint32_t live;    // bit k: whether the tile is live for the k-th warpgroup; 0: the walk is over
  int frame, tile;  // the opposite frame and tile
};

// A ring of stages. Each stage is loaded, read and given back. The side that loads and the side that reads go around it
// in the same order.
template <int STAGES> class Ring {
 public:
  static constexpr int BYTES = STAGES * (2 * 8 + int(sizeof(Step)));
  int stage = 0;

  // The barriers: `full_` counts arrivals of the threads that load, `empty_` those of the warps that read.
  STGT_DEVICE Ring(char* memory)
      : full_(reinterpret_cast<uint64_t*>(memory)),
        empty_(full_ + STAGES),
        steps_(reinterpret_cast<Step*>(empty_ + STAGES)) {}
  STGT_DEVICE void init(int loaders, int readers) const {
    for (int s = 0; s < STAGES; ++s) ptx::barrier_init(&full_[s], loaders), ptx::barrier_init(&empty_[s], readers);
  }
  STGT_DEVICE uint64_t* full() const { return &full_[stage]; }
  // The side that loads calls these: each thread that writes to the stage waits until it is free, and one of them
  // announces its content.
  STGT_DEVICE void wait_free() const { ptx::barrier_wait(&empty_[stage], parity_ ^ 1); }
  STGT_DEVICE void announce(const Step& step) const { steps_[stage] = step; }
  // The side that reads calls these. Every warp releases a stage when it has read it.
  STGT_DEVICE Step wait_full() const {
    ptx::barrier_wait(full(), parity_);
    return steps_[stage];
  }
  STGT_DEVICE void release(int s) const {
    ptx::sync_warp();  // all lanes of the warp have read it
    if (threadIdx.x % 32 == 0) ptx::barrier_arrive(&empty_[s]);
  }
  STGT_DEVICE void advance() {
    if (++stage == STAGES) stage = 0, parity_ ^= 1;
  }

 private:
  uint64_t *full_, *empty_;
  Step* steps_;
  int parity_ = 0;
};

}  // namespace stgt::sm90
