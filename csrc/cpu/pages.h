// The system zeroes new memory page by page, and each page that is touched first costs a page fault. This file asks for
// huge pages for a large output, so that one fault brings 2 MiB in place of 4 KiB.
#pragma once
#include "../tensors.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace stgt {

constexpr int64_t HUGE_PAGE = int64_t(1) << 21;
constexpr int64_t OWN_MAPPING = int64_t(1) << 25;  // glibc maps blocks of this size and unmaps them when they are freed

inline Tensor in_huge_pages(Tensor x) {
#ifdef __linux__
  const int64_t bytes = x.numel() * int64_t(x.element_size());
  if (bytes >= OWN_MAPPING) {
    const int64_t begin = reinterpret_cast<int64_t>(x.data_ptr());
    const int64_t first = (begin + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE,
                  last = (begin + bytes) / HUGE_PAGE * HUGE_PAGE;
    madvise(reinterpret_cast<void*>(first), last - first,
            MADV_HUGEPAGE);  // this is advice, and a system without huge pages may refuse it
  }
#endif
  return x;
}

}  // namespace stgt
