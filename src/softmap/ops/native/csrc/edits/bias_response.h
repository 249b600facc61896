// What the first convolution of DAPE makes of a distance bias alone. It depends on the distance only,
// but for the first columns of a row, where some of its taps fall before the row: a table, and a
// correction of those columns. Sequences, rows and bands share it.
#pragma once

#include "biases.h"

namespace softmap {

template <typename T>
struct BiasResponse {
  DistanceBias<T>& bias;
  LayerTensor<T> weight;  // (M, k, H), the part of the convolution that reads the bias
  LayerTensor<T> table;  // (M, S'), from the longest distance to -pad, b1 added
  int64_t M, taps, pad, H, stride;

  BiasResponse(DistanceBias<T>& bias, const Setup<T>& setup, const Tensor& w1, const Tensor& b1)
      : bias(bias), M(w1.size(0)), taps(w1.size(3)), pad(taps / 2), H(setup.heads),
        stride(setup.keys + pad) {
    const auto part = w1.to(dtype_of<T>).squeeze(2).narrow(1, H, H);  // (M, H, k)
    weight = LayerTensor<T>(part.transpose(1, 2), *setup.schedule, setup.with_grad);
    const auto far = at::constant_pad_nd(values(), {pad, 2 * pad}).unsqueeze(0);
    const auto sums = at::conv1d(far, part.contiguous(), b1.to(dtype_of<T>)).squeeze(0);
    table = LayerTensor<T>(sums, *setup.schedule, setup.with_grad);
  }

  // (H, S) the bias, from the longest distance.
  Tensor values() const { return bias.table.value.narrow(1, 0, bias.keys); }

  const T* row(const Region& w, int64_t r, int64_t m) const {
    return table.data() + m * stride + bias.place(w, r, 0);
  }
  T* grad_row(const Region& w, int64_t r, int64_t m) const {
    return table.grad_of(w.worker) + m * stride + bias.place(w, r, 0);
  }

  // Calls f(m, c, n, b) for every unit m at column c whose tap reads the column before the row that
  // the bias' number b (of head 0) belongs to; n is the tap's place in the weights.
  template <typename F>
  void each_missing(const Region& w, int64_t r, int64_t begin, F f) const {
    for (int64_t c = begin; c < begin + pad; ++c) {
      for (int64_t tap = 0; c + tap - pad < begin; ++tap) {
        const int64_t b = bias.place(w, r, 0) + c + tap - pad;
        for (int64_t m = 0; b >= 0 && m < M; ++m) f(m, c, (m * taps + tap) * H, b);
      }
    }
  }

  // units[m * n + c - first]: takes back what the table holds of columns before the row.
  void correct(const Region& w, int64_t r, int64_t begin, T* units, int64_t n) const {
    each_missing(w, r, begin, [&](int64_t m, int64_t c, int64_t at, int64_t b) {
      T sum = 0;
      for (int64_t h = 0; h < H; ++h) sum += weight.data()[at + h] * bias.table.data()[h * bias.stride + b];
      if (c - begin < n) units[m * n + c - begin] -= sum;
    });
  }
  void correct_grad(const Region& w, int64_t r, int64_t begin, const T* pull, int64_t n) const {
    T *to_weight = weight.grad_of(w.worker), *to_bias = bias.table.grad_of(w.worker);
    each_missing(w, r, begin, [&](int64_t m, int64_t c, int64_t at, int64_t b) {
      const T g = c - begin < n ? pull[m * n + c - begin] : T(0);
      for (int64_t h = 0; h < H; ++h) {
        to_weight[at + h] -= g * bias.table.data()[h * bias.stride + b];
        to_bias[h * bias.stride + b] -= g * weight.data()[at + h];
      }
    });
  }

  // Gradients through the table: of b1, of the weights (M, H, 1, k); the bias' own go to its table.
  std::pair<Tensor, Tensor> take_gradients() const {
    const auto sums = table.take_grad();  // (M, S + pad)
    auto by_weight = weight.take_grad();  // (M, k, H)
    auto by_bias = bias.table.grad[0].view({H, bias.stride}).narrow(1, 0, bias.keys);
    const auto far = at::constant_pad_nd(values(), {pad, 2 * pad});
    for (int64_t tap = 0; tap < taps; ++tap) {
      by_weight.select(1, tap).add_(sums.mm(far.narrow(1, tap, stride).t()));
      const auto back = at::constant_pad_nd(sums, {pad, pad}).narrow(1, 2 * pad - tap, bias.keys);
      by_bias.add_(weight.value.select(1, tap).t().mm(back));
    }
    return {sums.sum(1), by_weight.transpose(1, 2).unsqueeze(2)};
  }
};

}  // namespace softmap
