// DAPE (arXiv 2405.14722, 2410.04798): S' = S + B + f([S; B]), f a convolution along the keys, a
// leaky ReLU, a second convolution. Row by row, each convolution is one matrix product: the first of
// shifted copies of the row, the second before its copies are shifted back and added up. A bias that
// depends on the distance alone meets the first convolution once for all (BiasResponse), FIRE in
// each row.
#pragma once

#include "bias_response.h"

namespace softmap {

template <typename T>
struct ScoreConv : Edit<T> {
  static constexpr int64_t CHUNK = 512;  // hidden columns at a time: they stay in a core's cache
  static constexpr T SLOPE = T(0.01);
  LayerTensor<T> w1, b1, w2, b2;  // w1 (M, k, C), w2 (k, H, M)
  std::unique_ptr<Bias<T>> bias;
  std::unique_ptr<BiasResponse<T>> response;
  int64_t H, C, M, taps, pad;  // C channels are convolved in each row: H, or 2H with FIRE

  ScoreConv(const Setup<T>& setup, const std::string& bias_name)
      : bias(make_bias(bias_name, setup, "bias.")), H(setup.heads) {
    const auto up = setup["w1"], down = setup["w2"];
    if (auto* table = dynamic_cast<DistanceBias<T>*>(bias.get())) {
      response = std::make_unique<BiasResponse<T>>(*table, setup, up, setup["b1"]);
    }
    M = up.size(0), C = response ? H : up.size(1), taps = up.size(3), pad = taps / 2;
    const auto layer = [&](const Tensor& t) {
      return LayerTensor<T>(t, *setup.schedule, setup.with_grad);
    };
    w1 = layer(up.squeeze(2).narrow(1, 0, C).transpose(1, 2)), b1 = layer(setup["b1"]);
    w2 = layer(down.squeeze(2).permute({2, 0, 1})), b2 = layer(setup["b2"]);
  }

  bool in_place() const override { return false; }

  int64_t scratch(int64_t, int64_t, int64_t columns) const override {
    return 2 * H * round_up(columns, LANES<T>) + (C + H) * taps * CHUNK + 2 * M * CHUNK +
           (bias ? bias->scratch(columns) : 0);
  }

  // One row's work space.
  struct Row {
    const Region& w;
    int64_t r, begin, end, step;
    const T* scores;  // head h from h * score_step
    int64_t score_step;
    T *bias, *bias_grad, *inputs, *units, *pull, *outputs, *rest;
  };

  Row make_row(const Region& w, int64_t r, Maps<T> in, T* scratch) const {
    Row row{w, r, w.begin(r), w.end(r), round_up(w.cols, LANES<T>), in.at(0, r), in.head_stride};
    row.bias = scratch, scratch += H * row.step;
    row.bias_grad = scratch, scratch += H * row.step;
    row.inputs = scratch, scratch += C * taps * CHUNK;
    row.outputs = scratch, scratch += H * taps * CHUNK;
    row.units = scratch, scratch += M * CHUNK;
    row.pull = scratch, scratch += M * CHUNK;
    row.rest = scratch;
    if (bias) bias->row(w, r, H, row.bias, row.step, row.rest);
    return row;
  }

  void forward(const Region& w, Maps<T> in, Maps<T> out, T* scratch) const override {
    for (int64_t r = 0; r < w.rows; ++r) {
      const auto row = make_row(w, r, in, scratch);
      for (int64_t h = 0; h < H; ++h) start_row(row, h, out.at(h, r), out.row_stride);
      each_chunk(row, [&](int64_t c, int64_t n) {
        activate(row, c, n);
        gemm<T>(false, false, taps * H, n, M, 1, w2.data(), M, row.units, n, false, row.outputs, n);
        unspread(row.outputs, H, row, c, n, out.at(0, r), out.head_stride);
      });
    }
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T* scratch) override {
    for (int64_t r = 0; r < w.rows; ++r) {
      const auto row = make_row(w, r, in, scratch);
      for (int64_t h = 0; h < H; ++h) {  // S and B reach the output directly, too
        std::copy(grad.at(h, r), grad.at(h, r) + grad.row_stride, to.at(h, r));
        if (bias) std::copy(grad.at(h, r), grad.at(h, r) + row.step, row.bias_grad + h * row.step);
        b2.grad_of(w.worker)[h] += total(grad.at(h, r) + row.begin, row.end - row.begin);
      }
      each_chunk(row, [&](int64_t c, int64_t n) { chunk_grad(row, c, n, grad, to); });
      if (bias) bias->row_grad(w, r, H, row.bias_grad, row.step, row.rest);
    }
  }

  Bag gradients(const Schedule&) const override {
    Bag bag{{"b1", b1.take_grad()}, {"b2", b2.take_grad()}};
    bag["w1"] = w1.take_grad().transpose(1, 2).unsqueeze(2);
    if (response) {
      const auto [by_b1, by_w1] = response->take_gradients();
      bag["b1"] = by_b1, bag["w1"] = at::cat({bag["w1"], by_w1}, 1);
    }
    bag["w2"] = w2.take_grad().permute({1, 2, 0}).unsqueeze(2);
    if (bias) bias->add_gradients(bag, "bias.");
    return bag;
  }

 private:
  // The hidden columns of a row: its own, and the `pad` beyond the diagonal that the second
  // convolution reads; in chunks [c, c + n).
  template <typename F>
  void each_chunk(const Row& row, F f) const {
    if (row.begin == row.end) return;
    for (int64_t c = row.begin; c < row.end + pad; c += CHUNK) {
      f(c, std::min(CHUNK, row.end + pad - c));
    }
  }

  void start_row(const Row& row, int64_t h, T* out, int64_t width) const {
    const T *s = row.scores + h * row.score_step, *b = row.bias + h * row.step;
    const T own = b2.data()[h];
    clear(out, 0, row.begin);
    clear(out, row.end, width);
    for (int64_t c = row.begin; c < row.end; ++c) out[c] = s[c] + (bias ? b[c] + own : own);
  }

  // units = leaky_relu(W1 [shifted S; shifted B] + b1).
  void activate(const Row& row, int64_t c, int64_t n) const {
    spread(row.scores, row.score_step, row, c, n, row.inputs, C, 0, 1);
    if (C > H) spread(row.bias, row.step, row, c, n, row.inputs, C, H, 1);
    start_units(row, c, n);
    gemm<T>(false, false, M, n, taps * C, 1, w1.data(), taps * C, row.inputs, n, true, row.units, n);
    const auto slope = Vec<T>(SLOPE);
    int64_t x = 0;
    for (; x + LANES<T> <= M * n; x += LANES<T>) {
      const auto u = Vec<T>::loadu(row.units + x);
      at::vec::maximum(u, u * slope).store(row.units + x);
    }
    for (; x < M * n; ++x) row.units[x] = std::max(row.units[x], row.units[x] * SLOPE);
  }

  void start_units(const Row& row, int64_t c, int64_t n) const {
    for (int64_t m = 0; m < M; ++m) {
      T* to = row.units + m * n;
      if (response) std::copy_n(response->row(row.w, row.r, m) + c, n, to);
      else std::fill_n(to, n, b1.data()[m]);
    }
    if (response && c == row.begin) response->correct(row.w, row.r, row.begin, row.units, n);
  }

  void chunk_grad(const Row& row, int64_t c, int64_t n, Maps<T> grad, Maps<T> to) {
    const int64_t worker = row.w.worker, K = taps * C;
    activate(row, c, n);
    spread(grad.at(0, row.r), grad.head_stride, row, c, n, row.outputs, H, 0, -1);
    gemm<T>(false, true, taps * H, M, n, 1, row.outputs, n, row.units, n, true, w2.grad_of(worker), M);
    gemm<T>(true, false, M, n, taps * H, 1, w2.data(), M, row.outputs, n, false, row.pull, n);
    for (int64_t m = 0; m < M; ++m) gate(row.units + m * n, row.pull + m * n, n);
    start_grad(row, c, n);
    gemm<T>(false, true, M, K, n, 1, row.pull, n, row.inputs, n, true, w1.grad_of(worker), K);
    gemm<T>(true, false, K, n, M, 1, w1.data(), K, row.pull, n, false, row.inputs, n);
    gather(row.inputs, C, 0, row, c, n, to.at(0, row.r), to.head_stride);
    if (C > H) gather(row.inputs, C, H, row, c, n, row.bias_grad, row.step);
  }

  void start_grad(const Row& row, int64_t c, int64_t n) const {
    for (int64_t m = 0; m < M; ++m) {
      const T* pull = row.pull + m * n;
      if (response) add(pull, n, response->grad_row(row.w, row.r, m) + c);
      else b1.grad_of(row.w.worker)[m] += total(pull, n);
    }
    if (response && c == row.begin) response->correct_grad(row.w, row.r, row.begin, row.pull, n);
  }

  // pull *= d leaky_relu. The sign of a unit is that of what went in.
  static void gate(const T* unit, T* pull, int64_t n) {
    for (int64_t x = 0; x < n; ++x) pull[x] *= unit[x] > 0 ? T(1) : SLOPE;
  }

  static void add(const T* __restrict__ from, int64_t n, T* __restrict__ to) {
    for (int64_t x = 0; x < n; ++x) to[x] += from[x];
  }

  // out[tap * width + first + h][x] = from[h][c + x + side (tap - pad)], zero outside the row.
  void spread(const T* from, int64_t step, const Row& row, int64_t c, int64_t n, T* out,
              int64_t width, int64_t first, int64_t side) const {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t shift = c + side * (tap - pad);
      const int64_t begin = std::clamp<int64_t>(row.begin - shift, 0, n);
      const int64_t end = std::clamp<int64_t>(row.end - shift, begin, n);
      for (int64_t h = 0; h < H; ++h) {
        T* to = out + (tap * width + first + h) * n;
        clear(to, 0, begin);
        std::copy(from + h * step + shift + begin, from + h * step + shift + end, to + begin);
        clear(to, end, n);
      }
    }
  }

  // The adjoint of spread with side 1: to[h][c + x + tap - pad] += from[tap * width + first + h][x].
  void gather(const T* from, int64_t width, int64_t first, const Row& row, int64_t c, int64_t n,
              T* to, int64_t step) const {
    add_back(from, width, first, row, c, n, to, step, 1);
  }
  // ... and with side -1: out[h][j] += from[tap][h][j + tap - pad - c].
  void unspread(const T* from, int64_t width, const Row& row, int64_t c, int64_t n, T* to,
                int64_t step) const {
    add_back(from, width, 0, row, c, n, to, step, -1);
  }
  void add_back(const T* from, int64_t width, int64_t first, const Row& row, int64_t c, int64_t n,
                T* to, int64_t step, int64_t side) const {
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t shift = c + side * (tap - pad);
      const int64_t begin = std::clamp<int64_t>(row.begin - shift, 0, n);
      const int64_t end = std::clamp<int64_t>(row.end - shift, begin, n);
      for (int64_t h = 0; h < H; ++h) {
        const T* source = from + (tap * width + first + h) * n;
        T* target = to + h * step + shift;
        add(source + begin, end - begin, target + begin);
      }
    }
  }
};

}  // namespace softmap
