// Adds up the pieces of long nodes, in the order of their slots.
#pragma once
#include "pieces.cuh"

namespace stgt::edges {

constexpr int LONG_THREADS = 256;
constexpr int LONG_SHARED_BYTES = LONG_THREADS * sizeof(float);

// Returns the long node that begins in a segment, or -1 if there is none. At most one can begin there, and it has the
// last slot of the segment.
STGT_DEVICE int long_node(const EdgeParams& p, const SortedEdges& edges, int segment) {
  const int first = segment * p.split, last = p.E - first < p.split ? p.E - 1 : first + p.split - 1;
  const int node = node_of(edges, p.N, last);
  return edges.ptr[node] >= first && is_long(p, edges, node) ? node : -1;
}

// Combines one number of each thread of the block, as a tree. All threads get the result.
template <class Combine> STGT_DEVICE float of_block(float x, Combine combine) {
  float* const shared = reinterpret_cast<float*>(ptx::shared_memory());
  ptx::sync_threads();  // the earlier contents have been read
  shared[threadIdx.x] = x;
#pragma unroll 1
  for (unsigned half = LONG_THREADS / 2; half > 0; half /= 2) {
    ptx::sync_threads();
    if (threadIdx.x < half) shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + half]);
  }
  ptx::sync_threads();
  return shared[0];
}

// Sums factor(k) * partial over the pieces k of a long node, for one head. partial: (pieces, H, D). Each group of
// `width` threads adds up an equal share of the pieces, and each of its threads one feature. The first D threads get
// the sum of feature threadIdx.x.
template <class Factor>
STGT_DEVICE float sum_of_pieces(const EdgeParams& p, const NodePieces& pieces, const float* partial, int head,
                                Factor factor) {
  float* const shared = reinterpret_cast<float*>(ptx::shared_memory());
  const int width = p.D <= 32 ? 32 : p.D <= 64 ? 64 : 128, groups = LONG_THREADS / width;
  const int feature = threadIdx.x % width, group = threadIdx.x / width;
  const int share = (pieces.count + groups - 1) / groups, end = min((group + 1) * share, pieces.count);
  float sum = 0;
  if (feature < p.D) {
#pragma unroll 8
    for (int k = group * share; k < end; ++k)
      sum = fmaf(factor(k), partial[(int64_t(pieces[k]) * p.H + head) * p.D + feature], sum);
  }
  ptx::sync_threads();
  shared[threadIdx.x] = sum;
  ptx::sync_threads();
  for (int other = 1; other < groups; ++other)
    if (group == 0) sum += shared[threadIdx.x + other * width];
  return sum;
}

// Adds up the sums of the forward pass, whose pieces have different maxima. Launch a block of LONG_THREADS threads with
// LONG_SHARED_BYTES for each head of each segment.
template <class T>
__global__ void __launch_bounds__(LONG_THREADS) edge_attention_fwd_long_sm80(const __grid_constant__ EdgeParams p) {
  const int segment = blockIdx.x / p.H, head = blockIdx.x % p.H;
  const int node = long_node(p, p.rows, segment);
  if (node < 0) return;
  const NodePieces pieces(p, p.rows, node);
  const auto number = [&](int k, int which) { return p.piece_numbers[(int64_t(pieces[k]) * p.H + head) * 2 + which]; };
  float top = -INFINITY, total = 0;
  for (int k = threadIdx.x; k < pieces.count; k += LONG_THREADS) top = fmaxf(top, number(k, 0));
  top = of_block(top, [](float a, float b) { return fmaxf(a, b); });
  for (int k = threadIdx.x; k < pieces.count; k += LONG_THREADS) total += exponential(number(k, 0), top) * number(k, 1);
  total = of_block(total, [](float a, float b) { return a + b; });
  const float inverse = total == 0 ? 0 : 1 / total;
  const auto factor = [&](int k) { return exponential(number(k, 0), top); };
  const float sum = sum_of_pieces(p, pieces, piece_sums(p), head, factor);
  const int64_t at = int64_t(node) * p.H + head;
  if (int(threadIdx.x) < p.D)
    store_one(static_cast<T*>(p.out) + at * p.D + threadIdx.x, sum * (inverse * p.inverse_keep));
  if (threadIdx.x == 0) p.softmax[2 * at] = top == -INFINITY ? 0 : top, p.softmax[2 * at + 1] = inverse;
}

// Adds up delta of long rows. Launch a block of LONG_THREADS threads with LONG_SHARED_BYTES for each head of each
// segment.
__global__ void __launch_bounds__(LONG_THREADS)
    edge_attention_bwd_delta_long_sm80(const __grid_constant__ EdgeParams p) {
  const int segment = blockIdx.x / p.H, head = blockIdx.x % p.H;
  const int node = long_node(p, p.rows, segment);
  if (node < 0) return;
  const NodePieces pieces(p, p.rows, node);
  float delta = 0;
  for (int k = threadIdx.x; k < pieces.count; k += LONG_THREADS)
    delta += p.piece_numbers[int64_t(pieces[k]) * p.H + head];
  delta = of_block(delta, [](float a, float b) { return a + b; });
  if (threadIdx.x == 0) p.delta[int64_t(node) * p.H + head] = delta;
}

// Adds up dq (blockIdx.y 0), dk (1) and dv (2) of long nodes. Launch three blocks (grid.y) of LONG_THREADS threads with
// LONG_SHARED_BYTES for each head of each segment.
template <class T>
__global__ void __launch_bounds__(LONG_THREADS) edge_attention_bwd_long_sm80(const __grid_constant__ EdgeParams p) {
  const int segment = blockIdx.x / p.H, head = blockIdx.x % p.H, which = blockIdx.y;
  const SortedEdges& edges = which == 0 ? p.rows : p.columns;
  const int node = long_node(p, edges, segment);
  if (node < 0) return;
  const NodePieces pieces(p, edges, node);
  const float sum = sum_of_pieces(p, pieces, piece_sums(p, which), head, [](int) { return 1.0f; });
  void* const to = which == 0 ? p.dq : which == 1 ? p.dk : p.dv;
  if (int(threadIdx.x) < p.D) store_one(static_cast<T*>(to) + (int64_t(node) * p.H + head) * p.D + threadIdx.x, sum);
}

}  // namespace stgt::edges
