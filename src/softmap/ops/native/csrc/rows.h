// A band's own rows (queries, gradients of the output, sums of its results): kept near the worker, in
// the dtype that it computes in, however the caller's lie.
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

// heads x rows x width, in one piece.
template <typename T>
struct Rows {
  T* data;
  int64_t heads, rows, width;

  T* at(int64_t h) const { return data + h * rows * width; }
  int64_t size() const { return heads * rows * width; }

  void add(const Rows& other) const {
    for (int64_t n = 0; n < size(); ++n) data[n] += other.data[n];
  }
  // From and to rows [row, row + rows) of heads [head, head + heads) of t (B, H, T, width).
  void take(const Tensor& t, int64_t b, int64_t head, int64_t row) const {
    each(t, b, head, row, [&](auto* theirs, T* ours, int64_t n) { convert(theirs, ours, n); });
  }
  void put(const Tensor& t, int64_t b, int64_t head, int64_t row) const {
    each(t, b, head, row, [&](auto* theirs, T* ours, int64_t n) { convert(ours, theirs, n); });
  }

 private:
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
