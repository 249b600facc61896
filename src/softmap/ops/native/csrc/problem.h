// One call: its tensors, which keys each row sees, its edits, and who computes which band.
#pragma once

#include <numeric>

#include "edits/all.h"

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
struct Problem {
  Tensor q, k, v;
  int64_t B, H, queries, keys, d, dv, values, outputs;
  std::vector<int64_t> key_of_map;
  T scale;
  Tensor first, last;
  int64_t rows;  // of a band
  int64_t tile;  // columns; 0: as many as a band sees
  Schedule schedule;
  std::vector<std::unique_ptr<Edit<T>>> scores, weights;
  std::vector<std::vector<std::string>> names;  // of each edit's tensors, in the caller's order

  Problem(const Arguments& a, bool with_grad)
      : q(rows_of(a.q)), k(rows_of(a.k)), v(rows_of(a.v)), B(q.size(0)), H(q.size(1)),
        queries(q.size(2)), keys(k.size(2)), d(q.size(3)), dv(v.size(3)), values(v.size(1)),
        key_of_map(a.key_of_map), scale(T(a.scale)), first(a.first.contiguous()),
        last(a.last.contiguous()) {
    const bool conv = std::any_of(a.edits.begin(), a.edits.end(), [](const std::string& e) {
      return e.find(" score_conv") != std::string::npos;
    });
    rows = conv ? 16 : band_rows();
    tile = conv ? 0 : 128;
    schedule = make_schedule(at::get_num_threads());
    make_edits(a, with_grad);
  }

  int64_t offset() const { return keys - queries; }

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
  // Any strides, as long as a row's numbers are neighbours.
  static Tensor rows_of(const Tensor& t) {
    const auto wide = t.to(dtype_of<T>);
    return wide.stride(3) == 1 ? wide : wide.contiguous();
  }

  // More rows read keys and values less often; fewer keep the band's maps in cache.
  int64_t band_rows() const {
    const int64_t numbers = H * keys * 3;
    int64_t n = 64;
    while (n > 32 && n * numbers * int64_t(sizeof(T)) > (int64_t(8) << 20)) n /= 2;
    return n;
  }

  Schedule make_schedule(int64_t workers) const {
    struct Cost {
      Schedule::Item item;
      double cost;
    };
    std::vector<Cost> all;
    double total = 0;
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t row = 0; row < queries; row += rows) {
        const int64_t n = std::min(rows, queries - row);
        const auto [begin, end] = reach(b, row, n);
        const double cost = double(n) * double(end - begin + 16);
        all.push_back({{b, row, n, b}, cost});
        total += cost;
      }
    }
    Schedule s;
    s.batch = B;
    workers = std::max<int64_t>(1, std::min<int64_t>(workers, int64_t(all.size())));
    s.workers.resize(workers);
    double done = 0;
    for (auto& [item, cost] : all) {
      const auto w = std::min<int64_t>(workers - 1, int64_t((done + cost / 2) / total * workers));
      s.workers[w].push_back(item);
      done += cost;
    }
    share(s);
    return s;
  }

  // A sequence that an earlier worker has begun is added up in a slot of the later one's own.
  static void share(Schedule& s) {
    int64_t seen = -1;
    for (auto& items : s.workers) {
      if (items.empty()) continue;
      if (items.front().batch == seen) {
        const int64_t slot = s.slots();
        s.extra.push_back(seen);
        for (auto& item : items) {
          if (item.batch == seen) item.slot = slot;
        }
      }
      seen = items.back().batch;
    }
  }

  void make_edits(const Arguments& a, bool with_grad) {
    size_t next = 0;
    int64_t heads = H;
    for (const auto& text : a.edits) {
      const auto one = text.find(' '), two = text.find(' ', one + 1);
      const auto stage = text.substr(0, one), kernel = text.substr(one + 1, two - one - 1);
      Setup<T> setup{{}, heads, queries, keys, &schedule, with_grad, a.positions};
      names.push_back(split(text.substr(two + 1), ","));
      for (const auto& name : names.back()) setup.tensors[name] = a.tensors[next++];
      auto edit = make_edit<T>(kernel, setup);
      heads = edit->heads_out(heads);
      (stage == "scores" ? scores : weights).push_back(std::move(edit));
    }
    outputs = heads;
  }

};

// A tile buffer: heads x rows x columns. The heads are kept off each other's cache sets.
template <typename T>
struct Buffer {
  static int64_t head_stride(int64_t rows, int64_t width) { return rows * width + 16; }
  static int64_t size(int64_t heads, int64_t rows, int64_t width) {
    return heads * head_stride(rows, width);
  }
  static Maps<T> maps(T* data, int64_t heads, int64_t rows, int64_t width) {
    return {data, heads, head_stride(rows, width), width};
  }
};

}  // namespace softmap
