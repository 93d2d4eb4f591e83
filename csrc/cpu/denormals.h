// Arithmetic without denormal results, which the units of x86 compute many times more slowly than others.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace stgt {

// While it lives, results of this thread that are smaller than the smallest normal number become 0. If a token gets
// hardly any attention, such as exp(-90), it would otherwise get denormal gradients, and all matrix products that read
// them would be slow as well. Denormal operands keep their values: a weight of that size is still an edge.
class WithoutDenormals {
#if defined(__x86_64__)
 public:
  WithoutDenormals() { _mm_setcsr(before | _MM_FLUSH_ZERO_ON); }
  ~WithoutDenormals() { _mm_setcsr(before); }
  WithoutDenormals(const WithoutDenormals&) = delete;
  WithoutDenormals& operator=(const WithoutDenormals&) = delete;

 private:
  const unsigned before = _mm_getcsr();
#endif
};

}  // namespace stgt
