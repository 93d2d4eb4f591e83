// Picks the instruction set once: the best that this machine runs, or the one that the variable STGT_CPU_ISA names.
#include <cstdlib>
#include <string>

#include "../checks.h"
#include "args.h"

namespace stgt {

extern const Kernels kernels_portable;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_bf16;
#endif

namespace {

struct InstructionSet {
  const Kernels& kernels;
  bool available;
};

const Kernels& best() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const InstructionSet sets[] = {{kernels_avx512_bf16, avx512 && __builtin_cpu_supports("avx512bf16")},
                                 {kernels_avx512, avx512},
                                 {kernels_avx2, avx2},
                                 {kernels_portable, true}};
#else
  const InstructionSet sets[] = {{kernels_portable, true}};
#endif
  const char* const variable = std::getenv("STGT_CPU_ISA");
  const std::string asked = variable ? variable : "";
  std::string known, available;
  for (const InstructionSet& set : sets) {
    if (set.available && (asked.empty() || asked == set.kernels.name)) return set.kernels;
    known += std::string(known.empty() ? "" : ", ") + set.kernels.name;
    if (set.available) available += std::string(available.empty() ? "" : ", ") + set.kernels.name;
  }
  STGT_CHECK("stgt_kernels", false, "STGT_CPU_ISA must be one of ", known, ", and this machine runs ", available,
             ", got ", asked);
  return kernels_portable;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = best();
  return chosen;
}

}  // namespace stgt
