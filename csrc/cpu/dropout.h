// The dropout mask of stgt_kernels/ops/graph_attention/philox.py, whose docstring defines it.
#pragma once
#include "blocks.h"

namespace stgt::STGT_ISA {

// Philox4x32-7 on COUNT counters (c0, c1, c2, c3), which become its output words.
template <int COUNT> inline void philox(uint64_t seed, uint32_t* c0, uint32_t* c1, uint32_t* c2, uint32_t* c3) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 7; ++round) {
    for (int i = 0; i < COUNT; ++i) {
      const uint64_t p0 = uint64_t(c0[i]) * 0xD2511F53u, p1 = uint64_t(c2[i]) * 0xCD9E8D57u;
      c0[i] = uint32_t(p1 >> 32) ^ c1[i] ^ k0;
      c1[i] = uint32_t(p1);
      c2[i] = uint32_t(p0 >> 32) ^ c3[i] ^ k1;
      c3[i] = uint32_t(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// Sets bits[i] (i < TILE) to the 16 random bits of the edge from `row` to column column0 + i of frame `frame`. column0
// must be a multiple of 32.
inline void philox_row(uint64_t seed, int64_t head, int64_t row, int64_t frame, int64_t column0, uint16_t* bits) {
  constexpr int calls = TILE / 8;
  uint32_t c0[calls], c1[calls], c2[calls], c3[calls];
  for (int i = 0; i < calls; ++i) {
    c0[i] = uint32_t(column0 / 8 + i);
    c1[i] = uint32_t(row);
    c2[i] = uint32_t(frame);
    c3[i] = uint32_t(head);
  }
  philox<calls>(seed, c0, c1, c2, c3);
  // Four calls give the bits of 32 columns: word s of call c has those of columns 8 s + 2 c (low half) and 8 s + 2 c +
  // 1 (high half). So words s of consecutive calls lie in (little-endian) memory in the order of their columns.
  const uint32_t* words[4] = {c0, c1, c2, c3};
  for (int group = 0; group < TILE / 32; ++group)
    for (int s = 0; s < 4; ++s) memcpy(bits + 32 * group + 8 * s, words[s] + 4 * group, 16);
}

// Sets p[i] to 0 for those of the TILE columns of one row that dropout drops.
template <class A>
inline void drop_row(const GraphAttentionArgs& args, int64_t head, int64_t row, int64_t frame, int64_t column0, A* p) {
  uint16_t bits[TILE];
  philox_row(args.seed, head, row, frame, column0, bits);
  for (int i = 0; i < TILE; ++i) p[i] = bits[i] >= args.drop_threshold ? p[i] : A(0);
}

template <class A> inline A inverse_keep_prob(const GraphAttentionArgs& args) {
  return A(65536.0 / (65536.0 - args.drop_threshold));
}

}  // namespace stgt::STGT_ISA
