// The common parts of the sm_80 and float32 kernels of graph attention: their tensors in global memory, and the walk
// in steps.
#pragma once
#include "../common/weights.cuh"
#include "common.cuh"

namespace stgt::sm80 {

// The number of features that mma sums over for a head dimension of at most D: whole steps of 16.
template <int D> constexpr int DEPTH = (D + 15) / 16 * 16;

// Rows of q, k, v or dout: the tokens of a frame from token `first` on.
template <class E>
STGT_DEVICE Rows<const E> tokens(const AttentionParams& p, const void* x, const Strides& at, int b, int h, int frame,
                                 int first) {
  return {static_cast<const E*>(x) + b * at.b + h * at.h + (frame * p.P + first) * at.n, at.n, p.P - first, p.D};
}

// Rows of an output or a gradient, which is (B, N, H, D) contiguous: the tokens of a frame from token `first` on.
template <class E>
STGT_DEVICE Rows<E> result(const AttentionParams& p, void* x, int b, int h, int frame, int first) {
  const int64_t stride = int64_t(p.H) * p.D, token = (int64_t(b) * p.T + frame) * p.P + first;
  return {static_cast<E*>(x) + token * stride + h * p.D, stride, p.P - first, p.D};
}

// Rows of x, which is weight or dweight: edges from row i of frame t on, and from column j on of the frame at this
// offset in the band.
template <class E, class Pointer>
STGT_DEVICE Rows<E> edges(const AttentionParams& p, Pointer x, int b, int t, int i, int offset, int j) {
  const int64_t stride = int64_t(p.band()) * p.P, row = (int64_t(b) * p.T + t) * p.P + i;
  return {static_cast<E*>(x) + row * stride + offset * p.P + j, stride, p.P - i, p.P - j};
}

// Walks along the live tiles opposite to a block, in steps of SIZE tokens: a whole tile or half of one.
template <bool OF_COLUMNS, int COUNT, int SIZE> struct Steps : LiveTiles<OF_COLUMNS, COUNT> {
  int token = TILE - SIZE;  // where the step starts in its frame; the walk begins as if it stood at the end of a tile
  int patches;

  STGT_DEVICE Steps(const AttentionParams& p, int b, int t, int first)
      : LiveTiles<OF_COLUMNS, COUNT>(p, b, t, first / TILE), patches(p.P) {}

  STGT_DEVICE bool next() {
    token += SIZE;
    if (token % TILE != 0 && token < patches) return true;
    if (!LiveTiles<OF_COLUMNS, COUNT>::next()) return false;
    token = this->tile * TILE;
    return true;
  }
};

// Draws the random bits for dropout of 16 rows and 32 columns, in the order of accumulators: words[n][r] has those of
// row 8 r + lane / 4 and of the lane's pair of columns among the n-th eight columns.
STGT_DEVICE void draw_rows(uint32_t (&words)[4][2], const AttentionParams& p, int sample_head, int row, int frame,
                           int column) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint4 drawn = dropout_words(*p.seed, sample_head, row + 8 * r + lane / 4, frame, column / 32, lane % 4);
    words[0][r] = drawn.x, words[1][r] = drawn.y, words[2][r] = drawn.z, words[3][r] = drawn.w;
  }
}

// A word of dropout_words holds the bits of two edges. Returns whether dropout keeps the first (which = 0) or the
// second one (which = 1).
STGT_DEVICE bool is_kept(uint32_t word, int which, uint32_t threshold) {
  return (which ? word >> 16 : word & 0xffff) >= threshold;
}

}  // namespace stgt::sm80
