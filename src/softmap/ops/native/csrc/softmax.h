// The softmax of a band whose columns come tile by tile.
#pragma once

#include "common.h"

namespace softmap {

// Per head and row of a band: the largest score so far and the sum of exp(score - largest).
template <typename T>
struct Statistics {
  int64_t rows;
  std::vector<T> largest, sum;
  std::vector<std::vector<T>> at_tile;  // `largest` after each tile: what its numbers refer to

  Statistics(int64_t heads, int64_t rows)
      : rows(rows), largest(heads * rows, -std::numeric_limits<T>::infinity()),
        sum(heads * rows, T(0)) {}

  // With those of other keys of the same rows.
  void join(const Statistics& other) {
    for (size_t n = 0; n < sum.size(); ++n) {
      const T most = std::max(largest[n], other.largest[n]);
      const auto share = [&](const Statistics& s) {
        return s.sum[n] == 0 ? T(0) : s.sum[n] * std::exp(s.largest[n] - most);
      };
      sum[n] = share(*this) + share(other);
      largest[n] = most;
    }
  }
  void take(const Statistics& other) { largest = other.largest, sum = other.sum; }

  T one_over_sum(int64_t n) const {  // 0 where the row sees nothing
    return sum[n] == 0 ? T(0) : T(1) / sum[n];
  }
};

// What exp is taken relative to at least: finite.
template <typename T>
T lowest() { return std::numeric_limits<T>::lowest(); }

template <typename T>
T row_max(const T* row, int64_t begin, int64_t end) {
  const Vec<T> lowest(-std::numeric_limits<T>::infinity());
  auto most = lowest;
  int64_t c = begin;
  for (; c + LANES<T> <= end; c += LANES<T>) most = at::vec::maximum(most, Vec<T>::loadu(row + c));
  if (c < end) {
    most = at::vec::maximum(most, Vec<T>::set(lowest, Vec<T>::loadu(row + c, end - c), end - c));
  }
  return at::vec::vec_reduce_all<T>([](Vec<T> a, Vec<T> b) { return at::vec::maximum(a, b); }, most);
}

// row = gain exp(row - shift) in [begin, end), zero elsewhere up to `width`; returns the sum.
template <typename T>
T row_exp(T* row, int64_t begin, int64_t end, int64_t width, T shift, T gain = T(1)) {
  const Vec<T> minus(shift), times(gain);
  Vec<T> sum(0);
  clear(row, 0, begin);
  int64_t c = begin;
  for (; c + LANES<T> <= end; c += LANES<T>) {
    const auto e = fast_exp<T>(Vec<T>::loadu(row + c) - minus) * times;
    e.store(row + c);
    sum = sum + e;
  }
  if (c < end) {
    auto e = fast_exp<T>(Vec<T>::loadu(row + c, end - c) - minus) * times;
    e = Vec<T>::set(Vec<T>(0), e, end - c);
    e.store(row + c, end - c);
    sum = sum + e;
  }
  clear(row, end, width);
  return sum_lanes(sum);
}

// Scores of a tile to exp(score - largest so far).
template <typename T>
void softmax_tile(const Region& w, Maps<T> s, int64_t width, Statistics<T>& stats) {
  for (int64_t h = 0; h < s.heads; ++h) {
    for (int64_t r = 0; r < w.rows; ++r) {
      const int64_t n = h * stats.rows + r, begin = w.begin(r), end = w.end(r);
      T* row = s.at(h, r);
      if (begin == end) {
        clear(row, 0, width);
        continue;
      }
      // Of -inf alone nothing is seen: exp(-inf - 0) is zero, exp(-inf - -inf) is not.
      const T most = std::max({stats.largest[n], row_max(row, begin, end), lowest<T>()});
      const T shrink = stats.largest[n] == most ? T(1) : std::exp(stats.largest[n] - most);
      stats.sum[n] = stats.sum[n] * shrink + row_exp(row, begin, end, width, most);
      stats.largest[n] = most;
    }
  }
  stats.at_tile.push_back(stats.largest);
}

// ... and then to weights, once all tiles are known.
template <typename T>
void normalise_tile(const Region& w, Maps<T> s, Maps<T> to, const Statistics<T>& stats,
                    int64_t tile) {
  for (int64_t h = 0; h < s.heads; ++h) {
    for (int64_t r = 0; r < w.rows; ++r) {
      const int64_t n = h * stats.rows + r, end = round_up(w.end(r), LANES<T>);
      const bool seen = w.begin(r) < w.end(r) && stats.sum[n] != 0;
      const T less = stats.at_tile[tile][n] - stats.largest[n];
      const Vec<T> gain(seen ? (less == 0 ? T(1) : std::exp(less)) / stats.sum[n] : T(0));
      for (int64_t c = 0; seen && c < end; c += LANES<T>) {
        (Vec<T>::loadu(s.at(h, r) + c) * gain).store(to.at(h, r) + c);
      }
      clear(to.at(h, r), seen ? end : 0, to.row_stride);
    }
  }
}

}  // namespace softmap
