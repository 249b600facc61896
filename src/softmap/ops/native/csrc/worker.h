// A worker and its memory, and the products that both directions begin with.
#pragma once

#include "memory.h"
#include "problem.h"

namespace softmap {

// One worker's memory for one band after another.
template <typename T>
struct Worker {
  const Problem<T>& p;
  int64_t id, width = 0, tiles = 0, rows = 0, begin = 0, end = 0;
  Schedule::Item item{};
  int64_t widest = 0;  // columns of the widest band, in whole vectors

  // For its bands of the schedule, in memory of the thread that calls.
  Worker(const Problem<T>& p, int64_t id, int64_t maps, int64_t spares, const std::vector<Rows<T>>& own)
      : p(p), id(id), own(own) {
    int64_t most = 0, tall = 1;
    for (const auto& i : p.schedule.workers[id]) {
      const auto [from, to] = p.reach(i.batch, i.row, i.rows);
      most = std::max(most, to - p.align(from));
      tall = std::max(tall, i.rows);
    }
    lay_out(most, tall, maps, spares);
    place(arena<T>(numbers), maps, spares);
  }
  // For bands of so many columns and rows, in memory of its own.
  Worker(const Problem<T>& p, int64_t columns, int64_t tall, int64_t maps, int64_t spares,
         const std::vector<Rows<T>>& own)
      : p(p), id(0), own(own) {
    lay_out(columns, tall, maps, spares);
    kept = at::empty({numbers}, dtype_of<T>);
    place(kept.mutable_data_ptr<T>(), maps, spares);
  }

  // Turns to a band, or to one part of its keys; false if no row of it sees anything there.
  bool take(const Schedule::Item& next, int64_t part = 0, int64_t parts = 1) {
    item = next;
    std::tie(begin, end) = p.reach(item.batch, item.row, item.rows);
    begin = p.align(begin);
    if (parts > 1) {
      const int64_t share = round_up((end - begin + parts - 1) / parts, p.tile);
      begin += part * share, end = std::min(end, begin + share);
    }
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

  T *scratch = nullptr, *near = nullptr;  // near: keys or values of a tile and head
  std::vector<Rows<T>> own;  // rows of the band itself

 private:
  T *memory = nullptr, *spares_from = nullptr;
  Tensor kept;
  int64_t one = 0, map = 0;  // numbers of one tile, and of a band, of all heads
  int64_t tall = 0, numbers = 0;  // rows of a tile; of all memory

  void lay_out(int64_t columns, int64_t tall, int64_t maps, int64_t spares) {
    this->tall = tall;
    widest = round_up(std::max<int64_t>(columns, 1), LANES<T>);
    if (p.tile) widest = round_up(widest, p.tile);
    const int64_t across = p.tile ? p.tile : widest;
    one = Buffer<T>::size(p.group, tall, across);
    map = widest / across * one;
    numbers = maps * map + spares * one + p.near(across);
    for (const auto& r : own) numbers += own_size(r);
    int64_t most = 0;
    for (const auto* edits : {&p.scores, &p.weights}) {
      for (const auto& e : *edits) most = std::max(most, e->scratch(p.group, tall, across));
    }
    numbers += most;
  }
  int64_t own_size(const Rows<T>& r) const { return round_up(r.heads * tall * r.width, LANES<T>); }

  void place(T* data, int64_t maps, int64_t spares) {
    memory = data;
    spares_from = memory + maps * map;
    T* next = spares_from + spares * one;
    for (auto& r : own) r.memory = next, next += own_size(r);
    near = next;
    scratch = next + p.near(p.tile ? p.tile : widest);
  }
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

// Rows [from, from + n) of head h of t: where they lie, or converted to `near`. And their stride.
template <typename T>
std::pair<const T*, int64_t> rows_of(const Tensor& t, int64_t b, int64_t h, int64_t from, int64_t n,
                                     T* near) {
  if (t.scalar_type() == dtype_of<T>) return {row_of<T>(t, b, h, from), t.stride(2)};
  Rows<T> rows{near, 1, n, t.size(3)};
  rows.take(t, b, h, from);
  return {near, t.size(3)};
}

// out[h] = scale * left[h] right[source(first + h)]^T over the tile's rows and columns.
template <typename T, typename F>
void products(const Region& w, int64_t first, Rows<T> left, const Columns<T>& right, F source, T scale,
              Maps<T> out, int64_t width, T* near) {
  for (int64_t h = 0; h < out.heads; ++h) {
    const bool more = h + 1 < out.heads;
    const int64_t from = source(first + h);
    const auto [b, stride] = right.transpose ? rows_of(right.data, w.batch, from, w.col, w.cols, near)
                                             : std::pair(right.at(w.batch, from, w.col), right.stride);
    gemm<T>(false, right.transpose, w.rows, w.cols, left.width, scale, left.at(h), left.width, b,
            stride, false, out.at(h, 0), out.row_stride,
            more ? right.next(w.batch, source(first + h + 1), w.col) : Next());
    if (w.cols < width) {
      for (int64_t r = 0; r < w.rows; ++r) clear(out.at(h, r), w.cols, width);
    }
  }
}

// The tile's columns of one head, as the next product meets them: rows of keys.
template <typename T>
Next next_rows(bool more, const Tensor& t, int64_t b, int64_t h, const Region& w) {
  const bool there = more && t.scalar_type() == dtype_of<T>;
  return there ? Next(row_of<T>(t, b, h, w.col), w.cols * t.stride(2)) : Next();
}

}  // namespace softmap
