// Memory in large pages: tiles of many heads touch more small pages than a core can keep track of.
#pragma once

#include <cstdlib>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "common.h"

namespace softmap {

constexpr int64_t LARGE_PAGE = int64_t(2) << 20;

inline void* large_pages(int64_t bytes) {
  bytes = round_up(std::max<int64_t>(bytes, 1), LARGE_PAGE);
  void* data = std::aligned_alloc(LARGE_PAGE, bytes);
  TORCH_CHECK_WITH(OutOfMemoryError, data, "native attention: ", bytes, " bytes not available");
#ifdef __linux__
  madvise(data, bytes, MADV_HUGEPAGE);
#endif
  return data;
}

// Memory that a thread keeps from call to call: mapping it anew would cost as much as some bands.
// What an earlier call left in it is never read.
template <typename T>
T* arena(int64_t n) {
  thread_local std::unique_ptr<void, decltype(&std::free)> kept(nullptr, &std::free);
  thread_local int64_t size = 0;
  if (size < n) {
    size = 0;
    kept.reset();
    kept.reset(large_pages(n * int64_t(sizeof(T))));
    size = n;
  }
  return static_cast<T*>(kept.get());
}

}  // namespace softmap
