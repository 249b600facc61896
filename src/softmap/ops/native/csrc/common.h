// What every file here uses: vectors, matrix products, and how a tile of the map is addressed.
#pragma once

// Operators one by one, and none of Tensor's own (a * b): the headers of all of them take as long to
// compile as a third of the kernels.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/ops/amin.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/conv1d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

// Inner loops keep their vectors in registers only if nothing in them is a call.
#define SOFTMAP_INLINE inline __attribute__((always_inline))

namespace softmap {

using at::Tensor;

template <typename T>
using Vec = at::vec::Vectorized<T>;

template <typename T>
constexpr int64_t LANES = Vec<T>::size();

inline int64_t round_up(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}

// A tile of the map: all heads, some rows, some columns, columns next to each other. A row is
// readable and writable up to the next whole vector.
template <typename T>
struct Maps {
  T* data;
  int64_t heads;
  int64_t head_stride;
  int64_t row_stride;

  T* at(int64_t head, int64_t row) const {
    return data + head * head_stride + row * row_stride;
  }
};

// Where a tile lies. Row r sees the keys [first[r], last[r]), by their places; nothing else.
struct Region {
  int64_t batch;  // sequence of the batch
  int64_t head;  // the tile's first map among all that enter the edit
  int64_t row, rows;  // queries [row, row + rows)
  int64_t col, cols;  // keys [col, col + cols)
  const int64_t* first;
  const int64_t* last;
  int64_t offset;  // place of query 0 among the keys
  int64_t worker;  // who computes it
  int64_t slot;  // where it adds up gradients of keys

  int64_t begin(int64_t r) const {  // visible columns of the tile in row r: [begin, end)
    return std::clamp<int64_t>(first[r] - col, 0, cols);
  }
  int64_t end(int64_t r) const {
    return std::max(begin(r), std::clamp<int64_t>(last[r] - col, 0, cols));
  }
};

template <typename T>
inline Vec<T> fast_exp(Vec<T> x) {
  if constexpr (std::is_same_v<T, float>) {
    return x.exp_u20();
  } else {
    return x.exp();
  }
}

template <typename T>
inline T sum_lanes(Vec<T> x) {
  return at::vec::vec_reduce_all<T>([](Vec<T> a, Vec<T> b) { return a + b; }, x);
}

// Sums in vectors: the compiler may not reorder them itself.
template <typename T>
inline T dot(const T* a, const T* b, int64_t n) {
  Vec<T> sum(0);
  int64_t x = 0;
  for (; x + LANES<T> <= n; x += LANES<T>) sum = fmadd(Vec<T>::loadu(a + x), Vec<T>::loadu(b + x), sum);
  T rest = 0;
  for (; x < n; ++x) rest += a[x] * b[x];
  return sum_lanes(sum) + rest;
}
template <typename T>
inline T total(const T* a, int64_t n) {
  Vec<T> sum(0);
  int64_t x = 0;
  for (; x + LANES<T> <= n; x += LANES<T>) sum = sum + Vec<T>::loadu(a + x);
  T rest = 0;
  for (; x < n; ++x) rest += a[x];
  return sum_lanes(sum) + rest;
}

// (rows, columns) to (columns, rows).
template <typename T>
inline void transpose(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows,
                      int64_t columns) {
  if (rows > 0 && columns > 0) {
    at::vec::transpose_mxn<T>(from, from_stride, to, to_stride, int(rows), int(columns));
  }
}

template <typename T>
inline void clear(T* row, int64_t begin, int64_t end) {
  std::fill(row + begin, row + std::max(begin, end), T(0));
}

template <typename T>
constexpr at::ScalarType dtype_of = c10::CppTypeToScalarType<T>::value;

}  // namespace softmap
