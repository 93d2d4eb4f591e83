// The host's side of every CUDA op: the device of its tensors and the current stream, whether the GPU runs Hopper's
// kernels, and launches whose errors start with the op's name. Nothing here waits for the GPU, so launches can be
// captured.
#pragma once
#include "../../checks.h"

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <string_view>
#include <utility>

namespace stgt {

// The device and stream of an op. It makes the device of `tensor` the current one for as long as it lives. All other
// tensors of the op must be on the same device (check_device). Example:
//   const Launcher launch("my_op", x);
//   if (launch.runs_sm90a()) launch(kernel_sm90<...>, blocks, threads, shared_bytes, arguments...);
class Launcher {
 public:
  Launcher(const char* op, const Tensor& tensor) : op_(op), device_(tensor.get_device_index()), guard_(device_) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream));
    stream_ = static_cast<cudaStream_t>(stream);
    capability_ = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
  }

  // Whether kernels for sm_90a run here. They run on no other GPU, and only if they were built.
  bool runs_sm90a() const {
    return capability_ == 90 && std::string_view(STGT_CUDA_ARCHITECTURES).find("9.0a") != std::string_view::npos;
  }

  int multiprocessors() const { return attribute(cudaDevAttrMultiProcessorCount); }

  // Launches kernel<<<blocks, threads, shared_bytes>>>(arguments...) on the current stream.
  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared_bytes,
                  Arguments&&... arguments) const {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
    kernel<<<blocks, threads, shared_bytes, stream_>>>(std::forward<Arguments>(arguments)...);
    check(cudaGetLastError());
  }

  // Sets each of the `bytes` bytes of device memory from `memory` on to `byte`, on the current stream.
  void fill_bytes(void* memory, int byte, int64_t bytes) const { check(cudaMemsetAsync(memory, byte, bytes, stream_)); }

  // Raises an error that names the op if a call of CUDA has failed.
  void check(cudaError_t error) const {
    if (error == cudaSuccess) return;
    (void)cudaGetLastError();  // otherwise the next launch of any library would report it again
    STGT_CHECK(op_, error != cudaErrorNoKernelImageForDevice && error != cudaErrorInvalidDeviceFunction,
               "built for CUDA architectures ", STGT_CUDA_ARCHITECTURES, ", none of which runs on this GPU, sm_",
               capability_, "; rebuild with TORCH_CUDA_ARCH_LIST, or ask for another backend");
    STGT_CHECK(op_, false, cudaGetErrorString(error));
  }

 private:
  const char* op_;
  int device_, capability_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;

  int attribute(cudaDeviceAttr which) const {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device_));
    return value;
  }
};

// Raises an error unless x is on the same GPU as `reference`.
inline void check_device(const char* op, const char* name, const Tensor& x, const Tensor& reference) {
  const int expected = int(reference.get_device_index()), device = int(x.get_device_index());
  STGT_CHECK(op, x.is_cuda(), name, " must be on cuda:", expected, ", got a tensor that is not on a GPU");
  STGT_CHECK(op, device == expected, name, " must be on cuda:", expected, ", got cuda:", device);
}

}  // namespace stgt
