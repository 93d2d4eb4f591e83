// Copies of operands as the kernels read them: widened to the accumulator type, padded, and finite.
#pragma once
#include "args.h"
#include "gemm.h"

namespace stgt::STGT_ISA {

// Hands out aligned pieces of a workspace; from a null base it only measures.
struct Arena {
  char* base;
  int64_t used = 0;
  template <class T> T* take(int64_t n) {
    T* p = base ? reinterpret_cast<T*>(base + used) : nullptr;
    used += round_up(n * int64_t(sizeof(T)), 64);
    return p;
  }
};

template <class A> constexpr bool finite(A x) { return x - x == 0; }

// dst (rows, ld) = scale * src (rows, D), columns D..ld zero. An element that is not finite becomes 0, for 0 * NaN
// would reach rows that have no edge to it; returns whether there was one (add_nonfinite then puts it back).
template <class A, class S>
inline bool pack_rows(const S* src, int64_t stride, int64_t rows, int64_t D, A scale, A* dst, int64_t ld) {
  bool clean = true;
  for (int64_t r = 0; r < rows; ++r) {
    const S* s = src + r * stride;
    A* d = dst + r * ld;
    A check = 0;
    for (int64_t c = 0; c < D; ++c) d[c] = widen(s[c]) * scale;
    for (int64_t c = 0; c < D; ++c) check += d[c] - d[c];
    for (int64_t c = D; c < ld; ++c) d[c] = 0;
    if (check == 0) continue;
    clean = false;
    for (int64_t c = 0; c < D; ++c)
      if (!finite(d[c])) d[c] = 0;
  }
  return !clean;
}

// dst (D, TILE) = transpose of src (rows <= TILE, D), columns rows..TILE zero.
template <class A, class S>
inline void pack_transposed(const S* src, int64_t stride, int64_t rows, int64_t D, A* dst) {
  constexpr int64_t step = 8;  // rows at a time: their writes share a cache line
  for (int64_t r = 0; r < TILE; r += step)
    for (int64_t c = 0; c < D; ++c)
      for (int64_t i = r; i < r + step; ++i) dst[c * TILE + i] = i < rows ? A(widen(src[i * stride + c])) : A(0);
}

// C (M, D) += A (M, K) * B (K, D) over edges, for those elements of B that pack_rows replaced by 0.
template <class A, class S, class WT>
inline void add_nonfinite(const S* B, int64_t b_row, int64_t M, int64_t K, int64_t D, const WT* weight, int64_t w_row,
                          int64_t w_col, const A* a, int64_t a_row, int64_t a_col, A* C, int64_t c_row) {
  for (int64_t k = 0; k < K; ++k)
    for (int64_t d = 0; d < D; ++d) {
      const A b = widen(B[k * b_row + d]);
      if (finite(b)) continue;
      for (int64_t m = 0; m < M; ++m)
        if (weight[m * w_row + k * w_col] != 0) C[m * c_row + d] += a[m * a_row + k * a_col] * b;
    }
}

// A tile of edge weights with TILE readable columns; the last tile of a row is copied, its padding holding no edge.
template <class WT> struct WeightTile {
  const WT* data;
  int64_t row;
};
template <class WT>
inline WeightTile<WT> weight_tile(const WT* weight, int64_t stride, int64_t rows, int64_t columns, WT* padded) {
  if (columns == TILE) return {weight, stride};
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < TILE; ++c) padded[r * TILE + c] = c < columns ? weight[r * stride + c] : WT(0);
  return {padded, TILE};
}

// Columns of a tile rounded up to whole vectors.
template <class A> constexpr int64_t vector_columns(int64_t columns) { return round_up(columns, lanes<A>); }

// Calls f with the storage type S, the accumulator type A and the type WT of the weights.
template <class F> inline void by_dtype(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::f32: return f.template operator()<float, float, float>();
    case Dtype::f64: return f.template operator()<double, double, double>();
    case Dtype::bf16: return f.template operator()<bfloat16, float, float16>();
    case Dtype::f16: return f.template operator()<float16, float, float16>();
  }
}

}  // namespace stgt::STGT_ISA
