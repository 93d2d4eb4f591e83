// Tensor maps, with which the host describes a tensor in device memory to Hopper's copy engine.
#pragma once
#include "launch.h"
#include "ptx_sm90.cuh"

#include <array>

namespace stgt {

// Returns the function cuTensorMapEncodeTiled of the driver that is running, so that the library need not link with
// the driver. It returns null if the driver does not have this function.
inline auto tensor_map_encoder(const Launcher& launch) {
  static const auto encode = [&] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    launch.check(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found));
    return found == cudaDriverEntryPointSuccess ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)
                                                : nullptr;
  }();
  return encode;
}

// Describes a tensor of bfloat16, float16 or float32. sizes: innermost dimension first. strides: those of the other
// dimensions, in elements; the stride of a dimension of one element does not matter. box: how much of each dimension
// one copy takes. Elements out of range read as 0. `data` and all strides must be multiples of 16 bytes, see
// fits_tensor_map.
template <size_t RANK>
ptx::TensorMap tensor_map(const Launcher& launch, const char* op, const void* data, ScalarType dtype,
                          std::array<int64_t, RANK> sizes, std::array<int64_t, RANK - 1> strides,
                          std::array<int, RANK> box, ptx::Swizzle swizzle) {
  const int bytes = dtype == ScalarType::Float ? 4 : 2;
  std::array<cuuint64_t, RANK> extent{};
  std::array<cuuint64_t, RANK - 1> pitch{};
  std::array<cuuint32_t, RANK> box_size{}, step{};
  for (size_t i = 0; i < RANK; ++i) extent[i] = sizes[i], box_size[i] = box[i], step[i] = 1;
  for (size_t i = 0; i + 1 < RANK; ++i) pitch[i] = sizes[i + 1] == 1 ? 16 : bytes * strides[i];
  const auto pattern = swizzle == ptx::Swizzle::B128  ? CU_TENSOR_MAP_SWIZZLE_128B
                       : swizzle == ptx::Swizzle::B64 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                      : CU_TENSOR_MAP_SWIZZLE_32B;
  const auto type = dtype == ScalarType::BFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                    : dtype == ScalarType::Half   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                  : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const auto encode = tensor_map_encoder(launch);
  STGT_CHECK(op, encode != nullptr, "the CUDA driver is too old for tensor maps; it must be that of CUDA 12 or later");
  ptx::TensorMap map;
  const CUresult result = encode(&map, type, RANK, const_cast<void*>(data), extent.data(), pitch.data(),
                                 box_size.data(), step.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, pattern,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  STGT_CHECK(op, result == CUDA_SUCCESS, "the CUDA driver refused a tensor map, error ", int(result));
  return map;
}

// Returns whether the copy engine can take a tensor of 16-bit values. This depends on where the tensor starts and on
// all its strides but the last one.
inline bool fits_tensor_map(const Tensor& x) {
  if (reinterpret_cast<uintptr_t>(x.data_ptr()) % 16) return false;
  for (int64_t dim = 0; dim + 1 < x.dim(); ++dim)
    if (x.size(dim) > 1 && x.stride(dim) % 8) return false;
  return true;
}

}  // namespace stgt
