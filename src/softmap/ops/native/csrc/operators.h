// What is compiled for float and, in a unit of its own beside it, for double.
#pragma once

#include "backward.h"
#include "forward.h"
#include "rms_norm.h"
#include "shaped_output.h"
#include "token_factors.h"

namespace softmap {

template <typename T>
std::tuple<Tensor, Tensor> forward(const Arguments& a) {
  Problem<T> problem(a, /*with_grad=*/false);
  Forward<T> run(problem);
  run.run();
  return {run.out, run.statistics};
}

// Gradients of q, k, v and of every tensor, in the caller's order and dtypes.
template <typename T>
std::vector<Tensor> backward(const Arguments& a, const Tensor& grad,
                             const std::optional<Tensor>& lse_grad, const Tensor& statistics) {
  Problem<T> problem(a, /*with_grad=*/true);
  const auto of_lse = lse_grad ? lse_grad->unsqueeze(3).contiguous() : Tensor();
  Backward<T> run(problem, grad, statistics, of_lse);
  run.run();
  const auto& schedule = problem.schedule;
  std::vector<Tensor> grads{run.dq, schedule.reduce(run.dk), schedule.reduce(run.dv)};
  size_t edit = 0;
  for (const auto* edits : {&problem.scores, &problem.weights}) {
    for (const auto& e : *edits) {
      const auto bag = e->gradients(schedule);
      for (const auto& name : problem.names[edit++]) grads.push_back(bag.at(name));
    }
  }
  const auto to = [](Tensor& g, const Tensor& like) { g = converted(g, like.scalar_type()); };
  to(grads[0], a.q), to(grads[1], a.k), to(grads[2], a.v);
  for (size_t n = 0; n < a.tensors.size(); ++n) {
    const auto g = converted(grads[n + 3], a.tensors[n].scalar_type());
    grads[n + 3] = g.reshape(a.tensors[n].sizes()).contiguous();
  }
  return grads;
}

#define SOFTMAP_OPERATORS(PREFIX, T)                                                   \
  PREFIX template std::tuple<Tensor, Tensor> forward<T>(const Arguments&);             \
  PREFIX template std::vector<Tensor> backward<T>(                                     \
      const Arguments&, const Tensor&, const std::optional<Tensor>&, const Tensor&);   \
  PREFIX template struct RmsNorm<T>;                                                   \
  PREFIX template struct ShapedOutput<T>;                                              \
  PREFIX template struct TokenFactors<T>;

}  // namespace softmap
