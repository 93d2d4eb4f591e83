// Runs tasks on torch's threads, each range with a workspace of its own.
#pragma once
#include "../checks.h"
#include "denormals.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>

namespace stgt {

// The multiply-adds that are worth a thread of their own. Waking one takes about as long.
inline constexpr double LEAST_WORK = 1e6;

// work: the multiply-adds of all tasks together, at most. flush_results: see Denormals.
inline void run_tasks(const char* op, int64_t tasks, double work, int64_t workspace_bytes, auto&& run,
                      bool flush_results = false) {
  const int64_t least_tasks = int64_t(std::max(1.0, LEAST_WORK * double(tasks) / std::max(1.0, work)));
  std::atomic<bool> lacks_memory = false;
  torch::stable::parallel_for(0, tasks, least_tasks, [&](int64_t begin, int64_t end) {
    const Denormals guard(flush_results);
    constexpr std::align_val_t alignment{64};
    const auto free = [](char* p) { ::operator delete(p, alignment); };
    void* const memory = ::operator new(workspace_bytes + 64, alignment, std::nothrow);
    std::unique_ptr<char, decltype(free)> workspace(static_cast<char*>(memory), free);
    memory ? run(begin, end, workspace.get()) : lacks_memory.store(true);
  });
  STGT_CHECK(op, !lacks_memory, "out of memory: a thread's workspace needs ", workspace_bytes, " bytes");
}

// The same for the tasks of attention, which flush denormal results to 0.
inline void run_attention_tasks(const char* op, int64_t tasks, double work, int64_t workspace_bytes, auto&& run) {
  run_tasks(op, tasks, work, workspace_bytes, run, true);
}

}  // namespace stgt
