// Compiles the kernels for Xeons since Sapphire Rapids: as avx512, and bfloat16 is multiplied on the matrix unit (AMX).
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,amx-tile,amx-bf16,prefer-vector-width=512")
#define STGT_X86
#define STGT_BF16_PAIRS
#define STGT_MATRIX_UNIT
#define STGT_ISA amx
#define STGT_TABLE kernels_amx
#define STGT_VECTOR_BYTES 64
#include "isa.h"
#endif
