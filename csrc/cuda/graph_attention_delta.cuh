// What softmax and log-sum-exp take off a row's score gradients, for both kernels of the backward pass:
// delta_i = do_i . o_i - dlse_i.
#pragma once
#include "attention.cuh"

namespace stgt {

constexpr int DELTA_THREADS = 256;  // a warp per row

template <class T> STGT_DEVICE float element(const void* data, int64_t i) {
  if constexpr (sizeof(T) == 4)
    return static_cast<const float*>(data)[i];
  else
    return ptx::unpack<T>(static_cast<const uint16_t*>(data)[i]).x;
}

// T: float, or ptx::bf16 or f16. dlse: (B, H, N) contiguous, or null. delta: (B, H, N) contiguous, written.
// blocks: ceil(B H N / 8), rows in the order of (B, N, H), as out lies in memory.
template <class T>
__global__ void __launch_bounds__(DELTA_THREADS)
    graph_attention_delta(const __grid_constant__ AttentionParams p, const float* dlse, float* delta) {
  const int64_t place = int64_t(blockIdx.x) * (DELTA_THREADS / 32) + threadIdx.x / 32;
  const int64_t N = int64_t(p.T) * p.P;
  if (place >= p.B * N * p.H) return;
  const int64_t h = place % p.H, n = place / p.H % N, b = place / p.H / N;
  float sum = 0;
  for (int d = threadIdx.x % 32; d < p.D; d += 32)
    sum += element<T>(p.out, place * p.D + d) * element<T>(p.dout, b * p.dout_at.b + h * p.dout_at.h + n * p.dout_at.n + d);
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += ptx::shuffle_xor(sum, lanes);
  if (threadIdx.x % 32 == 0) {
    const int64_t at = (b * p.H + h) * N + n;
    delta[at] = sum - (dlse ? dlse[at] : 0);
  }
}

}  // namespace stgt
