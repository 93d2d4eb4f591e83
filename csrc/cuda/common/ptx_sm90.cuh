// Hopper's own instructions: barriers in shared memory, the tensor copy engine, warpgroup matrix products. Section
// numbers are those of the PTX ISA 9.0. Include this file only if the code is compiled for sm_90a.
#ifndef STGT_CUDA_PTX_SM90_CUH
#define STGT_CUDA_PTX_SM90_CUH

#include "ptx.cuh"

namespace stgt::ptx {

// ---- One thread of a warp (9.7.13.14) -------------------------------------------------------------------------------

// Whether this thread is the one that the hardware chooses from its warp, the same one each time. All threads of the
// warp must call it together. The compiler knows that only one thread goes on, which a test of the thread's number does
// not tell it: it would put a loop over the warp's threads around every copy of the tensor copy engine.
STGT_DEVICE bool elect() {
  uint32_t elected;
  asm volatile("{ .reg .pred p;\n elect.sync _|p, 0xffffffff;\n selp.u32 %0, 1, 0, p; }" : "=r"(elected));
  return elected != 0;
}

// ---- Barriers in shared memory (9.7.13.15) --------------------------------------------------------------------------
// A phase ends when all arrivals and all expected bytes have come. The parities of phases alternate and start with 0.

STGT_DEVICE void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// The thread that has called barrier_init calls it before the threads synchronise.
STGT_DEVICE void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
STGT_DEVICE void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Makes the barrier expect this number of bytes, and arrives at it as well.
STGT_DEVICE void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}
STGT_DEVICE void barrier_wait(uint64_t* barrier, int parity) {  // waits until the phase of this parity has ended
  asm volatile(
      "{ .reg .pred done;\n"
      "wait: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait; }" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// ---- The tensor copy engine (9.7.9.27.1.2) --------------------------------------------------------------------------

using TensorMap = CUtensorMap;

STGT_DEVICE void tma_prefetch(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }

// Copies the map's box at these coordinates, innermost first, to shared memory. Its bytes count on the barrier.
// Elements out of range read as 0, and count as well.
STGT_DEVICE void tma_load(void* shared, const TensorMap& map, uint64_t* barrier, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}
STGT_DEVICE void tma_load(void* shared, const TensorMap& map, uint64_t* barrier, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}
STGT_DEVICE void tma_load(void* shared, const TensorMap& map, uint64_t* barrier, int c0, int c1, int c2, int c3,
                          int c4) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6, %7}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
      : "memory");
}

// Copies shared memory to the map's box, and leaves elements out of range alone. One thread calls it, after the writes
// to shared memory were fenced and their threads synchronised. tma_store_wait lets the thread wait until shared memory
// was read. Then it may end; other kernels see the copy when this kernel has ended.
STGT_DEVICE void tma_store(const TensorMap& map, const void* shared, int c0, int c1, int c2, int c3, int c4) {
  asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(&map),
               "r"(shared_address(shared)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4)
               : "memory");
}
STGT_DEVICE void tma_store_wait() {
  asm volatile("cp.async.bulk.commit_group;\n cp.async.bulk.wait_group.read 0;" ::: "memory");
}
// 9.7.13.6: makes the writes of this thread to shared memory visible to the copy engine and to wgmma.
STGT_DEVICE void fence_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Registers of a warpgroup (9.7.20.5) ----------------------------------------------------------------------------

template <int N> STGT_DEVICE void registers_grow() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> STGT_DEVICE void registers_shrink() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// ---- Warpgroup matrix products (9.7.16) -----------------------------------------------------------------------------
// A warpgroup is four warps, of which the first has a number that is a multiple of 4. It computes the product of a
// (64 x 16) and b (16 x N), and stores it in d (64 x N fp32) or adds it to d. Thread i of the warpgroup holds d in the
// order of mma: warp i / 32 has 16 rows from 16 (i / 32) on, and d[4 n] to d[4 n + 3] belong to columns 8 n to 8 n + 7.

// The permutation of 16-byte chunks within rows of 32, 64 or 128 bytes, as the copy engine writes them. The bits of an
// address from bit 4 on are xored with those from bit 7 on: one bit for B32, two for B64, three for B128. Tiles must
// start at multiples of 256 bytes (B32), 512 bytes (B64) and 1024 bytes (B128).
enum class Swizzle : uint64_t { B128 = 1, B64 = 2, B32 = 3 };

// Describes an operand in shared memory (9.7.16.5.1). There are two layouts, whose rows are as wide as the swizzle:
//   K-major: the rows run along K. stride_bytes leads from 8 rows to the next 8 rows, and leading_bytes is not used.
//     The operand that begins 16 values of K later begins 32 bytes later.
//   Not K-major (TRANSPOSE_B): the rows run along N, and there is a row for each k. leading_bytes leads from one panel
//     of rows to the next along N, and stride_bytes leads from 8 rows (values of k) to the next 8.
STGT_DEVICE uint64_t descriptor(const void* shared, int leading_bytes, int stride_bytes, Swizzle swizzle) {
  return uint64_t((shared_address(shared) & 0x3ffff) >> 4) | uint64_t(leading_bytes >> 4) << 16 |
         uint64_t(stride_bytes >> 4) << 32 | uint64_t(swizzle) << 62;
}

// Returns the operand that starts `bytes` further on. Addresses stay below 2^18, so nothing carries out of their field.
STGT_DEVICE uint64_t further(uint64_t descriptor, int bytes) {
  return (descriptor & 0xffffffff00000000) | (uint32_t(descriptor) + uint32_t(bytes >> 4));
}

// A fence is needed before the first product, and again after other instructions have used registers of d or a.
STGT_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
STGT_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING> STGT_DEVICE void wgmma_wait() {  // waits until at most PENDING groups are under way
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// Keeps the compiler from moving reads of d before the wait, and from copying d.
template <int N> STGT_DEVICE void wgmma_registers(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// Starts d += a b, or d = a b if `accumulate` is false. A descriptor gives b. Another one gives a, or registers hold a.
template <class T, int N, bool TRANSPOSE_B = false>
STGT_DEVICE void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate);
template <class T, int N, bool TRANSPOSE_B = false>
STGT_DEVICE void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate);

// clang-format off: these lists of operands are read by their numbers
#define STGT_R8(a, b, c, d, e, f, g, h) "%" #a ",%" #b ",%" #c ",%" #d ",%" #e ",%" #f ",%" #g ",%" #h
#define STGT_R32 \
  STGT_R8(0, 1, 2, 3, 4, 5, 6, 7) "," STGT_R8(8, 9, 10, 11, 12, 13, 14, 15) "," \
  STGT_R8(16, 17, 18, 19, 20, 21, 22, 23) "," STGT_R8(24, 25, 26, 27, 28, 29, 30, 31)
#define STGT_R48 STGT_R32 "," STGT_R8(32, 33, 34, 35, 36, 37, 38, 39) "," STGT_R8(40, 41, 42, 43, 44, 45, 46, 47)
#define STGT_R64 \
  STGT_R48 "," STGT_R8(48, 49, 50, 51, 52, 53, 54, 55) "," STGT_R8(56, 57, 58, 59, 60, 61, 62, 63)
#define STGT_R96 \
  STGT_R64 "," STGT_R8(64, 65, 66, 67, 68, 69, 70, 71) "," STGT_R8(72, 73, 74, 75, 76, 77, 78, 79) "," \
  STGT_R8(80, 81, 82, 83, 84, 85, 86, 87) "," STGT_R8(88, 89, 90, 91, 92, 93, 94, 95)
#define STGT_R128 \
  STGT_R96 "," STGT_R8(96, 97, 98, 99, 100, 101, 102, 103) "," STGT_R8(104, 105, 106, 107, 108, 109, 110, 111) "," \
  STGT_R8(112, 113, 114, 115, 116, 117, 118, 119) "," STGT_R8(120, 121, 122, 123, 124, 125, 126, 127)
#define STGT_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define STGT_F32 \
  STGT_F4(0), STGT_F4(4), STGT_F4(8), STGT_F4(12), STGT_F4(16), STGT_F4(20), STGT_F4(24), STGT_F4(28)
#define STGT_F48 STGT_F32, STGT_F4(32), STGT_F4(36), STGT_F4(40), STGT_F4(44)
#define STGT_F64 STGT_F48, STGT_F4(48), STGT_F4(52), STGT_F4(56), STGT_F4(60)
#define STGT_F96 \
  STGT_F64, STGT_F4(64), STGT_F4(68), STGT_F4(72), STGT_F4(76), \
  STGT_F4(80), STGT_F4(84), STGT_F4(88), STGT_F4(92)
#define STGT_F128 \
  STGT_F96, STGT_F4(96), STGT_F4(100), STGT_F4(104), STGT_F4(108), \
  STGT_F4(112), STGT_F4(116), STGT_F4(120), STGT_F4(124)
// clang-format on

// R and F list the registers of d, and P0, P1, ... are the numbers of the operands that follow d.
#define STGT_WGMMA(T, NAME, N, R, F, TRANSPOSED, P0, P1, P2, P3, P4, P5)                                             \
  template <> STGT_DEVICE void wgmma<T, N, TRANSPOSED>(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #P2                                                              \
                 ", 0;\n"                                                                                            \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" R "}, %" #P0 ", %" #P1         \
                 ", p, 1, 1, 0, " STGT_TRANSPOSED_##TRANSPOSED "; }"                                                 \
                 : F                                                                                                 \
                 : "l"(a), "l"(b), "r"(int(accumulate)));                                                            \
  }                                                                                                                  \
  template <>                                                                                                        \
  STGT_DEVICE void wgmma<T, N, TRANSPOSED>(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) { \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #P5                                                              \
                 ", 0;\n"                                                                                            \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" R "}, {%" #P0 ", %" #P1        \
                 ", %" #P2 ", %" #P3 "}, %" #P4 ", p, 1, 1, " STGT_TRANSPOSED_##TRANSPOSED "; }"                     \
                 : F                                                                                                 \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)));                        \
  }
#define STGT_TRANSPOSED_false "0"
#define STGT_TRANSPOSED_true "1"
#define STGT_WGMMA_SHAPES(T, NAME)                                              \
  STGT_WGMMA(T, NAME, 64, STGT_R32, STGT_F32, false, 32, 33, 34, 35, 36, 37)    \
  STGT_WGMMA(T, NAME, 64, STGT_R32, STGT_F32, true, 32, 33, 34, 35, 36, 37)     \
  STGT_WGMMA(T, NAME, 96, STGT_R48, STGT_F48, true, 48, 49, 50, 51, 52, 53)     \
  STGT_WGMMA(T, NAME, 128, STGT_R64, STGT_F64, false, 64, 65, 66, 67, 68, 69)   \
  STGT_WGMMA(T, NAME, 128, STGT_R64, STGT_F64, true, 64, 65, 66, 67, 68, 69)    \
  STGT_WGMMA(T, NAME, 192, STGT_R96, STGT_F96, false, 96, 97, 98, 99, 100, 101) \
  STGT_WGMMA(T, NAME, 256, STGT_R128, STGT_F128, false, 128, 129, 130, 131, 132, 133)
STGT_WGMMA_SHAPES(bf16, "bf16")
STGT_WGMMA_SHAPES(f16, "f16")
#undef STGT_WGMMA_SHAPES
#undef STGT_WGMMA

}  // namespace stgt::ptx

#endif
