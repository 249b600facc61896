// A'[h] = A[2h] - lambda A[2h+1]: Differential attention, lambda of the layer (arXiv 2410.05258),
// or of the query and head (V2).
#pragma once

#include "../edit.h"

namespace softmap {

template <typename T>
struct SubtractPairs : Edit<T> {
  LayerTensor<T> layer;
  QueryTensor<T> query;

  explicit SubtractPairs(const Setup<T>& setup) {
    if (setup["lambda"].dim() < 2) layer = setup.layer("lambda");
    else query = setup.query("lambda");
  }

  int64_t heads_out(int64_t heads) const override { return heads / 2; }
  bool adjoint_in_place() const override { return false; }

  T weight(const Region& w, int64_t r, int64_t h) const {
    return layer.defined() ? layer.data()[0] : query.row(w.batch, w.row + r)[w.head / 2 + h];
  }
  T* weight_grad(const Region& w, int64_t r, int64_t h) const {
    return layer.defined() ? layer.grad_of(w.worker) : query.grad_row(w.batch, w.row + r) + w.head / 2 + h;
  }

  // In place: head h is written only after 2h and 2h+1 were read.
  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    for (int64_t h = 0; h < out.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        const auto minus = Vec<T>(-weight(w, r, h));
        const T *one = in.at(2 * h, r), *two = in.at(2 * h + 1, r);
        T* to = out.at(h, r);
        for (int64_t c = 0; c < in.row_stride; c += LANES<T>) {
          fmadd(Vec<T>::loadu(two + c), minus, Vec<T>::loadu(one + c)).store(to + c);
        }
      }
    }
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T*) override {
    for (int64_t h = 0; h < grad.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        const auto minus = Vec<T>(-weight(w, r, h));
        const T *two = in.at(2 * h + 1, r), *from = grad.at(h, r);
        T *to_one = to.at(2 * h, r), *to_two = to.at(2 * h + 1, r);
        Vec<T> sum(0);
        for (int64_t c = 0; c < in.row_stride; c += LANES<T>) {
          const auto g = Vec<T>::loadu(from + c);
          sum = fmadd(g, Vec<T>::loadu(two + c), sum);
          g.store(to_one + c);
          (g * minus).store(to_two + c);
        }
        *weight_grad(w, r, h) -= sum_lanes(sum);
      }
    }
  }

  Bag gradients(const Schedule&) const override {
    return {{"lambda", layer.defined() ? layer.take_grad() : query.grad}};
  }
};

}  // namespace softmap
