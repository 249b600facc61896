// S' = c tanh(S / c) (arXiv 2408.00118).
#pragma once

#include "../edit.h"

namespace softmap {

template <typename T>
struct Softcap : Edit<T> {
  LayerTensor<T> cap;

  explicit Softcap(const Setup<T>& setup) : cap(setup.layer("cap")) {}

  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    const Vec<T> c(cap.data()[0]), inverse(T(1) / cap.data()[0]);
    for (int64_t h = 0; h < in.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t x = 0; x < w.end(r); x += LANES<T>) {
          (c * (Vec<T>::loadu(in.at(h, r) + x) * inverse).tanh()).store(out.at(h, r) + x);
        }
      }
    }
  }

  // dS = g (1 - tanh^2), dc = sum g (tanh - (S / c) (1 - tanh^2)).
  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T*) override {
    const Vec<T> inverse(T(1) / cap.data()[0]), one(1);
    double of_all = 0;
    for (int64_t h = 0; h < in.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        Vec<T> sum(0);
        for (int64_t x = 0; x < w.end(r); x += LANES<T>) {
          const auto share = Vec<T>::loadu(in.at(h, r) + x) * inverse, bent = share.tanh();
          const auto slope = one - bent * bent, g = Vec<T>::loadu(grad.at(h, r) + x);
          sum = fmadd(g, bent - share * slope, sum);
          (g * slope).store(to.at(h, r) + x);
        }
        of_all += sum_lanes(sum);
        for (int64_t x = w.end(r); x < in.row_stride; ++x) to.at(h, r)[x] = 0;
      }
    }
    cap.grad_of(w.worker)[0] += T(of_all);
  }

  Bag gradients(const Schedule&) const override { return {{"cap", cap.take_grad()}}; }
};

}  // namespace softmap
