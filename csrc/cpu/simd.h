// Vectors as an extension of the compiler, so that one source serves every instruction set.
//
// This file is included once per instruction set, inside namespace stgt::STGT_ISA, with STGT_VECTOR_BYTES set. Nothing
// here may instantiate a template of the standard library: the linker would keep one copy for all instruction sets.
#pragma once
#ifdef STGT_X86
#include <immintrin.h>
#endif
#include <cmath>
#include <cstdint>
#include <cstring>

#define STGT_INLINE inline __attribute__((always_inline))

namespace stgt::STGT_ISA {

template <class T> struct Vector;
template <> struct Vector<float> {
  typedef float type __attribute__((vector_size(STGT_VECTOR_BYTES)));
  typedef int32_t integer __attribute__((vector_size(STGT_VECTOR_BYTES)));
};
template <> struct Vector<double> {
  typedef double type __attribute__((vector_size(STGT_VECTOR_BYTES)));
  typedef int64_t integer __attribute__((vector_size(STGT_VECTOR_BYTES)));
};
template <class T> using vec = typename Vector<T>::type;
template <class T> inline constexpr int lanes = STGT_VECTOR_BYTES / sizeof(T);

struct bfloat16 { uint16_t bits; };
#ifdef __aarch64__
typedef __fp16 float16;  // on ARM, g++ knows _Float16 in C++ only from version 13 on
#else
typedef _Float16 float16;
#endif

// Two consecutive bfloat16 of a contraction. Some machines multiply and add them in one instruction.
struct bfloat16x2 { bfloat16 low, high; };
template <> struct Vector<bfloat16x2> {
  typedef int32_t type __attribute__((vector_size(STGT_VECTOR_BYTES)));
  typedef type integer;
};

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T> STGT_INLINE vec<T> broadcast(T x) { return x - vec<T>{}; }
template <> STGT_INLINE vec<bfloat16x2> broadcast<bfloat16x2>(bfloat16x2 x) {
  int32_t bits;
  memcpy(&bits, &x, 4);
  return bits - vec<bfloat16x2>{};
}
template <class T> STGT_INLINE vec<T> load(const T* p) {
  vec<T> v;
  memcpy(&v, p, sizeof(v));
  return v;
}
template <class T> STGT_INLINE void store(T* p, vec<T> v) { memcpy(p, &v, sizeof(v)); }

STGT_INLINE float widen(float x) { return x; }
STGT_INLINE double widen(double x) { return x; }
STGT_INLINE float widen(float16 x) { return float(x); }
STGT_INLINE float widen(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

template <class S, class T> STGT_INLINE S narrow(T x) { return S(x); }
template <> STGT_INLINE bfloat16 narrow<bfloat16, float>(float x) {  // rounds to nearest even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return {0x7fc0};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// Loads lanes<A> consecutive elements of storage type S as accumulator type A.
template <class A, class S> STGT_INLINE vec<A> load_wide(const S* p) {
  if constexpr (sizeof(S) == sizeof(A)) {
    return load<A>(p);
  } else if constexpr (__is_same(S, bfloat16)) {
    typedef uint16_t half __attribute__((vector_size(STGT_VECTOR_BYTES / 2)));
    typedef uint32_t word __attribute__((vector_size(STGT_VECTOR_BYTES)));
    half v;
    memcpy(&v, p, sizeof(v));
    return (vec<A>)(__builtin_convertvector(v, word) << 16);
  } else {
#if defined(STGT_X86) && STGT_VECTOR_BYTES == 64
    return (vec<A>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(STGT_X86)
    return (vec<A>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
    typedef S storage __attribute__((vector_size(STGT_VECTOR_BYTES / 2)));
    storage v;
    memcpy(&v, p, sizeof(v));
    return __builtin_convertvector(v, vec<A>);
#endif
  }
}

// Stores lanes<A> consecutive elements of accumulator type A in A itself or, rounded to nearest even, in float16.
template <class A, class S> STGT_INLINE void store_rounded(S* p, vec<A> v) {
  if constexpr (sizeof(S) == sizeof(A)) {
    store<A>(p, v);
  } else {
#if defined(STGT_X86) && STGT_VECTOR_BYTES == 64
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(STGT_X86)
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    for (int i = 0; i < lanes<A>; ++i) p[i] = S(v[i]);
#endif
  }
}

// Returns x. The compiler may not fuse the product that x is with a later sum, which would leave out its rounding.
template <class V> STGT_INLINE V rounded(V x) {
#ifdef __x86_64__
  asm("" : "+v"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  asm("" : "+m"(x));
#endif
  return x;
}

// c + a * b, lane by lane.
STGT_INLINE vec<float> multiply_add(vec<float> c, vec<float> a, vec<float> b) { return c + a * b; }
STGT_INLINE vec<double> multiply_add(vec<double> c, vec<double> a, vec<double> b) { return c + a * b; }

#ifdef STGT_BF16_PAIRS
STGT_INLINE vec<float> multiply_add(vec<float> c, vec<bfloat16x2> a, vec<bfloat16x2> b) {
  return (vec<float>)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
}
// Rounds two rows to nearest even and interleaves them: lane i holds (low[i], high[i]).
STGT_INLINE vec<bfloat16x2> interleave(vec<float> low, vec<float> high) {
  const auto word = [](vec<float> v) {
    return (vec<bfloat16x2>)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)v));
  };
  return word(low) | (word(high) << 16);
}
// Rounds lanes<float> consecutive elements to nearest even.
STGT_INLINE void store_narrow(bfloat16* p, vec<float> v) {
  const auto narrowed = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &narrowed, sizeof(narrowed));
}
#endif

template <class T> STGT_INLINE vec<T> vmax(vec<T> a, vec<T> b) { return a > b ? a : b; }

// Folds the upper half of the lanes onto the lower, log2(lanes) times.
template <class T, int N = lanes<T> / 2, class F> STGT_INLINE T fold(vec<T> v, F f) {
  typename Vector<T>::integer from;
  for (int i = 0; i < lanes<T>; ++i) from[i] = i ^ N;
  v = f(v, __builtin_shuffle(v, from));
  if constexpr (N > 1)
    return fold<T, N / 2>(v, f);
  else
    return v[0];
}
template <class T> STGT_INLINE T horizontal_max(vec<T> v) {
  return fold<T>(v, [](vec<T> a, vec<T> b) { return vmax<T>(a, b); });
}
template <class T> STGT_INLINE T horizontal_sum(vec<T> v) {
  return fold<T>(v, [](vec<T> a, vec<T> b) { return a + b; });
}

// Transposes a square of lanes<E> vectors by exchanging off-diagonal blocks of half, a quarter, ... of its size.
template <class E, int S = lanes<E> / 2> STGT_INLINE void transpose(vec<E> (&v)[lanes<E>]) {
  typename Vector<E>::integer upper, lower;
  for (int l = 0; l < lanes<E>; ++l) {
    upper[l] = l & S ? lanes<E> + l - S : l;
    lower[l] = l & S ? lanes<E> + l : l + S;
  }
#pragma GCC unroll 16
  for (int i = 0; i < lanes<E>; ++i) {
    if (i & S) continue;
    const vec<E> a = v[i], b = v[i | S];
    v[i] = __builtin_shuffle(a, b, upper);
    v[i | S] = __builtin_shuffle(a, b, lower);
  }
  if constexpr (S > 1) transpose<E, S / 2>(v);
}

// Computes e^x for x <= 0 (and NaN). With x = n ln2 + r and |r| <= ln2 / 2, it is a polynomial in r times 2^n. For x
// below -87 the result stays at e^-87.
STGT_INLINE vec<float> exp_nonpositive(vec<float> x) {
  typedef Vector<float>::integer integer;
  x = x < -87.0f ? broadcast(-87.0f) : x;
  const vec<float> shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 * 2^23 rounds to an integer
  const vec<float> n = shifted - 12582912.0f;
  vec<float> r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  vec<float> y = broadcast(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  const integer exponent = ((integer)shifted - 0x4b400000 + 127) << 23;
  return y * (vec<float>)exponent;
}
STGT_INLINE vec<double> exp_nonpositive(vec<double> x) {
  vec<double> y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = exp(x[i]);
  return y;
}

}  // namespace stgt::STGT_ISA
