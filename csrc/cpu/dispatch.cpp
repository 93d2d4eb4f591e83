// Picks the instruction set once; STGT_CPU_ISA=portable|avx2|avx512|avx512_bf16 narrows the choice, for tests.
#include <cstdlib>
#include <cstring>

#include "args.h"

namespace stgt {

extern const Kernels kernels_portable;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_bf16;
#endif

static const Kernels& best() {
  const char* asked = std::getenv("STGT_CPU_ISA");
  [[maybe_unused]] const auto allowed = [&](const char* name) { return !asked || !*asked || std::strcmp(asked, name) == 0; };
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  __builtin_cpu_init();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (allowed("avx512_bf16") && avx512 && __builtin_cpu_supports("avx512bf16")) return kernels_avx512_bf16;
  if (allowed("avx512") && avx512) return kernels_avx512;
  if (allowed("avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    return kernels_avx2;
#endif
  return kernels_portable;
}

const Kernels& kernels() {
  static const Kernels& chosen = best();
  return chosen;
}

}  // namespace stgt
