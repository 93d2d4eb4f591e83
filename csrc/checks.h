// Checks of an op's arguments. Their messages start with the op's name. The Python functions check first, with better
// messages; these checks keep a direct call through torch.ops from reading out of bounds.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <initializer_list>

namespace stgt {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#define STGT_CHECK(op, condition, ...) STD_TORCH_CHECK(condition, op, ": ", __VA_ARGS__)

inline void check_shape(const char* op, const char* name, const Tensor& x, std::initializer_list<int64_t> shape) {
  STGT_CHECK(op, x.dim() == int64_t(shape.size()), name, " must have ", shape.size(), " dimensions, got ", x.dim());
  int64_t dim = 0;
  for (int64_t size : shape) {
    STGT_CHECK(op, x.size(dim) == size, name, " must have size ", size, " in dimension ", dim, ", got ", x.size(dim));
    ++dim;
  }
}

inline const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    default: return "another dtype";
  }
}

inline void check_dtype(const char* op, const char* name, const Tensor& x, ScalarType dtype) {
  STGT_CHECK(op, x.scalar_type() == dtype, name, " must be ", dtype_name(dtype), ", got ", dtype_name(x.scalar_type()));
}

inline ScalarType accumulator_dtype(ScalarType features) {
  return features == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Returns the dtype of weights. For half-precision features (bfloat16 or float16) it is float16, or float32 if the
// weights are differentiable, since their gradients have the same dtype and would vanish in float16. For other features
// it is accumulator_dtype.
inline ScalarType weight_dtype(ScalarType features, bool differentiable) {
  const bool half = features != ScalarType::Float && features != ScalarType::Double;
  return half && !differentiable ? ScalarType::Half : accumulator_dtype(features);
}

inline void check_weight_dtype(const char* op, const Tensor& weight, ScalarType features) {
  const ScalarType stored = weight_dtype(features, false);
  if (weight.scalar_type() != weight_dtype(features, true)) check_dtype(op, "weight", weight, stored);
}

}  // namespace stgt
