// Compiles the kernels with AVX-512, which Zen 4 and later and Xeons since Skylake have.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#define STGT_X86
#define STGT_ISA avx512
#define STGT_TABLE kernels_avx512
#define STGT_VECTOR_BYTES 64
#include "isa.h"
#endif
