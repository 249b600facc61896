// DCMHA (arXiv 2405.08553), for the heads a of one cell (i, j):
//   a' = a (1 + g_q + g_k) + sum_r (a . q1_r) q2_r + sum_r (a . k1_r) k2_r + a W
// q of the query's token, k of the key's. Two sweeps over the heads of a few columns: down to the
// 2R inner products, then up.
#pragma once

#include "head_mix.h"

namespace softmap {

template <typename T>
struct Compose : Edit<T> {
  static constexpr int64_t MAX_RANK = 4;
  QueryTensor<T> q1, q2, qg;  // (B, T, R, H), (B, T, H)
  KeyTensor<T> k1, k2, kg;
  std::unique_ptr<HeadMix<T>> fixed;
  std::vector<T> nothing;  // zero gates
  int64_t H, R = 0;

  explicit Compose(const Setup<T>& setup)
      : q1(setup.query("q1")), q2(setup.query("q2")), qg(setup.query("qg")),
        k1(setup.key("k1")), k2(setup.key("k2")), kg(setup.key("kg")), H(setup.heads) {
    if (setup["static"].defined()) fixed = std::make_unique<HeadMix<T>>(setup, "static");
    if (q1.defined()) R = q1.size / H;
    if (k1.defined()) R = k1.size / H;
    TORCH_CHECK_VALUE(R <= MAX_RANK, "compose: rank ", R, " is more than ", MAX_RANK);
    nothing.assign(std::max(H, setup.keys + 2 * LANES<T>), T(0));
  }

  bool in_place() const override { return !fixed; }

  // The vectors of one worker that a row's query gradients are added up in.
  int64_t scratch(int64_t heads, int64_t) const override {
    return heads * (2 * MAX_RANK + 1) * LANES<T>;
  }

  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    // The plain part goes first: it reads what the static map adds to.
    dispatch([&](auto rank, auto query, auto key) {
      for (int64_t r = 0; r < w.rows; ++r) {
        for (int64_t c = 0; c < w.end(r); c += LANES<T>) {
          up<rank(), query(), key()>(w, in, out, r, c);
        }
        for (int64_t h = 0; in.data != out.data && h < H; ++h) {
          clear(out.at(h, r), round_up(w.end(r), LANES<T>), out.row_stride);
        }
      }
    });
    if (fixed) fixed->apply(w, in, out, true, 1);
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T* scratch) override {
    dispatch([&](auto rank, auto query, auto key) {
      for (int64_t r = 0; r < w.rows; ++r) {
        adjoint_row<rank(), query(), key()>(w, in, grad, to, r, scratch);
      }
    });
    if (fixed) {
      fixed->apply(w, grad, to, false, 1);
      fixed->add_grad(w, in, grad);
    }
  }

  Bag gradients(const Schedule& schedule) const override {
    Bag bag;
    if (q1.defined()) bag["q1"] = q1.grad, bag["q2"] = q2.grad;
    if (qg.defined()) bag["qg"] = qg.grad;
    if (k1.defined()) bag["k1"] = k1.take_grad(schedule), bag["k2"] = k2.take_grad(schedule);
    if (kg.defined()) bag["kg"] = kg.take_grad(schedule);
    if (fixed) bag["static"] = fixed->mix.take_grad();
    return bag;
  }

 private:
  // Calls f with the rank and the sides as constants, so that the loops below unroll.
  template <typename F>
  void dispatch(F f) const {
    const auto sides = [&](auto rank) {
      const auto yes = std::true_type();
      const auto no = std::false_type();
      if (q1.defined() && k1.defined()) f(rank, yes, yes);
      else if (q1.defined()) f(rank, yes, no);
      else f(rank, no, yes);
    };
    switch (R) {
      case 0: return f(std::integral_constant<int, 0>(), std::false_type(), std::false_type());
      case 1: return sides(std::integral_constant<int, 1>());
      case 2: return sides(std::integral_constant<int, 2>());
      case 3: return sides(std::integral_constant<int, 3>());
      default: return sides(std::integral_constant<int, 4>());
    }
  }

  const T* gate_q(const Region& w, int64_t r) const {
    return qg.defined() ? qg.row(w.batch, w.row + r) : nothing.data();
  }
  // Gate of head h at the tile's first column, and the step from head to head.
  const T* gate_k(const Region& w) const { return kg.defined() ? kg.at(w, 0) : nothing.data(); }
  int64_t gate_step() const { return kg.defined() ? kg.stride : 0; }

  template <int RANK, bool Q, bool K>
  void up(const Region& w, Maps<T> in, Maps<T> out, int64_t r, int64_t c) const {
    Vec<T> dq[RANK + 1], dk[RANK + 1];
    down<RANK, Q, K>(w, in, r, c, q1, k1, dq, dk);
    const T* up_q = Q ? q2.row(w.batch, w.row + r) : nullptr;
    const T *gq = gate_q(w, r), *gk = gate_k(w) + c, *up_k = K ? k2.at(w, 0) + c : nullptr;
    for (int64_t h = 0; h < H; ++h) {
      const auto gain = Vec<T>(1 + gq[h]) + Vec<T>::loadu(gk + h * gate_step());
      auto sum = Vec<T>::loadu(in.at(h, r) + c) * gain;
      for (int n = 0; n < RANK; ++n) {
        if (Q) sum = fmadd(dq[n], Vec<T>(up_q[n * H + h]), sum);
        if (K) sum = fmadd(dk[n], Vec<T>::loadu(up_k + (n * H + h) * k2.stride), sum);
      }
      sum.store(out.at(h, r) + c);
    }
  }

  // dq[n] = sum_h m_h wq[n,h], dk[n] = sum_h m_h wk[n,h].
  template <int RANK, bool Q, bool K>
  void down(const Region& w, Maps<T> m, int64_t r, int64_t c, const QueryTensor<T>& wq,
            const KeyTensor<T>& wk, Vec<T>* dq, Vec<T>* dk) const {
    for (int n = 0; n < RANK; ++n) dq[n] = dk[n] = Vec<T>(0);
    if constexpr (RANK > 0) {
      const T* q = Q ? wq.row(w.batch, w.row + r) : nullptr;
      const T* k = K ? wk.at(w, 0) + c : nullptr;
      for (int64_t h = 0; h < H; ++h) {
        const auto a = Vec<T>::loadu(m.at(h, r) + c);
        for (int n = 0; n < RANK; ++n) {
          if (Q) dq[n] = fmadd(a, Vec<T>(q[n * H + h]), dq[n]);
          if (K) dk[n] = fmadd(a, Vec<T>::loadu(k + (n * H + h) * wk.stride), dk[n]);
        }
      }
    }
  }

  template <int RANK, bool Q, bool K>
  void adjoint_row(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, int64_t r, T* sums) {
    constexpr int64_t step = LANES<T>, own = 2 * RANK + 1;
    std::fill(sums, sums + H * own * step, T(0));
    const int64_t end = round_up(w.end(r), step);
    for (int64_t c = 0; c < end; c += step) adjoint<RANK, Q, K>(w, in, grad, to, r, c, sums);
    for (int64_t h = 0; h < H; ++h) clear(to.at(h, r), end, to.row_stride);
    const int64_t b = w.batch, t = w.row + r;
    for (int64_t h = 0; h < H; ++h) {
      const T* s = sums + h * own * step;
      if (qg.defined()) qg.grad_row(b, t)[h] += sum_lanes(Vec<T>::loadu(s));
      for (int n = 0; Q && n < RANK; ++n) {
        q1.grad_row(b, t)[n * H + h] += sum_lanes(Vec<T>::loadu(s + (1 + n) * step));
        q2.grad_row(b, t)[n * H + h] += sum_lanes(Vec<T>::loadu(s + (1 + RANK + n) * step));
      }
    }
  }

  // With d = down-products of the input and e = those of the gradient (through the up-weights).
  template <int RANK, bool Q, bool K>
  void adjoint(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, int64_t r, int64_t c,
               T* sums) {
    constexpr int64_t step = LANES<T>, own = 2 * RANK + 1;
    Vec<T> dq[RANK + 1], dk[RANK + 1], eq[RANK + 1], ek[RANK + 1];
    down<RANK, Q, K>(w, in, r, c, q1, k1, dq, dk);
    down<RANK, Q, K>(w, grad, r, c, q2, k2, eq, ek);
    const T* down_q = Q ? q1.row(w.batch, w.row + r) : nullptr;
    const T* down_k = K ? k1.at(w, 0) + c : nullptr;
    T *k1_grad = K ? k1.grad_at(w, 0) + c : nullptr, *k2_grad = K ? k2.grad_at(w, 0) + c : nullptr;
    T* kg_grad = kg.defined() ? kg.grad_at(w, 0) + c : nullptr;
    const T *gq = gate_q(w, r), *gk = gate_k(w) + c;
    for (int64_t h = 0; h < H; ++h) {
      const auto a = Vec<T>::loadu(in.at(h, r) + c), g = Vec<T>::loadu(grad.at(h, r) + c);
      auto sum = g * (Vec<T>(1 + gq[h]) + Vec<T>::loadu(gk + h * gate_step()));
      T* s = sums + h * own * step;
      accumulate(s, a, g);
      if (kg_grad) accumulate(kg_grad + h * kg.stride, a, g);
      for (int n = 0; n < RANK; ++n) {
        const int64_t at = n * H + h;
        if (Q) {
          sum = fmadd(eq[n], Vec<T>(down_q[at]), sum);
          accumulate(s + (1 + n) * step, a, eq[n]);
          accumulate(s + (1 + RANK + n) * step, g, dq[n]);
        }
        if (K) {
          sum = fmadd(ek[n], Vec<T>::loadu(down_k + at * k1.stride), sum);
          accumulate(k1_grad + at * k1.stride, a, ek[n]);
          accumulate(k2_grad + at * k2.stride, g, dk[n]);
        }
      }
      sum.store(to.at(h, r) + c);
    }
  }

  static void accumulate(T* to, Vec<T> a, Vec<T> b) { fmadd(a, b, Vec<T>::loadu(to)).store(to); }
};

}  // namespace softmap
