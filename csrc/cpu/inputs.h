// These functions read what all ops for CPU tensors read in the same way from their arguments.
#pragma once
#include "../checks.h"
#include "args.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace stgt {

inline Dtype dtype_of(const char* op, const char* name, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::BFloat16: return Dtype::bf16;
    case ScalarType::Half: return Dtype::f16;
    default:
      STGT_CHECK(op, false, name, " must be float32, float64, bfloat16 or float16, got ", dtype_name(x.scalar_type()));
      return Dtype::f32;
  }
}

// Sets args.drop_threshold and args.seed, unless nothing is dropped.
inline void read_dropout(const char* op, const std::optional<Tensor>& seed, double dropout_p, auto& args) {
  if (!(dropout_p > 0)) return;
  STGT_CHECK(op, dropout_p < 1 && seed, "dropout needs a seed and a probability below 1, got ", dropout_p,
             seed ? " and a seed" : " and no seed");
  check_shape(op, "seed", *seed, {1});
  check_dtype(op, "seed", *seed, ScalarType::Long);
  args.drop_threshold = uint32_t(std::min(std::nearbyint(dropout_p * 65536), 65535.0));
  args.seed = uint64_t(*static_cast<const int64_t*>(seed->data_ptr()));
}

}  // namespace stgt
