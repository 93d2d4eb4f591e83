// Copies of operands as the kernels read them: widened to the accumulator type, padded, and finite.
#pragma once
#include "args.h"
#include "gemm.h"

namespace stgt::STGT_ISA {

// Hands out aligned pieces of a workspace. With a null base it only measures how many bytes are needed.
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

// The type of the elements of a product's operands, for inputs that are stored as S and summed up as A: A itself, or a
// pair of bfloat16 values where the machine multiplies pairs. `reach` is the number of values along K in one element.
template <class S, class A> struct Operand { typedef A type; };
#ifdef STGT_BF16_PAIRS
template <> struct Operand<bfloat16, float> { typedef bfloat16x2 type; };
#endif
template <class E> inline constexpr int64_t reach = 1;
template <> inline constexpr int64_t reach<bfloat16x2> = 2;
// How many elements along K hold K values. Where the machine multiplies blocks, this is rounded up to whole blocks, and
// the values behind the last one are packed as 0.
template <class E> constexpr int64_t steps(int64_t K) {
  return round_up((K + reach<E> - 1) / reach<E>, reach<E> == 1 ? 1 : PAIRS_AT_A_TIME);
}

// Packs a left operand that is contracted along D: dst (rows, steps(D)).
template <class E, class S>
inline void pack_left(const S* src, int64_t stride, int64_t rows, int64_t D, E* dst) {
  for (int64_t r = 0; r < rows; ++r, src += stride, dst += steps<E>(D)) {
    if constexpr (reach<E> == 1) {
      for (int64_t c = 0; c < D; ++c) dst[c] = E(widen(src[c]));
    } else {
      for (int64_t k = D / 2; k < steps<E>(D); ++k) dst[k] = {};
      memcpy(dst, src, D * sizeof(S));
    }
  }
}

// Loads lanes<E> consecutive steps of one row.
template <class E, class S> STGT_INLINE vec<E> load_steps(const S* row, int64_t k) {
  if constexpr (reach<E> == 1)
    return load_wide<E>(row + k);
  else
    return load((const E*)row + k);
}

template <class E, class S>
inline void pack_steps(const S* src, int64_t stride, int64_t rows, int64_t D, E* dst, int64_t first) {
  for (int64_t k = first; k < steps<E>(D); ++k)
    for (int64_t r = 0; r < rows; ++r) {
      const S* s = src + r * stride + k * reach<E>;
      if constexpr (reach<E> == 1)
        dst[k * TILE + r] = E(widen(*s));
      else
        dst[k * TILE + r] = {2 * k < D ? s[0] : S{}, 2 * k + 1 < D ? s[1] : S{}};
    }
}

// Packs a right operand that is contracted along D: dst (steps(D), TILE), where the columns from `rows` on are zero.
template <class E, class S>
inline void pack_right_transposed(const S* src, int64_t stride, int64_t rows, int64_t D, E* dst) {
  const int64_t K = steps<E>(D), whole = D / reach<E>;
  if (rows < TILE) memset(dst, 0, K * TILE * sizeof(E));
  if (rows >= lanes<E> && whole >= lanes<E>) {
    // This transposes squares of one vector by one vector. The last ones overlap those before them, so that none
    // reaches over the edge.
    for (int64_t r = 0; r < rows; r += lanes<E>)
      for (int64_t k = 0; k < whole; k += lanes<E>) {
        const int64_t r0 = least(r, rows - lanes<E>), k0 = least(k, whole - lanes<E>);
        vec<E> square[lanes<E>];
#pragma GCC unroll 16
        for (int i = 0; i < lanes<E>; ++i) square[i] = load_steps<E>(src + (r0 + i) * stride, k0);
        transpose<E>(square);
#pragma GCC unroll 16
        for (int i = 0; i < lanes<E>; ++i) store(dst + (k0 + i) * TILE + r0, square[i]);
      }
    if (whole < K) pack_steps(src, stride, rows, D, dst, whole);
  } else {
    pack_steps(src, stride, rows, D, dst, 0);
  }
}

// Packs a right operand that is contracted along the rows: dst (steps(rows), ld), where the columns from D on are zero.
// An element that is not finite becomes 0, since 0 * NaN would reach rows that have no edge to it. Returns whether
// there was such an element; add_nonfinite then adds its products.
template <class E, class S>
inline bool pack_right(const S* src, int64_t stride, int64_t rows, int64_t D, E* dst, int64_t ld) {
  for (int64_t r = 0; r < steps<E>(rows) * reach<E>; r += reach<E>)
    for (int64_t c = 0; c < ld; ++c) {
      E& e = dst[r / reach<E> * ld + c];
      const S* s = src + r * stride + c;
      if (c >= D)
        e = {};
      else if constexpr (reach<E> == 1)
        e = E(widen(*s));
      else
        e = {r < rows ? s[0] : S{}, r + 1 < rows ? s[stride] : S{}};
    }
  bool clean = true;
  if constexpr (reach<E> == 1) {
    vec<E> check = {};
    for (int64_t i = 0; i < rows * ld; i += lanes<E>) check += load(dst + i) - load(dst + i);
    clean = horizontal_sum<E>(check) == 0;
    if (!clean)
      for (int64_t i = 0; i < rows * ld; ++i)
        if (!finite(dst[i])) dst[i] = 0;
  } else {
    uint16_t* bits = (uint16_t*)dst;  // a value whose exponent bits are all set is not finite
    uint32_t found = 0;
    for (int64_t i = 0; i < steps<E>(rows) * ld * 2; ++i) found |= (bits[i] & 0x7f80) == 0x7f80;
    clean = !found;
    if (!clean)
      for (int64_t i = 0; i < steps<E>(rows) * ld * 2; ++i)
        if ((bits[i] & 0x7f80) == 0x7f80) bits[i] = 0;
  }
  return !clean;
}

// Packs a block of results (rows, TILE) as the left operand of the next product, which is contracted along its columns.
template <class E, class A> inline const E* as_left(const A* block, int64_t rows, E* buffer) {
  if constexpr (reach<E> == 1) {
    return block;
  } else {
#ifdef STGT_BF16_PAIRS
    for (int64_t i = 0; i < rows * TILE; i += lanes<A>) store_narrow((bfloat16*)buffer + i, load(block + i));
#endif
    return buffer;
  }
}

// Packs a block of results like as_left, but for a product that is contracted along its rows. `transposed` has the
// strides of the result along the columns of the block, and along the steps of its rows.
struct Strides { int64_t column, step; };
template <class E>
inline constexpr Strides transposed =
    PAIRS_AT_A_TIME > 1 && reach<E> > 1 ? Strides{steps<E>(TILE), 1} : Strides{1, TILE};
template <class E, class A> inline const E* as_left_transposed(const A* block, int64_t rows, E* buffer) {
  if constexpr (reach<E> == 1) {
    return block;
  } else {
#ifdef STGT_BF16_PAIRS
    const auto pairs = [&](int64_t step, int64_t c) {
      const auto row = [&](int64_t r) { return r < rows ? load(block + r * TILE + c) : vec<A>{}; };
      return interleave(row(2 * step), row(2 * step + 1));
    };
    for (int64_t c = 0; c < TILE; c += lanes<A>)
      if constexpr (transposed<E>.step == 1) {
        for (int64_t k = 0; k < steps<E>(rows); k += lanes<E>) {
          vec<E> square[lanes<E>];
#pragma GCC unroll 16
          for (int i = 0; i < lanes<E>; ++i) square[i] = pairs(k + i, c);
          transpose<E>(square);
#pragma GCC unroll 16
          for (int i = 0; i < lanes<E>; ++i) store(buffer + (c + i) * transposed<E>.column + k, square[i]);
        }
      } else {
        for (int64_t k = 0; k < steps<E>(rows); ++k) store(buffer + k * TILE + c, pairs(k, c));
      }
#endif
    return buffer;
  }
}

// Copies rows of D numbers to rows of `width` numbers, whose padding is 0.
template <class A>
inline void copy_rows(const A* src, int64_t stride, int64_t rows, int64_t D, A* dst, int64_t width) {
  for (int64_t r = 0; r < rows; ++r, src += stride, dst += width) {
    for (int64_t d = 0; d < D; ++d) dst[d] = src[d];
    for (int64_t d = D; d < width; ++d) dst[d] = 0;
  }
}

// Copies a matrix (rows, columns) to its transpose (columns, width), whose padding is 0.
template <class A>
inline void transposed_copy(const A* src, int64_t stride, int64_t rows, int64_t columns, A* dst, int64_t width) {
  constexpr int L = lanes<A>;
  if (rows < width) memset(dst, 0, columns * width * sizeof(A));
  if (rows < L || columns < L) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) dst[c * width + r] = src[r * stride + c];
    return;
  }
  for (int64_t r = 0; r < rows; r += L)
    for (int64_t c = 0; c < columns; c += L) {
      const int64_t r0 = least(r, rows - L), c0 = least(c, columns - L);  // the last squares overlap those before them
      vec<A> square[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) square[i] = load(src + (r0 + i) * stride + c0);
      transpose<A>(square);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(dst + (c0 + i) * width + r0, square[i]);
    }
}

// The sum of the products of two rows of D numbers.
template <class A, class S> inline A dot(const S* a, const S* b, int64_t D) {
  vec<A> sum{};
  int64_t d = 0;
  for (; d + lanes<A> <= D; d += lanes<A>) sum += load_wide<A>(a + d) * load_wide<A>(b + d);
  A total = horizontal_sum<A>(sum);
  for (; d < D; ++d) total += A(widen(a[d])) * A(widen(b[d]));
  return total;
}

// Writes rows of a block of results, times a scale.
template <class S, class A>
void write_rows(S* dst, int64_t stride, int64_t rows, int64_t D, A scale, const A* src, int64_t columns) {
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t d = 0; d < D; ++d) dst[r * stride + d] = narrow<S>(src[r * columns + d] * scale);
}

// Adds A (M, K) * B (K, D) over edges to C (M, D), for those elements of B that pack_right replaced by 0.
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

// A tile of edge weights with TILE readable columns. The last tile of a row is a copy, whose padding holds no edge.
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

// Rounds the number of columns of a tile up to whole vectors.
template <class A> constexpr int64_t vector_columns(int64_t columns) { return round_up(columns, lanes<A>); }

// Calls f with the storage type S and the accumulator type A.
template <class F> inline void by_dtype(Dtype dtype, F f) {
  switch (dtype) {
    case Dtype::f32: return f.template operator()<float, float>();
    case Dtype::f64: return f.template operator()<double, double>();
    case Dtype::bf16: return f.template operator()<bfloat16, float>();
    case Dtype::f16: return f.template operator()<float16, float>();
  }
}

// Calls f with these two and the type WT of the weights, which is the accumulator's or float16.
template <class Args, class F> inline void by_dtypes(const Args& args, F f) {
  by_dtype(args.dtype, [&]<class S, class A>() {
    if constexpr (sizeof(S) == 2)
      if (args.half_weight) return f.template operator()<S, A, float16>();
    f.template operator()<S, A, A>();
  });
}

}  // namespace stgt::STGT_ISA
