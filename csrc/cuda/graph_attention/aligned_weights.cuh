// Copies weights so that each row begins at a multiple of 16 bytes, which Hopper's copy engine needs. Rows of P values
// do so by themselves only if P is a multiple of 8 (float16) or of 4 (float32). A ViT with 14x14 patches has P = 196,
// which is no multiple of 8.
#pragma once
#include "../common/ptx.cuh"

namespace stgt {

constexpr int ALIGN_THREADS = 256;

// Launch ceil(chunks / ALIGN_THREADS) blocks, where chunks is the number of 16-byte pieces of `aligned`, which has
// `rows` rows of `pitch` values. weight: `rows` rows of P values. The values from P on become 0.
template <class T>
__global__ void __launch_bounds__(ALIGN_THREADS)
    graph_attention_align_weights(const T* weight, T* aligned, int64_t rows, int P, int pitch) {
  constexpr int CHUNK = 16 / sizeof(T);
  const int64_t chunk = int64_t(blockIdx.x) * ALIGN_THREADS + threadIdx.x;
  const int64_t row = chunk / (pitch / CHUNK), first = chunk % (pitch / CHUNK) * CHUNK;
  if (row >= rows) return;
  alignas(16) T values[CHUNK];
#pragma unroll
  for (int i = 0; i < CHUNK; ++i) values[i] = first + i < P ? weight[row * P + first + i] : T(0);
  *reinterpret_cast<uint4*>(aligned + row * pitch + first) = *reinterpret_cast<const uint4*>(values);
}

}  // namespace stgt
