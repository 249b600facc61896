// An edit's own tensors and their gradients, laid out for the loops that read them.
//
// Rows of a query tensor belong to one worker each, so its gradient is written in place. Keys and
// layer tensors are read by many: each worker adds up its own copy (a "slot" for keys, which is
// shared only where two workers share a sequence), and the copies are added in a fixed order.
#pragma once

#include <map>

#include "common.h"

namespace softmap {

// Who works on what: bands in order of sequence and row, cut into runs of equal cost.
struct Schedule {
  struct Item {
    int64_t batch, row, rows, slot;
  };
  std::vector<std::vector<Item>> workers;
  std::vector<int64_t> extra;  // extra slot n (number batch + n) belongs to sequence extra[n]
  int64_t batch = 0;

  int64_t slots() const {
    return batch + int64_t(extra.size());
  }
  // Adds the extra slots of a (slots, ...) tensor to their sequences; returns (batch, ...).
  Tensor reduce(const Tensor& sums) const {
    for (size_t n = 0; n < extra.size(); ++n) {
      sums[extra[n]].add_(sums[batch + int64_t(n)]);
    }
    return sums.narrow(0, 0, batch);
  }
};

// (B, T, ...) as it is, contiguous: row(b, t) points at the numbers of one query.
template <typename T>
struct QueryTensor {
  Tensor value, grad;
  int64_t size = 0;

  QueryTensor() = default;
  QueryTensor(const Tensor& t, bool with_grad) : value(t.to(dtype_of<T>).contiguous()) {
    size = value.numel() / std::max<int64_t>(1, value.size(0) * value.size(1));
    if (with_grad) grad = at::zeros_like(value);
  }
  bool defined() const { return value.defined(); }
  const T* row(int64_t b, int64_t t) const {
    return value.const_data_ptr<T>() + (b * value.size(1) + t) * size;
  }
  T* grad_row(int64_t b, int64_t t) const {
    return grad.mutable_data_ptr<T>() + (b * value.size(1) + t) * size;
  }
};

// (B, S, n...) turned to (B, N, S'), keys innermost, padded so that whole vectors can be read.
template <typename T>
struct KeyTensor {
  Tensor value, grad;  // grad (slots, N, S')
  std::vector<int64_t> inner;
  int64_t keys = 0, size = 0, stride = 0;

  KeyTensor() = default;
  KeyTensor(const Tensor& t, const Schedule& schedule, bool with_grad) {
    keys = t.size(1);
    inner = t.sizes().slice(2).vec();
    const auto flat = t.reshape({t.size(0), keys, -1});
    size = flat.size(2);
    stride = round_up(keys, LANES<T>) + LANES<T>;
    value = at::empty({t.size(0), size, stride}, t.options().dtype(dtype_of<T>));
    value.narrow(2, keys, stride - keys).zero_();
    value.narrow(2, 0, keys).copy_(flat.transpose(1, 2));
    if (with_grad) grad = at::zeros({schedule.slots(), size, stride}, value.options());
  }
  bool defined() const { return value.defined(); }
  const T* at(const Region& w, int64_t n) const {
    return value.const_data_ptr<T>() + (w.batch * size + n) * stride + w.col;
  }
  T* grad_at(const Region& w, int64_t n) const {
    return grad.mutable_data_ptr<T>() + (w.slot * size + n) * stride + w.col;
  }
  Tensor take_grad(const Schedule& schedule) const {
    auto total = schedule.reduce(grad).narrow(2, 0, keys).transpose(1, 2);
    std::vector<int64_t> shape{total.size(0), keys};
    shape.insert(shape.end(), inner.begin(), inner.end());
    return total.reshape(shape);
  }
};

// A tensor of the layer, and one gradient a worker.
template <typename T>
struct LayerTensor {
  Tensor value, grad;

  LayerTensor() = default;
  LayerTensor(const Tensor& t, const Schedule& schedule, bool with_grad)
      : value(t.to(dtype_of<T>).contiguous()) {
    if (with_grad) {
      grad = at::zeros({int64_t(schedule.workers.size()), value.numel()}, value.options());
    }
  }
  bool defined() const { return value.defined(); }
  const T* data() const { return value.const_data_ptr<T>(); }
  T* grad_of(int64_t worker) const {
    return grad.mutable_data_ptr<T>() + worker * value.numel();
  }
  Tensor take_grad() const { return grad.sum(0).view(value.sizes()); }
};

using Bag = std::map<std::string, Tensor>;

inline Tensor find(const Bag& bag, const std::string& name) {
  const auto it = bag.find(name);
  return it == bag.end() ? Tensor() : it->second;
}

}  // namespace softmap
