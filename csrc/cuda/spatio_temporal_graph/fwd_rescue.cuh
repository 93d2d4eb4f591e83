// Makes the edges of tokens that are so large or so small that their squares over- or underflow in float32. The forward
// kernels leave these edges out, and give the tokens an inverse norm of 0. Real features have no such tokens, and for
// them this kernel only reads the norms.
//
// A warp computes all edges of such a token with the tokens of its band. Each token is multiplied by a power of two
// that brings its largest channel between 1/2 and 1. The edge between two such tokens is computed twice, with the same
// bits.
#pragma once
#include "common.cuh"

#include <type_traits>

namespace stgt::graph {

constexpr int RESCUE_THREADS = 128;

template <class T> STGT_DEVICE float channel(const T* token, int c) {
  if constexpr (std::is_same_v<T, float>)
    return token[c];
  else
    return ptx::unpack<T>(token[c].bits).x;
}

// A token, and the power of two that brings it into range, as two factors that are both representable.
template <class T> struct ScaledToken {
  const T* channels;
  float first, second;
  bool usable;  // whether it is finite and has not only zeros
  bool normal;  // whether its largest channel is not denormal

  // A whole warp must call it.
  STGT_DEVICE ScaledToken(const GraphParams& p, int64_t frame, int i) : channels(p.tokens<T>(frame, i)) {
    float peak = 0;
    bool finite = true;
    for (int c = threadIdx.x % 32; c < p.C; c += 32) {
      const float size = fabsf(channel(channels, c));
      finite &= size < INFINITY;
      peak = fmaxf(peak, size);
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) peak = fmaxf(peak, ptx::shuffle_xor(peak, mask));
    usable = ptx::ballot(!finite) == 0 && peak > 0;
    normal = peak >= 0x1p-126f;
    // Denormal numbers are first multiplied by LIFT and become normal, so that their exponent is in their bits.
    const float lifted = normal ? peak : peak * LIFT;
    const int exponent = int(__float_as_uint(lifted) >> 23) - 126;  // 2^(exponent - 1) <= lifted < 2^exponent
    first = normal ? 1.0f : LIFT;
    second = 1;
    if (usable) {  // 2^-exponent is not representable for the largest numbers, so it is split in two
      const int half = -exponent / 2;
      first *= __uint_as_float(uint32_t(half + 127) << 23);
      second = __uint_as_float(uint32_t(-exponent - half + 127) << 23);
    }
  }

  STGT_DEVICE float operator[](int c) const { return channel(channels, c) * first * second; }
};

STGT_DEVICE float warp_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += ptx::shuffle_xor(x, mask);
  return x;
}

// Writes the weight of an edge, and marks its tile as live if the weight is not 0.
template <bool WIDE>
STGT_DEVICE void write_edge(const GraphParams& p, int64_t frame, int row, int offset, int column, float weight) {
  const int64_t at = p.edge(frame, row, offset, column);
  if constexpr (WIDE) {
    static_cast<float*>(p.weight)[at] = weight;
    if (weight != 0) *p.live_tile(frame, row, offset, column) = true;
  } else {
    const uint16_t bits = uint16_t(ptx::pack<ptx::f16>(weight, 0));
    static_cast<uint16_t*>(p.weight)[at] = bits;
    if (bits & 0x7fff) *p.live_tile(frame, row, offset, column) = true;
  }
}

// T: float or ptx::bf16, since float16 has no such tokens. WIDE: float32 weights. Launch B T ceil(P / 64) blocks of
// RESCUE_THREADS threads after the forward kernel. A warp looks at every fourth token of a tile.
template <class T, bool WIDE>
__global__ void __launch_bounds__(RESCUE_THREADS)
    spatio_temporal_graph_fwd_rescue(const __grid_constant__ GraphParams p) {
  const int64_t frame = blockIdx.x / p.tiles();
  const int first = int(blockIdx.x % p.tiles()) * TILE, t = int(frame % p.T), lane = threadIdx.x % 32;
  for (int i = first + threadIdx.x / 32; i < min(first + TILE, p.P); i += RESCUE_THREADS / 32) {
    float* const inverse = p.inv_norm + frame * p.P + i;
    if (*inverse != 0) continue;
    const ScaledToken<T> own(p, frame, i);
    if (!own.usable) continue;
    float own_square = 0;
    for (Band at(p, t); !at.over(); at.advance(p, 1)) {
      const int64_t other_frame = frame + at.offset - p.W;
      const ScaledToken<T> other(p, other_frame, at.column);
      if (!other.usable) continue;
      float product = 0, other_square = 0;
      own_square = 0;
      for (int c = lane; c < p.C; c += 32) {
        const float x = own[c], y = other[c];
        product += x * y, own_square += x * x, other_square += y * y;
      }
      own_square = warp_sum(own_square);
      const float similarity = warp_sum(product) / (sqrtf(own_square) * sqrtf(warp_sum(other_square)));
      const float weight = similarity >= p.threshold ? similarity : 0.0f;
      if (lane == 0) {
        write_edge<WIDE>(p, frame, i, at.offset, at.column, weight);
        write_edge<WIDE>(p, other_frame, at.column, 2 * p.W - at.offset, i, weight);
      }
    }
    if (lane == 0) *inverse = (own.normal ? own.first : -own.first / LIFT) * own.second / sqrtf(own_square);
  }
}

}  // namespace stgt::graph
