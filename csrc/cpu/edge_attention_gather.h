// The parts of both passes of edge attention: products of one node's heads with those of its neighbours, and sums of
// the neighbours' heads. Heads are read in place.
#pragma once
#include "args.h"
#include "blocks.h"

namespace stgt::STGT_ISA {

// One head's D elements as vectors. If D is not a multiple of a vector's elements, the last vector holds the head's
// last elements and overlaps the vector before it, and its lanes that overlap are zero. A head that is shorter than one
// vector is filled up with zeros. DIM: D, if the compiler knows it and it is a multiple of a vector's elements;
// otherwise 0.
template <class S, class A, int DIM = 0> struct HeadVectors {
  static_assert(DIM % lanes<A> == 0);
  int64_t D;
  typename Vector<A>::integer live;  // the lanes of the last vector that no other vector holds

  explicit HeadVectors(int64_t D) : D(D) {
    for (int l = 0; l < lanes<A>; ++l) live[l] = l >= lanes<A> - D % lanes<A> ? -1 : 0;
  }

  // The number of full vectors, and of all vectors.
  STGT_INLINE int64_t whole() const { return (DIM ? DIM : D) / lanes<A>; }
  STGT_INLINE int64_t count() const { return ((DIM ? DIM : D) + lanes<A> - 1) / lanes<A>; }

  STGT_INLINE vec<A> last(const S* head) const {
    if (whole()) {
      const vec<A> v = load_wide<A>(head + D - lanes<A>);
      return live ? v : vec<A>{};
    }
    S copy[lanes<A>] = {};
    for (int64_t d = 0; d < D; ++d) copy[d] = head[d];
    return load_wide<A>(copy);
  }
  STGT_INLINE void store(S* head, int64_t i, vec<A> v) const {
    const bool full = i < whole();
    const int64_t first = full || !whole() ? i * lanes<A> : D - lanes<A>;
    const int64_t skip = full || !whole() ? 0 : lanes<A> - D % lanes<A>;
    const int64_t end = least(D - first, lanes<A>);
    if constexpr (sizeof(S) == sizeof(A))
      if (full) return stgt::STGT_ISA::store<A>(head + first, v);
    A wide[lanes<A>];
    stgt::STGT_ISA::store<A>(wide, v);
    for (int64_t l = skip; l < end; ++l) head[first + l] = narrow<S>(wide[l]);
  }
};

// lane l of the result is the sum of all lanes of v[l % G]; v is overwritten. G: a power of two up to lanes<T>.
template <class T, int G, int S = lanes<T> / 2> STGT_INLINE vec<T> sums_of(vec<T>* v) {
  typename Vector<T>::integer own, other;
  if constexpr (S >= G) {  // fewer vectors than lanes: fold them
    for (int l = 0; l < lanes<T>; ++l) other[l] = l ^ S;
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) v[g] = v[g] + __builtin_shuffle(v[g], other);
  } else if constexpr (S >= 1) {  // lanes with bit S set belong to vector g + S from now on, the others to vector g
    for (int l = 0; l < lanes<T>; ++l) {
      own[l] = l & S ? lanes<T> + l : l;
      other[l] = l & S ? lanes<T> + (l ^ S) : l ^ S;
    }
#pragma GCC unroll 16
    for (int g = 0; g < S; ++g)
      v[g] = __builtin_shuffle(v[g], v[g + S], own) + __builtin_shuffle(v[g], v[g + S], other);
  }
  if constexpr (S > 1)
    return sums_of<T, G, S / 2>(v);
  else
    return v[0];
}

// dots[s * width + h] = left[h] . right(node[s], h) for s < count. width: H padded to whole vectors, whose padding is
// written, too. left: (H, vectors.count()). G: lanes<A>, or a smaller power of two that is at least H. If G were below
// H, the second group of heads would be written beyond the padding, and so beyond `dots` for the last s.
template <int G, class S, class A, int DIM>
inline void neighbour_dots(const HeadVectors<S, A, DIM>& vectors, int64_t H, const vec<A>* left, const NodeHeads& right,
                           const int32_t* node, int64_t count, A* dots, int64_t width) {
  for (int64_t s = 0; s < count; ++s)
    for (int64_t h0 = 0; h0 < H; h0 += G) {
      vec<A> partial[G];
#pragma GCC unroll 16
      for (int g = 0; g < G; ++g) {
        partial[g] = vec<A>{};
        if (h0 + g >= H) continue;
        const S* head = right.at<S>(node[s], h0 + g);
        const vec<A>* own = left + (h0 + g) * vectors.count();
        for (int64_t i = 0; i < vectors.whole(); ++i) partial[g] += own[i] * load_wide<A>(head + i * lanes<A>);
        if (vectors.whole() < vectors.count()) partial[g] += own[vectors.whole()] * vectors.last(head);
      }
      store(dots + s * width + h0, sums_of<A, G>(partial));
    }
}

template <class S, class A, int DIM>
inline void neighbour_dots(const HeadVectors<S, A, DIM>& vectors, int64_t H, const vec<A>* left, const NodeHeads& right,
                           const int32_t* node, int64_t count, A* dots, int64_t width) {
  constexpr int most = lanes<A>;
  if (H > most / 2) return neighbour_dots<most>(vectors, H, left, right, node, count, dots, width);
  if constexpr (most >= 4)
    if (H > most / 4) return neighbour_dots<most / 2>(vectors, H, left, right, node, count, dots, width);
  if constexpr (most >= 8)
    if (H > most / 8) return neighbour_dots<most / 4>(vectors, H, left, right, node, count, dots, width);
  if constexpr (most >= 16)
    if (H > most / 16) return neighbour_dots<most / 8>(vectors, H, left, right, node, count, dots, width);
  neighbour_dots<1>(vectors, H, left, right, node, count, dots, width);
}

// Where the heads of some neighbours lie, and the weights of each one's heads.
template <class S, class A> struct Neighbours {
  static constexpr int64_t MOST = 64;  // neighbours at a time
  int64_t count, head_stride;
  const S* heads[MOST];
  const A* weights[MOST];
};

// Adds the neighbours' vectors i0 to i0 + NV - 1 of the heads h to h + HEADS - 1 to sum. TAIL: the last of these
// vectors is a head's last one, and not full.
template <int HEADS, int NV, bool TAIL, class S, class A, int DIM>
STGT_INLINE void add_vectors(const HeadVectors<S, A, DIM>& vectors, int64_t h, int64_t i0, const Neighbours<S, A>& from,
                             vec<A>* sum) {
  vec<A> c[HEADS][NV];
#pragma GCC unroll 2
  for (int g = 0; g < HEADS; ++g)
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) c[g][n] = sum[(h + g) * vectors.count() + i0 + n];
  for (int64_t s = 0; s < from.count; ++s) {
    const S* head = from.heads[s] + h * from.head_stride;
    const A* weight = from.weights[s] + h;
#pragma GCC unroll 2
    for (int g = 0; g < HEADS; ++g, head += from.head_stride) {
      const vec<A> w = broadcast(weight[g]);
#pragma GCC unroll 4
      for (int n = 0; n < NV; ++n)
        c[g][n] = multiply_add(c[g][n], w,
                               TAIL && n == NV - 1 ? vectors.last(head) : load_wide<A>(head + (i0 + n) * lanes<A>));
    }
  }
#pragma GCC unroll 2
  for (int g = 0; g < HEADS; ++g)
#pragma GCC unroll 4
    for (int n = 0; n < NV; ++n) sum[(h + g) * vectors.count() + i0 + n] = c[g][n];
}

template <int NV, class S, class A, int DIM>
inline void add_heads(const HeadVectors<S, A, DIM>& vectors, int64_t H, int64_t i0, const Neighbours<S, A>& from,
                      vec<A>* sum) {
  int64_t h = 0;
  if (i0 + NV > vectors.whole()) {
    for (; h < H; ++h) add_vectors<1, NV, true>(vectors, h, i0, from, sum);
  } else {
    for (; h + 2 <= H; h += 2) add_vectors<2, NV, false>(vectors, h, i0, from, sum);
    for (; h < H; ++h) add_vectors<1, NV, false>(vectors, h, i0, from, sum);
  }
}

// The weights of a node's neighbours: that of slot s and head h is data[row[s] * stride + h], or data[s * stride + h].
template <class A> struct SlotWeights {
  const A* data;
  const int32_t* row;
  int64_t stride;
};

// sum[h] += sum over s < count of the weight of (s, h) times right(node[s], h), in this order. sum: (H,
// vectors.count()).
template <class S, class A, int DIM>
inline void add_neighbours(const HeadVectors<S, A, DIM>& vectors, int64_t H, SlotWeights<A> weights,
                           const NodeHeads& right, const int32_t* node, int64_t count, vec<A>* sum) {
  Neighbours<S, A> from;
  from.head_stride = right.h;
  for (int64_t first = 0; first < count; first += from.MOST) {
    from.count = least(from.MOST, count - first);
    for (int64_t s = 0; s < from.count; ++s) {
      from.heads[s] = right.at<S>(node[first + s], 0);
      from.weights[s] = weights.data + (weights.row ? weights.row[first + s] : first + s) * weights.stride;
    }
    for (int64_t i = 0; i < vectors.count(); i += 4) switch (least(vectors.count() - i, 4)) {
        case 4: add_heads<4>(vectors, H, i, from, sum); break;
        case 3: add_heads<3>(vectors, H, i, from, sum); break;
        case 2: add_heads<2>(vectors, H, i, from, sum); break;
        case 1: add_heads<1>(vectors, H, i, from, sum); break;
      }
  }
}

template <class S, class A, int DIM>
inline void load_node(const HeadVectors<S, A, DIM>& vectors, int64_t H, const NodeHeads& x, int64_t node,
                      vec<A>* left) {
  for (int64_t h = 0; h < H; ++h) {
    const S* head = x.at<S>(node, h);
    for (int64_t i = 0; i < vectors.whole(); ++i) *left++ = load_wide<A>(head + i * lanes<A>);
    if (vectors.whole() < vectors.count()) *left++ = vectors.last(head);
  }
}

// head_scale: one factor for each head, or null.
template <class S, class A, int DIM>
inline void store_node(const HeadVectors<S, A, DIM>& vectors, int64_t H, const NodeHeads& x, int64_t node,
                       const vec<A>* sum, const A* head_scale) {
  for (int64_t h = 0; h < H; ++h)
    for (int64_t i = 0; i < vectors.count(); ++i)
      vectors.store(x.at<S>(node, h), i, *sum++ * (head_scale ? head_scale[h] : A(1)));
}

}  // namespace stgt::STGT_ISA
