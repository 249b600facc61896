// RMSNorm over the last axis, y = x / sqrt(mean x^2 + eps) * w, in one pass each way: Differential
// attention's norm of each head. PyTorch's is a dozen passes over the whole output.
#pragma once

#include "rows.h"

namespace softmap {

template <typename T>
struct RmsNorm {
  Tensor x, weight;
  T eps;
  int64_t d, rows;

  RmsNorm(const Tensor& x, const Tensor& weight, double eps)
      : x(x.contiguous()), weight(wide<T>(weight)), eps(T(eps)), d(x.size(-1)),
        rows(x.numel() / std::max<int64_t>(1, d)) {}

  // y, and one over the root of each row's mean square.
  std::tuple<Tensor, Tensor> forward() const {
    Tensor y = at::empty(x.sizes(), x.options()), inverse = at::empty({rows}, dtype_of<T>);
    const T* w = weight.const_data_ptr<T>();
    T* scale = inverse.mutable_data_ptr<T>();
    with_type<T>(x, [&](auto* type) {
      auto* from = static_cast<decltype(type)>(x.data_ptr());
      auto* to = static_cast<decltype(type)>(y.data_ptr());
      at::parallel_for(0, rows, GRAIN, [&](int64_t begin, int64_t end) {
        std::vector<T> row(d);
        for (int64_t r = begin; r < end; ++r) {
          convert(from + r * d, row.data(), d);
          scale[r] = T(1) / std::sqrt(dot(row.data(), row.data(), d) / T(d) + eps);
          T* __restrict__ here = row.data();
          for (int64_t c = 0; c < d; ++c) here[c] *= scale[r] * w[c];
          convert(row.data(), to + r * d, d);
        }
      });
    });
    return {y, inverse};
  }

  // With n = x / rms and g = dy w:  dx = (g - n mean(g n)) / rms,  dw = sum over rows of dy n.
  std::tuple<Tensor, Tensor> backward(const Tensor& grad_in, const Tensor& inverse) const {
    const Tensor grad = grad_in.contiguous();
    Tensor dx = at::empty(x.sizes(), x.options());
    const int64_t parts = std::clamp<int64_t>(rows / GRAIN, 1, at::get_num_threads());
    Tensor dw = at::zeros({parts, d}, dtype_of<T>);
    const T *w = weight.const_data_ptr<T>(), *scale = inverse.const_data_ptr<T>();
    with_type<T>(x, [&](auto* type) {
      using Number = std::remove_pointer_t<decltype(type)>;
      const auto* from = static_cast<const Number*>(x.data_ptr());
      const auto* upstream = static_cast<const Number*>(grad.data_ptr());
      auto* to = static_cast<Number*>(dx.data_ptr());
      at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
        std::vector<T> memory(2 * d);
        T *__restrict__ n = memory.data(), *__restrict__ g = memory.data() + d;
        for (int64_t part = begin; part < end; ++part) {
          T* __restrict__ sum = dw.mutable_data_ptr<T>() + part * d;
          for (int64_t r = rows * part / parts; r < rows * (part + 1) / parts; ++r) {
            convert(from + r * d, n, d), convert(upstream + r * d, g, d);
            for (int64_t c = 0; c < d; ++c) {
              n[c] *= scale[r];
              sum[c] += g[c] * n[c];
              g[c] *= w[c];
            }
            const T mean = dot<T>(g, n, d) / T(d);
            for (int64_t c = 0; c < d; ++c) g[c] = (g[c] - n[c] * mean) * scale[r];
            convert(static_cast<const T*>(g), to + r * d, d);
          }
        }
      });
    });
    return {dx, dw.sum(0)};
  }

 private:
  static constexpr int64_t GRAIN = 64;
};

}  // namespace softmap
