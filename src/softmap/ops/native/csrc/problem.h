// One call: its tensors, which keys each row sees, its edits, and who computes which band.
#pragma once

#include <numeric>

#include "edits/all.h"
#include "rows.h"

namespace softmap {

inline std::vector<std::string> split(const std::string& text, const std::string& mark) {
  std::vector<std::string> parts;
  for (size_t at = 0; at < text.size();) {
    const auto next = std::min(text.find(mark, at), text.size());
    parts.push_back(text.substr(at, next - at));
    at = next + mark.size();
  }
  return parts;
}

// What Python passes. An edit is "stage kernel name,name,..."; its tensors come in that order.
struct Arguments {
  Tensor q, k, v;
  std::vector<std::string> edits;
  std::vector<Tensor> tensors;
  std::vector<int64_t> key_of_map;
  double scale;
  Tensor first, last;  // (B, T) int64: query t sees the keys [first, last) by place
  Tensor positions;  // (B, T) int64
};

template <typename T>
const T* row_of(const Tensor& t, int64_t b, int64_t h, int64_t n) {
  return t.const_data_ptr<T>() + b * t.stride(0) + h * t.stride(1) + n * t.stride(2);
}
template <typename T>
T* mutable_row(const Tensor& t, int64_t b, int64_t h, int64_t n) {
  return t.mutable_data_ptr<T>() + b * t.stride(0) + h * t.stride(1) + n * t.stride(2);
}

// Keys or values as the columns of a product: turned once where many rows meet them, and cut into
// blocks of the tiles' width, each of which lies in one piece (the hardware fetches ahead there).
template <typename T>
struct Columns {
  Tensor data;
  bool transpose = false, tiled = false;  // they lie as rows; in blocks
  int64_t stride = 0, block = 0;

  Columns() = default;
  // From rows (B, G, S, d) of any dtype. block 0: one for all keys.
  static Columns turned(const Tensor& rows, int64_t block) {
    const auto t = row_wise(rows);
    const int64_t keys = t.size(2), d = t.size(3);
    Columns c;
    c.tiled = block > 0;
    c.block = c.stride = block ? block : keys + LANES<T>;
    c.data = Shared::of_this_thread().empty<T>(
        {t.size(0), t.size(1), (keys + c.block - 1) / c.block, d, c.block});
    with_type<T>(t, [&](auto* type) {
      auto* from = static_cast<decltype(type)>(t.data_ptr());
      T* to = c.data.template mutable_data_ptr<T>();
      at::parallel_for(0, t.size(0) * t.size(1), 1, [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n) {
          const int64_t b = n / t.size(1), h = n % t.size(1);
          c.turn_one(from + b * t.stride(0) + h * t.stride(1), t.stride(2), to + n * c.data.stride(1),
                     keys, d);
        }
      });
    });
    return c;
  }
  // Rows as they lie, of this dtype.
  static Columns as_rows(const Tensor& t) {
    Columns c;
    c.data = t, c.transpose = true, c.stride = t.stride(2);
    return c;
  }
  const T* at(int64_t b, int64_t h, int64_t key) const {
    const T* from = data.const_data_ptr<T>() + b * data.stride(0) + h * data.stride(1);
    return from + (transpose ? key * stride : key / block * data.stride(2) + key % block);
  }
  // The tile of columns that begins with this key, if there are tiles.
  Next next(int64_t b, int64_t h, int64_t key) const {
    return tiled ? Next(at(b, h, key), data.stride(2)) : Next();
  }

 private:
  // A few keys at a time, so that what is read stays near.
  template <typename From>
  void turn_one(const From* from, int64_t apart, T* to, int64_t keys, int64_t d) const {
    constexpr int64_t few = 16;
    std::vector<T> near(few * d);
    for (int64_t key = 0; key < keys; key += few, from += few * apart) {
      const int64_t n = std::min(few, keys - key);
      T* place = to + key / block * d * block + key % block;
      if constexpr (std::is_same_v<From, T>) {
        softmap::transpose<T>(from, apart, place, stride, n, d);
      } else {
        for (int64_t i = 0; i < n; ++i) convert(from + i * apart, near.data() + i * d, d);
        softmap::transpose<T>(near.data(), d, place, stride, n, d);
      }
    }
  }
};

template <typename T>
struct Problem {
  Tensor q;
  at::ScalarType dtype;  // the caller's
  Tensor k, v;  // if met as rows. Where often, contiguous: rows far apart fall on the same cache sets
  Columns<T> keys_across, values_across;
  int64_t B, H, queries, keys, d, dv, key_heads, values, outputs;
  std::vector<int64_t> key_of_map;
  T scale;
  Tensor first, last;
  int64_t group = 1;  // maps that have to be computed together
  int64_t rows;  // of a band
  int64_t tile;  // columns; 0: as many as a band sees
  Schedule schedule;
  std::vector<std::unique_ptr<Edit<T>>> scores, weights;
  std::vector<std::vector<std::string>> names;  // of each edit's tensors, in the caller's order

  Problem(const Arguments& a, bool with_grad)
      : q(row_wise(a.q)), dtype(a.v.scalar_type()), B(q.size(0)), H(q.size(1)), queries(q.size(2)), keys(a.k.size(2)),
        d(q.size(3)), dv(a.v.size(3)), key_heads(a.k.size(1)), values(a.v.size(1)),
        key_of_map(a.key_of_map), scale(T(a.scale)), first(a.first.contiguous()),
        last(a.last.contiguous()) {
    Shared::of_this_thread().begin();
    make_plan(a);
    // Forward meets the keys as columns and the values as rows, backward each in both ways but the
    // values, which it meets as columns alone.
    const bool turn = queries >= TURN;
    // A cache is read once, where it lies.
    const bool once = !turn && !with_grad;
    if (!turn || with_grad) k = once ? row_wise(a.k) : wide<T>(a.k);
    if (!turn || !with_grad) v = once ? row_wise(a.v) : wide<T>(a.v);
    keys_across = turn ? Columns<T>::turned(a.k, tile) : Columns<T>::as_rows(k);
    if (with_grad) values_across = turn ? Columns<T>::turned(a.v, tile) : Columns<T>::as_rows(v);
    make_edits(a, with_grad);
  }

  Rows<T> own_queries() const { return {nullptr, group, rows, d}; }
  Rows<T> own_outputs() const { return {nullptr, group_outputs(), rows, dv}; }

  int64_t groups() const { return H / group; }
  int64_t group_outputs() const { return outputs / groups(); }
  int64_t first_output(const Region& w) const { return w.head / group * group_outputs(); }
  int64_t value_of(int64_t output) const { return output / (outputs / values); }

  int64_t offset() const { return keys - queries; }

  // Numbers of so many keys or values of a head, where they have to be converted near a worker.
  int64_t near(int64_t columns) const {
    const bool converted = v.defined() && v.scalar_type() != dtype_of<T>;
    return converted ? round_up(columns * std::max(d, dv), LANES<T>) : 0;
  }

  // Into how many the keys of a band are cut, if the bands alone would leave threads idle. Edits that
  // need whole rows cannot be cut.
  int64_t parts_of_keys() const {
    const int64_t units = B * groups();
    if (!tile || queries > rows || units == 0) return 1;
    return std::min<int64_t>(at::get_num_threads() / units, keys / (2 * tile));
  }

  // Where a band's first tile begins: keys come in blocks, tensors of keys in vectors.
  int64_t align(int64_t key) const {
    const int64_t step = tile ? tile : LANES<T>;
    return key / step * step;
  }

  // Keys that any row of [row, row + n) of sequence b sees: [begin, end).
  std::pair<int64_t, int64_t> reach(int64_t b, int64_t row, int64_t n) const {
    const int64_t* from = first.const_data_ptr<int64_t>() + b * queries + row;
    const int64_t* to = last.const_data_ptr<int64_t>() + b * queries + row;
    int64_t begin = keys, end = 0;
    for (int64_t r = 0; r < n; ++r) {
      if (from[r] >= to[r]) continue;
      begin = std::min(begin, from[r]);
      end = std::max(end, to[r]);
    }
    return {std::min(begin, end), end};
  }

 private:
  static constexpr int64_t TURN = 32;  // queries that make turning the keys worth it

  // Group, bands and schedule.
  void make_plan(const Arguments& a) {
    bool whole = false;
    group = H / values;  // maps that share keys or values add up in one place
    int64_t heads = H;
    for (const auto& text : a.edits) {
      const auto kernel = split(text, " ")[1];
      const auto needs = needs_of(kernel, heads);
      whole = whole || needs.whole_rows;
      group = std::lcm(group, needs.group * (H / heads));
      if (kernel == "subtract_pairs") heads /= 2;
    }
    outputs = heads;
    if (H % group) group = H;
    // More rows read keys and values less often; fewer keep a tile of all its maps in a core's cache.
    const bool small = group <= 4, wide = keys >= 1024;
    rows = whole ? 16 : small ? (wide ? 128 : 64) : (wide ? 64 : 32);
    tile = whole ? 0 : small && wide ? 256 : 128;
    schedule = make_schedule(at::get_num_threads());
  }

  // A unit is a group of maps of one sequence. Each worker takes as many whole units as all can have;
  // those left over are shared by sets of workers, who take bands in alternating order, so that each
  // has long rows and short ones.
  Schedule make_schedule(int64_t workers) const {
    const int64_t bands = (queries + rows - 1) / rows, units = B * groups();
    workers = std::max<int64_t>(1, std::min(workers, units * bands));
    const int64_t whole = units / workers, left = units - whole * workers;
    Schedule s;
    s.batch = B;
    s.workers.resize(workers);
    for (int64_t u = 0; u < whole * workers; ++u) deal(s, u, u / whole, 1);
    for (int64_t n = 0; n < left; ++n) {
      const int64_t from = n * workers / left, to = (n + 1) * workers / left;
      deal(s, whole * workers + n, from, to - from);
    }
    return s;
  }

  // The bands of a unit to the workers [from, from + n), long ones first.
  void deal(Schedule& s, int64_t unit, int64_t from, int64_t n) const {
    const int64_t b = unit / groups(), g = unit % groups();
    std::vector<int64_t> slots{b};  // the first adds up in place, the others in slots of their own
    for (int64_t w = 1; w < n; ++w) {
      slots.push_back(s.slots());
      s.extra.push_back(b);
    }
    const int64_t bands = (queries + rows - 1) / rows;
    for (int64_t i = 0; i < bands; ++i) {
      const int64_t w = i / n % 2 ? n - 1 - i % n : i % n, row = (bands - 1 - i) * rows;
      s.workers[from + w].push_back({b, g, row, std::min(rows, queries - row), slots[w]});
    }
  }

  void make_edits(const Arguments& a, bool with_grad) {
    size_t next = 0;
    int64_t heads = H;
    for (const auto& text : a.edits) {
      const auto one = text.find(' '), two = text.find(' ', one + 1);
      const auto stage = text.substr(0, one), kernel = text.substr(one + 1, two - one - 1);
      Setup<T> setup{{}, B, heads, queries, keys, &schedule, with_grad, a.positions, a.first};
      names.push_back(split(text.substr(two + 1), ","));
      for (const auto& name : names.back()) setup.tensors[name] = a.tensors[next++];
      auto edit = make_edit<T>(kernel, setup);
      heads = edit->heads_out(heads);
      (stage == "scores" ? scores : weights).push_back(std::move(edit));
    }
  }

};

// A tile buffer: heads x rows x columns. The heads are kept off each other's cache sets.
template <typename T>
struct Buffer {
  static int64_t head_stride(int64_t rows, int64_t width) { return rows * width + 48; }
  static int64_t size(int64_t heads, int64_t rows, int64_t width) {
    return heads * head_stride(rows, width);
  }
  static Maps<T> maps(T* data, int64_t heads, int64_t rows, int64_t width) {
    return {data, heads, head_stride(rows, width), width};
  }
};

}  // namespace softmap
