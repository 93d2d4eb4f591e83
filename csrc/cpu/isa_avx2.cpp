// Compiles the kernels with AVX2, which x86 laptops and servers of the last ten years have.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma,f16c")
#define STGT_X86
#define STGT_ISA avx2
#define STGT_TABLE kernels_avx2
#define STGT_VECTOR_BYTES 32
#include "isa.h"
#endif
