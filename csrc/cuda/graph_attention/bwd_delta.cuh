// Computes delta_i = do_i . o_i - dlse_i, which the gradient of softmax and log-sum-exp subtracts from dP in row i.
#pragma once
#include "common.cuh"

namespace stgt {

constexpr int DELTA_THREADS = 256;

// Returns the part of the product of two rows that one of LANES threads computes. whole: both rows start at multiples
// of 16 bytes and are multiples of 16 bytes long. They are then read in units of 16 bytes, since the kernel's time is
// spent waiting for memory.
template <class T, int LANES> STGT_DEVICE float partial_product(const T* a, const T* b, int size, bool whole,
                                                                int lane) {
  constexpr int CHUNK = 16 / sizeof(T);
  float sum = 0;
  if (!whole) {
#pragma unroll 4
    for (int i = lane; i < size; i += LANES) {
      if constexpr (sizeof(T) == 4)
        sum += a[i] * b[i];
      else
        sum += ptx::unpack<T>(a[i].bits).x * ptx::unpack<T>(b[i].bits).x;
    }
    return sum;
  }
#pragma unroll 1  // one round is enough for 16-bit values
  for (int i = lane * CHUNK; i < size; i += LANES * CHUNK) {
    const uint4 x = *reinterpret_cast<const uint4*>(a + i), y = *reinterpret_cast<const uint4*>(b + i);
    const uint32_t left[4] = {x.x, x.y, x.z, x.w}, right[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      if constexpr (sizeof(T) == 4) {
        sum += __uint_as_float(left[word]) * __uint_as_float(right[word]);
      } else {
        const float2 l = ptx::unpack<T>(left[word]), r = ptx::unpack<T>(right[word]);
        sum += l.x * r.x;
        sum += l.y * r.y;
      }
    }
  }
  return sum;
}

// T: float, ptx::bf16 or ptx::f16. dlse: (B, H, N) contiguous, or null. delta: (B, H, N) contiguous, written. Launch B
// N blocks of DELTA_THREADS threads. A block has all heads of a token, which lie side by side in out, and sixteen
// threads for each head.
template <class T>
__global__ void __launch_bounds__(DELTA_THREADS, 8)
    graph_attention_bwd_delta(const __grid_constant__ AttentionParams p, const float* dlse, float* delta) {
  constexpr int LANES = 16;
  const int N = p.T * p.P, b = blockIdx.x / N, n = blockIdx.x % N, lane = threadIdx.x % LANES;
  const T* const out = static_cast<const T*>(p.out) + int64_t(blockIdx.x) * p.H * p.D;
  const T* const dout = static_cast<const T*>(p.dout) + b * p.dout_at.b + n * p.dout_at.n;
  const bool whole = (reinterpret_cast<uintptr_t>(out) | reinterpret_cast<uintptr_t>(dout) | p.D * sizeof(T) |
                      p.dout_at.h * sizeof(T)) %
                         16 ==
                     0;
#pragma unroll 1
  for (int first = 0; first < p.H; first += DELTA_THREADS / LANES) {
    const int h = first + threadIdx.x / LANES;
    float sum = 0;
    if (h < p.H) sum = partial_product<T, LANES>(out + h * p.D, dout + h * p.dout_at.h, p.D, whole, lane);
#pragma unroll
    for (int lanes = LANES / 2; lanes > 0; lanes /= 2) sum += ptx::shuffle_xor(sum, lanes);
    if (lane == 0 && h < p.H) {
      const int64_t at = (int64_t(b) * p.H + h) * N + n;
      delta[at] = sum - (dlse ? dlse[at] : 0);
    }
  }
}

}  // namespace stgt
