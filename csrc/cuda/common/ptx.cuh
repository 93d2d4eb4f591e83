// Thin functions, each for one instruction that has no operator in C++. Section numbers are those of the PTX ISA 9.0.
// The kernels use the hardware only through these functions, so tests/cuda/emulator can replace this file and run the
// kernels on a CPU.
#ifndef STGT_CUDA_PTX_CUH
#define STGT_CUDA_PTX_CUH

#include <cuda.h>
#include <stdint.h>

namespace stgt::ptx {

#define STGT_DEVICE __device__ __forceinline__

// ---- Half-precision values as bits ---------------------------------------------------------------------------------
// A register holds two of them, the first in the low half.

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

// Returns a pair of values in the type T, each rounded to the nearest one, with ties to even.
template <class T> STGT_DEVICE uint32_t pack(float first, float second);
template <> STGT_DEVICE uint32_t pack<bf16>(float first, float second) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  return packed;
}
template <> STGT_DEVICE uint32_t pack<f16>(float first, float second) {
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  return packed;
}

// Returns the two values of a pair in float32, which is exact.
template <class T> STGT_DEVICE float2 unpack(uint32_t packed);
template <> STGT_DEVICE float2 unpack<bf16>(uint32_t packed) {
  return {__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u)};
}
template <> STGT_DEVICE float2 unpack<f16>(uint32_t packed) {
  float2 pair;
  asm("{ .reg .f16 a, b;\n mov.b32 {a, b}, %2;\n cvt.f32.f16 %0, a;\n cvt.f32.f16 %1, b; }"
      : "=f"(pair.x), "=f"(pair.y)
      : "r"(packed));
  return pair;
}

// Returns a mask for a pair of f16: all 16 bits of a half are set if its value is not 0.
STGT_DEVICE uint32_t nonzero_mask(uint32_t pair) {
  uint32_t mask;
  asm("set.neu.u32.f16x2 %0, %1, %2;" : "=r"(mask) : "r"(pair), "r"(0));
  return mask;
}
// Keeps first and second if their halves of a pair of f16 are not 0, and otherwise sets them to `otherwise`.
STGT_DEVICE void where_nonzero(uint32_t pair, float& first, float& second, float otherwise) {
  asm("{ .reg .pred p, q;\n setp.neu.f16x2 p|q, %2, %3;\n selp.f32 %0, %0, %4, p;\n selp.f32 %1, %1, %4, q; }"
      : "+f"(first), "+f"(second)
      : "r"(pair), "r"(0), "f"(otherwise));
}

// ---- Arithmetic ----------------------------------------------------------------------------------------------------

STGT_DEVICE float exp2(float x) {  // 9.7.3.21: the error is 2 ulp, and 2^-inf is 0
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Returns a rounded product, which the compiler never fuses with a sum.
STGT_DEVICE float product(float a, float b) { return __fmul_rn(a, b); }

// 2^x for the logarithm x of a probability, which is at most 0. Where scores are large, rounding brings x above 0, and
// the result must not exceed 1 even so. NaN stays NaN.
STGT_DEVICE float exp2_at_most_one(float x) {
  float least;
  asm("min.NaN.f32 %0, %1, 0f00000000;" : "=f"(least) : "f"(x));
  return exp2(least);
}

// Makes the compiler compute x here. Otherwise it might do so later, and keep all that x is computed from in registers.
STGT_DEVICE void settle(uint32_t& x) { asm volatile("" : "+r"(x)); }

// ---- Shared memory, warps and barriers -----------------------------------------------------------------------------

STGT_DEVICE char* shared_memory() {  // the block's dynamic shared memory, aligned as the swizzles need it
  extern __shared__ __align__(1024) char memory[];
  return memory;
}
STGT_DEVICE uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

STGT_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
STGT_DEVICE int shuffle(int x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
STGT_DEVICE uint32_t ballot(bool x) { return __ballot_sync(0xffffffffu, x); }
STGT_DEVICE int first_bit(uint32_t x) { return __ffs(int(x)) - 1; }
STGT_DEVICE void sync_warp() { __syncwarp(); }
STGT_DEVICE void sync_threads() { __syncthreads(); }
STGT_DEVICE void sync_named(int barrier, int threads) {  // 9.7.13.1; sync_threads uses barrier 0
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// ---- sm_80: asynchronous copies, 8x8 matrices, tensor cores --------------------------------------------------------

// Copies BYTES = 4, 8 or 16 bytes to shared memory. If `valid` is false, it writes zeros instead. It then does not read
// `global`, which may point anywhere.
template <int BYTES = 16> STGT_DEVICE void copy_async(void* shared, const void* global, bool valid) {  // 9.7.9.25.3
  if constexpr (BYTES == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(BYTES),
                 "r"(valid ? BYTES : 0)
                 : "memory");
}
STGT_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> STGT_DEVICE void copy_async_wait() {  // waits until at most PENDING groups are still open
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// 9.7.15.5.15: reads four 8x8 matrices of 16-bit values. Lane l passes the address of row l % 8 (16 bytes) of matrix
// l / 8. In r[m] it gets two values of matrix m, or of its transpose (TRANSPOSE): those in row l / 4 and in columns
// 2 (l % 4) and 2 (l % 4) + 1.
template <bool TRANSPOSE = false> STGT_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  if constexpr (TRANSPOSE)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// 9.7.15.5.17: transposes one 8x8 matrix of 16-bit values, which the lanes hold in the order of load_matrices.
STGT_DEVICE uint32_t transpose_matrix(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// 9.7.15.5.14: d (16x8 fp32) += a (16x16) b (16x8).
// Lane l, with r = l / 4 and c = 2 (l % 4), holds
//   d: rows r, r, r+8, r+8, columns c, c+1, c, c+1
//   a: pairs from columns c, c+1: rows r and r+8; then pairs from columns c+8, c+9: rows r and r+8
//   b: pairs from rows c, c+1 of column r, then rows c+8, c+9
template <class T> STGT_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
#define STGT_MMA(T, NAME)                                                                                \
  template <> STGT_DEVICE void mma<T>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME                                  \
                 ".f32 {%0, %1, %2, %3}, "                                                               \
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                         \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                        \
  }
STGT_MMA(bf16, "bf16")
STGT_MMA(f16, "f16")
#undef STGT_MMA

}  // namespace stgt::ptx

#endif
