// The gradient of a table (types, H): for each type, the sum of the gradients of its edges. The edges are cut into
// runs, and the sums of the runs are added in order.
#pragma once
#include "../common/ptx.cuh"

namespace stgt::edges {

constexpr int TYPE_THREADS = 256;
constexpr int TYPE_SHARED_BYTES = TYPE_THREADS * sizeof(float);

struct TypeParams {
  int E, H, types;
  int width;              // number of heads of a block: a power of two, at most 32
  int run, runs;          // number of edges of a run, and number of runs
  const float* per_edge;  // (E, H)
  const uint8_t* type;    // (E)
  float* partial;         // (runs, types, H), written by the first kernel
  float* sums;            // (types, H), written by the second one
};

// Sums the gradients of each type's edges in each run. Launch runs * types * ceil(H / width) blocks of TYPE_THREADS
// threads with TYPE_SHARED_BYTES. A block has one run of edges, one type, and `width` heads.
__global__ void __launch_bounds__(TYPE_THREADS) edge_attention_bwd_types_sm80(const __grid_constant__ TypeParams p) {
  float* const shared = reinterpret_cast<float*>(ptx::shared_memory());
  const int parts = (p.H + p.width - 1) / p.width, rest = blockIdx.x / parts;
  const int type = rest % p.types, run = rest / p.types;
  const int head = blockIdx.x % parts * p.width + int(threadIdx.x % unsigned(p.width));
  const int first = int(threadIdx.x / unsigned(p.width)), step = TYPE_THREADS / p.width;
  const int64_t begin = int64_t(run) * p.run, end = begin + p.run < p.E ? begin + p.run : p.E;
  float sum = 0;
  if (head < p.H) {
#pragma unroll 4
    for (int64_t e = begin + first; e < end; e += step)
      if (p.type[e] == type) sum += p.per_edge[e * p.H + head];
  }
  shared[threadIdx.x] = sum;
  for (unsigned half = TYPE_THREADS / 2; half >= unsigned(p.width); half /= 2) {
    ptx::sync_threads();
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
  }
  if (int(threadIdx.x) < p.width && head < p.H)
    p.partial[(int64_t(run) * p.types + type) * p.H + head] = shared[threadIdx.x];
}

// Adds up the sums of the runs. Launch ceil(types * H / TYPE_THREADS) blocks of TYPE_THREADS threads.
__global__ void __launch_bounds__(TYPE_THREADS)
    edge_attention_bwd_types_sum_sm80(const __grid_constant__ TypeParams p) {
  const int64_t size = int64_t(p.types) * p.H, at = int64_t(blockIdx.x) * TYPE_THREADS + threadIdx.x;
  if (at >= size) return;
  float sum = 0;
#pragma unroll 8
  for (int run = 0; run < p.runs; ++run) sum += p.partial[run * size + at];
  p.sums[at] = sum;
}

}  // namespace stgt::edges
