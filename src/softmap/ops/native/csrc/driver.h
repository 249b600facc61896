// The bands: forward, and backward with everything recomputed from q, k, v and two numbers a row.
#pragma once

#include "memory.h"
#include "problem.h"
#include "softmax.h"

namespace softmap {

// One worker's memory for one band after another.
template <typename T>
struct Worker {
  const Problem<T>& p;
  int64_t id, width = 0, tiles = 0, rows = 0, begin = 0, end = 0;
  Schedule::Item item{};
  int64_t widest = 0;  // columns of the widest band, in whole vectors

  // In the thread that does the work.
  Worker(const Problem<T>& p, int64_t id, int64_t maps, int64_t spares, const std::vector<Rows<T>>& own)
      : p(p), id(id), own(own) {
    int64_t most = 0, tall = 1;
    for (const auto& i : p.schedule.workers[id]) {
      const auto [from, to] = p.reach(i.batch, i.row, i.rows);
      most = std::max(most, to - p.align(from));
      tall = std::max(tall, i.rows);
    }
    widest = round_up(std::max<int64_t>(most, 1), LANES<T>);
    if (p.tile) widest = round_up(widest, p.tile);
    const int64_t across = p.tile ? p.tile : widest;
    const int64_t heads = p.group;
    one = Buffer<T>::size(heads, tall, across);
    int64_t scratch_size = 0;
    for (const auto* edits : {&p.scores, &p.weights}) {
      for (const auto& e : *edits) {
        scratch_size = std::max(scratch_size, e->scratch(heads, tall, across));
      }
    }
    map = widest / across * one;
    int64_t of_rows = 0;
    for (const auto& r : own) of_rows += round_up(r.heads * tall * r.width, LANES<T>);
    memory = arena<T>(maps * map + spares * one + of_rows + scratch_size);
    spares_from = memory + maps * map;
    T* next = spares_from + spares * one;
    for (auto& r : this->own) {
      r.data = next;
      next += round_up(r.heads * tall * r.width, LANES<T>);
    }
    scratch = next;
  }

  // Turns to a band; false if no row of it sees anything.
  bool take(const Schedule::Item& next) {
    item = next;
    std::tie(begin, end) = p.reach(item.batch, item.row, item.rows);
    begin = p.align(begin);
    rows = item.rows;
    for (auto& r : own) r.rows = rows;
    width = p.tile ? p.tile : round_up(end - begin, LANES<T>);
    tiles = end > begin ? (end - begin + width - 1) / width : 0;
    return tiles > 0;
  }

  Region region(int64_t tile) const {
    const int64_t at = item.batch * p.queries + item.row, col = begin + tile * width;
    return {item.batch, item.group * p.group, item.row, rows, col, std::min(width, end - col),
            p.first.template const_data_ptr<int64_t>() + at,
            p.last.template const_data_ptr<int64_t>() + at, p.offset(), id, item.slot};
  }
  // The n-th map of the band, one tile of it.
  Maps<T> maps(int64_t n, int64_t tile, int64_t heads) const {
    return Buffer<T>::maps(memory + n * map + tile * one, heads, rows, width);
  }
  Maps<T> spare(int64_t n, int64_t heads) const {
    return Buffer<T>::maps(spares_from + n * one, heads, rows, width);
  }

  T* scratch = nullptr;
  std::vector<Rows<T>> own;  // rows of the band itself

 private:
  T *memory = nullptr, *spares_from = nullptr;
  int64_t one = 0, map = 0;  // numbers of one tile, and of a band, of all heads
};

// Every worker's bands, each worker on one thread.
template <typename T, typename F>
void each_band(const Problem<T>& p, int64_t maps, int64_t spares, const std::vector<Rows<T>>& own,
               F band) {
  at::parallel_for(0, int64_t(p.schedule.workers.size()), 1, [&](int64_t from, int64_t to) {
    for (int64_t id = from; id < to; ++id) {
      Worker<T> me(p, id, maps, spares, own);
      for (const auto& item : p.schedule.workers[id]) {
        if (me.take(item)) band(me);
      }
    }
  });
}

// The same tile for an edit that `maps` enter, of a group of so many: its first map there.
inline Region entering(Region w, int64_t maps, int64_t group) {
  w.head = w.head / group * maps;
  return w;
}

// out[h] = scale * left[h] right[source(first + h)]^T over the tile's rows and columns.
template <typename T, typename F>
void products(const Region& w, int64_t first, Rows<T> left, const Columns<T>& right, F source, T scale,
              Maps<T> out, int64_t width) {
  for (int64_t h = 0; h < out.heads; ++h) {
    const bool more = h + 1 < out.heads;
    gemm<T>(false, right.transpose, w.rows, w.cols, left.width, scale, left.at(h), left.width,
            right.at(w.batch, source(first + h), w.col), right.stride, false, out.at(h, 0),
            out.row_stride, more ? right.next(w.batch, source(first + h + 1), w.col) : Next());
    if (w.cols < width) {
      for (int64_t r = 0; r < w.rows; ++r) clear(out.at(h, r), w.cols, width);
    }
  }
}

// The tile's columns of one head, as the next product meets them: rows of keys.
template <typename T>
Next next_rows(bool more, const Tensor& t, int64_t b, int64_t h, const Region& w) {
  return more ? Next(row_of<T>(t, b, h, w.col), w.cols * t.stride(2)) : Next();
}

template <typename T>
struct Forward {
  Problem<T>& p;
  Tensor out, statistics;  // (B, H', T, d'), (B, H, T, 2)

  explicit Forward(Problem<T>& p) : p(p) {
    out = at::zeros({p.B, p.outputs, p.queries, p.dv}, p.dtype);
    statistics = at::zeros({p.B, p.H, p.queries, 2}, dtype_of<T>);
  }

  void run() {
    each_band<T>(p, 1, 2, {p.own_queries(), p.own_outputs()}, [&](Worker<T>& me) { band(me); });
  }

 private:
  static constexpr int QUERIES = 0, OUT = 1;  // own rows

  void band(Worker<T>& me) {
    const auto& item = me.item;
    const int64_t head = item.group * p.group;
    me.own[QUERIES].take(p.q, item.batch, head, item.row);
    std::fill_n(me.own[OUT].data, me.own[OUT].size(), T(0));
    Statistics<T> stats(p.group, me.rows);
    for (int64_t t = 0; t < me.tiles; ++t) {
      const auto w = me.region(t);
      softmax_tile(w, edited_scores(me, w, t), me.width, stats);
    }
    for (int64_t h = 0; h < p.group; ++h) {
      for (int64_t r = 0; r < me.rows; ++r) {
        T* of_row = mutable_row<T>(statistics, item.batch, head + h, item.row + r);
        const int64_t n = h * me.rows + r;
        of_row[0] = stats.largest[n], of_row[1] = stats.one_over_sum(n);
      }
    }
    for (int64_t t = 0; t < me.tiles; ++t) {
      const auto w = me.region(t);
      const auto weights = me.spare(0, p.group);  // the band's own memory is read once, not written again
      normalise_tile(w, me.maps(0, t, p.group), weights, stats, t);
      multiply(w, edited_weights(me, w, weights), me.own[OUT]);
    }
    me.own[OUT].put(out, item.batch, item.group * p.group_outputs(), item.row);
  }

  // Into the band's own memory, whatever edits work in place or not.
  Maps<T> edited_scores(Worker<T>& me, const Region& w, int64_t t) {
    const auto home = me.maps(0, t, p.group);
    int64_t moves = 0;
    for (const auto& e : p.scores) moves += !e->in_place();
    auto now = moves % 2 ? me.spare(0, p.group) : home;
    products(w, w.head, me.own[QUERIES], p.keys_across, [&](int64_t h) { return p.key_of_map[h]; },
             p.scale, now, me.width);
    for (const auto& e : p.scores) {
      auto next = e->in_place() ? now : now.data == home.data ? me.spare(0, p.group) : home;
      e->forward(entering(w, now.heads, p.group), now, next, me.scratch);
      now = next;
    }
    return now;
  }

  Maps<T> edited_weights(Worker<T>& me, const Region& w, Maps<T> now) {
    int64_t spare = 0;
    for (const auto& e : p.weights) {
      const int64_t heads = e->heads_out(now.heads);
      auto next = e->in_place() ? Maps<T>{now.data, heads, now.head_stride, now.row_stride}
                                : me.spare(spare ^= 1, heads);
      e->forward(entering(w, now.heads, p.group), now, next, me.scratch);
      now = next;
    }
    return now;
  }

  void multiply(const Region& w, Maps<T> m, Rows<T> sums) {
    for (int64_t n = 0; n < p.group_outputs(); ++n) {
      const int64_t h = p.first_output(w) + n;
      gemm<T>(false, false, w.rows, p.dv, w.cols, 1, m.at(n, 0), m.row_stride,
              row_of<T>(p.v, w.batch, p.value_of(h), w.col), p.v.stride(2), true, sums.at(n), p.dv,
              next_rows<T>(n + 1 < p.group_outputs(), p.v, w.batch, p.value_of(h + 1), w));
    }
  }
};

template <typename T>
struct Backward {
  Problem<T>& p;
  // (B, H', T, d'); (B, H, T, 2) the largest score and one over the sum of exp(score - largest): their
  // logarithm's sum would round large scores.
  Tensor grad, statistics;
  Tensor dq, dk, dv;  // dk, dv with a slot for each sequence and each sharing worker

  Backward(Problem<T>& p, const Tensor& g, const Tensor& statistics)
      : p(p), grad(row_wise(g)), statistics(statistics.contiguous()) {
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
    std::fill_n(me.own[DQ].data, me.own[DQ].size(), T(0));
    std::vector<T> row_sums(p.group * me.rows, T(0));  // sum_j A dA: the softmax's backward needs it
    for (int64_t t = 0; t < me.tiles; ++t) through_weights(me, me.region(t), t, row_sums);
    for (int64_t t = 0; t < me.tiles; ++t) through_scores(me, me.region(t), t, row_sums);
    me.own[DQ].put(dq, item.batch, item.group * p.group, item.row);
  }

  // Maps of a band: the scores entering each edit, then the weights, then the gradient.
  int64_t weights_at() const { return int64_t(p.scores.size()); }
  int64_t grad_at() const { return weights_at() + 1; }

  void through_weights(Worker<T>& me, const Region& w, int64_t t, std::vector<T>& row_sums) {
    products(w, w.head, me.own[QUERIES], p.keys_across, [&](int64_t h) { return p.key_of_map[h]; },
             p.scale, me.maps(0, t, p.group), me.width);
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
             [&](int64_t h) { return p.value_of(h); }, T(1), g, me.width);
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
