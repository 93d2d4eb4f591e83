// The common parts of all kernels of edge attention: their parameters, chunks of heads in registers, teams of threads,
// the softmax of one edge, and the dropout mask.
//
// A team of 4 to 32 threads of a warp computes one head of one node. Each of its threads holds 16 bytes of that head. A
// team takes a step of four edges at a time. Each thread also has one edge of the step as its own: thread t has edge
// t % 4. It computes the values that are one number per edge, such as the score, for its own edge.
#pragma once
#include "../common/philox.cuh"
#include "../common/ptx.cuh"

namespace stgt::edges {

constexpr int THREADS = 128;  // threads of a block
constexpr int STEP = 4;       // edges that a team takes at a time
constexpr float LOG2E = 1.4426950408889634f;

// An (N, H, D) tensor with a contiguous last dimension. n and h are the strides over nodes and heads in bytes.
struct NodeHeads {
  const void* data;
  int64_t h;
  int n;
};

// The edges sorted by one of their ends. A slot is a place in this order. Node i has slots ptr[i] to ptr[i + 1] - 1.
struct SortedEdges {
  const int* ptr;    // (N + 1)
  const int* other;  // (E): the node at the other end
  const int* edge;   // (E): the edge's number
};

// A factor or a bias for each edge and head: row e of a table, or row type[e] if there are types.
struct EdgeValues {
  const float* data;    // (E or types, H) contiguous; null if there is none
  const uint8_t* type;  // (E); null if data has a row for each edge

  STGT_DEVICE float at(int edge, int head, int H, float otherwise) const {
    return data ? data[int64_t(type ? type[edge] : edge) * H + head] : otherwise;
  }
};

struct EdgeParams {
  int N, E, H, D;
  int lanes;                // threads of a team: 4, 8, 16 or 32
  int whole;                // 1 if the begin and the length of every head are multiples of 16 bytes
  int split;                // a node with more edges than this is cut into pieces; see pieces.cuh
  int piece_blocks;         // the first blocks of the grid take pieces; the others take nodes
  float scale, clamp;       // clamp: infinite if there is no limit
  uint32_t drop_threshold;  // an edge is dropped if its 16 random bits are below it; 0 without dropout
  float inverse_keep;       // 65536 / (65536 - drop_threshold)
  const int64_t* seed;      // one element on the device; null without dropout
  SortedEdges rows, columns;
  EdgeValues edge_scale, edge_bias;
  NodeHeads q, k, v, dout;   // dout: backward
  void *out, *dq, *dk, *dv;  // (N, H, D) contiguous, written
  float* scores;             // (E, H): written forward, read backward
  float* softmax;            // (N, H, 2), written forward, read backward: a row's maximum and 1 / sum; 0 without edges
  const float* dscores;      // backward: (E, H); null if it is zero
  float* delta;              // backward: (N, H): sum of p dp over each row's edges
  float *dproduct, *kept;    // backward: (E, H): gradient of q . k, and probability after dropout
  float *dscale, *dbias;     // backward: (E, H), written; null if they are not needed
  float* piece_sums;         // (1, pieces, H, D): sums of out; backward (3, pieces, H, D): of dq, dk and dv
  float* piece_numbers;      // (pieces, H, 2): maximum and sum of each; backward (pieces, H): part of delta
};

// ---- Heads in registers ----

// 16 bytes of a head, as float32 or as pairs of half-precision values.
template <class T> struct Chunk {
  static constexpr int SIZE = 16 / sizeof(T);
  uint32_t words[4];

  STGT_DEVICE void widen(float (&x)[SIZE]) const {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      if constexpr (sizeof(T) == 4) {
        x[word] = __uint_as_float(words[word]);
      } else {
        const float2 pair = ptx::unpack<T>(words[word]);
        x[2 * word] = pair.x, x[2 * word + 1] = pair.y;
      }
    }
  }
};

template <class T> STGT_DEVICE Chunk<T> load_whole(const char* from) {
  const uint4 x = *reinterpret_cast<const uint4*>(from);
  return {x.x, x.y, x.z, x.w};
}
// Reads `size` elements, at most a chunk, one by one. The rest is 0.
template <class T> STGT_DEVICE Chunk<T> load_part(const char* place, int size) {
  const T* const from = reinterpret_cast<const T*>(place);
  Chunk<T> chunk{};
#pragma unroll
  for (int i = 0; i < Chunk<T>::SIZE; ++i) {
    if (i >= size) continue;
    if constexpr (sizeof(T) == 4)
      chunk.words[i] = __float_as_uint(from[i]);
    else
      chunk.words[i / 2] |= uint32_t(from[i].bits) << 16 * (i % 2);
  }
  return chunk;
}

template <class T> STGT_DEVICE void store_one(T* to, float x) {
  if constexpr (sizeof(T) == 4)
    *to = x;
  else
    to->bits = uint16_t(ptx::pack<T>(x, 0));
}

// ---- Teams ----

struct Team {
  // The number of threads in the team, this thread's number in it, and the number of its first thread in the warp.
  int lanes, lane, base;

  STGT_DEVICE explicit Team(const EdgeParams& p)
      : lanes(p.lanes), lane(threadIdx.x & (p.lanes - 1)), base(threadIdx.x % 32 - lane) {}

  STGT_DEVICE int number_in_block() const { return threadIdx.x / lanes; }
  STGT_DEVICE int own_edge() const { return lane & (STEP - 1); }  // its place in the step
  STGT_DEVICE bool writes() const { return lane < STEP; }         // only one thread writes the values of an edge

  // Returns the value that the threads whose own edge is u hold.
  STGT_DEVICE int of_edge(int x, int u) const { return ptx::shuffle(x, base + u); }
  STGT_DEVICE float of_edge(float x, int u) const {
    return __uint_as_float(uint32_t(ptx::shuffle(int(__float_as_uint(x)), base + u)));
  }

  // part[u] is this thread's part of a sum for edge u. Returns the sum over the team for this thread's own edge.
  STGT_DEVICE float own_sum(const float (&part)[STEP]) const {
    const bool odd = lane & 1, high = lane & 2;
    const float low_edges = (odd ? part[1] : part[0]) + ptx::shuffle_xor(odd ? part[0] : part[1], 1);
    const float high_edges = (odd ? part[3] : part[2]) + ptx::shuffle_xor(odd ? part[2] : part[3], 1);
    float sum = (high ? high_edges : low_edges) + ptx::shuffle_xor(high ? low_edges : high_edges, 2);
    for (int mask = STEP; mask < lanes; mask *= 2) sum += ptx::shuffle_xor(sum, mask);
    return sum;
  }
  // These two functions return the sum and the maximum over the edges of a step. x: the value of the thread's own edge.
  STGT_DEVICE float sum_of_edges(float x) const {
    x += ptx::shuffle_xor(x, 1);
    return x + ptx::shuffle_xor(x, 2);
  }
  STGT_DEVICE float largest_of_edges(float x) const {
    x = fmaxf(x, ptx::shuffle_xor(x, 1));
    return fmaxf(x, ptx::shuffle_xor(x, 2));
  }
  STGT_DEVICE float sum_of_threads(float x) const {
    for (int mask = 1; mask < lanes; mask *= 2) x += ptx::shuffle_xor(x, mask);
    return x;
  }
  // Returns the largest x of all teams of the warp. x: the same in all threads of a team.
  STGT_DEVICE int largest_of_teams(int x) const {
    for (int mask = lanes; mask < 32; mask *= 2) x = max(x, ptx::shuffle(x, threadIdx.x % 32 ^ mask));
    return x;
  }

  // Reads this thread's chunk of one head of a node. If not `present`, there is no such node, and all elements are 0.
  template <class T>
  STGT_DEVICE Chunk<T> load(const EdgeParams& p, const NodeHeads& from, int head, int node, bool present) const {
    const int size = p.D - lane * Chunk<T>::SIZE;
    if (!present || size <= 0) return {};
    const char* const at = place(from, head) + int64_t(node) * from.n;
    return p.whole ? load_whole<T>(at) : load_part<T>(at, size);
  }
  // Reads this thread's chunk of one head of the node at the other end of each edge of a step. place: where the chunk
  // is in node 0. node: the node of this thread's own edge. count: how many edges are left from this step on. The
  // chunks of edges from `count` on are 0.
  template <class T>
  STGT_DEVICE void gather(Chunk<T> (&x)[STEP], const EdgeParams& p, const char* place, int stride, int node,
                          int count) const {
    const int size = p.D - lane * Chunk<T>::SIZE, inside = size > 0 ? count : 0;
    const char* at[STEP];
#pragma unroll
    for (int u = 0; u < STEP; ++u) at[u] = place + int64_t(of_edge(node, u)) * stride;
    if (p.whole) {
#pragma unroll
      for (int u = 0; u < STEP; ++u) x[u] = u < inside ? load_whole<T>(at[u]) : Chunk<T>{};
    } else {
#pragma unroll
      for (int u = 0; u < STEP; ++u) x[u] = u < inside ? load_part<T>(at[u], size) : Chunk<T>{};
    }
  }
  // Returns where this thread's chunk of one head begins in node 0.
  STGT_DEVICE const char* place(const NodeHeads& from, int head) const {
    return static_cast<const char*>(from.data) + head * from.h + lane * 16;
  }

  // Writes this thread's chunk of one head of a contiguous (N, H, D) tensor. head: where the head begins.
  template <class T> STGT_DEVICE void store(const EdgeParams& p, T* head, const float (&x)[Chunk<T>::SIZE]) const {
    const int first = lane * Chunk<T>::SIZE;
    if (first >= p.D) return;
    if (p.whole) {
      uint32_t words[4];
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        if constexpr (sizeof(T) == 4)
          words[word] = __float_as_uint(x[word]);
        else
          words[word] = ptx::pack<T>(x[2 * word], x[2 * word + 1]);
      }
      *reinterpret_cast<uint4*>(head + first) = {words[0], words[1], words[2], words[3]};
      return;
    }
    store_each(p, head, x);
  }
  // Writes the elements of this thread's chunk of a head one by one.
  template <class T, int SIZE> STGT_DEVICE void store_each(const EdgeParams& p, T* head, const float (&x)[SIZE]) const {
    const int first = lane * SIZE;
#pragma unroll
    for (int i = 0; i < SIZE; ++i)
      if (first + i < p.D) store_one(head + first + i, x[i]);
  }
};

template <int SIZE> STGT_DEVICE float product(const float (&a)[SIZE], const float (&b)[SIZE]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < SIZE; ++i) sum = fmaf(a[i], b[i], sum);
  return sum;
}
template <int SIZE> STGT_DEVICE void add(float (&sum)[SIZE], float factor, const float (&x)[SIZE]) {
#pragma unroll
  for (int i = 0; i < SIZE; ++i) sum[i] = fmaf(factor, x[i], sum[i]);
}

// ---- One edge and head ----

// Returns x = score * edge_scale, clamped to [-clamp, clamp]. NaN stays NaN.
STGT_DEVICE float clamped(const EdgeParams& p, float x) { return x > p.clamp ? p.clamp : x < -p.clamp ? -p.clamp : x; }

// The factor (edge_scale) and the bias (edge_bias) of one edge in one head.
struct Terms { float factor, bias; };
STGT_DEVICE Terms terms_of(const EdgeParams& p, int edge, int head) {
  return {p.edge_scale.at(edge, head, p.H, 1), p.edge_bias.at(edge, head, p.H, 0)};
}

STGT_DEVICE float logit(const EdgeParams& p, float score, Terms terms) {
  return clamped(p, score * terms.factor) + terms.bias;
}

// Returns exp(z - top). A maximum `top` of -inf counts as 0, since -inf - -inf would be NaN.
STGT_DEVICE float exponential(float z, float top) { return ptx::exp2((z - (top == -INFINITY ? 0 : top)) * LOG2E); }

// Returns whether dropout keeps an edge in a head. The mask is that of stgt_kernels/ops/edge_attention/dropout.py,
// whose docstring defines it.
STGT_DEVICE bool is_kept(const EdgeParams& p, uint64_t seed, int edge, int head) {
  const uint4 drawn = philox(seed, head / 8, edge, 0, 0);
  const int lane = head % 8;
  const uint32_t low = lane < 2 ? drawn.x : drawn.y, high = lane < 6 ? drawn.z : drawn.w;
  return ((lane < 4 ? low : high) >> 16 * (lane % 2) & 0xffff) >= p.drop_threshold;
}

}  // namespace stgt::edges
