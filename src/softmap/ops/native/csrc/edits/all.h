// The edits by their names, as ``Edit.kernel`` gives them.
#pragma once

#include "biases.h"
#include "compose.h"
#include "forget.h"
#include "head_mix.h"
#include "score_conv.h"
#include "shaped.h"
#include "softcap.h"
#include "subtract_pairs.h"
#include "temperature.h"

namespace softmap {

// What an edit asks of the plan of a call, before it is made.
struct Needs {
  int64_t group = 1;  // neighbouring maps that it has to see together
  bool whole_rows = false;  // reads neighbouring columns: tiles hold all that their rows see
};

inline Needs needs_of(const std::string& kernel, int64_t heads) {
  const auto name = kernel.substr(0, kernel.find('+'));
  if (name == "compose" || name == "head_mix") return {heads, false};
  if (name == "score_conv") return {heads, true};
  if (name == "subtract_pairs") return {2, false};
  return {};
}

template <typename T>
std::unique_ptr<Edit<T>> make_edit(const std::string& kernel, const Setup<T>& setup) {
  const auto plus = kernel.find('+');
  const auto name = kernel.substr(0, plus);
  const auto bias = plus == std::string::npos ? "" : kernel.substr(plus + 1);
  if (name == "compose") return std::make_unique<Compose<T>>(setup);
  if (name == "head_mix") return std::make_unique<HeadMix<T>>(setup, "mix");
  if (name == "subtract_pairs") return std::make_unique<SubtractPairs<T>>(setup);
  if (name == "shaped") return std::make_unique<Shaped<T>>(setup);
  if (name == "temperature") return std::make_unique<Temperature<T>>(setup);
  if (name == "softcap") return std::make_unique<Softcap<T>>(setup);
  if (name == "forget") return std::make_unique<Forget<T>>(setup);
  if (name == "score_conv") return std::make_unique<ScoreConv<T>>(setup, bias);
  if (name == "alibi" || name == "kerple" || name == "fire") {
    return std::make_unique<AddBias<T>>(setup, name);
  }
  TORCH_CHECK_VALUE(false, "no native edit is named ", kernel);
}

}  // namespace softmap
