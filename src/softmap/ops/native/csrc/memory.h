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

// What the workers of one call share and no one outside sees. Like the workers' own memory it is kept
// for the next call of the same thread, unless it is a lot.
class Shared {
 public:
  static constexpr int64_t MOST = int64_t(128) << 20;

  static Shared& of_this_thread() {
    thread_local Shared shared;
    return shared;
  }
  // A call begins: what the last one had is free, and there is room for as much as it wanted.
  void begin() {
    used = 0;
    if (wanted > size && wanted <= MOST) {
      size = 0;
      kept.reset();
      kept.reset(large_pages(wanted));
      size = round_up(wanted, LARGE_PAGE);
    }
    wanted = 0;
  }
  // Valid until the next call begins.
  template <typename T>
  Tensor empty(at::IntArrayRef shape) {
    const int64_t bytes = round_up(c10::multiply_integers(shape) * int64_t(sizeof(T)), 64);
    wanted += bytes;
    if (used + bytes > size) return at::empty(shape, dtype_of<T>);
    char* data = static_cast<char*>(kept.get()) + used;
    used += bytes;
    return at::from_blob(data, shape, at::TensorOptions(dtype_of<T>));
  }

 private:
  std::unique_ptr<void, decltype(&std::free)> kept{nullptr, &std::free};
  int64_t size = 0, used = 0, wanted = 0;
};

}  // namespace softmap
