// This file makes new tensors and contiguous ones. PyTorch looks up its operators by their names at each call, which
// takes longer than the rest of a small call, so these functions only call one if they have to copy a tensor.
#pragma once
#include "checks.h"

#include <torch/csrc/stable/ops.h>

#include <exception>

namespace stgt {

// Returns a new tensor on the device of `like`. If there is no memory for it, the error says how much was asked for.
inline Tensor new_strided_tensor(const char* op, const char* name, const Tensor& like,
                                 std::initializer_list<int64_t> sizes, const int64_t* strides, ScalarType dtype) {
  try {
    int32_t device = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
    const auto number = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
    AtenTensorHandle made = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.begin(), strides, number,
                                                           device, like.get_device_index(), &made));
    return Tensor(made);
  } catch (const std::exception& error) {
    double bytes = dtype == ScalarType::Bool ? 1 : dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2;
    for (int64_t size : sizes) bytes *= double(size);
    STGT_CHECK(op, false, "out of memory: ", name, " needs ", int64_t(bytes), " bytes (", error.what(), ")");
    throw;
  }
}

inline Tensor new_tensor(const char* op, const char* name, const Tensor& like, std::initializer_list<int64_t> sizes,
                         ScalarType dtype) {
  int64_t strides[8], numbers = 1;
  for (size_t dim = sizes.size(); dim-- > 0;) {
    strides[dim] = numbers;
    if (sizes.begin()[dim] > 1) numbers *= sizes.begin()[dim];  // as in PyTorch, an empty dimension counts as 1
  }
  return new_strided_tensor(op, name, like, sizes, strides, dtype);
}

inline Tensor as_contiguous(const Tensor& x) { return x.is_contiguous() ? x : torch::stable::contiguous(x); }

// Returns a new tensor (B, H, N, D) in the memory order of (B, N, H, D), so that merging the heads copies nothing.
inline Tensor new_heads_last(const char* op, const char* name, const Tensor& like) {
  const int64_t B = like.size(0), H = like.size(1), N = like.size(2), D = like.size(3);
  const int64_t strides[] = {N * H * D, D, H * D, 1};
  return new_strided_tensor(op, name, like, {B, H, N, D}, strides, like.scalar_type());
}

}  // namespace stgt
