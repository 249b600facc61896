// S'[i, j] = S[i, j] + sum of log f_k over the keys k after j up to the row's last (arXiv 2503.02130).
#pragma once

#include "../edit.h"

namespace softmap {

// The sums of keys 0..k in double: a difference of two is a sum of few, in a row of thousands. Keys
// before the first that any row sees are padding, and not read.
template <typename T>
struct Forget : Edit<T> {
  Tensor sums;  // (B, H, S): double
  Tensor grad;  // (slots, H, S): double, of the sums
  int64_t heads, keys;

  explicit Forget(const Setup<T>& setup) : heads(setup.heads), keys(setup.keys) {
    const auto given = setup["log_f"].to(at::kDouble).transpose(1, 2);  // (B, H, S)
    const auto place = at::arange(keys, setup.first.options());
    const auto seen = place.ge(at::amin(setup.first, {1}, true));
    const auto log_f = at::where(seen.unsqueeze(1), given, at::zeros({}, given.options()));
    sums = log_f.cumsum(2).contiguous();
    if (setup.with_grad) {
      grad = at::zeros({setup.schedule->slots(), heads, keys}, log_f.options());
    }
  }

  int64_t place(int64_t slot, int64_t head) const { return (slot * heads + head) * keys; }

  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    for (int64_t h = 0; h < in.heads; ++h) {
      const double* sum = sums.const_data_ptr<double>() + place(w.batch, w.head + h);
      for (int64_t r = 0; r < w.rows; ++r) {
        const int64_t begin = w.begin(r), end = w.end(r);
        if (begin == end) continue;
        const double whole = sum[w.last[r] - 1];
        const T* from = in.at(h, r);
        T* to = out.at(h, r);
        for (int64_t c = begin; c < end; ++c) to[c] = from[c] + T(whole - sum[w.col + c]);
      }
    }
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grads, Maps<T> to, T*) override {
    for (int64_t h = 0; h < in.heads; ++h) {
      double* into = grad.mutable_data_ptr<double>() + place(w.slot, w.head + h);
      for (int64_t r = 0; r < w.rows; ++r) {
        const int64_t begin = w.begin(r), end = w.end(r);
        const T* g = grads.at(h, r);
        if (begin < end) into[w.last[r] - 1] += total(g + begin, end - begin);
        for (int64_t c = begin; c < end; ++c) into[w.col + c] -= g[c];
        if (g != to.at(h, r)) std::copy(g, g + in.row_stride, to.at(h, r));
      }
    }
  }

  // A key is in the sums of its own and all later places.
  Bag gradients(const Schedule& schedule) const override {
    const auto each = schedule.reduce(grad).flip(2).cumsum(2).flip(2);
    return {{"log_f", each.transpose(1, 2).to(dtype_of<T>).contiguous()}};
  }

};

}  // namespace softmap
