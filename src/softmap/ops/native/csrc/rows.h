// A band's own rows (queries, gradients of the output, sums of its results) in the dtype that is
// computed in, however the caller's lie.
#pragma once

#include "dtypes.h"

namespace softmap {

template <typename T>
void convert(const T* from, T* to, int64_t n) { std::copy_n(from, n, to); }
inline void convert(const at::BFloat16* from, float* to, int64_t n) { widen(from, to, n); }
inline void convert(const at::Half* from, float* to, int64_t n) { widen(from, to, n); }
inline void convert(const float* from, at::BFloat16* to, int64_t n) { narrow(from, to, n); }
inline void convert(const float* from, at::Half* to, int64_t n) { narrow(from, to, n); }

// f of a null pointer to the numbers of `t`: T's, or half of a float.
template <typename T, typename F>
void with_type(const Tensor& t, F f) {
  if constexpr (std::is_same_v<T, float>) {
    if (t.scalar_type() == at::kBFloat16) return f(static_cast<at::BFloat16*>(nullptr));
    if (t.scalar_type() == at::kHalf) return f(static_cast<at::Half*>(nullptr));
  }
  f(static_cast<T*>(nullptr));
}

// Numbers of a head next to each other.
inline Tensor row_wise(const Tensor& t) { return t.stride(3) == 1 ? t : t.contiguous(); }

// Some rows of some heads of a tensor (B, H, T, width): where they lie, if they lie as T's one after the
// other, else in the worker's `memory`, heads x rows x width.
template <typename T>
struct Rows {
  T* memory;
  int64_t heads, rows, width;
  T* data = nullptr;
  int64_t apart = 0;  // from one head to the next

  T* at(int64_t h) const { return data + h * apart; }

  // To be read: rows [row, row + rows) of heads [head, head + heads).
  void take(const Tensor& t, int64_t b, int64_t head, int64_t row) {
    if (borrow(t, b, head, row)) return;
    keep();
    each(t, b, head, row, [&](auto* theirs, T* ours, int64_t n) { convert(theirs, ours, n); });
  }
  // To be added to, from zeros; t holds zeros.
  void open(const Tensor& t, int64_t b, int64_t head, int64_t row) {
    if (!borrow(t, b, head, row)) clear_own();
  }
  // What was added up, to t.
  void close(const Tensor& t, int64_t b, int64_t head, int64_t row) const {
    if (data != memory) return;
    each(t, b, head, row, [&](auto* theirs, T* ours, int64_t n) { convert(ours, theirs, n); });
  }
  void clear_own() {
    keep();
    std::fill_n(data, heads * rows * width, T(0));
  }
  void add(const Rows& other) const {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t n = 0; n < rows * width; ++n) at(h)[n] += other.at(h)[n];
    }
  }

 private:
  void keep() { data = memory, apart = rows * width; }
  bool borrow(const Tensor& t, int64_t b, int64_t head, int64_t row) {
    if (t.scalar_type() != dtype_of<T> || t.stride(2) != width) return false;
    data = static_cast<T*>(t.data_ptr()) + b * t.stride(0) + head * t.stride(1) + row * width;
    apart = t.stride(1);
    return true;
  }
  template <typename F>
  void each(const Tensor& t, int64_t b, int64_t head, int64_t row, F f) const {
    with_type<T>(t, [&](auto* type) {
      auto* base = static_cast<decltype(type)>(t.data_ptr()) + b * t.stride(0) + row * t.stride(2);
      const bool whole = t.stride(2) == width;
      for (int64_t h = 0; h < heads; ++h) {
        auto* theirs = base + (head + h) * t.stride(1);
        if (whole) f(theirs, at(h), rows * width);
        for (int64_t r = 0; r < rows && !whole; ++r) {
          f(theirs + r * t.stride(2), at(h) + r * width, width);
        }
      }
    });
  }
};

}  // namespace softmap
