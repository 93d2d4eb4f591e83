// Takes the place of csrc/cuda/common/ptx_sm90.cuh for the emulator (block.h).
//
// The emulator cannot show these things:
// - Missing proxy fences. barrier_init_fence, fence_shared and tma_store_wait do nothing, since all memory is written
// at
//   once for every reader.
// - Missing fences of registers: wgmma_fence and wgmma_registers only bring the threads together.
// - Whether the registers that registers_grow asks for exist.
// - Clusters of blocks, and copies that write to several blocks.
#pragma once
#define STGT_CUDA_PTX_SM90_CUH

#include "ptx.h"

namespace stgt::emulator {

inline uint64_t swizzled(uint64_t address, uint64_t kind) {  // kind as in ptx::Swizzle
  const uint64_t mask = kind == 1 ? 7 : kind == 2 ? 3 : kind == 3 ? 1 : 0;
  return address ^ ((address >> 7 & mask) << 4);
}
inline uint64_t swizzle_width(uint64_t kind) { return kind == 1 ? 128 : kind == 2 ? 64 : 32; }

// Checks what the canonical layouts of the PTX ISA (9.7.16.5.1) ask of an operand. Groups of eight rows start where the
// pattern of the swizzle starts, since the base offset of the descriptor is 0. An operand that is not K-major has whole
// panels.
inline void check_operand(uint64_t descriptor, int size, bool transposed) {
  const uint64_t start = (descriptor & 0x3fff) << 4, width = swizzle_width(descriptor >> 62);
  if (start % (8 * width) >= (transposed ? 1 : width))
    fail("an operand that does not start where the swizzle's pattern does");
  if (transposed && 2 * size % width) fail("an operand with part of a panel");
}

// Returns the 16-bit value of an operand in shared memory, at place `mn` of its M or N and `k` of its K (0..15).
inline uint16_t operand(uint64_t descriptor, int mn, int k, bool transposed) {
  const uint64_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4,
                 stride = (descriptor >> 32 & 0x3fff) << 4, kind = descriptor >> 62, width = swizzle_width(kind);
  uint64_t address;
  if (transposed) {
    const uint64_t panel = mn * 2 / width;
    address = start + panel * leading + mn * 2 % width + k % 8 * width + k / 8 * stride;
  } else {
    address = start + mn % 8 * width + mn / 8 * stride + k * 2;
  }
  address = swizzled(address, kind);
  check_shared(shared + address, 2, 2);
  uint16_t value;
  memcpy(&value, shared + address, 2);
  return value;
}

}  // namespace stgt::emulator

namespace stgt::ptx {

// The hardware promises no particular thread, so this one is not the first.
inline bool elect() {
  e::meet_warp("elect", nullptr, [](auto&) {});
  return e::current->index % 32 == 21;
}

inline void barrier_init(uint64_t* barrier, int arrivals) {
  e::check_shared(barrier, 8, 8);
  e::barriers[barrier] = {arrivals, arrivals, 0, 0};
}
inline void barrier_init_fence() {}
inline void barrier_count(uint64_t* barrier, int arrivals, int bytes) {
  auto found = e::barriers.find(barrier);
  if (found == e::barriers.end()) e::fail("a barrier that was not initialised");
  e::Barrier& state = found->second;
  state.pending -= arrivals, state.bytes += bytes;
  if (state.pending < 0) e::fail("more arrivals at a barrier than it expects");
  if (state.pending == 0 && state.bytes == 0) state.phase ^= 1, state.pending = state.arrivals;
  e::progress = true;
}
inline void barrier_arrive(uint64_t* barrier) { barrier_count(barrier, 1, 0); }
inline void barrier_expect(uint64_t* barrier, int bytes) { barrier_count(barrier, 1, bytes); }
inline void barrier_wait(uint64_t* barrier, int parity) {
  if (!e::barriers.contains(barrier)) e::fail("a barrier that was not initialised");
  if (parity != 0 && parity != 1) e::fail("a parity that is neither 0 nor 1");
  e::wait_until([&] { return e::barriers[barrier].phase != parity; });
}

struct TensorMap {  // what tensor_map.h encodes for the GPU, with the innermost dimension first
  const char* base;
  int rank, element_bytes;
  int64_t size[5], stride[5];  // strides in bytes
  int box[5];
  uint64_t swizzle;  // as ptx::Swizzle; 0: none
};

inline void tma_prefetch(const TensorMap&) {}
inline void tma_load_box(void* shared, const TensorMap& map, uint64_t* barrier, std::vector<int> at) {
  if (int(at.size()) != map.rank) e::fail("a tensor map of another rank");
  int64_t bytes = map.element_bytes;
  for (int i = 0; i < map.rank; ++i) bytes *= map.box[i];
  e::check_shared(shared, bytes, map.swizzle ? 128 : 16);
  if (map.box[0] * map.element_bytes % 16) e::fail("a box whose rows are no multiple of 16 bytes");
  if (map.swizzle && uint64_t(map.box[0] * map.element_bytes) > e::swizzle_width(map.swizzle))
    e::fail("a box wider than its swizzle");
  for (int i = 1; i < map.rank; ++i)
    if (map.stride[i] % 16) e::fail("a stride that is no multiple of 16 bytes");
  if (reinterpret_cast<uintptr_t>(map.base) % 16) e::fail("a tensor that does not start at a multiple of 16 bytes");
  auto transfer = [=] {  // with a copy of the map, because the thread may end before
    const uint64_t start = shared_address(shared);
    for (int64_t place = 0; place < bytes / map.element_bytes; ++place) {
      const char* from = map.base;
      bool inside = true;
      for (int64_t i = 0, rest = place; i < map.rank; rest /= map.box[i++]) {
        const int64_t x = at[i] + rest % map.box[i];
        inside &= x >= 0 && x < map.size[i];
        from += x * (i ? map.stride[i] : map.element_bytes);
      }
      char* to = e::shared + e::swizzled(start + place * map.element_bytes, map.swizzle);
      inside ? (void)memcpy(to, from, map.element_bytes) : (void)memset(to, 0, map.element_bytes);
    }
    barrier_count(barrier, 0, -int(bytes));
  };
  e::eager ? transfer() : e::transfers.push_back(transfer);
}
template <class... C> void tma_load(void* shared, const TensorMap& map, uint64_t* barrier, C... at) {
  tma_load_box(shared, map, barrier, {at...});
}

inline void tma_store(const TensorMap& map, const void* shared, int c0, int c1, int c2, int c3, int c4) {
  const int at[5] = {c0, c1, c2, c3, c4};
  int64_t values = 1;
  for (int i = 0; i < 5; ++i) values *= map.box[i];
  e::check_shared(shared, values * map.element_bytes, 128);
  for (int64_t place = 0; place < values; ++place) {
    char* to = const_cast<char*>(map.base);
    bool inside = true;
    for (int64_t i = 0, rest = place; i < 5; rest /= map.box[i++]) {
      const int64_t x = at[i] + rest % map.box[i];
      inside &= x >= 0 && x < map.size[i];
      to += x * (i ? map.stride[i] : map.element_bytes);
    }
    const uint64_t from = e::swizzled(shared_address(shared) + place * map.element_bytes, map.swizzle);
    if (inside) memcpy(to, e::shared + from, map.element_bytes);
  }
}
inline void tma_store_wait() {}
inline void fence_shared() {}

template <int N> void registers_grow() {
  e::meet_warpgroup("registers_grow", nullptr, [](auto&) {});
}
template <int N> void registers_shrink() {
  e::meet_warpgroup("registers_shrink", nullptr, [](auto&) {});
}

enum class Swizzle : uint64_t { B128 = 1, B64 = 2, B32 = 3 };

inline uint64_t descriptor(const void* shared, int leading_bytes, int stride_bytes, Swizzle swizzle) {
  return uint64_t((shared_address(shared) & 0x3ffff) >> 4) | uint64_t(leading_bytes >> 4) << 16 |
         uint64_t(stride_bytes >> 4) << 32 | uint64_t(swizzle) << 62;
}

inline uint64_t further(uint64_t descriptor, int bytes) { return descriptor + (bytes >> 4); }

template <class T, int N, bool TRANSPOSE_B> void run_product(e::Product* (&thread)[128]) {
  static float left[4][16][16], right[16][N];
  const e::Product& first = *thread[0];
  e::check_operand(first.b, N, TRANSPOSE_B);
  if (!first.a_registers) e::check_operand(first.a, 64, false);
  for (int k = 0; k < 16; ++k)
    for (int n = 0; n < N; ++n) right[k][n] = widen<T>(e::operand(first.b, n, k, TRANSPOSE_B));
  for (int i = 0; i < 128; ++i) {
    if (thread[i]->b != first.b || thread[i]->a != first.a || thread[i]->accumulate != first.accumulate)
      e::fail("threads of a warpgroup give a product different operands");
    if (thread[i]->a_registers) read_left<T>(left[i / 32], i % 32, thread[i]->a_registers);
  }
  if (!first.a_registers)
    for (int row = 0; row < 64; ++row)
      for (int k = 0; k < 16; ++k) left[row / 16][row % 16][k] = widen<T>(e::operand(first.a, row, k, false));
  for (int i = 0; i < 128; ++i)
    for (int j = 0; j < N / 2; ++j) {
      auto [row, column] = e::accumulator(i % 32, j % 4);
      column += 8 * (j / 4);
      float sum = 0;
      for (int k = 0; k < 16; ++k) sum += left[i / 32][row][k] * right[k][column];
      thread[i]->d[j] = first.accumulate ? thread[i]->d[j] + sum : sum;
    }
}

inline void wgmma_run(size_t keep) {  // runs all groups but the last `keep`
  e::meet_warpgroup("wgmma_wait", e::current, [=](auto& calls) {
    auto products = [&](int i) -> auto& { return static_cast<e::Thread*>(calls[i].data)->products; };
    while (products(0).size() > keep + 1) {
      for (size_t number = 0; number < products(0).front().size(); ++number) {
        e::Product* thread[128];
        for (int i = 0; i < 128; ++i) {
          if (products(i).front().size() != products(0).front().size()) e::fail("threads issue different products");
          thread[i] = &products(i).front()[number];
        }
        thread[0]->run(thread);
      }
      for (int i = 0; i < 128; ++i) products(i).pop_front();
    }
  });
}

inline void wgmma_fence() {
  e::meet_warpgroup("wgmma_fence", nullptr, [](auto&) {});
}
inline void wgmma_commit() {
  e::current->products.emplace_back();
  if (e::eager) wgmma_run(0);
}
template <int PENDING> void wgmma_wait() { wgmma_run(PENDING); }
template <int N> void wgmma_registers(float (&)[N]) {}

template <class T, int N, bool TRANSPOSE_B = false>
void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  e::current->products.back().push_back({d, nullptr, a, b, accumulate, run_product<T, N, TRANSPOSE_B>});
}
template <class T, int N, bool TRANSPOSE_B = false>
void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
  e::current->products.back().push_back({d, a, 0, b, accumulate, run_product<T, N, TRANSPOSE_B>});
}

}  // namespace stgt::ptx
