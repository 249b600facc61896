// Between the caller's dtype and the one that is computed in. PyTorch's own copies to and from half
// precision take as long as some bands do.
#pragma once

#include "common.h"

namespace softmap {

template <typename Half>
void widen(const Half* from, float* to, int64_t n) {
  constexpr int64_t step = Vec<Half>::size();
  int64_t x = 0;
  for (; x + step <= n; x += step) {
    const auto [low, high] = at::vec::convert_to_float<Half>(Vec<Half>::loadu(from + x));
    low.store(to + x), high.store(to + x + step / 2);
  }
  for (; x < n; ++x) to[x] = float(from[x]);
}

template <typename Half>
void narrow(const float* from, Half* to, int64_t n) {
  constexpr int64_t step = Vec<Half>::size();
  int64_t x = 0;
  for (; x + step <= n; x += step) {
    at::vec::convert_from_float<Half>(Vec<float>::loadu(from + x), Vec<float>::loadu(from + x + step / 2))
        .store(to + x);
  }
  for (; x < n; ++x) to[x] = Half(from[x]);
}

template <typename Half>
Tensor convert_half(const Tensor& t, at::ScalarType dtype) {
  const Tensor out = at::empty(t.sizes(), t.options().dtype(dtype));
  constexpr int64_t grain = 1 << 14;
  at::parallel_for(0, t.numel(), grain, [&](int64_t begin, int64_t end) {
    if (dtype == at::kFloat) {
      widen(t.const_data_ptr<Half>() + begin, out.mutable_data_ptr<float>() + begin, end - begin);
    } else {
      narrow(t.const_data_ptr<float>() + begin, out.mutable_data_ptr<Half>() + begin, end - begin);
    }
  });
  return out;
}

// `t` in this dtype, its numbers in order; itself if it is so already.
inline Tensor converted(const Tensor& t, at::ScalarType dtype) {
  const auto from = t.scalar_type();
  const auto half = dtype == at::kFloat ? from : dtype;
  if (from != dtype && t.is_contiguous() && (from == at::kFloat || dtype == at::kFloat)) {
    if (half == at::kBFloat16) return convert_half<at::BFloat16>(t, dtype);
    if (half == at::kHalf) return convert_half<at::Half>(t, dtype);
  }
  return t.to(dtype).contiguous();
}

template <typename T>
Tensor wide(const Tensor& t) { return converted(t, dtype_of<T>); }

}  // namespace softmap
