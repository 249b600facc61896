// What DCMHA composes the heads of one token with, for the few tokens of a decoding step:
//   hid = GELU(x W1), [w1; w2] = hid W2, w1 RMS-normalised over heads, g = tanh(x W_g)
// PyTorch runs a dozen operators for it, each of which takes longer to call than to compute.
#pragma once

#include "rows.h"

namespace softmap {

template <typename T>
struct TokenFactors {
  Tensor x, w1, w2, gate;
  int64_t tokens, width, hidden, rank, heads;

  // x (..., D), w1 (D, K), w2 (K, 2R, H), gate (D, H), all of one dtype.
  TokenFactors(const Tensor& x, const Tensor& w1, const Tensor& w2, const Tensor& gate)
      : x(wide<T>(x)), w1(wide<T>(w1)), w2(wide<T>(w2)), gate(wide<T>(gate)),
        tokens(x.numel() / std::max<int64_t>(1, x.size(-1))), width(x.size(-1)),
        hidden(w1.size(1)), rank(w2.size(1) / 2), heads(w2.size(2)) {
    TORCH_CHECK_VALUE(w1.size(0) == width && w2.size(0) == hidden && gate.size(0) == width &&
                          gate.size(1) == heads && w2.size(1) == 2 * rank,
                      "token_factors: the weights do not fit each other or x");
  }

  // w1 (..., R, H), normalised; w2 (..., R, H); g (..., H).
  std::tuple<Tensor, Tensor, Tensor> run(double eps) const {
    auto shape = x.sizes().vec();
    shape.back() = heads;
    Tensor g = at::empty(shape, x.options());
    shape.insert(shape.end() - 1, rank);
    Tensor down = at::empty(shape, x.options()), up = at::empty(shape, x.options());
    std::vector<T> memory(hidden + 2 * rank * heads);
    T *hid = memory.data(), *low = hid + hidden;
    const int64_t half = rank * heads;
    for (int64_t t = 0; t < tokens; ++t) {
      const T* token = x.const_data_ptr<T>() + t * width;
      product(token, w1, width, hidden, hid);
      for (int64_t n = 0; n < hidden; ++n) hid[n] *= T(0.5) * (1 + std::erf(hid[n] * T(M_SQRT1_2)));
      product(hid, w2, hidden, 2 * half, low);
      for (int64_t r = 0; r < rank; ++r) normalise(low + r * heads, T(eps));
      std::copy_n(low, half, down.mutable_data_ptr<T>() + t * half);
      std::copy_n(low + half, half, up.mutable_data_ptr<T>() + t * half);
      T* own = g.mutable_data_ptr<T>() + t * heads;
      product(token, gate, width, heads, own);
      for (int64_t n = 0; n < heads; ++n) own[n] = std::tanh(own[n]);
    }
    return {down, up, g};
  }

 private:
  // out (n) = row (m) times w (m, n).
  static void product(const T* row, const Tensor& w, int64_t m, int64_t n, T* __restrict__ out) {
    const T* __restrict__ from = w.const_data_ptr<T>();
    std::fill_n(out, n, T(0));
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) out[j] += row[i] * from[i * n + j];
    }
  }
  void normalise(T* __restrict__ row, T eps) const {
    const T scale = 1 / std::sqrt(dot(row, row, heads) / T(heads) + eps);
    for (int64_t h = 0; h < heads; ++h) row[h] *= scale;
  }
};

}  // namespace softmap
