// An edit of the map on one tile, and its adjoint. A new edit is one struct like those in edits/,
// and one line in edits/all.h.
#pragma once

#include "gemm.h"
#include "tensors.h"

namespace softmap {

template <typename T>
struct Edit {
  virtual ~Edit() = default;

  // Maps that leave when `heads` enter.
  virtual int64_t heads_out(int64_t heads) const { return heads; }

  // Scratch of one worker, in numbers, for a tile.
  virtual int64_t scratch(int64_t heads, int64_t rows, int64_t columns) const { return 0; }

  // `in` to `out`, every cell of a row up to row_stride; cells that the row does not see may hold
  // anything finite (zeros after the softmax). The two may be the same memory when in_place().
  virtual bool in_place() const { return true; }
  virtual void forward(const Region& w, Maps<T> in, Maps<T> out, T* scratch) const = 0;

  // From d/d`out` in `grad` to d/d`in` in `to`, the same memory when adjoint_in_place(); adds up the
  // gradients of the edit's own tensors. Cells that a row does not see hold zeros in `grad` or `in`.
  virtual bool adjoint_in_place() const { return in_place(); }
  virtual void backward(const Region& w, Maps<T> in, Maps<T> grad, Maps<T> to, T* scratch) = 0;

  // The gradients of its own tensors, by their names.
  virtual Bag gradients(const Schedule& schedule) const = 0;
};

// What an edit is made from.
template <typename T>
struct Setup {
  Bag tensors;
  int64_t batch, heads;  // sequences; maps that enter
  int64_t queries, keys;
  const Schedule* schedule;
  bool with_grad;
  Tensor positions;  // (B, T) int64 positions of the queries
  Tensor first;  // (B, T) int64: the first key that each sees

  Tensor operator[](const std::string& name) const { return find(tensors, name); }
  QueryTensor<T> query(const std::string& name) const {
    const auto t = (*this)[name];
    return t.defined() ? QueryTensor<T>(t, with_grad) : QueryTensor<T>();
  }
  LayerTensor<T> layer(const std::string& name) const {
    const auto t = (*this)[name];
    return t.defined() ? LayerTensor<T>(t, *schedule, with_grad) : LayerTensor<T>();
  }
};

}  // namespace softmap
