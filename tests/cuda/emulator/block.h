// Runs the blocks of a CUDA kernel on the CPU. The kernel's own source is compiled as C++:
//
//   g++ -std=c++20 -x c++ -include tests/cuda/emulator/ptx_sm90.h ...
//   emulate({blocks}, threads, shared_bytes, [&] { kernel<...>(arguments...); });
//
// The threads of a block are fibers that take turns. ptx.h and ptx_sm90.h replace the instructions. An instruction of a
// warp or warpgroup waits until all its threads have come to it, and the test stops if they came to different ones.
// Copies and products that are asynchronous on the GPU happen here as late as the kernel's waits allow, or as early as
// possible if `emulator::eager` is set. A missing wait gives wrong numbers in one of the two. Shared memory starts as
// NaN, and instructions that access it may not reach beyond it.
//
// The emulator cannot show these things:
// - Races between warps. A thread gives way to another one only at an instruction that waits, in a fixed order, and
//   blocks run one after the other. Code that is right only in that order passes.
// - Registers: how many a kernel takes, and whether they spill. tests/cuda/test_compile.py looks at that.
// - Clusters of blocks, which do not exist here.
#pragma once
#undef _FORTIFY_SOURCE  // its longjmp refuses to change to another stack
#include <setjmp.h>
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

struct Call {  // the part of one thread in an instruction that several threads issue together
  const char* name;
  void* data;
};

struct Meeting {  // a meeting of the threads of a warp, of a warpgroup, or at a named barrier
  std::vector<std::pair<unsigned, Call>> calls;  // of the threads that have come, by their numbers
  uint64_t round = 0;
};

struct Product {  // a wgmma as one thread issues it
  float* d;
  const uint32_t* a_registers;
  uint64_t a, b;
  bool accumulate;
  void (*run)(Product* (&threads)[128]);
};

struct Thread {
  ucontext_t start;
  jmp_buf at;  // where the thread goes on
  bool started;
  std::unique_ptr<char[]> stack;
  unsigned index;
  bool done;
  std::function<bool()> waits_for;                        // if not empty, the thread goes on when this returns true
  std::deque<std::vector<std::function<void()>>> copies;  // groups of copy_async; the last one is not committed yet
  std::deque<std::vector<Product>> products;              // groups of wgmma; the last one is not committed yet
};

struct Barrier { int arrivals, pending, bytes, phase; };

inline bool eager = false;

constexpr size_t STACK = 192 * 1024;
inline std::vector<Thread> threads;
inline Thread* current;
inline jmp_buf scheduler;
inline uint3 grid, block_index;
inline unsigned block_size;
inline std::unique_ptr<char[]> memory;
inline char* shared;
inline size_t shared_bytes;
inline std::map<std::pair<int, int>, Meeting> meetings;  // by kind and number
inline std::map<uint64_t*, Barrier> barriers;
inline std::deque<std::function<void()>> transfers;  // copies of the tensor copy engine that have not happened yet
inline std::function<void()> kernel;
inline bool progress;

inline void check_shared(const void* p, size_t bytes, size_t alignment) {
  const char* c = static_cast<const char*>(p);
  if (c < shared || c + bytes > shared + shared_bytes) fail("access beyond shared memory");
  if ((c - shared) % alignment) fail("misaligned access to shared memory");
}

// A thread starts with setcontext, which gives it its own stack. All other changes between threads are made by _setjmp
// and _longjmp, because they make no system call.
inline void give_way() {
  if (!_setjmp(current->at)) _longjmp(scheduler, 1);
}
inline void go_on(Thread& thread) {
  current = &thread;
  if (_setjmp(scheduler)) return;
  if (std::exchange(thread.started, true)) _longjmp(thread.at, 1);
  setcontext(&thread.start);
}

template <class Condition> void wait_until(Condition condition) {
  if (!condition()) {
    current->waits_for = condition;
    give_way();
    current->waits_for = nullptr;
  }
  progress = true;
}

// Waits until `size` threads have called this. The last one runs run(calls), with the calls in the order of threads.
template <class Run> void meet(int kind, int number, int size, const char* name, void* data, Run run) {
  Meeting& meeting = meetings[{kind, number}];
  meeting.calls.push_back({current->index, {name, data}});
  if (int(meeting.calls.size()) == size) {
    std::sort(meeting.calls.begin(), meeting.calls.end(), [](auto& a, auto& b) { return a.first < b.first; });
    std::vector<Call> calls;
    for (const auto& [index, call] : meeting.calls) {
      if (strcmp(call.name, name)) fail("threads of one warp or barrier issue different instructions");
      calls.push_back(call);
    }
    run(calls);
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
  give_way();
}

inline void run_block() {
  memset(shared, 0xff, shared_bytes);
  meetings.clear(), barriers.clear(), transfers.clear();
  for (Thread& thread : threads) {
    thread.done = thread.started = false, thread.waits_for = nullptr;
    thread.copies.assign(1, {}), thread.products.assign(1, {});
    getcontext(&thread.start);
    thread.start.uc_stack = {.ss_sp = thread.stack.get(), .ss_flags = 0, .ss_size = STACK};
    thread.start.uc_link = nullptr;
    makecontext(&thread.start, enter, 0);
  }
  for (bool running = true; running;) {
    running = progress = false;
    for (Thread& thread : threads) {
      if (thread.done) continue;
      running = true;
      if (thread.waits_for && !thread.waits_for()) continue;
      go_on(thread);
    }
    if (running && !progress) {
      if (transfers.empty()) fail("deadlock: every thread waits");
      transfers.front()();
      transfers.pop_front();
    }
  }
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
