// The edges that a team goes through. For most teams, these are all edges of one node, in one head.
//
// A node with more than p.split edges is called long. It would keep one team busy after all others have ended, so its
// edges are cut into pieces. The slots of the sorted edges are cut into segments of p.split slots, and the part of a
// long node that lies in one segment is a piece. A segment has parts of at most two long nodes, since a long node is
// longer than a segment: the node of its first slot and the node of its last slot. Piece 2 s is the part of the node of
// the first slot of segment s, if that node is long. Piece 2 s + 1 is the part of the node of its last slot, if that
// node is long and another one. The numbers of pieces therefore follow from E, and a launch does not wait for the GPU.
#pragma once
#include "common.cuh"

namespace stgt::edges {

// Returns the node that a slot belongs to.
STGT_DEVICE int node_of(const SortedEdges& edges, int N, int slot) {
  int low = 0, high = N - 1;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (edges.ptr[middle + 1] > slot)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

STGT_DEVICE bool is_long(const EdgeParams& p, const SortedEdges& edges, int node) {
  return edges.ptr[node + 1] - edges.ptr[node] > p.split;
}

// Returns the sums of all pieces, (pieces, H, D). In the forward pass they are for out (which = 0), and in the backward
// pass for dq (which = 0), dk (1) or dv (2).
STGT_DEVICE float* piece_sums(const EdgeParams& p, int which = 0) {
  const int64_t pieces = 2 * ((int64_t(p.E) + p.split - 1) / p.split);
  return p.piece_sums + which * pieces * p.H * p.D;
}

// The pieces of a long node, in the order of its slots.
struct NodePieces {
  int segment, first, count;  // the segment of the first piece, the number of that piece, and how many pieces there are

  STGT_DEVICE NodePieces(const EdgeParams& p, const SortedEdges& edges, int node) {
    const int begin = edges.ptr[node], last = edges.ptr[node + 1] - 1;
    segment = begin / p.split;
    first = 2 * segment + (begin % p.split != 0);
    count = last / p.split - segment + 1;
  }
  STGT_DEVICE int operator[](int k) const { return k == 0 ? first : 2 * (segment + k); }
};

// The edges of a team: the slots `begin` to `end` - 1 of one node, in one head.
struct Span {
  int node;   // -1 if the team has nothing to do
  int piece;  // -1 if the team has all edges of the node
  int head, begin, end;

  STGT_DEVICE Span(const EdgeParams& p, const SortedEdges& edges, const Team& team) : node(-1), piece(-1) {
    const unsigned teams = THREADS / p.lanes, piece_blocks = p.piece_blocks;
    const bool of_pieces = blockIdx.x < piece_blocks;
    const unsigned item = (of_pieces ? blockIdx.x : blockIdx.x - piece_blocks) * teams + team.number_in_block();
    const unsigned owner = item / unsigned(p.H);
    head = int(item % unsigned(p.H)), begin = end = 0;
    if (of_pieces) {
      const int64_t from = int64_t(owner / 2) * p.split;
      if (from >= p.E) return;
      const int first = int(from), last = p.E - first < p.split ? p.E - 1 : first + p.split - 1;
      const int found = node_of(edges, p.N, owner % 2 ? last : first);
      if (!is_long(p, edges, found) || (owner % 2 && edges.ptr[found] <= first)) return;
      node = found, piece = int(owner);
      begin = max(edges.ptr[node], first), end = min(edges.ptr[node + 1], last + 1);
    } else if (owner < unsigned(p.N) && !is_long(p, edges, int(owner))) {
      node = int(owner);
      begin = edges.ptr[node], end = edges.ptr[node + 1];
    }
  }

  STGT_DEVICE int count() const { return end - begin; }
  STGT_DEVICE bool there() const { return node >= 0; }
  STGT_DEVICE int64_t node_head(const EdgeParams& p) const { return int64_t(node) * p.H + head; }
  STGT_DEVICE int64_t piece_head(const EdgeParams& p) const { return int64_t(piece) * p.H + head; }
};

// A thread's own edge of a step: whether there is one, its number, and the node at its other end.
struct Slot {
  bool inside;
  int edge, node;

  STGT_DEVICE Slot(const SortedEdges& edges, const Span& span, int place) {
    inside = place < span.count();
    edge = inside ? edges.edge[span.begin + place] : 0;
    node = inside ? edges.other[span.begin + place] : 0;
  }
};

// Calls step(slot, count) for each step of four edges of a span. slot: the thread's own edge of the step. count: the
// number of edges from this step on, which may be 0 or less. All threads of a warp make the same number of calls. The
// indices of the next step are read before step() is called for this one.
template <class Step>
STGT_DEVICE void for_each_step(const SortedEdges& edges, const Span& span, const Team& team, Step step) {
  const int most = team.largest_of_teams(span.count());
  Slot next(edges, span, team.own_edge());
#pragma unroll 1
  for (int first = 0; first < most; first += STEP) {
    const Slot slot = next;
    next = Slot(edges, span, first + STEP + team.own_edge());
    step(slot, span.count() - first);
  }
}

}  // namespace stgt::edges
