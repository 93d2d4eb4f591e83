// Picks the instruction set once: the best for this processor, or the one that the variable STGT_CPU_ISA names.
#include "dispatch.h"

#include <cstdlib>

#include "../checks.h"
#include "args.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define STGT_X86_KERNELS
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace stgt {

extern const Kernels kernels_portable;
#ifdef STGT_X86_KERNELS
extern const Kernels kernels_avx2, kernels_avx512, kernels_avx512_bf16, kernels_amx;
#endif

namespace {

struct InstructionSet {
  const Kernels& kernels;
  bool available;
  bool fast;  // whether it is faster than those that follow in the table
};

const Kernels& choose(const Processor& processor, const std::string& asked) {
#ifdef STGT_X86_KERNELS
  // The instruction that multiplies pairs of bfloat16 is fast on AMD's Zen 4 and Zen 5. On Intel's Sapphire and Emerald
  // Rapids it is so slow that the kernels are faster if they widen bfloat16 to float32, unless their matrix unit (AMX)
  // may be used. So pairs are multiplied only where that is known to be fast. The choice follows from the maker and
  // never from a timing, since pairs are rounded differently.
  const bool fast_pairs = processor.vendor == "AuthenticAMD";
  const InstructionSet sets[] = {{kernels_amx, processor.amx, true},
                                 {kernels_avx512_bf16, processor.avx512_bf16, fast_pairs},
                                 {kernels_avx512, processor.avx512, true},
                                 {kernels_avx2, processor.avx2, true},
                                 {kernels_portable, true, true}};
#else
  const InstructionSet sets[] = {{kernels_portable, true, true}};
#endif
  std::string known, available;
  for (const InstructionSet& set : sets) {
    if (set.available && (asked.empty() ? set.fast : asked == set.kernels.name)) return set.kernels;
    known += std::string(known.empty() ? "" : ", ") + set.kernels.name;
    if (set.available) available += std::string(available.empty() ? "" : ", ") + set.kernels.name;
  }
  STGT_CHECK("stgt_kernels", false, "STGT_CPU_ISA must be one of ", known, ", and this machine runs ", available,
             ", got ", asked);
  return kernels_portable;
}

#ifdef STGT_X86_KERNELS
// Whether the processor has a matrix unit, and the system lets this process and its threads use it. Linux has to be
// asked, because the unit's registers make the state of a thread 8 KiB larger.
bool matrix_unit_granted() {
#ifdef __linux__
  constexpr unsigned BF16 = 1u << 22, TILES = 1u << 24;
  constexpr long ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18;
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & BF16) == 0 || (d & TILES) == 0) return false;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
  return false;
#endif
}
#endif

Processor this_processor() {
  Processor processor;
#ifdef STGT_X86_KERNELS
  __builtin_cpu_init();
  processor.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  processor.avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  processor.avx512_bf16 = processor.avx512 && __builtin_cpu_supports("avx512bf16");
  processor.amx = processor.avx512_bf16 && matrix_unit_granted();
  unsigned most, name[3];
  if (__get_cpuid(0, &most, &name[0], &name[2], &name[1])) processor.vendor.assign((const char*)name, sizeof(name));
#endif
  return processor;
}

}  // namespace

std::string vendor() { return this_processor().vendor; }

const char* isa_of(const Processor& processor, const std::string& asked) { return choose(processor, asked).name; }

const Kernels& kernels() {
  static const Kernels& chosen = [&]() -> const Kernels& {
    const char* const variable = std::getenv("STGT_CPU_ISA");
    return choose(this_processor(), variable ? variable : "");
  }();
  return chosen;
}

}  // namespace stgt
