// Additive position biases: functions of the distance alone (ALiBi, KERPLE), and FIRE.
#pragma once

#include "../edit.h"

namespace softmap {

// B[h, i, j] of the tile's heads for one row at a time. `out` and `grad` hold the columns
// [begin(r), end(r)) of the tile at their own places, head h from h * step.
template <typename T>
struct Bias {
  virtual ~Bias() = default;
  virtual int64_t scratch(int64_t columns) const { return 0; }
  virtual void row(const Region& w, int64_t r, int64_t heads, T* out, int64_t step,
                   T* scratch) const = 0;
  virtual void row_grad(const Region& w, int64_t r, int64_t heads, const T* grad, int64_t step,
                        T* scratch) = 0;
  virtual void add_gradients(Bag& bag, const std::string& prefix) const = 0;
};

// A table over the distances, made and differentiated by torch on (H, S) numbers. It is stored from
// the longest distance to zero, so that the columns of a row read it forward.
template <typename T>
struct DistanceBias : Bias<T> {
  Tensor slope, scale;  // ALiBi: slope. KERPLE: slope p, scale a.
  LayerTensor<T> table;
  int64_t keys, stride;

  DistanceBias(const Setup<T>& setup, const std::string& slope_name, const std::string& scale_name)
      : slope(setup[slope_name].to(dtype_of<T>)), keys(setup.keys) {
    if (!scale_name.empty()) scale = setup[scale_name].to(dtype_of<T>);
    stride = keys + 2 * LANES<T>;
    const auto values = at::constant_pad_nd(slope.neg().unsqueeze(1).mul(kernel()), {0, stride - keys});
    table = LayerTensor<T>(values, *setup.schedule, setup.with_grad);
  }

  // (S,) distances, from the longest.
  Tensor distance() const { return at::arange(keys - 1, -1, -1, slope.options()); }
  Tensor scaled() const { return scale.unsqueeze(1).mul(distance()); }
  Tensor kernel() const {
    return scale.defined() ? scaled().log1p()
                           : distance().expand({slope.size(0), keys});
  }
  // Where the tile's column 0 lies in the table of head h.
  int64_t place(const Region& w, int64_t r, int64_t h) const {
    return h * stride + keys - 1 - (w.offset + w.row + r) + w.col;
  }

  void row(const Region& w, int64_t r, int64_t heads, T* out, int64_t step, T*) const override {
    for (int64_t h = 0; h < heads; ++h) {
      const T* from = table.data() + place(w, r, w.head + h);
      std::copy(from + w.begin(r), from + w.end(r), out + h * step + w.begin(r));
    }
  }

  void row_grad(const Region& w, int64_t r, int64_t heads, const T* grad, int64_t step,
                T*) override {
    for (int64_t h = 0; h < heads; ++h) {
      T* to = table.grad_of(w.worker) + place(w, r, w.head + h);
      const T* from = grad + h * step;
      for (int64_t c = w.begin(r); c < w.end(r); ++c) to[c] += from[c];
    }
  }

  void add_gradients(Bag& bag, const std::string& prefix) const override {
    const auto sums = table.take_grad().narrow(1, 0, keys);
    const auto by_slope = sums.mul(kernel()).sum(1).neg();
    if (!scale.defined()) {
      bag[prefix + "slopes"] = by_slope;
      return;
    }
    bag[prefix + "p"] = by_slope;
    const auto inner = distance().div(scaled().add(1));
    bag[prefix + "a"] = sums.mul(inner).sum(1).mul(slope).neg();
  }
};

// B = W2 relu(z w1 + b1) + b2, z = log(1 + c (i-j)) / log(1 + c max(L, i)) (arXiv 2310.04418).
template <typename T>
struct Fire : Bias<T> {
  LayerTensor<T> w1, b1, w2, b2, c, length;
  Tensor positions;
  int64_t hidden;
  std::string prefix;

  Fire(const Setup<T>& setup, const std::string& prefix)
      : w1(setup.layer(prefix + "w1")), b1(setup.layer(prefix + "b1")),
        w2(setup.layer(prefix + "w2")), b2(setup.layer(prefix + "b2")),
        c(setup.layer(prefix + "c")), length(setup.layer(prefix + "length")),
        positions(setup.positions.contiguous()), hidden(w1.value.numel()),
        prefix(prefix) {}

  int64_t scratch(int64_t columns) const override {
    return (2 * hidden + 2) * round_up(columns, LANES<T>);
  }

  T position(const Region& w, int64_t r) const {
    return T(positions.const_data_ptr<int64_t>()[w.batch * positions.size(1) + w.row + r]);
  }
  T reach(const Region& w, int64_t r) const {
    return std::max(position(w, r), length.data()[0]);
  }

  // z of the row's columns, then the hidden units, n columns each, from the row's first column.
  int64_t fill(const Region& w, int64_t r, T* z, T* units) const {
    const int64_t begin = w.begin(r), n = w.end(r) - begin;
    const T slope = c.data()[0], under = T(1) / std::log1p(slope * reach(w, r));
    for (int64_t x = 0; x < n; ++x) {
      const int64_t gap = w.offset + w.row + r - (w.col + begin + x);
      z[x] = std::log1p(slope * T(gap)) * under;
    }
    for (int64_t u = 0; u < hidden; ++u) {
      const T gain = w1.data()[u], shift = b1.data()[u];
      for (int64_t x = 0; x < n; ++x) units[u * n + x] = std::max(T(0), z[x] * gain + shift);
    }
    return n;
  }

  void row(const Region& w, int64_t r, int64_t heads, T* out, int64_t step,
           T* scratch) const override {
    T* units = scratch + round_up(w.cols, LANES<T>);
    const int64_t n = fill(w, r, scratch, units);
    if (n == 0) return;
    for (int64_t h = 0; h < heads; ++h) {
      T* to = out + h * step + w.begin(r);
      std::fill(to, to + n, b2.data()[w.head + h]);
    }
    gemm<T>(false, false, heads, n, hidden, 1, w2.data() + w.head * hidden, hidden, units, n, true,
            out + w.begin(r), step);
  }

  void row_grad(const Region& w, int64_t r, int64_t heads, const T* grad, int64_t step,
                T* scratch) override {
    const int64_t width = round_up(w.cols, LANES<T>);
    T *z = scratch, *z_grad = z + width, *units = z_grad + width, *pull = units + hidden * width;
    const int64_t n = fill(w, r, z, units);
    if (n == 0) return;
    const T* from = grad + w.begin(r);
    gemm<T>(false, true, heads, hidden, n, 1, from, step, units, n, true,
            w2.grad_of(w.worker) + w.head * hidden, hidden);
    for (int64_t h = 0; h < heads; ++h) {
      T sum = 0;
      for (int64_t x = 0; x < n; ++x) sum += from[h * step + x];
      b2.grad_of(w.worker)[w.head + h] += sum;
    }
    gemm<T>(true, false, hidden, n, heads, 1, w2.data() + w.head * hidden, hidden, from, step, false,
            pull, n);
    clear(z_grad, 0, n);
    for (int64_t u = 0; u < hidden; ++u) unit_grad(w, u, n, z, units + u * n, pull + u * n, z_grad);
    place_grad(w, r, n, z, z_grad);
  }

  void unit_grad(const Region& w, int64_t u, int64_t n, const T* z, const T* unit, const T* pull,
                 T* z_grad) {
    T gain = 0, shift = 0;
    for (int64_t x = 0; x < n; ++x) {
      const T g = unit[x] > 0 ? pull[x] : T(0);
      gain += g * z[x];
      shift += g;
      z_grad[x] += g * w1.data()[u];
    }
    w1.grad_of(w.worker)[u] += gain;
    b1.grad_of(w.worker)[u] += shift;
  }

  void place_grad(const Region& w, int64_t r, int64_t n, const T* z, const T* z_grad) {
    const T slope = c.data()[0], far = reach(w, r), under = T(1) / std::log1p(slope * far);
    T by_slope = 0, by_under = 0;
    for (int64_t x = 0; x < n; ++x) {
      const T gap = T(w.offset + w.row + r - (w.col + w.begin(r) + x));
      by_slope += z_grad[x] * under * gap / (1 + slope * gap);
      by_under -= z_grad[x] * z[x] * under;
    }
    c.grad_of(w.worker)[0] += by_slope + by_under * far / (1 + slope * far);
    // torch.maximum shares the gradient of a tie.
    const T own = position(w, r), share = far > own ? T(1) : length.data()[0] == own ? T(0.5) : T(0);
    length.grad_of(w.worker)[0] += share * by_under * slope / (1 + slope * far);
  }

  void add_gradients(Bag& bag, const std::string& prefix) const override {
    bag[prefix + "w1"] = w1.take_grad(), bag[prefix + "b1"] = b1.take_grad();
    bag[prefix + "w2"] = w2.take_grad(), bag[prefix + "b2"] = b2.take_grad();
    bag[prefix + "c"] = c.take_grad(), bag[prefix + "length"] = length.take_grad();
  }
};

// By its name; null for "".
template <typename T>
std::unique_ptr<Bias<T>> make_bias(const std::string& name, const Setup<T>& setup,
                                   const std::string& prefix) {
  if (name == "alibi") return std::make_unique<DistanceBias<T>>(setup, prefix + "slopes", "");
  if (name == "kerple") {
    return std::make_unique<DistanceBias<T>>(setup, prefix + "p", prefix + "a");
  }
  if (name == "fire") return std::make_unique<Fire<T>>(setup, prefix);
  return nullptr;
}

// S' = S + B.
template <typename T>
struct AddBias : Edit<T> {
  std::unique_ptr<Bias<T>> bias;

  AddBias(const Setup<T>& setup, const std::string& name) : bias(make_bias(name, setup, "")) {}

  int64_t scratch(int64_t heads, int64_t, int64_t columns) const override {
    return heads * columns + bias->scratch(columns);
  }

  void forward(const Region& w, Maps<T> in, Maps<T> out, T* scratch) const override {
    const int64_t step = round_up(w.cols, LANES<T>);
    for (int64_t r = 0; r < w.rows; ++r) {
      bias->row(w, r, in.heads, scratch, step, scratch + in.heads * step);
      for (int64_t h = 0; h < in.heads; ++h) {
        const T *from = in.at(h, r), *add = scratch + h * step;
        T* to = out.at(h, r);
        clear(to, 0, w.begin(r));
        for (int64_t c = w.begin(r); c < w.end(r); ++c) to[c] = from[c] + add[c];
        clear(to, w.end(r), out.row_stride);
      }
    }
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T* scratch) override {
    for (int64_t r = 0; r < w.rows; ++r) {
      bias->row_grad(w, r, in.heads, grad.at(0, r), grad.head_stride, scratch);
      for (int64_t h = 0; h < in.heads; ++h) {
        if (to.data == grad.data) break;
        std::copy(grad.at(h, r), grad.at(h, r) + grad.row_stride, to.at(h, r));
      }
    }
  }

  Bag gradients(const Schedule&) const override {
    Bag bag;
    bias->add_gradients(bag, "");
    return bag;
  }
};

}  // namespace softmap
