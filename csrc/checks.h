// Checks of an op's arguments, whose messages start with the op's name. The Python functions check first and better;
// these keep a direct call through torch.ops from reading out of bounds.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
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

inline void check_dtype(const char* op, const char* name, const Tensor& x, ScalarType dtype) {
  STGT_CHECK(op, x.scalar_type() == dtype, name, " has the wrong dtype");
}

// Edge weights are kept in half precision for half-precision features, whichever half that is.
inline ScalarType weight_dtype(ScalarType features) {
  return features == ScalarType::Float || features == ScalarType::Double ? features : ScalarType::Half;
}

inline ScalarType accumulator_dtype(ScalarType features) {
  return features == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace stgt
