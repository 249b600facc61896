// DCMHA (arXiv 2405.08553), for the heads a of one cell (i, j):
//   a' = a (1 + g_q + g_k) + sum_r (a . q1_r) q2_r + sum_r (a . k1_r) k2_r + a W
// q of the query's token, k of the key's. Two sweeps over the heads of a few columns: down to the
// 2R inner products, then up.
#pragma once

#include "head_mix.h"

namespace softmap {

// N vectors of columns of one row, `apart` numbers from one to the next.
template <typename T, int N>
struct Vectors {
  Vec<T> v[N];
  SOFTMAP_INLINE explicit Vectors(T x = T(0)) {
    for (auto& y : v) y = Vec<T>(x);
  }
  SOFTMAP_INLINE static Vectors load(const T* from, int64_t apart = LANES<T>) {
    Vectors b;
    for (int n = 0; n < N; ++n) b.v[n] = Vec<T>::loadu(from + n * apart);
    return b;
  }
  SOFTMAP_INLINE void store(T* to, int64_t apart = LANES<T>) const {
    for (int n = 0; n < N; ++n) v[n].store(to + n * apart);
  }
  SOFTMAP_INLINE void add(const Vectors& a, const Vectors& b) {  // += a b
    for (int n = 0; n < N; ++n) v[n] = fmadd(a.v[n], b.v[n], v[n]);
  }
  SOFTMAP_INLINE void add(const Vectors& a, T b) { add(a, Vectors(b)); }
  SOFTMAP_INLINE void add_dot_to(T* to, const Vectors& b) const {
    auto sum = Vec<T>::loadu(to);
    for (int n = 0; n < N; ++n) sum = fmadd(v[n], b.v[n], sum);
    sum.store(to);
  }
  SOFTMAP_INLINE void add_product_to(T* to, const Vectors& b, int64_t apart) const {
    auto sum = load(to, apart);
    sum.add(*this, b);
    sum.store(to, apart);
  }
};

template <typename T>
struct Compose : Edit<T> {
  static constexpr int64_t MAX_RANK = 4;
  static constexpr int64_t BLOCK = 4 * LANES<T>;  // columns taken at a time
  QueryTensor<T> q1, q2, qg;  // (B, T, R, H), (B, T, H)
  KeyTensors<T> k;  // a key's numbers of a head: k1, k2, gate
  std::unique_ptr<HeadMix<T>> fixed;
  std::vector<T> nothing;  // of a row without query factors
  int64_t H, R = 0;
  bool low_q, low_k;

  explicit Compose(const Setup<T>& setup)
      : q1(setup.query("q1")), q2(setup.query("q2")), qg(setup.query("qg")), H(setup.heads),
        low_q(q1.defined()), low_k(setup["k1"].defined()) {
    if (setup["static"].defined()) fixed = std::make_unique<HeadMix<T>>(setup, "static");
    if (low_q) R = q1.size / H;
    if (low_k) R = setup["k1"].size(2);
    TORCH_CHECK_VALUE(R <= MAX_RANK, "compose: rank ", R, " is more than ", MAX_RANK);
    k = KeyTensors<T>({{"k1", setup["k1"], R}, {"k2", setup["k2"], R}, {"kg", setup["kg"], 1}},
                      setup.batch, setup.keys, H, *setup.schedule, setup.with_grad);
    nothing.assign(H, T(0));
  }

  bool in_place() const override { return !fixed; }

  // The vectors that the query gradients of a tile's rows are added up in.
  int64_t scratch(int64_t, int64_t rows, int64_t) const override { return rows * sums_of_row(); }

  void forward(const Region& w, Maps<T> in, Maps<T> out, T*) const override {
    // The plain part goes first: it reads what the static map adds to.
    dispatch([&](auto rank, auto query, auto key) {
      by_blocks(w, [&](auto vectors, int64_t r, int64_t c, const T* at_key, T*) {
        up<rank(), query(), key(), vectors()>(at_row(w, r), at_key, in.at(0, r) + c,
                                              out.at(0, r) + c, in.head_stride);
      });
    });
    if (in.data != out.data) clear_rest(w, out);
    if (fixed) fixed->apply(w, in, out, true, true);
  }

  void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T* scratch) override {
    std::fill_n(scratch, w.rows * sums_of_row(), T(0));
    dispatch([&](auto rank, auto query, auto key) {
      by_blocks(w, [&](auto vectors, int64_t r, int64_t c, const T* at_key, T* key_grad) {
        adjoint<rank(), query(), key(), vectors()>(
            at_row(w, r), at_key, in.at(0, r) + c, grad.at(0, r) + c, to.at(0, r) + c,
            in.head_stride, scratch + r * sums_of_row(), key_grad);
      });
    });
    for (int64_t r = 0; r < w.rows; ++r) add_query_grads(w, r, scratch + r * sums_of_row());
    clear_rest(w, to);
    if (fixed) {
      fixed->apply(w, grad, to, false, true);
      fixed->add_grad(w, in, grad);
    }
  }

  Bag gradients(const Schedule& schedule) const override {
    Bag bag;
    if (q1.defined()) bag["q1"] = q1.grad, bag["q2"] = q2.grad;
    if (qg.defined()) bag["qg"] = qg.grad;
    k.take_grads(schedule, bag);
    if (fixed) bag["static"] = fixed->mix.take_grad();
    return bag;
  }

 private:
  // Of one query: q1 and q2 of rank n and head h at n * H + h.
  struct Row {
    const T *q1, *q2, *gate;
  };
  Row at_row(const Region& w, int64_t r) const {
    const auto row = [&](const QueryTensor<T>& t) {
      return t.defined() ? t.row(w.batch, w.row + r) : nothing.data();
    };
    return {row(q1), row(q2), row(qg)};
  }

  // Calls f with the rank and the sides as constants, so that the loops below unroll.
  template <typename F>
  void dispatch(F f) const {
    const auto sides = [&](auto rank) {
      const auto yes = std::true_type();
      const auto no = std::false_type();
      if (low_q && low_k) f(rank, yes, yes);
      else if (low_q) f(rank, yes, no);
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

  // A few columns of all rows, then the next: the keys' factors and gradients stay in the nearest
  // cache. Two vectors at a time: one would wait for each sum, more would not fit the registers.
  template <typename F>
  void by_blocks(const Region& w, F f) const {
    for (int64_t start = 0; start < w.cols; start += BLOCK) {
      for (int64_t r = 0; r < w.rows; ++r) {
        const int64_t end = std::min(w.end(r), start + BLOCK);
        int64_t c = start;
        const T* at_key = k.at(w, c);
        T* grad = k.grad_at(w, c);
        for (; c + LANES<T> < end; c += 2 * LANES<T>) {
          f(std::integral_constant<int, 2>(), r, c, at_key, grad);
          at_key += 2 * k.size() * LANES<T>, grad += 2 * k.size() * LANES<T>;
        }
        if (c < end) f(std::integral_constant<int, 1>(), r, c, at_key, grad);
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

  // 1 + g_q + g_k.
  template <int N>
  static SOFTMAP_INLINE Vectors<T, N> gain(T gate_q, const T* gate_k, int64_t apart) {
    auto sum = Vectors<T, N>::load(gate_k, apart);
    for (auto& x : sum.v) x = x + Vec<T>(1 + gate_q);
    return sum;
  }

  // One cell's heads lie `stride` apart, one head's numbers of a key are WIDTH vectors.
  template <int RANK, bool Q, bool K, int N>
  SOFTMAP_INLINE void up(Row q, const T* key, const T* from, T* to, int64_t stride) const {
    constexpr int64_t step = LANES<T>, WIDTH = 2 * RANK + 1;
    const int64_t heads = H, apart = heads * WIDTH * step;
    Vectors<T, N> dq[RANK + 1], dk[RANK + 1];
    for (int64_t h = 0; h < heads && RANK > 0; ++h) {
      const auto a = Vectors<T, N>::load(from + h * stride);
      const T* f = key + h * WIDTH * step;
      for (int n = 0; n < RANK; ++n) {
        if (Q) dq[n].add(a, q.q1[n * heads + h]);
        if (K) dk[n].add(a, Vectors<T, N>::load(f + n * step, apart));
      }
    }
    for (int64_t h = 0; h < heads; ++h) {
      const T* f = key + h * WIDTH * step;
      Vectors<T, N> sum;
      sum.add(Vectors<T, N>::load(from + h * stride),
              gain<N>(q.gate[h], f + 2 * RANK * step, apart));
      for (int n = 0; n < RANK; ++n) {
        if (Q) sum.add(dq[n], q.q2[n * heads + h]);
        if (K) sum.add(dk[n], Vectors<T, N>::load(f + (RANK + n) * step, apart));
      }
      sum.store(to + h * stride);
    }
  }

  int64_t sums_of_row() const { return H * (2 * R + 1) * LANES<T>; }

  void add_query_grads(const Region& w, int64_t r, const T* sums) {
    const int64_t b = w.batch, t = w.row + r;
    for (int64_t h = 0; h < H; ++h) {
      const T* s = sums + h * (2 * R + 1) * LANES<T>;
      const auto sum = [&](int64_t n) { return sum_lanes(Vec<T>::loadu(s + n * LANES<T>)); };
      if (qg.defined()) qg.grad_row(b, t)[h] += sum(2 * R);
      for (int64_t n = 0; q1.defined() && n < R; ++n) {
        q1.grad_row(b, t)[n * H + h] += sum(n);
        q2.grad_row(b, t)[n * H + h] += sum(R + n);
      }
    }
  }

  // With d = down-products of the input and e = those of the gradient (through the up-weights).
  template <int RANK, bool Q, bool K, int N>
  SOFTMAP_INLINE void adjoint(Row q, const T* key, const T* in, const T* grad, T* to,
                              int64_t stride, T* sums, T* key_grad) const {
    constexpr int64_t step = LANES<T>, WIDTH = 2 * RANK + 1;
    const int64_t heads = H, apart = heads * WIDTH * step;
    Vectors<T, N> dq[RANK + 1], dk[RANK + 1], eq[RANK + 1], ek[RANK + 1];
    for (int64_t h = 0; h < heads && RANK > 0; ++h) {
      const auto a = Vectors<T, N>::load(in + h * stride);
      const auto g = Vectors<T, N>::load(grad + h * stride);
      const T* f = key + h * WIDTH * step;
      for (int n = 0; n < RANK; ++n) {
        if (Q) dq[n].add(a, q.q1[n * heads + h]), eq[n].add(g, q.q2[n * heads + h]);
        if (K) dk[n].add(a, Vectors<T, N>::load(f + n * step, apart));
        if (K) ek[n].add(g, Vectors<T, N>::load(f + (RANK + n) * step, apart));
      }
    }
    for (int64_t h = 0; h < heads; ++h) {
      const auto a = Vectors<T, N>::load(in + h * stride);
      const auto g = Vectors<T, N>::load(grad + h * stride);
      const T* f = key + h * WIDTH * step;
      T *of_row = sums + h * WIDTH * step, *of_key = key_grad + h * WIDTH * step;
      Vectors<T, N> sum;
      sum.add(g, gain<N>(q.gate[h], f + 2 * RANK * step, apart));
      a.add_dot_to(of_row + 2 * RANK * step, g);
      a.add_product_to(of_key + 2 * RANK * step, g, apart);
      for (int n = 0; n < RANK; ++n) {
        if (Q) {
          sum.add(eq[n], q.q1[n * heads + h]);
          a.add_dot_to(of_row + n * step, eq[n]);
          g.add_dot_to(of_row + (RANK + n) * step, dq[n]);
        }
        if (K) {
          sum.add(ek[n], Vectors<T, N>::load(f + n * step, apart));
          a.add_product_to(of_key + n * step, ek[n], apart);
          g.add_product_to(of_key + (RANK + n) * step, dk[n], apart);
        }
      }
      sum.store(to + h * stride);
    }
  }
};

}  // namespace softmap
