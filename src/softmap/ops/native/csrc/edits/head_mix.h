// m'_g = sum_h P[h,g] m_h: talking heads (arXiv 2003.02436), and the static map of DCMHA.
#pragma once

#include "../edit.h"

namespace softmap {

// A tile whose rows follow each other is one matrix (heads, rows * row_stride).
template <typename T>
struct HeadMix : Edit<T> {
  LayerTensor<T> mix;
  std::string name;

  HeadMix(const Setup<T>& setup, std::string name) : mix(setup.layer(name)), name(name) {}

  bool in_place() const override { return false; }

  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    apply(w, in, out, /*transpose=*/true, /*add=*/false);
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T*) override {
    apply(w, grad, to, /*transpose=*/false, /*add=*/false);
    add_grad(w, in, grad);
  }

  // out = P^T in, or P in (+ out).
  void apply(const Region& w, Maps<T> in, Maps<T> out, bool transpose, bool add) const {
    const int64_t H = in.heads;
    gemm<T>(transpose, false, H, w.rows * in.row_stride, H, 1, mix.data(), H, in.data,
            in.head_stride, add, out.data, out.head_stride);
  }

  void add_grad(const Region& w, Maps<T> in, Maps<T> grad) {
    const int64_t H = in.heads;
    gemm<T>(false, true, H, H, w.rows * in.row_stride, 1, in.data, in.head_stride, grad.data,
            grad.head_stride, /*add=*/true, mix.grad_of(w.worker), H);
  }

  Bag gradients(const Schedule&) const override { return {{name, mix.take_grad()}}; }
};

}  // namespace softmap
