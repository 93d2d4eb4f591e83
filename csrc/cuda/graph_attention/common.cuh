// The common parts of all kernels of graph attention: their parameters, the place of a block, the walk along live
// tiles, and the dropout mask.
#pragma once
#include "../common/philox.cuh"
#include "../common/ptx.cuh"

namespace stgt {

constexpr int TILE = 64;  // tokens of one frame per tile of the graph's `live` map
constexpr float LOG2E = 1.4426950408889634f;

struct Strides { int64_t b, h, n; };  // strides of a (B, H, N, D) tensor with a contiguous last dimension, in elements

struct AttentionParams {
  int B, H, T, P, W, D;  // W: the window; the band has 2W+1 frames
  float scale;
  uint32_t drop_threshold;  // an edge is dropped if its 16 random bits are below it; 0: no dropout
  float inverse_keep;       // 65536 / (65536 - drop_threshold)
  const int64_t* seed;      // one element on the device; null without dropout
  const void *q, *k, *v;    // (B, H, N, D)
  Strides q_at, k_at, v_at;
  const void* weight;  // (B, T, P, 2W+1, P) contiguous: float32, or float16, which needs q of half precision
  const bool* live;    // (B, T, tiles, 2W+1, tiles) contiguous
  void* out;           // forward, written: (B, N, H, D) contiguous
  float* lse;          // (B, H, N) contiguous: written forward, read backward
  const void* dout;    // backward: (B, H, N, D)
  Strides dout_at;
  const float* delta;  // backward: (B, H, N) contiguous
  void *dq, *dk, *dv;  // backward, written: (B, N, H, D) contiguous
  void* dweight;       // backward, written: like weight, which is float32 if this gradient is needed

  STGT_DEVICE int tiles() const { return (P + TILE - 1) / TILE; }
  STGT_DEVICE int band() const { return 2 * W + 1; }
};

// The part of the work that a block has: `size` tokens of a frame from token `first` on, for one head of one sample.
// Blocks that follow each other have the same tokens of different heads.
struct Place {
  int b, t, first, h;

  STGT_DEVICE Place(const AttentionParams& p, int size) {
    const int blocks = (p.P + size - 1) / size, rest = blockIdx.x / p.H;
    h = blockIdx.x % p.H, first = rest % blocks * size, t = rest / blocks % p.T, b = rest / blocks / p.T;
  }
};

// Walks along the opposite tiles that are live for any of COUNT neighbouring tiles of a frame. Opposite are the column
// tiles of row tiles, or (OF_COLUMNS) the row tiles of column tiles. All lanes of a warp must call it, and all get the
// same answers.
template <bool OF_COLUMNS, int COUNT> class LiveTiles {
 public:
  int frame, offset, tile;  // where the walk stands: the opposite frame, its place 0..2W in the row's band, its tile
  uint32_t live;            // bit k: whether the opposite tile is live for the k-th of the COUNT tiles

  STGT_DEVICE LiveTiles(const AttentionParams& p, int b, int t, int first_tile)
      : p_(p), b_(b), t_(t), first_(first_tile), next_(0), live_(0), any_(0) {}

  STGT_DEVICE bool next() {
    const int n = p_.tiles(), all = p_.band() * n;
    while (any_ == 0) {
      if (next_ >= all) return false;
      const int i = next_ + int(threadIdx.x % 32);
      live_ = 0;
#pragma unroll
      for (int k = 0; k < COUNT; ++k) live_ |= uint32_t(i < all && is_live(i / n, i % n, first_ + k)) << k;
      any_ = ptx::ballot(live_ != 0);
      next_ += 32;
    }
    const int lane = ptx::first_bit(any_), i = next_ - 32 + lane;
    any_ &= any_ - 1;
    live = COUNT == 1 ? 1 : ptx::shuffle(live_, lane);
    frame = t_ + i / n - p_.W;
    offset = OF_COLUMNS ? 2 * p_.W - i / n : i / n;
    tile = i % n;
    return true;
  }

 private:
  const AttentionParams& p_;
  int b_, t_, first_, next_;
  // `live` of this lane's candidate, and a bit for each lane's candidate that is live and still to come.
  uint32_t live_, any_;

  STGT_DEVICE bool is_live(int o, int opposite, int own) const {
    const int n = p_.tiles(), other = t_ + o - p_.W;
    if (other < 0 || other >= p_.T || own >= n) return false;
    return OF_COLUMNS ? p_.live[(((int64_t(b_) * p_.T + other) * n + opposite) * p_.band() + 2 * p_.W - o) * n + own]
                      : p_.live[(((int64_t(b_) * p_.T + t_) * n + own) * p_.band() + o) * n + opposite];
  }
};

// Returns what is subtracted from a score for the logarithm of its probability. It is lse, or 0 if lse is -inf: such a
// row may have edges, whose scores all overflow to -inf, and -inf - -inf would be NaN.
STGT_DEVICE float subtracted(float lse) { return lse == -INFINITY ? 0.0f : lse; }

// Returns the four words of one call of the generator that stgt_kernels/ops/graph_attention/philox.py defines. They
// hold the random bits of edges from row `row` of the clip to columns of frame `frame` from column 32 * group on. For a
// thread with c = lane % 4, word s holds the bits of columns 8 s + 2 c (low half) and 8 s + 2 c + 1 (high half). These
// are the columns that the thread has of a tensor core's accumulator.
STGT_DEVICE uint4 dropout_words(uint64_t seed, int sample_head, int row, int frame, int group, int c) {
  return philox(seed, 4 * group + c, row, frame, sample_head);
}

}  // namespace stgt
