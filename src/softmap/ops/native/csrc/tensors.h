// An edit's own tensors and their gradients, laid out for the loops that read them.
//
// Rows of a query tensor belong to one worker each, so its gradient is written in place. Keys and
// layer tensors are read by many: each worker adds up its own copy (a "slot" for keys, which is
// shared only where two workers share a sequence), and the copies are added in a fixed order.
#pragma once

#include <map>

#include "dtypes.h"
#include "memory.h"

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

using Bag = std::map<std::string, Tensor>;

inline Tensor find(const Bag& bag, const std::string& name) {
  const auto it = bag.find(name);
  return it == bag.end() ? Tensor() : it->second;
}

// (B, T, ...) of T's, each token's numbers next to each other: itself, if it is so already.
template <typename T>
Tensor by_token(const Tensor& t) {
  const bool fits = t.scalar_type() == dtype_of<T> && t.numel() > 0 && t[0][0].is_contiguous();
  return fits ? t : wide<T>(t);
}

// (B, T, ...): row(b, t) points at the numbers of one query.
template <typename T>
struct QueryTensor {
  Tensor value, grad;
  const T* data = nullptr;  // asking a tensor for its pointer costs more than a row of work
  T* grad_data = nullptr;
  int64_t of_batch = 0, of_query = 0, size = 0, queries = 0;

  QueryTensor() = default;
  QueryTensor(const Tensor& t, bool with_grad)
      : value(by_token<T>(t)), of_batch(value.stride(0)), of_query(value.stride(1)) {
    queries = value.size(1);
    size = value.numel() / std::max<int64_t>(1, value.size(0) * queries);
    data = value.const_data_ptr<T>();
    if (!with_grad) return;
    grad = at::zeros(value.sizes(), value.options());
    grad_data = grad.mutable_data_ptr<T>();
  }
  bool defined() const { return value.defined(); }  // data may be null: an empty batch
  const T* row(int64_t b, int64_t t) const {
    return data + b * of_batch + t * of_query;
  }
  T* grad_row(int64_t b, int64_t t) const {
    return grad_data + (b * queries + t) * size;
  }
};

// Tensors (B, S, n, H) or (B, S, H) of the same keys, packed as (B, S / LANES, H, N, LANES): all that
// an edit reads of 16 keys and a head lies in one piece, and is one address in its loops. Numbers of
// a tensor that is not given are zero.
template <typename T>
struct KeyTensors {
  struct Part {
    std::string name;
    Tensor given;
    int64_t count;  // n
  };
  std::vector<Part> parts;
  Tensor value, grad;  // grad (slots, S / LANES, H, N, LANES)
  const T* data = nullptr;
  T* grad_data = nullptr;
  int64_t keys = 0, heads = 0, width = 0, blocks = 0;

  KeyTensors() = default;
  KeyTensors(std::vector<Part> given, int64_t batch, int64_t keys, int64_t heads,
             const Schedule& schedule, bool with_grad)
      : parts(std::move(given)), keys(keys), heads(heads) {
    for (const auto& part : parts) width += part.count;
    blocks = (keys + LANES<T> - 1) / LANES<T> + 1;  // one more: blocks are read in pairs
    value = shared().template empty<T>({batch, blocks, heads, width, LANES<T>});
    data = value.const_data_ptr<T>();
    int64_t first = 0;
    for (const auto& part : parts) {
      pack(part, first);
      first += part.count;
    }
    if (!with_grad) return;
    grad = shared().template empty<T>({schedule.slots(), blocks, heads, width, LANES<T>}).zero_();
    grad_data = grad.mutable_data_ptr<T>();
  }

  int64_t size() const { return heads * width; }  // numbers of a key
  // The vector that holds column c of the tile, whose first column begins a vector. The next vector
  // of keys lies size() * LANES further.
  const T* at(const Region& w, int64_t c) const { return data + place(w.batch, w.col + c); }
  T* grad_at(const Region& w, int64_t c) const { return grad_data + place(w.slot, w.col + c); }

  void take_grads(const Schedule& schedule, Bag& bag) const {
    const Tensor total = schedule.reduce(grad);
    int64_t first = 0;
    for (const auto& part : parts) {
      if (part.given.defined()) bag[part.name] = unpacked(total, part, first);
      first += part.count;
    }
  }

 private:
  static Shared& shared() { return Shared::of_this_thread(); }
  int64_t place(int64_t b, int64_t key) const {
    return (b * blocks + key / LANES<T>) * size() * LANES<T>;
  }
  void pack(const Part& part, int64_t first) {
    const Tensor given = part.given.defined() ? by_token<T>(part.given) : Tensor();
    const T* from = given.defined() ? given.const_data_ptr<T>() : nullptr;
    const int64_t of_batch = from ? given.stride(0) : 0, of_key = from ? given.stride(1) : 0;
    T* to = value.mutable_data_ptr<T>();
    each_block(value.size(0), [&](int64_t b, int64_t block, int64_t count) {
      for (int64_t i = 0; i < part.count; ++i) {
        T* at = to + ((b * blocks + block) * size() + first + i) * LANES<T>;
        for (int64_t h = 0; h < heads && (!from || count < LANES<T>); ++h) {
          std::fill_n(at + h * width * LANES<T>, LANES<T>, T(0));
        }
        if (!from) continue;
        const T* rows = from + b * of_batch + block * LANES<T> * of_key + i * heads;
        transpose(rows, of_key, at, width * LANES<T>, count, heads);
      }
    });
  }

  Tensor unpacked(const Tensor& total, const Part& part, int64_t first) const {
    const int64_t n = part.count * heads;
    Tensor out = at::empty(part.given.sizes(), total.options());
    const T* from = total.const_data_ptr<T>();
    T* to = out.template mutable_data_ptr<T>();
    each_block(total.size(0), [&](int64_t b, int64_t block, int64_t count) {
      for (int64_t i = 0; i < part.count; ++i) {
        const T* at = from + ((b * blocks + block) * size() + first + i) * LANES<T>;
        T* rows = to + (b * keys + block * LANES<T>) * n + i * heads;
        transpose(at, width * LANES<T>, rows, n, heads, count);
      }
    });
    return out;
  }

  // f(sequence, block, keys in it), in parallel.
  template <typename F>
  void each_block(int64_t batch, F f) const {
    constexpr int64_t grain = 64;
    at::parallel_for(0, batch * blocks, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = i % blocks;
        f(i / blocks, n, std::clamp<int64_t>(keys - n * LANES<T>, 0, LANES<T>));
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
      : value(wide<T>(t)), numbers(value.const_data_ptr<T>()),
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

}  // namespace softmap
