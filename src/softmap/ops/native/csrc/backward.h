// Backward: everything is computed again from q, k, v and two numbers a row.
#pragma once

#include "softmax.h"
#include "worker.h"

namespace softmap {

template <typename T>
struct Backward {
  Problem<T>& p;
  // (B, H', T, d'); (B, H, T, 2) the largest score and one over the sum of exp(score - largest): their
  // logarithm's sum would round large scores; (B, H, T) the gradient of that logarithm, or undefined.
  Tensor grad, statistics, lse_grad;
  Tensor dq, dk, dv;  // dk, dv with a slot for each sequence and each sharing worker

  Backward(Problem<T>& p, const Tensor& g, const Tensor& statistics, const Tensor& lse_grad)
      : p(p), grad(row_wise(g)), statistics(statistics.contiguous()), lse_grad(lse_grad) {
    const auto slots = p.schedule.slots();
    dq = at::zeros({p.B, p.H, p.queries, p.d}, p.dtype);
    dk = at::zeros({slots, p.key_heads, p.keys, p.d}, dtype_of<T>);
    dv = at::zeros({slots, p.values, p.keys, p.dv}, dtype_of<T>);
  }

  void run() {
    const int64_t maps = int64_t(p.scores.size()) + 2, spares = 2 + int64_t(p.weights.size());
    each_band<T>(p, maps, spares, {p.own_queries(), p.own_queries(), p.own_outputs()},
                 [&](Worker<T>& me) { band(me); });
  }

 private:
  static constexpr int QUERIES = 0, DQ = 1, GRAD = 2;  // own rows

  void band(Worker<T>& me) {
    const auto& item = me.item;
    me.own[QUERIES].take(p.q, item.batch, item.group * p.group, item.row);
    me.own[GRAD].take(grad, item.batch, item.group * p.group_outputs(), item.row);
    me.own[DQ].open(dq, item.batch, item.group * p.group, item.row);
    auto row_sums = first_row_sums(me);
    for (int64_t t = 0; t < me.tiles; ++t) through_weights(me, me.region(t), t, row_sums);
    for (int64_t t = 0; t < me.tiles; ++t) through_scores(me, me.region(t), t, row_sums);
    me.own[DQ].close(dq, item.batch, item.group * p.group, item.row);
  }

  // What the softmax's backward takes from dA: sum_j A dA, less the gradient of the log-sum-exp.
  std::vector<T> first_row_sums(const Worker<T>& me) const {
    std::vector<T> sums(p.group * me.rows, T(0));
    for (int64_t h = 0; lse_grad.defined() && h < p.group; ++h) {
      for (int64_t r = 0; r < me.rows; ++r) {
        const int64_t head = me.item.group * p.group + h;
        sums[h * me.rows + r] = -*row_of<T>(lse_grad, me.item.batch, head, me.item.row + r);
      }
    }
    return sums;
  }

  // Maps of a band: the scores entering each edit, then the weights, then the gradient.
  int64_t weights_at() const { return int64_t(p.scores.size()); }
  int64_t grad_at() const { return weights_at() + 1; }

  void through_weights(Worker<T>& me, const Region& w, int64_t t, std::vector<T>& row_sums) {
    products(w, w.head, me.own[QUERIES], p.keys_across, [&](int64_t h) { return p.key_of_map[h]; },
             p.scale, me.maps(0, t, p.group), me.width, me.near);
    for (int64_t n = 0; n < weights_at(); ++n) {
      p.scores[n]->forward(w, me.maps(n, t, p.group), me.maps(n + 1, t, p.group), me.scratch);
    }
    const auto a = me.maps(weights_at(), t, p.group);
    exponentiate(w, a, me.width);
    const auto chain = edited_weights(me, w, a);
    values_grad(w, chain.back(), me.own[GRAD]);
    add_row_sums(w, a, weights_grad(me, w, t, chain), row_sums);
  }

  // d/dA in its place among the band's maps: an adjoint that works in place is given that memory,
  // others a spare.
  Maps<T> weights_grad(Worker<T>& me, const Region& w, int64_t t, const std::vector<Maps<T>>& chain) {
    const auto home = me.maps(grad_at(), t, p.group);
    int64_t n = int64_t(p.weights.size());
    const auto stays = [&](int64_t from) {  // all adjoints from here on work in place
      bool all = true;
      for (int64_t i = 0; i < from; ++i) all = all && p.weights[i]->adjoint_in_place();
      return all;
    };
    int64_t spare = 0;
    auto g = stays(n) ? home : me.spare(spare, p.group_outputs());
    products(w, p.first_output(w), me.own[GRAD], p.values_across,
             [&](int64_t h) { return p.value_of(h); }, T(1), g, me.width, me.near);
    for (--n; n >= 0; --n) {
      const bool move = !p.weights[n]->adjoint_in_place();
      const auto to = !move ? g : stays(n) ? home : me.spare(spare ^= 1, chain[n].heads);
      p.weights[n]->backward(entering(w, chain[n].heads, p.group), chain[n], g, to, me.scratch);
      g = to;
    }
    return g;
  }

  void through_scores(Worker<T>& me, const Region& w, int64_t t, const std::vector<T>& row_sums) {
    auto g = me.maps(grad_at(), t, p.group);
    softmax_grad(w, me.maps(weights_at(), t, p.group), g, me.width, row_sums);
    int64_t spare = 0;
    for (int64_t n = weights_at() - 1; n >= 0; --n) {
      const auto to = p.scores[n]->adjoint_in_place() ? g : me.spare(spare ^= 1, p.group);
      p.scores[n]->backward(w, me.maps(n, t, p.group), g, to, me.scratch);
      g = to;
    }
    for (int64_t n = 0; n < p.group; ++n) {
      const int64_t h = w.head + n, key = p.key_of_map[h];
      gemm<T>(false, false, w.rows, p.d, w.cols, p.scale, g.at(n, 0), g.row_stride,
              row_of<T>(p.k, w.batch, key, w.col), p.k.stride(2), true,
              me.own[DQ].at(n), p.d,
              next_rows<T>(true, dk, w.slot, key, w));
      gemm<T>(true, false, w.cols, p.d, w.rows, p.scale, g.at(n, 0), g.row_stride,
              me.own[QUERIES].at(n), p.d, true,
              mutable_row<T>(dk, w.slot, key, w.col), dk.stride(2),
              n + 1 < p.group ? next_rows<T>(true, p.k, w.batch, p.key_of_map[h + 1], w) : Next());
    }
  }

  void exponentiate(const Region& w, Maps<T> m, int64_t width) {
    for (int64_t h = 0; h < m.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        const T* of_row = row_of<T>(statistics, w.batch, w.head + h, w.row + r);
        row_exp(m.at(h, r), w.begin(r), w.end(r), width, of_row[0], of_row[1]);
      }
    }
  }

  // The weights entering each edit, and those that meet the values.
  std::vector<Maps<T>> edited_weights(Worker<T>& me, const Region& w, Maps<T> a) {
    std::vector<Maps<T>> chain{a};
    for (size_t n = 0; n < p.weights.size(); ++n) {
      chain.push_back(me.spare(2 + int64_t(n), p.weights[n]->heads_out(chain.back().heads)));
      p.weights[n]->forward(entering(w, chain[n].heads, p.group), chain[n], chain[n + 1], me.scratch);
    }
    return chain;
  }

  void values_grad(const Region& w, Maps<T> m, Rows<T> grad) {
    for (int64_t n = 0; n < p.group_outputs(); ++n) {
      const int64_t h = p.first_output(w) + n;
      gemm<T>(true, false, w.cols, p.dv, w.rows, 1, m.at(n, 0), m.row_stride,
              grad.at(n), p.dv, true,
              mutable_row<T>(dv, w.slot, p.value_of(h), w.col), dv.stride(2),
              next_rows<T>(n + 1 < p.group_outputs(), dv, w.slot, p.value_of(h + 1), w));
    }
  }

  void add_row_sums(const Region& w, Maps<T> a, Maps<T> g, std::vector<T>& row_sums) {
    for (int64_t h = 0; h < a.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        Vec<T> sum(0);
        for (int64_t c = 0; c < w.end(r); c += LANES<T>) {
          sum = fmadd(Vec<T>::loadu(a.at(h, r) + c), Vec<T>::loadu(g.at(h, r) + c), sum);
        }
        row_sums[h * w.rows + r] += sum_lanes(sum);
      }
    }
  }

  // dS = A (dA - row sum), in place.
  void softmax_grad(const Region& w, Maps<T> a, Maps<T> g, int64_t width,
                    const std::vector<T>& row_sums) {
    for (int64_t h = 0; h < a.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        const Vec<T> sum(row_sums[h * w.rows + r]);
        T* to = g.at(h, r);
        const int64_t end = round_up(w.end(r), LANES<T>);
        for (int64_t c = 0; c < end; c += LANES<T>) {
          (Vec<T>::loadu(a.at(h, r) + c) * (Vec<T>::loadu(to + c) - sum)).store(to + c);
        }
        clear(to, end, width);
      }
    }
  }
};

}  // namespace softmap
