// Row-major matrix products C = alpha op(A) op(B) (+ C) of the sizes that tiles have. They are ours
// and not the BLAS' because of `Next`: all heads' keys, values and sums lie in the last-level cache,
// and a product that waits for them runs at half speed.
#pragma once

#include "common.h"

namespace softmap {

// What the product after this one will read or add to: fetched meanwhile, a line at a time.
struct Next {
  static constexpr int64_t LINE = 64;
  const char *at = nullptr, *end = nullptr;

  Next() = default;
  template <typename T>
  Next(const T* data, int64_t numbers)
      : at(reinterpret_cast<const char*>(data)), end(at + numbers * int64_t(sizeof(T))) {}
  SOFTMAP_INLINE void fetch() {
    if (at < end) __builtin_prefetch(at, 0, 2), at += LINE;
  }
};

// A(m, k) = a[m * row + k * step]: a matrix, or the transpose of one.
template <typename T>
struct Left {
  const T* a;
  int64_t row, step;
};

// C and where it goes.
template <typename T>
struct Target {
  T* c;
  int64_t stride;
  bool add;
  T alpha;

  SOFTMAP_INLINE void put(int64_t m, int64_t n, Vec<T> x, int64_t lanes) const {
    T* to = c + m * stride + n;
    x = x * Vec<T>(alpha);
    if (lanes == LANES<T>) {
      (add ? x + Vec<T>::loadu(to) : x).store(to);
    } else {
      (add ? x + Vec<T>::loadu(to, lanes) : x).store(to, int(lanes));
    }
  }
};

// Sums that fit the registers: VECTORS of columns by so many rows.
constexpr bool WIDE = Vec<float>::size() == 16;  // 32 registers; else 16
constexpr int MOST_VECTORS = WIDE ? 4 : 2;
constexpr int most_rows(int vectors) { return vectors == MOST_VECTORS ? 6 : 8; }

// ROWS x VECTORS of C; the last vector holds `last` columns.
template <int ROWS, int VECTORS, bool WHOLE, typename T>
SOFTMAP_INLINE void block(int64_t K, Left<T> left, const T* b, int64_t ldb, Target<T> to,
                          int64_t last, Next& next) {
  Vec<T> sum[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sum[r][v] = Vec<T>(T(0));
  }
  for (int64_t k = 0; k < K; ++k, left.a += left.step, b += ldb) {
    Vec<T> right[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      const T* from = b + v * LANES<T>;
      right[v] = WHOLE || v < VECTORS - 1 ? Vec<T>::loadu(from) : Vec<T>::loadu(from, last);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const Vec<T> a(left.a[r * left.row]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sum[r][v] = fmadd(a, right[v], sum[r][v]);
    }
    next.fetch();
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) {
      to.put(r, v * LANES<T>, sum[r][v], WHOLE || v < VECTORS - 1 ? LANES<T> : last);
    }
  }
}

// All rows of VECTORS vectors of columns.
template <int VECTORS, bool WHOLE, typename T>
void panel(int64_t M, int64_t K, Left<T> left, const T* b, int64_t ldb, Target<T> to, int64_t last,
           Next& next) {
  int64_t m = 0;
  const auto rows = [&](auto n) {
    for (; m + n() <= M; m += n()) {
      block<n(), VECTORS, WHOLE>(K, {left.a + m * left.row, left.row, left.step}, b, ldb,
                                 Target<T>{to.c + m * to.stride, to.stride, to.add, to.alpha}, last, next);
    }
  };
  rows(std::integral_constant<int, most_rows(VECTORS)>());
  rows(std::integral_constant<int, 4>());
  rows(std::integral_constant<int, 2>());
  rows(std::integral_constant<int, 1>());
}

// C (M, N) = alpha A B (+ C), B (K, N).
template <typename T>
void multiply(int64_t M, int64_t N, int64_t K, Left<T> left, const T* b, int64_t ldb, Target<T> to,
              Next next = {}) {
  const auto columns = [&](auto vectors, auto whole, int64_t n, int64_t last) {
    panel<vectors(), whole()>(M, K, left, b + n, ldb,
                              Target<T>{to.c + n, to.stride, to.add, to.alpha}, last, next);
  };
  const auto yes = std::true_type();
  int64_t n = 0;
  for (; n + MOST_VECTORS * LANES<T> <= N; n += MOST_VECTORS * LANES<T>) {
    columns(std::integral_constant<int, MOST_VECTORS>(), yes, n, 0);
  }
  for (; n + 2 * LANES<T> <= N; n += 2 * LANES<T>) columns(std::integral_constant<int, 2>(), yes, n, 0);
  for (; n + LANES<T> <= N; n += LANES<T>) columns(std::integral_constant<int, 1>(), yes, n, 0);
  if (n < N) columns(std::integral_constant<int, 1>(), std::false_type(), n, N - n);
}

// ROWS x COLUMNS inner products of rows of A and rows of B.
template <int ROWS, int COLUMNS, typename T>
SOFTMAP_INLINE void inner_block(int64_t K, const T* a, int64_t lda, const T* b, int64_t ldb,
                                Target<T> to) {
  Vec<T> sum[ROWS][COLUMNS];
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) sum[r][c] = Vec<T>(T(0));
  }
  const auto step = [&](auto load) {
    Vec<T> right[COLUMNS];
#pragma GCC unroll 4
    for (int c = 0; c < COLUMNS; ++c) right[c] = load(b + c * ldb);
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r) {
      const auto left = load(a + r * lda);
#pragma GCC unroll 4
      for (int c = 0; c < COLUMNS; ++c) sum[r][c] = fmadd(left, right[c], sum[r][c]);
    }
  };
  int64_t k = 0;
  for (; k + LANES<T> <= K; k += LANES<T>) step([&](const T* x) { return Vec<T>::loadu(x + k); });
  if (k < K) {
    step([&](const T* x) { return Vec<T>::set(Vec<T>(0), Vec<T>::loadu(x + k, K - k), K - k); });
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int c = 0; c < COLUMNS; ++c) {
      T& x = to.c[r * to.stride + c];
      x = to.alpha * sum_lanes(sum[r][c]) + (to.add ? x : T(0));
    }
  }
}

// C (M, N) = alpha A B^T (+ C), A (M, K), B (N, K).
template <typename T>
void multiply_rows(int64_t M, int64_t N, int64_t K, const T* a, int64_t lda, const T* b,
                   int64_t ldb, Target<T> to) {
  const auto at = [&](int64_t m, int64_t n) {
    return Target<T>{to.c + m * to.stride + n, to.stride, to.add, to.alpha};
  };
  const auto columns = [&](auto rows, int64_t m) {
    int64_t n = 0;
    for (; n + 4 <= N; n += 4) {
      inner_block<rows(), 4>(K, a + m * lda, lda, b + n * ldb, ldb, at(m, n));
    }
    for (; n < N; ++n) inner_block<rows(), 1>(K, a + m * lda, lda, b + n * ldb, ldb, at(m, n));
  };
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) columns(std::integral_constant<int, 4>(), m);
  for (; m < M; ++m) columns(std::integral_constant<int, 1>(), m);
}

// C (M, N) = alpha op(A) op(B) (+ C); not both transposed.
template <typename T>
void gemm(bool ta, bool tb, int64_t M, int64_t N, int64_t K, T alpha, const T* A, int64_t lda,
          const T* B, int64_t ldb, bool add, T* C, int64_t ldc, Next next = {}) {
  const Target<T> to{C, ldc, add, alpha};
  if (tb) return multiply_rows(M, N, K, A, lda, B, ldb, to);
  multiply(M, N, K, Left<T>{A, ta ? 1 : lda, ta ? lda : 1}, B, ldb, to, next);
}

}  // namespace softmap
