// Runs tasks on torch's threads, each range with a workspace of its own.
#pragma once
#include <torch/csrc/stable/ops.h>

#include <memory>
#include <new>

namespace stgt {

inline void run_tasks(int64_t tasks, int64_t workspace_bytes, auto&& run) {
  torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    constexpr std::align_val_t alignment{64};
    const auto free = [](char* p) { ::operator delete(p, alignment); };
    std::unique_ptr<char, decltype(free)> workspace(static_cast<char*>(::operator new(workspace_bytes + 64, alignment)), free);
    run(begin, end, workspace.get());
  });
}

}  // namespace stgt
