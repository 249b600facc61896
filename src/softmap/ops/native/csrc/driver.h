// The bands: forward, and backward with everything recomputed from q, k, v and log-sums.
#pragma once

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
  int64_t scratch_size = 0;
  Tensor memory, scratch_memory, spare_memory;

  Worker(const Problem<T>& p, int64_t id, int64_t maps, int64_t spares) : p(p), id(id) {
    int64_t most = 0, tall = 1;
    for (const auto& i : p.schedule.workers[id]) {
      const auto [from, to] = p.reach(i.batch, i.row, i.rows);
      most = std::max(most, to - from);
      tall = std::max(tall, i.rows);
    }
    widest = round_up(std::max<int64_t>(most, 1), LANES<T>);
    if (p.tile) widest = round_up(widest, p.tile);
    const int64_t across = p.tile ? p.tile : widest;
    const int64_t heads = std::max(p.H, p.outputs);
    one = Buffer<T>::size(heads, tall, across);
    for (const auto* edits : {&p.scores, &p.weights}) {
      for (const auto& e : *edits) scratch_size = std::max(scratch_size, e->scratch(heads, across));
    }
    const auto options = at::TensorOptions().dtype(dtype_of<T>);
    memory = at::zeros({maps, widest / across * one}, options);  // zeros: stale cells stay finite
    spare_memory = at::zeros({spares, one}, options);
    scratch_memory = at::empty({scratch_size}, options);
  }

  // Turns to a band; false if no row of it sees anything.
  bool take(const Schedule::Item& next) {
    item = next;
    std::tie(begin, end) = p.reach(item.batch, item.row, item.rows);
    rows = item.rows;
    width = p.tile ? p.tile : round_up(end - begin, LANES<T>);
    tiles = end > begin ? (end - begin + width - 1) / width : 0;
    return tiles > 0;
  }

  Region region(int64_t tile) const {
    const int64_t at = item.batch * p.queries + item.row, col = begin + tile * width;
    return {item.batch, item.row, rows, col, std::min(width, end - col),
            p.first.template const_data_ptr<int64_t>() + at,
            p.last.template const_data_ptr<int64_t>() + at, p.offset(), id, item.slot};
  }
  // The n-th map of the band, one tile of it.
  Maps<T> maps(int64_t n, int64_t tile, int64_t heads) const {
    T* data = memory.mutable_data_ptr<T>() + n * memory.size(1) + tile * one;
    return Buffer<T>::maps(data, heads, rows, width);
  }
  Maps<T> spare(int64_t n, int64_t heads) const {
    return Buffer<T>::maps(spare_memory.mutable_data_ptr<T>() + n * one, heads, rows, width);
  }
  T* scratch() const { return scratch_memory.mutable_data_ptr<T>(); }

 private:
  int64_t one = 0;  // numbers of one tile of all heads
};

template <typename T>
const T* row_of(const Tensor& t, int64_t b, int64_t h, int64_t n) {
  return t.const_data_ptr<T>() + b * t.stride(0) + h * t.stride(1) + n * t.stride(2);
}
template <typename T>
T* mutable_row(const Tensor& t, int64_t b, int64_t h, int64_t n) {
  return t.mutable_data_ptr<T>() + b * t.stride(0) + h * t.stride(1) + n * t.stride(2);
}

// out[h] = scale * left[h] right[source(h)]^T over the tile's rows and columns.
template <typename T, typename F>
void products(const Region& w, const Tensor& left, const Tensor& right, F source, T scale,
              Maps<T> out, int64_t width) {
  for (int64_t h = 0; h < out.heads; ++h) {
    const T *a = row_of<T>(left, w.batch, h, w.row), *b = row_of<T>(right, w.batch, source(h), w.col);
    gemm<T>(false, true, w.rows, w.cols, left.size(3), scale, a, left.stride(2), b,
            right.stride(2), 0, out.at(h, 0), out.row_stride);
    if (w.cols < width) {
      for (int64_t r = 0; r < w.rows; ++r) clear(out.at(h, r), w.cols, width);
    }
  }
}

template <typename T>
struct Forward {
  Problem<T>& p;
  Tensor out, log_sums;  // (B, H', T, d'), (B, H, T)

  explicit Forward(Problem<T>& p) : p(p) {
    const auto options = p.q.options();
    out = at::zeros({p.B, p.queries, p.outputs, p.dv}, options).transpose(1, 2);
    log_sums = at::full({p.B, p.H, p.queries}, std::numeric_limits<T>::infinity(), options);
  }

  void run() {
    const int64_t n = int64_t(p.schedule.workers.size());
    std::vector<Worker<T>> workers;
    for (int64_t id = 0; id < n; ++id) workers.emplace_back(p, id, 1, 2);
    at::parallel_for(0, n, 1, [&](int64_t from, int64_t to) {
      for (int64_t id = from; id < to; ++id) {
        for (const auto& item : p.schedule.workers[id]) {
          if (workers[id].take(item)) band(workers[id]);
        }
      }
    });
  }

 private:
  void band(Worker<T>& me) {
    Statistics<T> stats(p.H, me.rows);
    for (int64_t t = 0; t < me.tiles; ++t) {
      const auto w = me.region(t);
      softmax_tile(w, edited_scores(me, w, t), me.width, stats);
    }
    for (int64_t h = 0; h < p.H; ++h) {
      for (int64_t r = 0; r < me.rows; ++r) {
        *(log_sums.template mutable_data_ptr<T>() +
          (me.item.batch * p.H + h) * p.queries + me.item.row + r) = stats.log_sum(h * me.rows + r);
      }
    }
    for (int64_t t = 0; t < me.tiles; ++t) {
      const auto w = me.region(t);
      normalise_tile(w, me.maps(0, t, p.H), me.width, stats, t);
      multiply(w, edited_weights(me, w, t));
    }
  }

  // Into the band's own memory, whatever edits work in place or not.
  Maps<T> edited_scores(Worker<T>& me, const Region& w, int64_t t) {
    const auto home = me.maps(0, t, p.H);
    int64_t moves = 0;
    for (const auto& e : p.scores) moves += !e->in_place();
    auto now = moves % 2 ? me.spare(0, p.H) : home;
    products(w, p.q, p.k, [&](int64_t h) { return p.key_of_map[h]; }, p.scale, now, me.width);
    for (const auto& e : p.scores) {
      auto next = e->in_place() ? now : now.data == home.data ? me.spare(0, p.H) : home;
      e->forward(w, now, next, me.scratch());
      now = next;
    }
    return now;
  }

  Maps<T> edited_weights(Worker<T>& me, const Region& w, int64_t t) {
    auto now = me.maps(0, t, p.H);
    int64_t spare = 0;
    for (const auto& e : p.weights) {
      const int64_t heads = e->heads_out(now.heads);
      auto next = e->in_place() ? Maps<T>{now.data, heads, now.head_stride, now.row_stride}
                                : me.spare(spare ^= 1, heads);
      e->forward(w, now, next, me.scratch());
      now = next;
    }
    return now;
  }

  void multiply(const Region& w, Maps<T> m) {
    const int64_t share = p.outputs / p.values;
    for (int64_t h = 0; h < p.outputs; ++h) {
      gemm<T>(false, false, w.rows, p.dv, w.cols, 1, m.at(h, 0), m.row_stride,
              row_of<T>(p.v, w.batch, h / share, w.col), p.v.stride(2), 1,
              mutable_row<T>(out, w.batch, h, w.row), out.stride(2));
    }
  }
};

template <typename T>
struct Backward {
  Problem<T>& p;
  Tensor grad, log_sums;  // (B, H', T, d'), (B, H, T)
  Tensor dq, dk, dv;  // dk, dv with a slot for each sequence and each sharing worker

  Backward(Problem<T>& p, const Tensor& g, const Tensor& log_sums)
      : p(p), grad(g.to(dtype_of<T>)), log_sums(log_sums.contiguous()) {
    if (grad.stride(3) != 1) grad = grad.contiguous();
    const auto options = p.q.options();
    const auto slots = p.schedule.slots();
    dq = at::zeros({p.B, p.queries, p.H, p.d}, options).transpose(1, 2);
    dk = at::zeros({slots, p.keys, p.k.size(1), p.d}, options).transpose(1, 2);
    dv = at::zeros({slots, p.keys, p.values, p.dv}, options).transpose(1, 2);
  }

  void run() {
    const int64_t n = int64_t(p.schedule.workers.size());
    const int64_t maps = int64_t(p.scores.size()) + 2, spares = 2 + int64_t(p.weights.size());
    std::vector<Worker<T>> workers;
    for (int64_t id = 0; id < n; ++id) workers.emplace_back(p, id, maps, spares);
    at::parallel_for(0, n, 1, [&](int64_t from, int64_t to) {
      for (int64_t id = from; id < to; ++id) {
        for (const auto& item : p.schedule.workers[id]) {
          if (workers[id].take(item)) band(workers[id]);
        }
      }
    });
  }

 private:
  void band(Worker<T>& me) {
    std::vector<T> row_sums(p.H * me.rows, T(0));  // sum_j A dA: the softmax's backward needs it
    for (int64_t t = 0; t < me.tiles; ++t) through_weights(me, me.region(t), t, row_sums);
    for (int64_t t = 0; t < me.tiles; ++t) through_scores(me, me.region(t), t, row_sums);
  }

  // Maps of a band: the scores entering each edit, then the weights, then the gradient.
  int64_t weights_at() const { return int64_t(p.scores.size()); }
  int64_t grad_at() const { return weights_at() + 1; }

  void through_weights(Worker<T>& me, const Region& w, int64_t t, std::vector<T>& row_sums) {
    products(w, p.q, p.k, [&](int64_t h) { return p.key_of_map[h]; }, p.scale, me.maps(0, t, p.H),
             me.width);
    for (int64_t n = 0; n < weights_at(); ++n) {
      p.scores[n]->forward(w, me.maps(n, t, p.H), me.maps(n + 1, t, p.H), me.scratch());
    }
    const auto a = me.maps(weights_at(), t, p.H);
    exponentiate(w, a, me.width);
    const auto chain = edited_weights(me, w, a);
    values_grad(w, chain.back());
    auto g = me.spare(0, p.outputs);  // chain maps lie from spare 2 on
    const int64_t share = p.outputs / p.values;
    if (p.weights.empty()) g = me.maps(grad_at(), t, p.H);
    products(w, grad, p.v, [&](int64_t h) { return h / share; }, T(1), g, me.width);
    for (int64_t n = int64_t(p.weights.size()) - 1; n >= 0; --n) {
      const auto to = n ? me.spare((int64_t(p.weights.size()) - n) % 2, chain[n].heads)
                        : me.maps(grad_at(), t, p.H);
      p.weights[n]->backward(w, chain[n], g, to, me.scratch());
      g = to;
    }
    add_row_sums(w, a, g, row_sums);
  }

  void through_scores(Worker<T>& me, const Region& w, int64_t t, const std::vector<T>& row_sums) {
    auto g = me.maps(grad_at(), t, p.H);
    softmax_grad(w, me.maps(weights_at(), t, p.H), g, me.width, row_sums);
    int64_t spare = 0;
    for (int64_t n = weights_at() - 1; n >= 0; --n) {
      const auto to = me.spare(spare ^= 1, p.H);
      p.scores[n]->backward(w, me.maps(n, t, p.H), g, to, me.scratch());
      g = to;
    }
    for (int64_t h = 0; h < p.H; ++h) {
      const int64_t key = p.key_of_map[h];
      gemm<T>(false, false, w.rows, p.d, w.cols, p.scale, g.at(h, 0), g.row_stride,
              row_of<T>(p.k, w.batch, key, w.col), p.k.stride(2), 1,
              mutable_row<T>(dq, w.batch, h, w.row), dq.stride(2));
      gemm<T>(true, false, w.cols, p.d, w.rows, p.scale, g.at(h, 0), g.row_stride,
              row_of<T>(p.q, w.batch, h, w.row), p.q.stride(2), 1,
              mutable_row<T>(dk, w.slot, key, w.col), dk.stride(2));
    }
  }

  void exponentiate(const Region& w, Maps<T> m, int64_t width) {
    const T* sums = log_sums.template const_data_ptr<T>();
    for (int64_t h = 0; h < m.heads; ++h) {
      for (int64_t r = 0; r < w.rows; ++r) {
        row_exp(m.at(h, r), w.begin(r), w.end(r), width,
                sums[(w.batch * p.H + h) * p.queries + w.row + r]);
      }
    }
  }

  // The weights entering each edit, and those that meet the values.
  std::vector<Maps<T>> edited_weights(Worker<T>& me, const Region& w, Maps<T> a) {
    std::vector<Maps<T>> chain{a};
    for (size_t n = 0; n < p.weights.size(); ++n) {
      chain.push_back(me.spare(2 + int64_t(n), p.weights[n]->heads_out(chain.back().heads)));
      p.weights[n]->forward(w, chain[n], chain[n + 1], me.scratch());
    }
    return chain;
  }

  void values_grad(const Region& w, Maps<T> m) {
    const int64_t share = p.outputs / p.values;
    for (int64_t h = 0; h < p.outputs; ++h) {
      gemm<T>(true, false, w.cols, p.dv, w.rows, 1, m.at(h, 0), m.row_stride,
              row_of<T>(grad, w.batch, h, w.row), grad.stride(2), 1,
              mutable_row<T>(dv, w.slot, h / share, w.col), dv.stride(2));
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
