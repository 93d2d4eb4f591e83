// Plain arguments of the CPU kernels of edge attention.
#pragma once
#include <cstdint>

namespace stgt {

enum class Dtype : int;

// A (N, H, D) tensor with a contiguous last dimension.
struct NodeHeads {
  void* data;
  int64_t n, h;  // strides, in elements

  template <class S> S* at(int64_t node, int64_t head) const { return static_cast<S*>(data) + node * n + head * h; }
};

// The edges sorted by one of their ends. A slot is a place in this order. Node i has slots ptr[i] to ptr[i + 1] - 1.
struct SortedEdges {
  const int32_t* ptr;    // (N + 1)
  const int32_t* other;  // (E): the node at the other end
  const int32_t* edge;   // (E): the edge's number
};

// A factor or a bias for each edge and head: row e, or row type[e] if there are types.
struct EdgeValues {
  const void* data;     // (E or types, H) contiguous, of the accumulator's type; null: none
  const uint8_t* type;  // (E); null: a row for each edge

  template <class A> const A* of(int64_t edge, int64_t H) const {
    return static_cast<const A*>(data) + (type ? type[edge] : edge) * H;
  }
};

struct EdgeAttentionArgs {
  Dtype dtype;
  int64_t N, E, H, D;
  double scale, clamp;      // clamp: infinite where there is no limit
  uint32_t drop_threshold;  // of 65536; 0: no dropout
  uint64_t seed;
  SortedEdges rows, columns;  // columns: backward
  EdgeValues edge_scale, edge_bias;
  NodeHeads q, k, v, out;  // out: written forward
  void* scores;            // (E, H) contiguous, accumulator: written forward, read backward
  void* softmax;           // (N, H, 2) contiguous, accumulator: each row's maximum, and 1 / sum (0 for no edges)
  NodeHeads dout;          // backward
  const void* dscores;     // (E, H) contiguous, accumulator; null: zero
  NodeHeads dq, dk, dv;    // written
  void *dproduct, *kept;   // (E, H): gradient of q . k, and probability after dropout; written by rows for columns
  void *dscale, *dbias;    // (E, H), written; null: not needed

  // A task is a run of nodes with about this many edges and nodes together.
  static constexpr int64_t TASK = 256;
  double product() const { return double(E) * double(H * D); }  // multiply-adds
  int64_t tasks() const { return (E + N + TASK - 1) / TASK; }
  // Returns the first node of a task, or N for the task number tasks(), which is one past the last.
  int64_t first_node(const SortedEdges& edges, int64_t task) const {
    int64_t low = 0, high = N;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (edges.ptr[middle] + middle < task * TASK)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

}  // namespace stgt
