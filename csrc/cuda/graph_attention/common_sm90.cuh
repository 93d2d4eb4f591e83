// What the Hopper kernels of graph attention share: how tiles lie in shared memory, and the ring of stages between the
// warp that loads and the warpgroups that compute.
#pragma once
#include "../common/ptx_sm90.cuh"
#include "../common/weights.cuh"
#include "common.cuh"

namespace stgt::sm90 {

// A tile of weights: rows of 128 bytes, 128-byte swizzle; of float32 ones (WIDE), two panels of 32 columns.
template <bool WIDE> constexpr int WEIGHT_BYTES = TILE * TILE * (WIDE ? 4 : 2);
constexpr int PANEL_BYTES = TILE * 64;  // 64 tokens by 32 features: rows of 64 bytes, 64-byte swizzle
constexpr int SHARED_LIMIT = 227 * 1024;

// The tensors as the copy engine sees them. Boxes: 32 features by 64 tokens; 64 columns of float16 weights, or 32 of
// float32 ones, by 64 rows.
struct AttentionMaps {
  ptx::TensorMap q, k, v, dout;    // (B, H, T, P, D)
  ptx::TensorMap weight;           // (B T, P, 2W+1, P)
  ptx::TensorMap out, dq, dk, dv;  // (B, H, T, P, D), written
};

// Sizes of a kernel for head dimensions up to N, with GROUPS computing warpgroups, each with a tile of its own.
template <int N> struct Shape {
  static constexpr int PANELS = (N + 31) / 32, STEPS = (N + 15) / 16;  // 88 is 3 panels: columns 88 to 95 read as 0
  // What tiles have as columns of a product. The PTX ISA's layouts know no part of a panel; 96 in place of 88 costs 4%.
  static constexpr int COLUMNS = 32 * PANELS;
  static constexpr int TILE_BYTES = PANELS * PANEL_BYTES;
};
constexpr int stages(int fixed_bytes, int stage_bytes) {
  const int fit = (SHARED_LIMIT - 1024 - fixed_bytes) / stage_bytes;
  return fit < 4 ? fit : 4;
}

// A tile of tokens as an operand whose K are its features, or its tokens.
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
// A warpgroup's accumulator of 64 columns as the left operand of a product over them: value 2 i and the next are in
// p[i / 4][i % 4], and so are their weights in what row_weights and column_weights give for all four blocks.
template <class T> STGT_DEVICE void pack_left(uint32_t (&p)[4][4], const float (&d)[32]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) p[i / 4][i % 4] = ptx::pack<T>(d[2 * i], d[2 * i + 1]);
}

// The weights of columns 16 * block on, as a warp of the accumulator (rows, columns) wants them: pairs[2 c + r] belongs
// to d[8 * block + 4 * c + 2 * r] and the next.
STGT_DEVICE void row_weights(uint32_t (&pairs)[4], const char* tile, int block) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
  ptx::load_matrices(pairs, tile + ((row * 128 + ((lane / 16 ^ (row & 7)) << 4)) ^ (block << 5)));
}
STGT_DEVICE void row_weights(float2 (&pairs)[4], const char* tile, int block) {
  WideTile<TILE, TILE>{int(tile - ptx::shared_memory())}.read_down(pairs, threadIdx.x / 32 % 4 * 16, 2 * block);
}
// The same for an accumulator (columns, rows), of rows 16 * block on; the tile is (rows, columns) still.
STGT_DEVICE void column_weights(uint32_t (&pairs)[4], const char* tile, int block) {
  const int lane = threadIdx.x % 32, row = lane / 16 * 8 + lane % 8, chunk = threadIdx.x / 32 % 4 * 2 + lane / 8 % 2;
  ptx::load_matrices<true>(pairs, tile + row * 128 + ((chunk ^ (row & 7)) << 4) + block * 2048);
}

STGT_DEVICE void column_weights(float2 (&pairs)[4], const char* tile, int block) {
  const WideTile<TILE, TILE> weights{int(tile - ptx::shared_memory())};
  weights.read_across<true>(pairs, 16 * block, threadIdx.x / 32 % 4 * 2);
}

// Which thread of a warpgroup has what of an accumulator: rows row() and row() + 8, columns 8 n + column() and the
// next.
STGT_DEVICE int accumulator_row() { return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4; }
STGT_DEVICE int accumulator_column() { return 2 * (threadIdx.x % 4); }

// What dropout drops of a warpgroup's accumulator (rows, columns): bit i for value i. head: b H + h; row: the
// warpgroup's first, through the clip; frame, tile: the columns'.
STGT_DEVICE uint32_t dropped_rows(const AttentionParams& p, int head, int row, int frame, int tile) {
  uint32_t bits = 0;
#pragma unroll 1  // or the registers would not do
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

// The same of an accumulator (columns, rows). row: the tile's first, through the clip; frame, tile: the columns'.
// Drawn as if for rows, each thread a row of eight, and transposed like the accumulator, 8 by 8.
STGT_DEVICE uint32_t dropped_columns(const AttentionParams& p, int head, int row, int frame, int tile) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;  // a warp has columns 16 * warp on
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

// Loads the panels of a tile of tokens; the barrier counts Shape<N>::TILE_BYTES.
template <int N>
STGT_DEVICE void load_tile(char* tile, const ptx::TensorMap& map, uint64_t* barrier, int b, int h, int t, int token) {
#pragma unroll
  for (int panel = 0; panel < Shape<N>::PANELS; ++panel)
    ptx::tma_load(tile + panel * PANEL_BYTES, map, barrier, 32 * panel, token, t, h, b);
}

// Loads a tile of weights; the barrier counts WEIGHT_BYTES<WIDE>.
template <bool WIDE>
STGT_DEVICE void load_weights(char* tile, const ptx::TensorMap& map, uint64_t* barrier, int column, int offset, int row,
                              int frame) {
#pragma unroll
  for (int panel = 0; panel < (WIDE ? 2 : 1); ++panel)
    ptx::tma_load(tile + panel * WEIGHT_BYTES<false>, map, barrier, column + 32 * panel, offset, row, frame);
}

// Writes factor[r] * d to the tile of tokens in global memory, through this warpgroup's tile of shared memory. `group`
// numbers the warpgroup from 0.
template <class T, int N>
STGT_DEVICE void store_tile(const float (&d)[Shape<N>::COLUMNS / 2], float factor0, float factor1, char* tile,
                            const ptx::TensorMap& map, int group, int b, int h, int t, int token) {
  ptx::sync_named(1 + group, 128);  // all its warps' products have read the tile
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

// What a stage holds, as the warp that loads tells those that compute.
struct Step {
  uint32_t live;    // bit k: the tile is live for the k-th warpgroup; 0: the walk is over
  int frame, tile;  // the opposite ones
};

// The ring: a stage is loaded, read, and given back. Both sides go around it alike.
template <int STAGES> class Ring {
 public:
  static constexpr int BYTES = STAGES * (2 * 8 + int(sizeof(Step)));
  int stage = 0;

  // full: arrivals of those who load; empty: of the warps that read.
  STGT_DEVICE Ring(char* memory)
      : full_(reinterpret_cast<uint64_t*>(memory)),
        empty_(full_ + STAGES),
        steps_(reinterpret_cast<Step*>(empty_ + STAGES)) {}
  STGT_DEVICE void init(int loaders, int readers) const {
    for (int s = 0; s < STAGES; ++s) ptx::barrier_init(&full_[s], loaders), ptx::barrier_init(&empty_[s], readers);
  }
  STGT_DEVICE uint64_t* full() const { return &full_[stage]; }
  // The loader's side: each thread that writes to the stage waits until it is free, and one says what will be in it.
  STGT_DEVICE void wait_free() const { ptx::barrier_wait(&empty_[stage], parity_ ^ 1); }
  STGT_DEVICE void announce(const Step& step) const { steps_[stage] = step; }
  // The readers' side.
  STGT_DEVICE Step wait_full() const {
    ptx::barrier_wait(full(), parity_);
    return steps_[stage];
  }
  STGT_DEVICE void release(int s) const {  // by every warp that reads, when it is done
    ptx::sync_warp();                      // all its lanes are
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
