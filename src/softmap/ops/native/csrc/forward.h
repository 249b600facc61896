// Forward: every band's scores, their softmax, and its weights times the values.
#pragma once

#include "softmax.h"
#include "worker.h"

namespace softmap {

template <typename T>
struct Forward {
  Problem<T>& p;
  Tensor out, statistics;  // (B, H', T, d'), (B, H, T, 2)

  explicit Forward(Problem<T>& p) : p(p) {
    out = at::zeros({p.B, p.outputs, p.queries, p.dv}, p.dtype);
    statistics = at::zeros({p.B, p.H, p.queries, 2}, dtype_of<T>);
  }

  void run() {
    if (const int64_t parts = p.parts_of_keys(); parts > 1) return run_in_parts(parts);
    each_band<T>(p, 1, 2, own(), [&](Worker<T>& me) { band(me); });
  }

 private:
  static constexpr int QUERIES = 0, OUT = 1;  // own rows

  std::vector<Rows<T>> own() const { return {p.own_queries(), p.own_outputs()}; }

  void band(Worker<T>& me) {
    Statistics<T> stats(p.group, me.rows);
    through_scores(me, stats);
    remember(me.item, stats);
    const int64_t head = me.item.group * p.group_outputs();
    me.own[OUT].open(out, me.item.batch, head, me.item.row);
    through_weights(me, stats);
    me.own[OUT].close(out, me.item.batch, head, me.item.row);
  }

  void through_scores(Worker<T>& me, Statistics<T>& stats) {
    me.own[QUERIES].take(p.q, me.item.batch, me.item.group * p.group, me.item.row);
    for (int64_t t = 0; t < me.tiles; ++t) {
      const auto w = me.region(t);
      softmax_tile(w, edited_scores(me, w, t), me.width, stats);
    }
  }

  void remember(const Schedule::Item& item, const Statistics<T>& stats) {
    for (int64_t h = 0; h < p.group; ++h) {
      for (int64_t r = 0; r < item.rows; ++r) {
        T* of_row = mutable_row<T>(statistics, item.batch, item.group * p.group + h, item.row + r);
        const int64_t n = h * item.rows + r;
        of_row[0] = stats.largest[n], of_row[1] = stats.one_over_sum(n);
      }
    }
  }

  void through_weights(Worker<T>& me, const Statistics<T>& stats) {
    for (int64_t t = 0; t < me.tiles; ++t) {
      const auto w = me.region(t);
      const auto weights = me.spare(0, p.group);  // the band's own memory is read once, not written again
      normalise_tile(w, me.maps(0, t, p.group), weights, stats, t);
      multiply(w, edited_weights(me, w, weights), me.own[OUT], me.near);
    }
  }

  // One unit's part of the keys.
  struct Part {
    Worker<T> worker;
    Statistics<T> stats;
  };

  // Few rows and many threads: the keys of a row are shared out, which meet twice, over the sums and
  // over the outputs.
  void run_in_parts(int64_t parts) {
    const int64_t units = p.B * p.groups(), columns = (p.keys + parts - 1) / parts + 2 * p.tile;
    std::vector<std::unique_ptr<Part>> all(units * parts);
    const auto each = [&](int64_t n, auto f) {
      at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) f(i);
      });
    };
    each(units * parts, [&](int64_t i) {
      const int64_t unit = i / parts, b = unit / p.groups();
      all[i].reset(new Part{Worker<T>(p, columns, p.queries, 1, 2, own()), {p.group, p.queries}});
      all[i]->worker.take({b, unit % p.groups(), 0, p.queries, b}, i % parts, parts);
      through_scores(all[i]->worker, all[i]->stats);
    });
    for (int64_t unit = 0; unit < units; ++unit) {
      for (int64_t i = 1; i < parts; ++i) all[unit * parts]->stats.join(all[unit * parts + i]->stats);
      for (int64_t i = 1; i < parts; ++i) all[unit * parts + i]->stats.take(all[unit * parts]->stats);
      remember(all[unit * parts]->worker.item, all[unit * parts]->stats);
    }
    each(units * parts, [&](int64_t i) {
      all[i]->worker.own[OUT].clear_own();
      through_weights(all[i]->worker, all[i]->stats);
    });
    each(units, [&](int64_t unit) {
      const auto& first = all[unit * parts]->worker;
      const Rows<T>& sum = first.own[OUT];
      for (int64_t i = 1; i < parts; ++i) sum.add(all[unit * parts + i]->worker.own[OUT]);
      sum.close(out, first.item.batch, first.item.group * p.group_outputs(), first.item.row);
    });
  }

  // Into the band's own memory, whatever edits work in place or not.
  Maps<T> edited_scores(Worker<T>& me, const Region& w, int64_t t) {
    const auto home = me.maps(0, t, p.group);
    int64_t moves = 0;
    for (const auto& e : p.scores) moves += !e->in_place();
    auto now = moves % 2 ? me.spare(0, p.group) : home;
    products(w, w.head, me.own[QUERIES], p.keys_across, [&](int64_t h) { return p.key_of_map[h]; },
             p.scale, now, me.width, me.near);
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

  void multiply(const Region& w, Maps<T> m, Rows<T> sums, T* near) {
    for (int64_t n = 0; n < p.group_outputs(); ++n) {
      const int64_t h = p.first_output(w) + n;
      const auto [v, stride] = rows_of(p.v, w.batch, p.value_of(h), w.col, w.cols, near);
      gemm<T>(false, false, w.rows, p.dv, w.cols, 1, m.at(n, 0), m.row_stride, v, stride, true,
              sums.at(n), p.dv,
              next_rows<T>(n + 1 < p.group_outputs(), p.v, w.batch, p.value_of(h + 1), w));
    }
  }
};

}  // namespace softmap
