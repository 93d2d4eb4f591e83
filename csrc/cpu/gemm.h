// The matrix product of all CPU kernels: C (M, N) [+]= A (M, K) * B (K, N) on blocks that lie in the cache.
//
// A is read element by element with any two strides, so a transposed operand costs nothing. B and C are row-major, with
// N padded to whole vectors. The elements E of A and B have C's type, or they are pairs of bfloat16 along K, and then K
// counts pairs.
//
// Where an operand lies outside the cache, gemm prefetches what is needed next while it multiplies. A processor does
// this by itself only for consecutive lines.
#pragma once
#include "simd.h"

namespace stgt::STGT_ISA {

// Accumulators that fit the register file beside one row of B and one element of A.
inline constexpr int ACCUMULATORS = STGT_VECTOR_BYTES == 64 ? 24 : 12;

// For gemm if A, B and C lie in the cache: it prefetches nothing.
struct Nothing {
  static constexpr bool result = false;  // whether C is prefetched
  STGT_INLINE void fetch() {}
};

// For gemm otherwise: it prefetches C, and rows that the next products read. They are those of a matrix (rows, columns)
// whose rows are `stride` floats apart. Each call fetches LINES cache lines of one row. Lines behind the end of a row
// do no harm.
template <int LINES> struct NextRows {
  static constexpr bool result = true;
  static constexpr int64_t LINE = 16;  // floats
  const float* row = nullptr;
  int64_t rows = 0, columns = 0, stride = 0, column = 0;

  STGT_INLINE void fetch() {
    if (rows == 0) return;
#pragma GCC unroll 8
    for (int i = 0; i < LINES; ++i) __builtin_prefetch(row + column + i * LINE);
    column += LINES * LINE;
    if (column >= columns) column = 0, row += stride, --rows;
  }
};

// The multiply-adds between two calls of fetch. More lines at once would wait for each other.
inline constexpr int64_t WORK_PER_FETCH = 6144;

template <int M, int NV, class E, class T, class Ahead>
STGT_INLINE void gemm_registers(int64_t K, const E* A, int64_t a_row, int64_t a_col, const E* B, int64_t b_row, T* C,
                                int64_t c_row, bool accumulate, Ahead& ahead) {
  vec<T> c[M][NV];
  if constexpr (Ahead::result)
#pragma GCC unroll 24
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int n = 0; n < NV; ++n) __builtin_prefetch(C + m * c_row + n * lanes<T>, 1);
#pragma GCC unroll 24
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < NV; ++n) c[m][n] = vec<T>{};
  const int64_t steps = Ahead::result ? WORK_PER_FETCH / (ACCUMULATORS * lanes<T>) : K;
  for (int64_t k0 = 0; k0 < K; k0 += steps) {
    ahead.fetch();
    for (int64_t k = k0; k < least(K, k0 + steps); ++k) {
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

template <int NV, int M, class E, class T, class Ahead>
inline void gemm_rows(int64_t rows, int64_t K, const E* A, int64_t a_row, int64_t a_col, const E* B, int64_t b_row,
                      T* C, int64_t c_row, bool accumulate, Ahead& ahead) {
  for (; rows >= M; rows -= M, A += M * a_row, C += M * c_row)
    gemm_registers<M, NV>(K, A, a_row, a_col, B, b_row, C, c_row, accumulate, ahead);
  if constexpr (M > 1)
    if (rows > 0) gemm_rows<NV, (M + 1) / 2>(rows, K, A, a_row, a_col, B, b_row, C, c_row, accumulate, ahead);
}

// C (rows, columns) = A (rows, K) * B (K, columns), and with `accumulate` this is added to C. columns: a multiple of
// lanes<T> that the rows of B and C have room for; a_row, a_col, b_row, c_row: strides in elements; ahead: what is
// fetched meanwhile.
template <class E, class T, class Ahead>
inline void gemm(int64_t rows, int64_t columns, int64_t K, const E* A, int64_t a_row, int64_t a_col, const E* B,
                 int64_t b_row, T* C, int64_t c_row, bool accumulate, Ahead& ahead) {
  int64_t left = columns / lanes<T>;
  const auto block = [&]<int NV>() {
    gemm_rows<NV, ACCUMULATORS / NV>(rows, K, A, a_row, a_col, B, b_row, C, c_row, accumulate, ahead);
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

template <class E, class T>
inline void gemm(int64_t rows, int64_t columns, int64_t K, const E* A, int64_t a_row, int64_t a_col, const E* B,
                 int64_t b_row, T* C, int64_t c_row, bool accumulate) {
  Nothing ahead;
  gemm(rows, columns, K, A, a_row, a_col, B, b_row, C, c_row, accumulate, ahead);
}

#ifdef STGT_MATRIX_UNIT
inline constexpr int64_t ROWS_AT_A_TIME = 16, PAIRS_AT_A_TIME = 16;

// Holds Intel's matrix unit (AMX) for the length of a block: eight tiles of 16 rows of 64 bytes.
struct MatrixUnit {
  MatrixUnit() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; ++tile) shape.row_bytes[tile] = 64, shape.rows[tile] = 16;
    asm volatile("" ::"r"(&shape) : "memory");  // the intrinsic tells the compiler about 8 of the 64 bytes only
    _tile_loadconfig(&shape);
  }
  ~MatrixUnit() { _tile_release(); }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;
};

// The product of pairs on the matrix unit. A is row-major, and K counts pairs, a multiple of PAIRS_AT_A_TIME. Rows of A
// and C are read and written up to a multiple of ROWS_AT_A_TIME; those behind the last row hold nothing of use.
inline void gemm(int64_t rows, int64_t columns, int64_t K, const bfloat16x2* A, int64_t a_row, int64_t /*a_col*/,
                 const bfloat16x2* B, int64_t b_row, float* C, int64_t c_row, bool accumulate) {
  alignas(64) float product[32 * 32];
  for (int64_t n = 0; n < columns; n += 32)
    for (int64_t m = 0; m < rows; m += 32) {
      const bool below = rows - m > 16, right = columns - n > 16;
      float* const c = C + m * c_row + n;
      float* const to = accumulate ? product : c;
      const int64_t to_row = accumulate ? 32 : c_row;
      asm volatile("" ::: "memory");  // the intrinsics do not tell the compiler that they read memory
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t k = 0; k < K; k += PAIRS_AT_A_TIME) {
        const bfloat16x2 *const a = A + m * a_row + k, *const b = B + k * b_row + n;
        _tile_loadd(4, a, a_row * 4);
        _tile_loadd(6, b, b_row * 4);
        _tile_dpbf16ps(0, 4, 6);
        if (right) {
          _tile_loadd(7, b + 16, b_row * 4);
          _tile_dpbf16ps(1, 4, 7);
        }
        if (below) {
          _tile_loadd(5, a + 16 * a_row, a_row * 4);
          _tile_dpbf16ps(2, 5, 6);
          if (right) _tile_dpbf16ps(3, 5, 7);
        }
      }
      _tile_stored(0, to, to_row * 4);
      if (right) _tile_stored(1, to + 16, to_row * 4);
      if (below) _tile_stored(2, to + 16 * to_row, to_row * 4);
      if (below && right) _tile_stored(3, to + 16 * to_row + 16, to_row * 4);
      asm volatile("" ::: "memory");
      if (!accumulate) continue;
      for (int64_t i = 0; i < (below ? 32 : 16); ++i)
        for (int64_t j = 0; j < (right ? 32 : 16); j += lanes<float>) {
          float* const at = c + i * c_row + j;  // C is added last, as by the other instruction sets
          store(at, load(at) + load(product + i * 32 + j));
        }
    }
}
#else
inline constexpr int64_t ROWS_AT_A_TIME = 1, PAIRS_AT_A_TIME = 1;
struct MatrixUnit {
  MatrixUnit() {}  // so that a variable of this type does not count as unused
};
#endif

}  // namespace stgt::STGT_ISA
