// The choice of the instruction set as a function of the processor, so that it can be tested for any processor.
#pragma once
#include <string>

namespace stgt {

struct Processor {
  std::string vendor;  // 12 letters of CPUID, such as "AuthenticAMD"
  bool avx2 = false, avx512 = false, avx512_bf16 = false, amx = false;
};

std::string vendor();  // of this machine's processor; empty if it is not x86

// The name of the instruction set for a processor. `asked` is the value of STGT_CPU_ISA, or empty.
const char* isa_of(const Processor& processor, const std::string& asked);

}  // namespace stgt
