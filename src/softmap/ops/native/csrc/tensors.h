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
    int64_t batch, group, row, rows, slot;
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
  const T* data = nullptr;  // asking a tensor for its pointer costs more than a row of work
  T* grad_data = nullptr;
  int64_t size = 0, queries = 0;

  QueryTensor() = default;
  QueryTensor(const Tensor& t, bool with_grad) : value(t.to(dtype_of<T>).contiguous()) {
    queries = value.size(1);
    size = value.numel() / std::max<int64_t>(1, value.size(0) * queries);
    data = value.const_data_ptr<T>();
    if (!with_grad) return;
    grad = at::zeros_like(value);
    grad_data = grad.mutable_data_ptr<T>();
  }
  bool defined() const { return value.defined(); }  // data may be null: an empty batch
  const T* row(int64_t b, int64_t t) const {
    return data + (b * queries + t) * size;
  }
  T* grad_row(int64_t b, int64_t t) const {
    return grad_data + (b * queries + t) * size;
  }
};

// (B, S, n...) turned to (B, S / LANES, N, LANES): one vector of keys after another, and all that an
// edit reads of them next to each other.
template <typename T>
struct KeyTensor {
  Tensor value, grad;  // grad (slots, S / LANES, N, LANES)
  const T* data = nullptr;
  T* grad_data = nullptr;
  std::vector<int64_t> inner;
  int64_t keys = 0, size = 0, blocks = 0;

  KeyTensor() = default;
  KeyTensor(const Tensor& t, const Schedule& schedule, bool with_grad) {
    keys = t.size(1);
    inner = t.sizes().slice(2).vec();
    size = t.numel() / std::max<int64_t>(1, t.size(0) * keys);
    blocks = (keys + LANES<T> - 1) / LANES<T> + 1;  // one more: blocks are read in pairs
    const Tensor flat = t.to(dtype_of<T>).contiguous();
    value = at::empty({t.size(0), blocks, size, LANES<T>}, flat.options());
    data = value.const_data_ptr<T>();
    const T* from = flat.const_data_ptr<T>();
    each_block(t.size(0), [&](int64_t b, int64_t block, int64_t n) {
      T* to = value.mutable_data_ptr<T>() + (b * blocks + block) * size * LANES<T>;
      if (n < LANES<T>) std::fill_n(to, size * LANES<T>, T(0));
      transpose(from + (b * keys + block * LANES<T>) * size, size, to, LANES<T>, n, size);
    });
    if (!with_grad) return;
    grad = at::zeros({schedule.slots(), blocks, size, LANES<T>}, value.options());
    grad_data = grad.mutable_data_ptr<T>();
  }
  bool defined() const { return value.defined(); }  // data may be null: an empty batch
  // The vector that holds column c of the tile, whose first column begins a vector; number n of
  // it lies n * LANES further, the next vector of keys size * LANES further.
  const T* at(const Region& w, int64_t c) const {
    return data + (w.batch * blocks + (w.col + c) / LANES<T>) * size * LANES<T>;
  }
  T* grad_at(const Region& w, int64_t c) const {
    return grad_data + (w.slot * blocks + (w.col + c) / LANES<T>) * size * LANES<T>;
  }
  Tensor take_grad(const Schedule& schedule) const {
    const Tensor total = schedule.reduce(grad);
    std::vector<int64_t> shape{total.size(0), keys};
    shape.insert(shape.end(), inner.begin(), inner.end());
    auto out = at::empty(shape, total.options());
    T* to = out.mutable_data_ptr<T>();
    each_block(total.size(0), [&](int64_t b, int64_t block, int64_t n) {
      const T* from = total.const_data_ptr<T>() + (b * blocks + block) * size * LANES<T>;
      transpose(from, LANES<T>, to + (b * keys + block * LANES<T>) * size, size, size, n);
    });
    return out;
  }

 private:
  // f(sequence, block, keys in it), in parallel over the sequences.
  template <typename F>
  void each_block(int64_t batch, F f) const {
    at::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        for (int64_t n = 0; n < blocks; ++n) {
          f(b, n, std::clamp<int64_t>(keys - n * LANES<T>, 0, LANES<T>));
        }
      }
    });
  }
};

// A tensor of the layer, and one gradient a worker.
template <typename T>
struct LayerTensor {
  Tensor value, grad;
  const T* numbers = nullptr;
  T* grad_data = nullptr;
  int64_t size = 0;

  LayerTensor() = default;
  LayerTensor(const Tensor& t, const Schedule& schedule, bool with_grad)
      : value(t.to(dtype_of<T>).contiguous()), numbers(value.const_data_ptr<T>()),
        size(value.numel()) {
    if (!with_grad) return;
    grad = at::zeros({int64_t(schedule.workers.size()), size}, value.options());
    grad_data = grad.mutable_data_ptr<T>();
  }
  bool defined() const { return numbers != nullptr; }
  const T* data() const { return numbers; }
  T* grad_of(int64_t worker) const {
    return grad_data + worker * size;
  }
  Tensor take_grad() const { return grad.sum(0).view(value.sizes()); }
};

using Bag = std::map<std::string, Tensor>;

inline Tensor find(const Bag& bag, const std::string& name) {
  const auto it = bag.find(name);
  return it == bag.end() ? Tensor() : it->second;
}

}  // namespace softmap
