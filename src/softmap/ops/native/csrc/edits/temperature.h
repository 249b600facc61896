// S' = tau_h S.
#pragma once

#include "../edit.h"

namespace softmap {

template <typename T>
struct Temperature : Edit<T> {
  LayerTensor<T> tau;

  explicit Temperature(const Setup<T>& setup) : tau(setup.layer("tau")) {}

  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    for (int64_t h = 0; h < in.heads; ++h) scale(w, in, out, h);
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T*) override {
    for (int64_t h = 0; h < in.heads; ++h) {
      Vec<T> dot(0);
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t c = 0; c < w.end(r); c += LANES<T>) {
          dot = fmadd(Vec<T>::loadu(in.at(h, r) + c), Vec<T>::loadu(grad.at(h, r) + c), dot);
        }
      }
      tau.grad_of(w.worker)[w.head + h] += sum_lanes(dot);
      scale(w, grad, to, h);
    }
  }

  Bag gradients(const Schedule&) const override { return {{"tau", tau.take_grad()}}; }

 private:
  void scale(const Region& w, Maps<T> from, Maps<T> to, int64_t h) const {
    const auto gain = Vec<T>(tau.data()[w.head + h]);
    for (int64_t r = 0; r < w.rows; ++r) {
      for (int64_t c = 0; c < from.row_stride; c += LANES<T>) {
        (Vec<T>::loadu(from.at(h, r) + c) * gain).store(to.at(h, r) + c);
      }
    }
  }
};

}  // namespace softmap
