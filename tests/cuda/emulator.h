// Runs CUDA kernels on the CPU, from their own source: takes the place of csrc/cuda/ptx.cuh and ptx_sm90.cuh.
//
//   g++ -std=c++20 -x c++ -include tests/cuda/emulator.h -I csrc/cuda ...
//   emulate({blocks}, threads, shared_bytes, [&] { kernel<...>(arguments...); });
//
// A block's threads are fibers that take turns; an instruction of a warp or warpgroup waits until all its threads came
// to it, and stops the test if they came to different ones. What is asynchronous on the GPU (copies, wgmma) happens
// here as late as its waits allow, or as early as possible with `emulator::eager`: a missing wait gives wrong numbers in
// one of the two. Shared memory starts as NaN, and accesses of whole instructions are held to its size.
#pragma once
#define STGT_CUDA_PTX_CUH
#define STGT_CUDA_PTX_SM90_CUH

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__
#define __CUDA_ARCH__ 900
#define __CUDA_ARCH_FEAT_SM90_ALL
#define STGT_DEVICE inline

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct uint3 { unsigned x, y, z; };

namespace stgt::emulator {

[[noreturn]] inline void fail(const char* what) {
  fprintf(stderr, "emulator: %s\n", what);
  abort();
}

struct Call {  // one thread's part in an instruction that several threads issue together
  const char* name;
  void* data;
};

struct Meeting {  // of the threads of a warp, a warpgroup, or at a named barrier
  std::vector<Call> calls;
  uint64_t round = 0;
};

struct Product {  // one thread's view of a wgmma
  float* d;
  const uint32_t* a_registers;
  uint64_t a, b;
  bool accumulate;
  void (*run)(Product* (&threads)[128]);
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  unsigned index;
  bool done;
  std::deque<std::vector<std::function<void()>>> copies;  // committed groups of copy_async; the last one is open
  std::deque<std::vector<Product>> products;              // likewise of wgmma
};

struct Barrier { int arrivals, pending, bytes, phase; };

inline bool eager = false;

constexpr size_t STACK = 192 * 1024;
inline std::vector<Thread> threads;
inline Thread* current;
inline ucontext_t scheduler;
inline uint3 grid, block_index;
inline unsigned block_size;
inline std::unique_ptr<char[]> memory;
inline char* shared;
inline size_t shared_bytes;
inline std::map<std::pair<int, int>, Meeting> meetings;  // by kind and number
inline std::map<uint64_t*, Barrier> barriers;
inline std::deque<std::function<void()>> transfers;      // of the tensor copy engine
inline std::function<void()> kernel;
inline bool progress;

inline void check_shared(const void* p, size_t bytes, size_t alignment) {
  const char* c = static_cast<const char*>(p);
  if (c < shared || c + bytes > shared + shared_bytes) fail("access beyond shared memory");
  if ((c - shared) % alignment) fail("misaligned access to shared memory");
}

template <class Condition> void wait_until(Condition condition) {
  while (!condition()) swapcontext(&current->context, &scheduler);
  progress = true;
}

// Waits until `size` threads have called; the last one runs run(calls), ordered by thread.
template <class Run> void meet(int kind, int number, int size, const char* name, void* data, Run run) {
  Meeting& meeting = meetings[{kind, number}];
  if (meeting.calls.empty()) meeting.calls.assign(block_size, {nullptr, nullptr});
  meeting.calls[current->index] = {name, data};
  std::vector<Call> came;
  for (const Call& call : meeting.calls)
    if (call.name) came.push_back(call);
  if (int(came.size()) == size) {
    for (const Call& call : came)
      if (strcmp(call.name, name)) fail("threads of one warp or barrier issue different instructions");
    run(came);
    meeting.calls.clear();
    ++meeting.round;
    progress = true;
  } else {
    const uint64_t round = meeting.round;
    wait_until([&] { return meeting.round != round; });
  }
}
template <class Run> void meet_warp(const char* name, void* data, Run run) {
  meet(0, current->index / 32, 32, name, data, run);
}
template <class Run> void meet_warpgroup(const char* name, void* data, Run run) {
  meet(1, current->index / 128, 128, name, data, run);
}

inline void enter() {
  kernel();
  for (const auto& group : current->copies)
    if (!group.empty()) fail("a thread ends before a copy that it has begun");
  current->done = true;
  progress = true;
  swapcontext(&current->context, &scheduler);
}

inline void run_block() {
  memset(shared, 0xff, shared_bytes);
  meetings.clear(), barriers.clear(), transfers.clear();
  for (Thread& thread : threads) {
    thread.done = false;
    thread.copies.assign(1, {}), thread.products.assign(1, {});
    getcontext(&thread.context);
    thread.context.uc_stack = {.ss_sp = thread.stack.get(), .ss_flags = 0, .ss_size = STACK};
    thread.context.uc_link = nullptr;
    makecontext(&thread.context, enter, 0);
  }
  for (bool running = true; running;) {
    running = progress = false;
    for (Thread& thread : threads) {
      if (thread.done) continue;
      running = true;
      current = &thread;
      swapcontext(&scheduler, &thread.context);
    }
    if (running && !progress) {
      if (transfers.empty()) fail("deadlock: every thread waits");
      transfers.front()();
      transfers.pop_front();
    }
  }
}

// ---- Matrix fragments ----------------------------------------------------------------------------------------------

struct Fragment { int row, column; };
// Where value i of lane l lies in a 16x8 accumulator; the same, transposed, of an 8-row matrix of ldmatrix.
inline Fragment accumulator(int lane, int i) { return {lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2}; }

inline uint64_t swizzled(uint64_t address, uint64_t kind) {  // kind as in ptx::Swizzle
  const uint64_t mask = kind == 1 ? 7 : kind == 2 ? 3 : kind == 3 ? 1 : 0;
  return address ^ ((address >> 7 & mask) << 4);
}
inline uint64_t swizzle_width(uint64_t kind) { return kind == 1 ? 128 : kind == 2 ? 64 : 32; }

// What the PTX ISA's canonical layouts want of an operand, 9.7.16.5.1: rows of eight start where the swizzle's pattern
// does, for the descriptor's base offset is 0; and if it is not K-major, it has whole panels.
inline void check_operand(uint64_t descriptor, int size, bool transposed) {
  const uint64_t start = (descriptor & 0x3fff) << 4, width = swizzle_width(descriptor >> 62);
  if (start % (8 * width) >= (transposed ? 1 : width)) fail("an operand that does not start where the swizzle's pattern does");
  if (transposed && 2 * size % width) fail("an operand with part of a panel");
}

// The 16-bit value of an operand in shared memory, at place `mn` of its M or N and `k` of its K (0..15).
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

#define threadIdx (uint3{stgt::emulator::current->index, 0, 0})
#define blockIdx (stgt::emulator::block_index)
#define gridDim (stgt::emulator::grid)
#define blockDim (uint3{stgt::emulator::block_size, 1, 1})

inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline uint32_t atomicAdd(uint32_t* p, uint32_t x) { return std::exchange(*p, *p + x); }
inline uint32_t atomicMax(uint32_t* p, uint32_t x) { return std::exchange(*p, std::max(*p, x)); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
using std::max;
using std::min;

template <class Kernel> void emulate(uint3 grid, unsigned threads, size_t shared_bytes, Kernel kernel) {
  namespace e = stgt::emulator;
  if (threads % 32) e::fail("a block must have whole warps");
  while (e::threads.size() < threads) e::threads.emplace_back().stack = std::make_unique<char[]>(e::STACK);
  e::threads.resize(threads);
  for (unsigned i = 0; i < threads; ++i) e::threads[i].index = i;
  e::memory = std::make_unique<char[]>(shared_bytes + 1024);
  e::shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(e::memory.get()) + 1023) / 1024 * 1024);
  e::grid = grid, e::block_size = threads, e::shared_bytes = shared_bytes, e::kernel = kernel;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        e::block_index = {x, y, z};
        e::run_block();
      }
}

namespace stgt::ptx {

namespace e = stgt::emulator;

// ---- ptx.cuh -------------------------------------------------------------------------------------------------------

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

template <class T> float widen(uint16_t bits);
template <> inline float widen<bf16>(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
template <> inline float widen<f16>(uint16_t bits) { return float(std::bit_cast<_Float16>(bits)); }

template <class T> uint16_t narrow(float x);
template <> inline uint16_t narrow<bf16>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
template <> inline uint16_t narrow<f16>(float x) { return std::bit_cast<uint16_t>(_Float16(x)); }

template <class T> uint32_t pack(float first, float second) { return narrow<T>(first) | uint32_t(narrow<T>(second)) << 16; }
template <class T> float2 unpack(uint32_t packed) { return {widen<T>(uint16_t(packed)), widen<T>(uint16_t(packed >> 16))}; }

inline uint32_t nonzero_mask(uint32_t pair) { return (pair & 0x7fff ? 0xffffu : 0) | (pair >> 16 & 0x7fff ? 0xffff0000u : 0); }
inline void where_nonzero(uint32_t pair, float& first, float& second, float otherwise) {
  first = pair & 0x7fff ? first : otherwise, second = pair >> 16 & 0x7fff ? second : otherwise;
}

inline float exp2(float x) { return std::exp2(x); }
inline void settle(uint32_t&) {}

inline char* shared_memory() { return e::shared; }
inline uint32_t shared_address(const void* p) { return uint32_t(static_cast<const char*>(p) - e::shared); }

template <class V> V shuffled(V x, int from, const char* name) {
  struct Data { V value; int from; V result; } data{x, from, x};
  e::meet_warp(name, &data, [](auto& calls) {
    for (auto& call : calls) {
      auto* own = static_cast<Data*>(call.data);
      own->result = static_cast<Data*>(calls[own->from].data)->value;
    }
  });
  return data.result;
}
inline float shuffle_xor(float x, int mask) { return shuffled(x, (e::current->index % 32) ^ mask, "shuffle_xor"); }
inline int shuffle(int x, int lane) { return shuffled(x, lane, "shuffle"); }
inline uint32_t ballot(bool x) {
  struct Data { bool value; uint32_t result; } data{x, 0};
  e::meet_warp("ballot", &data, [](auto& calls) {
    uint32_t result = 0;
    for (int l = 0; l < 32; ++l) result |= uint32_t(static_cast<Data*>(calls[l].data)->value) << l;
    for (auto& call : calls) static_cast<Data*>(call.data)->result = result;
  });
  return data.result;
}
inline int first_bit(uint32_t x) { return std::countr_zero(x); }
inline void sync_warp() { e::meet_warp("sync_warp", nullptr, [](auto&) {}); }
inline void sync_threads() { e::meet(2, 0, e::block_size, "sync_threads", nullptr, [](auto&) {}); }
inline void sync_named(int barrier, int threads) { e::meet(2, barrier, threads, "sync_named", nullptr, [](auto&) {}); }

template <int BYTES = 16> void copy_async(void* shared, const void* global, bool valid) {
  e::check_shared(shared, BYTES, BYTES);
  if (valid && reinterpret_cast<uintptr_t>(global) % BYTES) e::fail("misaligned copy_async");
  auto copy = [=] { valid ? (void)memcpy(shared, global, BYTES) : (void)memset(shared, 0, BYTES); };
  e::eager ? copy() : e::current->copies.back().push_back(copy);
}
inline void copy_async_commit() { e::current->copies.emplace_back(); }
template <int PENDING> void copy_async_wait() {
  auto& groups = e::current->copies;
  for (; groups.size() > PENDING + 1; groups.pop_front())
    for (auto& copy : groups.front()) copy();
}

template <bool TRANSPOSE = false> void load_matrices(uint32_t (&r)[4], const void* row) {
  e::check_shared(row, 16, 16);
  struct Data { const char* row; uint32_t* r; } data{static_cast<const char*>(row), r};
  e::meet_warp(TRANSPOSE ? "load_matrices transposed" : "load_matrices", &data, [](auto& calls) {
    uint16_t values[4][8][8];
    for (int l = 0; l < 32; ++l) memcpy(values[l / 8][l % 8], static_cast<Data*>(calls[l].data)->row, 16);
    for (int l = 0; l < 32; ++l)
      for (int m = 0; m < 4; ++m) {
        uint32_t pair = 0;
        for (int i = 0; i < 2; ++i) {
          auto [row, column] = e::accumulator(l, i);
          pair |= uint32_t(TRANSPOSE ? values[m][column][row] : values[m][row][column]) << 16 * i;
        }
        static_cast<Data*>(calls[l].data)->r[m] = pair;
      }
  });
}

inline uint32_t transpose_matrix(uint32_t x) {
  struct Data { uint32_t in, out; } data{x, 0};
  e::meet_warp("transpose_matrix", &data, [](auto& calls) {
    uint16_t values[8][8];
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 2; ++i) {
        auto [row, column] = e::accumulator(l, i);
        values[row][column] = uint16_t(static_cast<Data*>(calls[l].data)->in >> 16 * i);
      }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 2; ++i) {
        auto [row, column] = e::accumulator(l, i);
        static_cast<Data*>(calls[l].data)->out |= uint32_t(values[column][row]) << 16 * i;
      }
  });
  return data.out;
}

// The 16 x 16 left operand of a warp, from its lanes' registers.
template <class T> void read_left(float (&left)[16][16], int lane, const uint32_t* a) {
  for (int i = 0; i < 4; ++i)
    for (int half = 0; half < 2; ++half)
      left[lane / 4 + 8 * (i % 2)][2 * (lane % 4) + half + 8 * (i / 2)] = widen<T>(uint16_t(a[i] >> 16 * half));
}

template <class T> void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Data { float* d; const uint32_t* a; uint32_t b[2]; } data{d, a, {b0, b1}};
  e::meet_warp("mma", &data, [](auto& calls) {
    float left[16][16], right[16][8];
    for (int l = 0; l < 32; ++l) {
      auto* own = static_cast<Data*>(calls[l].data);
      read_left<T>(left, l, own->a);
      for (int i = 0; i < 2; ++i)
        for (int half = 0; half < 2; ++half)
          right[2 * (l % 4) + half + 8 * i][l / 4] = widen<T>(uint16_t(own->b[i] >> 16 * half));
    }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) {
        auto [row, column] = e::accumulator(l, i);
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        static_cast<Data*>(calls[l].data)->d[i] += sum;
      }
  });
}

// ---- ptx_sm90.cuh --------------------------------------------------------------------------------------------------

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

struct TensorMap {  // what tensor_map.h encodes for the GPU: innermost dimension first
  const char* base;
  int rank, element_bytes;
  int64_t size[5], stride[5];  // strides in bytes
  int box[5];
  uint64_t swizzle;            // as ptx::Swizzle; 0: none
};

inline void tma_prefetch(const TensorMap&) {}
inline void tma_load_box(void* shared, const TensorMap& map, uint64_t* barrier, std::vector<int> at) {
  if (int(at.size()) != map.rank) e::fail("a tensor map of another rank");
  int64_t bytes = map.element_bytes;
  for (int i = 0; i < map.rank; ++i) bytes *= map.box[i];
  e::check_shared(shared, bytes, map.swizzle ? 128 : 16);
  if (map.box[0] * map.element_bytes % 16) e::fail("a box whose rows are no multiple of 16 bytes");
  if (map.swizzle && uint64_t(map.box[0] * map.element_bytes) > e::swizzle_width(map.swizzle)) e::fail("a box wider than its swizzle");
  for (int i = 1; i < map.rank; ++i)
    if (map.stride[i] % 16) e::fail("a stride that is no multiple of 16 bytes");
  if (reinterpret_cast<uintptr_t>(map.base) % 16) e::fail("a tensor that does not start at a multiple of 16 bytes");
  auto transfer = [=, &map] {
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

template <int N> void registers_grow() { e::meet_warpgroup("registers_grow", nullptr, [](auto&) {}); }
template <int N> void registers_shrink() { e::meet_warpgroup("registers_shrink", nullptr, [](auto&) {}); }

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

inline void wgmma_run(size_t keep) {  // all but the last `keep` groups
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

inline void wgmma_fence() { e::meet_warpgroup("wgmma_fence", nullptr, [](auto&) {}); }
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
