// Vectors in the compiler's own extension: one source serves every instruction set.
//
// Included once per instruction set, inside namespace stgt::STGT_ISA, with STGT_VECTOR_BYTES set. Nothing here may
// instantiate a template of the standard library: the linker would keep one copy for all instruction sets.
#pragma once
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
typedef _Float16 float16;

constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

template <class T> STGT_INLINE vec<T> broadcast(T x) { return x - vec<T>{}; }
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
template <> STGT_INLINE bfloat16 narrow<bfloat16, float>(float x) {  // to nearest even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return {0x7fc0};
  return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// Loads lanes<A> consecutive elements of storage type S as accumulator type A.
template <class A, class S> STGT_INLINE vec<A> load_wide(const S* p) {
  if constexpr (sizeof(S) == sizeof(A)) {
    return load<A>(p);
  } else {
    typedef S storage __attribute__((vector_size(STGT_VECTOR_BYTES / 2)));
    storage v;
    memcpy(&v, p, sizeof(v));
    return __builtin_convertvector(v, vec<A>);
  }
}

template <class T> STGT_INLINE vec<T> vmax(vec<T> a, vec<T> b) { return a > b ? a : b; }

template <class T> STGT_INLINE T horizontal_max(vec<T> v) {
  T m = v[0];
  for (int i = 1; i < lanes<T>; ++i) m = v[i] > m ? v[i] : m;
  return m;
}
template <class T> STGT_INLINE T horizontal_sum(vec<T> v) {
  T s = 0;
  for (int i = 0; i < lanes<T>; ++i) s += v[i];
  return s;
}

// e^x for x <= 0 (and NaN): x = n ln2 + r, |r| <= ln2 / 2, a polynomial in r, scaled by 2^n. Below -87 it stays at e^-87.
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
