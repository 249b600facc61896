// Shaped attention as a change of the plain output (arXiv 2311.01906), in one pass each way:
//   o'[h,i] = alpha_h v_i + beta_h o[h,i] - gamma_h mean of the values that row i sees
// The keys that a row sees begin and end no earlier than those of the row before, so one running sum
// over the values gives every mean, and one over the rows' gradients every gradient of a value.
#pragma once

#include "problem.h"

namespace softmap {

template <typename T>
struct ShapedOutput {
  Tensor o, v, alpha, beta, gamma, first, last;  // gamma may be empty: no mean
  int64_t B, H, queries, keys, d, share;

  ShapedOutput(const Tensor& o, const Tensor& v, const Tensor& alpha, const Tensor& beta,
               const Tensor& gamma, const Tensor& first, const Tensor& last)
      : o(wide<T>(o)), v(wide<T>(v)), alpha(wide<T>(alpha)), beta(wide<T>(beta)), gamma(wide<T>(gamma)),
        first(first.contiguous()), last(last.contiguous()), B(o.size(0)), H(o.size(1)),
        queries(o.size(2)), keys(v.size(2)), d(o.size(3)), share(H / v.size(1)) {}

  Tensor forward() const {
    auto out = at::empty_like(o);
    each_value_head([&](int64_t b, int64_t g) {
      const auto means = all_means(b, g);
      for (int64_t h = g * share; h < (g + 1) * share; ++h) {
        const T keep = number(alpha, h), gain = number(beta, h);
        const T minus = gamma.numel() ? number(gamma, h) : T(0);
        const T *own = row(v, b, g, offset()), *from = row(o, b, h, 0), *mean = means.data();
        T* __restrict__ to = mutable_row<T>(out, b, h, 0);
        for (int64_t x = 0; x < queries * d; ++x) {
          to[x] = keep * own[x] + gain * from[x] - minus * mean[x];
        }
      }
    });
    return out;
  }

  // Of o, v, alpha, beta, gamma.
  std::vector<Tensor> backward(const Tensor& out_grad) const {
    const auto grad = wide<T>(out_grad);
    auto by_o = at::empty_like(o), by_v = at::zeros_like(v);
    auto gains = at::zeros({B, 3, H}, v.options());  // one for each sequence, then added
    each_value_head([&](int64_t b, int64_t g) {
      const auto means = all_means(b, g);
      std::vector<T> pulls(queries * d, T(0));  // of each row's mean
      const T* own = row(v, b, g, offset());
      T* __restrict__ to_own = mutable_row<T>(by_v, b, g, offset());
      for (int64_t h = g * share; h < (g + 1) * share; ++h) {
        T* gain = gains.mutable_data_ptr<T>() + b * 3 * H + h;
        const T keep = number(alpha, h), scale = number(beta, h), *from = row(grad, b, h, 0);
        const T minus = gamma.numel() ? number(gamma, h) : T(0);
        T *__restrict__ to = mutable_row<T>(by_o, b, h, 0), *__restrict__ pull = pulls.data();
        for (int64_t x = 0; x < queries * d; ++x) {
          to[x] = from[x] * scale;
          to_own[x] += from[x] * keep;
          pull[x] -= from[x] * minus;
        }
        gain[0] = dot(from, own, queries * d);
        gain[H] = dot(from, row(o, b, h, 0), queries * d);
        gain[2 * H] = -dot(from, means.data(), queries * d);
      }
      if (gamma.numel()) spread(b, pulls, mutable_row<T>(by_v, b, g, 0));
    });
    const auto sums = gains.sum(0);
    const auto of_gamma = gamma.numel() ? sums[2].clone() : at::empty_like(gamma);
    return {by_o, by_v, sums[0].clone(), sums[1].clone(), of_gamma};  // an operator's may not overlap
  }

 private:
  static const T* row(const Tensor& t, int64_t b, int64_t h, int64_t n) {
    return row_of<T>(t, b, h, n);
  }
  static T number(const Tensor& t, int64_t h) { return t.const_data_ptr<T>()[h]; }

  template <typename F>
  void each_value_head(F f) const {
    at::parallel_for(0, B * v.size(1), 1, [&](int64_t from, int64_t to) {
      for (int64_t n = from; n < to; ++n) f(n / v.size(1), n % v.size(1));
    });
  }

  int64_t offset() const { return keys - queries; }
  int64_t first_of(int64_t b, int64_t i) const {
    return first.const_data_ptr<int64_t>()[b * queries + i];
  }
  int64_t last_of(int64_t b, int64_t i) const {
    return last.const_data_ptr<int64_t>()[b * queries + i];
  }

  // sum += sign * from; in double, so that what is taken away again leaves nothing behind.
  void add(std::vector<double>& sums, const T* from, double sign) const {
    double* __restrict__ sum = sums.data();
    for (int64_t x = 0; x < d; ++x) sum[x] += sign * double(from[x]);
  }

  // (T, d) mean of the values that each row sees; zeros without gamma.
  std::vector<T> all_means(int64_t b, int64_t g) const {
    std::vector<T> means(queries * d, T(0));
    if (!gamma.numel()) return means;
    std::vector<double> sum(d, 0);
    int64_t begin = 0, end = 0;
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t from = first_of(b, i), to = last_of(b, i);
      if (to <= from) continue;
      if (from >= end) {  // padding and earlier documents leave not even their rounding
        sum.assign(d, 0);
        begin = end = from;
      }
      for (; end < to; ++end) add(sum, row(v, b, g, end), 1);
      for (; begin < from; ++begin) add(sum, row(v, b, g, begin), -1);
      const double part = 1.0 / double(to - from);
      T* __restrict__ mean = means.data() + i * d;
      for (int64_t x = 0; x < d; ++x) mean[x] = T(sum[x] * part);
    }
    return means;
  }

  // by_v[j] += the pulls of the rows that see key j, each over the number of keys it sees.
  void spread(int64_t b, std::vector<T>& pulls, T* by_v) const {
    for (int64_t i = 0; i < queries; ++i) {
      const T part = T(1) / T(std::max<int64_t>(1, last_of(b, i) - first_of(b, i)));
      for (int64_t x = 0; x < d; ++x) pulls[i * d + x] *= part;
    }
    std::vector<double> sum(d, 0);
    int64_t enters = queries - 1, leaves = queries - 1;
    const auto seen = [&](int64_t i) { return last_of(b, i) > first_of(b, i); };
    for (int64_t key = keys - 1; key >= 0; --key) {
      for (; enters >= 0 && last_of(b, enters) > key; --enters) {
        if (seen(enters)) add(sum, pulls.data() + enters * d, 1);
      }
      for (; leaves >= 0 && first_of(b, leaves) > key; --leaves) {
        if (seen(leaves)) add(sum, pulls.data() + leaves * d, -1);
      }
      T* __restrict__ to = by_v + key * d;
      for (int64_t x = 0; x < d; ++x) to[x] += T(sum[x]);
    }
  }
};

}  // namespace softmap
