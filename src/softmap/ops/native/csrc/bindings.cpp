// The operators softmap::native_forward and softmap::native_backward.
#include <torch/library.h>

#include "operators.h"

namespace softmap {

SOFTMAP_OPERATORS(extern, double)  // in double.cpp

Arguments gather(const Tensor& q, const Tensor& k, const Tensor& v, at::TensorList tensors,
                 const std::string& edits, at::IntArrayRef key_of_map, double scale,
                 const Tensor& first, const Tensor& last, const Tensor& positions) {
  return {q, k, v, split(edits, "; "), tensors.vec(), key_of_map.vec(), scale, first, last,
          positions};
}

std::tuple<Tensor, Tensor> native_forward(
    const Tensor& q, const Tensor& k, const Tensor& v, at::TensorList tensors,
    const std::string& edits, at::IntArrayRef key_of_map, double scale, const Tensor& first,
    const Tensor& last, const Tensor& positions) {
  const auto a = gather(q, k, v, tensors, edits, key_of_map, scale, first, last, positions);
  return q.scalar_type() == at::kDouble ? forward<double>(a) : forward<float>(a);
}

std::vector<Tensor> native_backward(
    const Tensor& grad, const std::optional<Tensor>& lse_grad, const Tensor& statistics,
    const Tensor& q, const Tensor& k, const Tensor& v, at::TensorList tensors,
    const std::string& edits, at::IntArrayRef key_of_map, double scale, const Tensor& first,
    const Tensor& last, const Tensor& positions) {
  const auto a = gather(q, k, v, tensors, edits, key_of_map, scale, first, last, positions);
  return q.scalar_type() == at::kDouble ? backward<double>(a, grad, lse_grad, statistics)
                                        : backward<float>(a, grad, lse_grad, statistics);
}

Tensor shaped_forward(const Tensor& o, const Tensor& v, const Tensor& alpha, const Tensor& beta,
                      const Tensor& gamma, const Tensor& first, const Tensor& last) {
  return o.scalar_type() == at::kDouble
             ? ShapedOutput<double>(o, v, alpha, beta, gamma, first, last).forward()
             : converted(ShapedOutput<float>(o, v, alpha, beta, gamma, first, last).forward(),
                         o.scalar_type());
}

std::vector<Tensor> shaped_backward(const Tensor& grad, const Tensor& o, const Tensor& v,
                                    const Tensor& alpha, const Tensor& beta, const Tensor& gamma,
                                    const Tensor& first, const Tensor& last) {
  auto grads = o.scalar_type() == at::kDouble
                   ? ShapedOutput<double>(o, v, alpha, beta, gamma, first, last).backward(grad)
                   : ShapedOutput<float>(o, v, alpha, beta, gamma, first, last).backward(grad);
  const Tensor* like[] = {&o, &v, &alpha, &beta, &gamma};
  for (size_t n = 0; n < grads.size(); ++n) {
    grads[n] = converted(grads[n], like[n]->scalar_type());
  }
  return grads;
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return x.scalar_type() == at::kDouble ? RmsNorm<double>(x, weight, eps).forward()
                                        : RmsNorm<float>(x, weight, eps).forward();
}

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& grad, const Tensor& inverse,
                                             const Tensor& x, const Tensor& weight) {
  auto [dx, dw] = x.scalar_type() == at::kDouble
                      ? RmsNorm<double>(x, weight, 0).backward(grad, inverse)
                      : RmsNorm<float>(x, weight, 0).backward(grad, inverse);
  return {dx, converted(dw, weight.scalar_type())};
}

std::tuple<Tensor, Tensor, Tensor> token_factors(const Tensor& x, const Tensor& w1,
                                                 const Tensor& w2, const Tensor& gate, double eps) {
  auto [down, up, g] = x.scalar_type() == at::kDouble
                           ? TokenFactors<double>(x, w1, w2, gate).run(eps)
                           : TokenFactors<float>(x, w1, w2, gate).run(eps);
  const auto dtype = x.scalar_type();
  return {converted(down, dtype), converted(up, dtype), converted(g, dtype)};
}

}  // namespace softmap

TORCH_LIBRARY(softmap_native, m) {
  m.def(
      "forward(Tensor q, Tensor k, Tensor v, Tensor[] tensors, str edits, int[] key_of_map, "
      "float scale, Tensor first, Tensor last, Tensor positions) -> (Tensor, Tensor)");
  m.def(
      "backward(Tensor grad, Tensor? lse_grad, Tensor statistics, Tensor q, Tensor k, Tensor v, "
      "Tensor[] tensors, str edits, int[] key_of_map, float scale, Tensor first, Tensor last, "
      "Tensor positions) -> Tensor[]");
  m.def(
      "shaped_forward(Tensor o, Tensor v, Tensor alpha, Tensor beta, Tensor gamma, Tensor first, "
      "Tensor last) -> Tensor");
  m.def(
      "shaped_backward(Tensor grad, Tensor o, Tensor v, Tensor alpha, Tensor beta, Tensor gamma, "
      "Tensor first, Tensor last) -> Tensor[]");
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor grad, Tensor inverse, Tensor x, Tensor weight) -> (Tensor, Tensor)");
  m.def(
      "token_factors(Tensor x, Tensor w1, Tensor w2, Tensor gate, float eps) "
      "-> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(softmap_native, CPU, m) {
  m.impl("forward", &softmap::native_forward);
  m.impl("backward", &softmap::native_backward);
  m.impl("shaped_forward", &softmap::shaped_forward);
  m.impl("shaped_backward", &softmap::shaped_backward);
  m.impl("rms_norm", &softmap::rms_norm);
  m.impl("rms_norm_backward", &softmap::rms_norm_backward);
  m.impl("token_factors", &softmap::token_factors);
}
