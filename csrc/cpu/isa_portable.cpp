// Compiles the kernels for any machine, with 16-byte vectors, which are NEON on ARM and SSE2 on x86.
#define STGT_ISA portable
#define STGT_TABLE kernels_portable
#define STGT_VECTOR_BYTES 16
#include "isa.h"
