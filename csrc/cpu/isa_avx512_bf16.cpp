// Compiles the kernels for Zen 4 and later and for Xeons since Cooper Lake: as avx512, with products of bfloat16 pairs.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,prefer-vector-width=512")
#define STGT_X86
#define STGT_BF16_PAIRS
#define STGT_ISA avx512_bf16
#define STGT_TABLE kernels_avx512_bf16
#define STGT_VECTOR_BYTES 64
#include "isa.h"
#endif
