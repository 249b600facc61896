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
  static constexpr int64_t BLOCK = 4 * LANES<T>;  // columns
  QueryTensor<T> q1, q2, qg;  // (B, T, R, H), (B, T, H)
  KeyTensor<T> k1, k2, kg;
  std::unique_ptr<HeadMix<T>> fixed;
  std::vector<T> nothing;  // zero gates of a query, and of two vectors of keys
  int64_t H, R = 0;

  explicit Compose(const Setup<T>& setup)
      : q1(setup.query("q1")), q2(setup.query("q2")), qg(setup.query("qg")),
        k1(setup.key("k1")), k2(setup.key("k2")), kg(setup.key("kg")), H(setup.heads) {
    if (setup["static"].defined()) fixed = std::make_unique<HeadMix<T>>(setup, "static");
    if (q1.defined()) R = q1.size / H;
    if (k1.defined()) R = k1.size / H;
    TORCH_CHECK_VALUE(R <= MAX_RANK, "compose: rank ", R, " is more than ", MAX_RANK);
    nothing.assign((H + 1) * 2 * LANES<T>, T(0));
  }

  bool in_place() const override { return !fixed; }

  // The vectors that the query gradients of a tile's rows are added up in.
  int64_t scratch(int64_t heads, int64_t rows, int64_t) const override {
    return rows * heads * (2 * R + 1) * LANES<T>;
  }

  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    // The plain part goes first: it reads what the static map adds to.
    dispatch([&](auto rank, auto query, auto key) {
      by_blocks(w, [&](auto vectors, int64_t r, int64_t c) {
        up<rank(), query(), key(), vectors()>(w, in, out, r, c);
      });
    });
    if (in.data != out.data) clear_rest(w, out);
    if (fixed) fixed->apply(w, in, out, true, 1);
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T* scratch) override {
    std::fill_n(scratch, w.rows * sums_of_row(), T(0));
    dispatch([&](auto rank, auto query, auto key) {
      by_blocks(w, [&](auto vectors, int64_t r, int64_t c) {
        T* sums = scratch + r * sums_of_row();
        adjoint<rank(), query(), key(), vectors()>(w, in, grad, to, r, c, sums);
      });
    });
    for (int64_t r = 0; r < w.rows; ++r) add_query_grads(w, r, scratch + r * sums_of_row());
    clear_rest(w, to);
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
  // A few columns of all rows, then the next: the keys' factors and gradients stay in the nearest
  // cache. Two vectors at a time: one would wait for each sum, more would not fit the registers.
  template <typename F>
  static void by_blocks(const Region& w, F f) {
    for (int64_t start = 0; start < w.cols; start += BLOCK) {
      for (int64_t r = 0; r < w.rows; ++r) {
        const int64_t end = std::min(w.end(r), start + BLOCK);
        int64_t c = start;
        for (; c + LANES<T> < end; c += 2 * LANES<T>) f(std::integral_constant<int, 2>(), r, c);
        if (c < end) f(std::integral_constant<int, 1>(), r, c);
      }
    }
  }

  static void clear_rest(const Region& w, Maps<T> m) {
    for (int64_t h = 0; h < m.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        clear(m.at(h, r), round_up(w.end(r), LANES<T>), m.row_stride);
      }
    }
  }

  // N vectors of columns of one row, `apart` numbers from one to the next.
  template <int N>
  struct Block {
    Vec<T> v[N];
    SOFTMAP_INLINE explicit Block(T x = T(0)) {
      for (auto& y : v) y = Vec<T>(x);
    }
    SOFTMAP_INLINE static Block load(const T* from, int64_t apart = LANES<T>) {
      Block b;
      for (int n = 0; n < N; ++n) b.v[n] = Vec<T>::loadu(from + n * apart);
      return b;
    }
    SOFTMAP_INLINE void store(T* to, int64_t apart = LANES<T>) const {
      for (int n = 0; n < N; ++n) v[n].store(to + n * apart);
    }
    SOFTMAP_INLINE void add(const Block& a, const Block& b) {  // += a b
      for (int n = 0; n < N; ++n) v[n] = fmadd(a.v[n], b.v[n], v[n]);
    }
    SOFTMAP_INLINE void add(const Block& a, T b) { add(a, Block(b)); }
    SOFTMAP_INLINE void add_dot_to(T* to, const Block& b) const {
      auto sum = Vec<T>::loadu(to);
      for (int n = 0; n < N; ++n) sum = fmadd(v[n], b.v[n], sum);
      sum.store(to);
    }
    SOFTMAP_INLINE void add_product_to(T* to, const Block& b, int64_t apart) const {
      auto sum = load(to, apart);
      sum.add(*this, b);
      sum.store(to, apart);
    }
  };

  template <int RANK, bool Q, bool K, int N>
  void up(const Region& w, Maps<T> in, Maps<T> out, int64_t r, int64_t c) const {
    Block<N> dq[RANK + 1], dk[RANK + 1];
    down<RANK, Q, K, N>(w, in, r, c, q1, k1, dq, dk);
    const T* q = Q ? q2.row(w.batch, w.row + r) : nullptr;
    const T *k = K ? k2.at(w, c) : nullptr, *gq = gate_q(w, r), *gk = gate_k(w, c);
    const T* from = in.at(0, r) + c;
    T* to = out.at(0, r) + c;
    const int64_t ranks = RANK * H, apart = ranks * LANES<T>;
    for (int64_t h = 0; h < H; ++h, from += in.head_stride, to += out.head_stride) {
      Block<N> sum;
      sum.add(Block<N>::load(from), gain<N>(gq[h], gk + h * LANES<T>));
      for (int n = 0; n < RANK; ++n) {
        if (Q) sum.add(dq[n], q[n * H + h]);
        if (K) sum.add(dk[n], Block<N>::load(k + (n * H + h) * LANES<T>, apart));
      }
      sum.store(to);
    }
  }

  // Gates of head 0 at the tile's column c; zeros where there are none.
  const T* gate_k(const Region& w, int64_t c) const {
    return kg.defined() ? kg.at(w, c) : nothing.data();
  }
  // 1 + g_q + g_k.
  template <int N>
  SOFTMAP_INLINE Block<N> gain(T gate_q, const T* gate_k) const {
    auto sum = Block<N>::load(gate_k, H * LANES<T>);
    for (auto& x : sum.v) x = x + Vec<T>(1 + gate_q);
    return sum;
  }

  // dq[n] = sum_h m_h wq[n,h], dk[n] = sum_h m_h wk[n,h].
  template <int RANK, bool Q, bool K, int N>
  SOFTMAP_INLINE void down(const Region& w, Maps<T> m, int64_t r, int64_t c, const QueryTensor<T>& wq,
            const KeyTensor<T>& wk, Block<N>* dq, Block<N>* dk) const {
    if constexpr (RANK > 0) {
      const T* q = Q ? wq.row(w.batch, w.row + r) : nullptr;
      const T* k = K ? wk.at(w, c) : nullptr;
      const T* from = m.at(0, r) + c;
      const int64_t apart = RANK * H * LANES<T>;
      for (int64_t h = 0; h < H; ++h, from += m.head_stride) {
        const auto a = Block<N>::load(from);
        for (int n = 0; n < RANK; ++n) {
          if (Q) dq[n].add(a, q[n * H + h]);
          if (K) dk[n].add(a, Block<N>::load(k + (n * H + h) * LANES<T>, apart));
        }
      }
    }
  }

  int64_t sums_of_row() const { return H * (2 * R + 1) * LANES<T>; }

  void add_query_grads(const Region& w, int64_t r, const T* sums) {
    const int64_t b = w.batch, t = w.row + r;
    for (int64_t h = 0; h < H; ++h) {
      const T* s = sums + h * (2 * R + 1) * LANES<T>;
      const auto sum = [&](int64_t n) { return sum_lanes(Vec<T>::loadu(s + n * LANES<T>)); };
      if (qg.defined()) qg.grad_row(b, t)[h] += sum(0);
      for (int64_t n = 0; q1.defined() && n < R; ++n) {
        q1.grad_row(b, t)[n * H + h] += sum(1 + n);
        q2.grad_row(b, t)[n * H + h] += sum(1 + R + n);
      }
    }
  }

  // With d = down-products of the input and e = those of the gradient (through the up-weights).
  template <int RANK, bool Q, bool K, int N>
  void adjoint(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, int64_t r, int64_t c,
               T* sums) {
    constexpr int64_t step = LANES<T>;
    const int64_t apart = RANK * H * step;
    Block<N> dq[RANK + 1], dk[RANK + 1], eq[RANK + 1], ek[RANK + 1];
    down<RANK, Q, K, N>(w, in, r, c, q1, k1, dq, dk);
    down<RANK, Q, K, N>(w, grad, r, c, q2, k2, eq, ek);
    const T *q = Q ? q1.row(w.batch, w.row + r) : nullptr, *k = K ? k1.at(w, c) : nullptr;
    T *k1_grad = K ? k1.grad_at(w, c) : nullptr, *k2_grad = K ? k2.grad_at(w, c) : nullptr;
    T* kg_grad = kg.defined() ? kg.grad_at(w, c) : nullptr;
    const T *gq = gate_q(w, r), *gk = gate_k(w, c), *a_at = in.at(0, r) + c;
    const T* g_at = grad.at(0, r) + c;
    T* to_at = to.at(0, r) + c;
    for (int64_t h = 0; h < H; ++h, sums += (2 * RANK + 1) * step) {
      const auto a = Block<N>::load(a_at + h * in.head_stride);
      const auto g = Block<N>::load(g_at + h * grad.head_stride);
      Block<N> sum;
      sum.add(g, gain<N>(gq[h], gk + h * step));
      a.add_dot_to(sums, g);
      if (kg_grad) a.add_product_to(kg_grad + h * step, g, H * step);
      for (int n = 0; n < RANK; ++n) {
        const int64_t at = n * H + h;
        if (Q) {
          sum.add(eq[n], q[at]);
          a.add_dot_to(sums + (1 + n) * step, eq[n]);
          g.add_dot_to(sums + (1 + RANK + n) * step, dq[n]);
        }
        if (K) {
          sum.add(ek[n], Block<N>::load(k + at * step, apart));
          a.add_product_to(k1_grad + at * step, ek[n], apart);
          g.add_product_to(k2_grad + at * step, dk[n], apart);
        }
      }
      sum.store(to_at + h * to.head_stride);
    }
  }
};

}  // namespace softmap
