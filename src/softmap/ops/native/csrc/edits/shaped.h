// A' = alpha_h I + beta_h A - gamma_h C, C uniform over the keys that the row sees
// (arXiv 2311.01906).
#pragma once

#include "../edit.h"

namespace softmap {

template <typename T>
struct Shaped : Edit<T> {
  LayerTensor<T> alpha, beta, gamma;

  explicit Shaped(const Setup<T>& setup)
      : alpha(setup.layer("alpha")), beta(setup.layer("beta")), gamma(setup.layer("gamma")) {}

  // The tile's column of the row's own token, or -1.
  static int64_t own(const Region& w, int64_t r) {
    const int64_t c = w.offset + w.row + r - w.col;
    return w.begin(r) <= c && c < w.end(r) ? c : -1;
  }
  // One over the number of keys that the row sees.
  static T share(const Region& w, int64_t r) {
    return T(1) / T(std::max<int64_t>(1, w.last[r] - w.first[r]));
  }

  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    for (int64_t h = 0; h < in.heads; ++h) {
      const auto gain = Vec<T>(beta.data()[w.head + h]);
      for (int64_t r = 0; r < w.rows; ++r) {
        const T* from = in.at(h, r);
        T* to = out.at(h, r);
        for (int64_t c = 0; c < in.row_stride; c += LANES<T>) (Vec<T>::loadu(from + c) * gain).store(to + c);
        if (gamma.defined()) {
          const T minus = gamma.data()[w.head + h] * share(w, r);
          for (int64_t c = w.begin(r); c < w.end(r); ++c) to[c] -= minus;
        }
        if (own(w, r) >= 0) to[own(w, r)] += alpha.data()[w.head + h];
      }
    }
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T*) override {
    for (int64_t h = 0; h < in.heads; ++h) {
      const auto gain = Vec<T>(beta.data()[w.head + h]);
      for (int64_t r = 0; r < w.rows; ++r) {
        add_grads(w, h, r, in.at(h, r), grad.at(h, r));
        for (int64_t c = 0; c < in.row_stride; c += LANES<T>) {
          (Vec<T>::loadu(grad.at(h, r) + c) * gain).store(to.at(h, r) + c);
        }
      }
    }
  }

  void add_grads(const Region& w, int64_t h, int64_t r, const T* a, const T* g) {
    const int64_t from = w.begin(r), n = w.end(r) - from;
    beta.grad_of(w.worker)[w.head + h] += dot(a + from, g + from, n);
    if (own(w, r) >= 0) alpha.grad_of(w.worker)[w.head + h] += g[own(w, r)];
    if (gamma.defined()) gamma.grad_of(w.worker)[w.head + h] -= total(g + from, n) * share(w, r);
  }

  Bag gradients(const Schedule&) const override {
    Bag bag{{"alpha", alpha.take_grad()}, {"beta", beta.take_grad()}};
    if (gamma.defined()) bag["gamma"] = gamma.take_grad();
    return bag;
  }
};

}  // namespace softmap
