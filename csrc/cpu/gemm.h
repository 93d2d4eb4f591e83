// The matrix product of all CPU kernels: C (M, N) [+]= A (M, K) * B (K, N) on blocks that lie in the cache.
//
// A is read element by element with any two strides, so a transposed operand costs nothing. B and C are row-major, with
// N padded to whole vectors. The elements E of A and B have C's type, or they are pairs of bfloat16 along K, and then K
// counts pairs.
#pragma once
#include "simd.h"

namespace stgt::STGT_ISA {

// Accumulators that fit the register file beside one row of B and one element of A.
inline constexpr int ACCUMULATORS = STGT_VECTOR_BYTES == 64 ? 24 : 12;

template <int M, int NV, class E, class T>
STGT_INLINE void gemm_registers(int64_t K, const E* A, int64_t a_row, int64_t a_col, const E* B, int64_t b_row, T* C,
                                int64_t c_row, bool accumulate) {
  vec<T> c[M][NV];
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) c[m][n] = vec<T>{};
  for (int64_t k = 0; k < K; ++k) {
    vec<E> b[NV];
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) b[n] = load(B + k * b_row + n * lanes<E>);
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m) {
      const vec<E> a = broadcast(A[m * a_row + k * a_col]);
#pragma GCC unroll 8
      for (int n = 0; n < NV; ++n) c[m][n] = multiply_add(c[m][n], a, b[n]);
    }
  }
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) {
      T* at =
          C + m * c_row + n * lanes<T>;  // C is added last, since a running sum over all blocks would round more often
      store(at, accumulate ? load(at) + c[m][n] : c[m][n]);
    }
}

template <int NV, int M, class E, class T>
inline void gemm_rows(int64_t rows, int64_t K, const E* A, int64_t a_row, int64_t a_col, const E* B, int64_t b_row,
                      T* C, int64_t c_row, bool accumulate) {
  for (; rows >= M; rows -= M, A += M * a_row, C += M * c_row)
    gemm_registers<M, NV>(K, A, a_row, a_col, B, b_row, C, c_row, accumulate);
  if constexpr (M > 1)
    if (rows > 0) gemm_rows<NV, (M + 1) / 2>(rows, K, A, a_row, a_col, B, b_row, C, c_row, accumulate);
}

// columns: a multiple of lanes<T> that b_row and c_row have room for.
template <class E, class T>
inline void gemm(int64_t rows, int64_t columns, int64_t K, const E* A, int64_t a_row, int64_t a_col, const E* B,
                 int64_t b_row, T* C, int64_t c_row, bool accumulate) {
  int64_t left = columns / lanes<T>;
  const auto block = [&]<int NV>() {
    gemm_rows<NV, ACCUMULATORS / NV>(rows, K, A, a_row, a_col, B, b_row, C, c_row, accumulate);
    B += NV * lanes<T>, C += NV * lanes<T>, left -= NV;
  };
  while (left > 6) block.template operator()<4>();
  switch (left) {
    case 6: return block.template operator()<6>();
    case 5: return block.template operator()<5>();
    case 4: return block.template operator()<4>();
    case 3: return block.template operator()<3>();
    case 2: return block.template operator()<2>();
    case 1: return block.template operator()<1>();
  }
}

}  // namespace stgt::STGT_ISA
