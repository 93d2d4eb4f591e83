// Arithmetic with and without denormal numbers, which the units of x86 compute many times more slowly than others.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <cstdint>
#endif

namespace stgt {

// While it lives, this thread computes with denormal operands as they are. The bit that torch.set_flush_denormal sets
// belongs to the calling thread alone, so results would depend on which thread computes them. `flush_results`: on x86,
// results that are smaller than the smallest normal number become 0. If a token gets hardly any attention, such as
// exp(-90), it would otherwise get denormal gradients, and all matrix products that read them would be slow as well.
class Denormals {
#if defined(__x86_64__)
  static unsigned state() { return _mm_getcsr(); }
  static void set_state(unsigned bits) { _mm_setcsr(bits); }
  static unsigned with(unsigned bits, bool flush_results) {
    constexpr unsigned zero_operands = 1u << 6;
    return (bits & ~(zero_operands | _MM_FLUSH_ZERO_ON)) | (flush_results ? _MM_FLUSH_ZERO_ON : 0);
  }
#elif defined(__aarch64__)
  static uint64_t state() {
    uint64_t bits;
    asm volatile("mrs %0, fpcr" : "=r"(bits));
    return bits;
  }
  static void set_state(uint64_t bits) { asm volatile("msr fpcr, %0" ::"r"(bits)); }
  static uint64_t with(uint64_t bits, bool) { return bits & ~(uint64_t(1) << 24); }
#else
  static int state() { return 0; }
  static void set_state(int) {}
  static int with(int, bool) { return 0; }
#endif

 public:
  explicit Denormals(bool flush_results) { set_state(with(before, flush_results)); }
  ~Denormals() { set_state(before); }
  Denormals(const Denormals&) = delete;
  Denormals& operator=(const Denormals&) = delete;

 private:
  const decltype(state()) before = state();
};

}  // namespace stgt
