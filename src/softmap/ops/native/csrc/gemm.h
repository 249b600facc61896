// Row-major matrix products C = alpha op(A) op(B) + beta C: the BLAS that PyTorch brings, where it
// exports one, else a plain vectorised loop.
#pragma once

#include "common.h"

extern "C" {
void sgemm_(const char*, const char*, const int*, const int*, const int*, const float*,
            const float*, const int*, const float*, const int*, const float*, float*,
            const int*) __attribute__((weak));
void dgemm_(const char*, const char*, const int*, const int*, const int*, const double*,
            const double*, const int*, const double*, const int*, const double*, double*,
            const int*) __attribute__((weak));
}

namespace softmap {

// One row of C at a time; B's columns are vectors when it is not transposed.
template <typename T>
void plain_gemm(bool ta, bool tb, int64_t M, int64_t N, int64_t K, T alpha, const T* A,
                int64_t lda, const T* B, int64_t ldb, T beta, T* C, int64_t ldc) {
  for (int64_t m = 0; m < M; ++m) {
    T* c = C + m * ldc;
    for (int64_t n = 0; n < N; ++n) c[n] = beta == T(0) ? T(0) : beta * c[n];
    for (int64_t k = 0; k < K; ++k) {
      const T a = alpha * (ta ? A[k * lda + m] : A[m * lda + k]);
      if (tb) {
        for (int64_t n = 0; n < N; ++n) c[n] += a * B[n * ldb + k];
      } else {
        for (int64_t n = 0; n < N; ++n) c[n] += a * B[k * ldb + n];
      }
    }
  }
}

template <typename T>
void gemm(bool ta, bool tb, int64_t M, int64_t N, int64_t K, T alpha, const T* A, int64_t lda,
          const T* B, int64_t ldb, T beta, T* C, int64_t ldc) {
  if (M == 0 || N == 0) return;
  // BLAS counts by columns: the transposed product has the factors in the other order.
  const char *a = ta ? "T" : "N", *b = tb ? "T" : "N";
  const int m = int(M), n = int(N), k = int(K), la = int(lda), lb = int(ldb), lc = int(ldc);
  if constexpr (std::is_same_v<T, float>) {
    if (sgemm_) return sgemm_(b, a, &n, &m, &k, &alpha, B, &lb, A, &la, &beta, C, &lc);
  } else {
    if (dgemm_) return dgemm_(b, a, &n, &m, &k, &alpha, B, &lb, A, &la, &beta, C, &lc);
  }
  plain_gemm(ta, tb, M, N, K, alpha, A, lda, B, ldb, beta, C, ldc);
}

}  // namespace softmap
