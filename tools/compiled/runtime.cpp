// This file replaces the CUDA runtime and the parts of torch that call it, so that the host code of csrc/cuda runs on
// CPU tensors without a GPU. It refuses a launch if a GPU would refuse it, and otherwise records it. Nothing runs.
//
// launches.py links it with nvcc's objects into one library, which binds to its own functions (-Bsymbolic).
#include <cuda.h>
#include <cuda_runtime.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstring>
#include <map>
#include <sstream>
#include <string>

namespace {

struct Gpu { int major = 9, minor = 0, multiprocessors = 132, shared_limit = 227 * 1024; } gpu;

struct Configuration {
  dim3 blocks, threads;
  size_t shared;
  void* stream;
} pushed;

std::map<const void*, std::string> names;  // mangled names of the kernels, by the address of their host stubs
std::map<const void*, int> shared_limits;  // of the kernels that may use more than 48 KB
std::ostringstream written;                // one line per launch, per tensor map and per refusal
cudaError_t last_error = cudaSuccess;
int guards = 0;
void* const STREAM = reinterpret_cast<void*>(0x5712ea);

cudaError_t fail(cudaError_t error) { return last_error = error; }

CUresult refuse(const char* why) {
  written << "refused " << why << '\n';
  return CUDA_ERROR_INVALID_VALUE;
}

size_t element_size(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32: return 4;
    default: return 0;
  }
}

// Refuses the arguments that cuda.h excludes for this function. It also refuses strides of 0, which cuda.h leaves open.
CUresult encode_tiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                      CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const size_t bytes = element_size(type);
  if (gpu.major < 9) return refuse("a tensor map before compute capability 9.0");
  if (reinterpret_cast<uintptr_t>(map) % 64) return refuse("a tensor map that is not aligned to 64 bytes");
  if (bytes == 0 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE) return refuse("a type or layout not known here");
  if (rank < 1 || rank > 5) return refuse("a rank that is not 1 to 5");
  if (address == nullptr || reinterpret_cast<uintptr_t>(address) % 16) return refuse("an address not aligned to 16");
  written << "map " << rank << " box";
  for (cuuint32_t i = 0; i < rank; ++i) {
    written << ' ' << box[i];
    if (sizes[i] < 1 || sizes[i] > 1ull << 32) return refuse("a size that is not 1 to 2^32");
    if (box[i] < 1 || box[i] > 256) return refuse("a box that is not 1 to 256");
    if (steps[i] < 1 || steps[i] > 8) return refuse("an element stride that is not 1 to 8");
    if (i + 1 < rank && (strides[i] % 16 || strides[i] >= 1ull << 40)) return refuse("a stride not of 16 bytes");
    if (i + 1 < rank && strides[i] == 0) return refuse("a stride of 0");
  }
  written << '\n';
  if (box[0] * bytes % 16) return refuse("a box whose rows are not of 16 bytes");
  const size_t widths[] = {256 * bytes, 32, 64, 128};
  if (swizzle > CU_TENSOR_MAP_SWIZZLE_128B || box[0] * bytes > widths[swizzle])
    return refuse("a box that is wider than its swizzle");
  return CUDA_SUCCESS;
}

cudaError_t launch(const void* kernel, Configuration c) {
  const int limit = shared_limits.count(kernel) ? shared_limits[kernel] : 48 * 1024;
  const unsigned threads = c.threads.x * c.threads.y * c.threads.z;
  const bool fits = c.blocks.x >= 1 && c.blocks.x <= 0x7fffffff && c.blocks.y >= 1 && c.blocks.y <= 65535 &&
                    c.blocks.z >= 1 && c.blocks.z <= 65535 && threads >= 1 && threads <= 1024;
  if (!fits || c.shared > size_t(limit) || c.stream != STREAM || guards != 1) {
    written << "refused a launch of " << names[kernel] << ": " << c.blocks.x << ' ' << c.blocks.y << ' ' << c.blocks.z
            << " blocks of " << threads << " threads and " << c.shared << " bytes, stream " << c.stream << '\n';
    return fail(cudaErrorInvalidConfiguration);
  }
  written << "launch " << names[kernel] << ' ' << c.blocks.x << ' ' << c.blocks.y << ' ' << c.blocks.z << ' ' << threads
          << ' ' << c.shared << '\n';
  return cudaSuccess;
}

}  // namespace

extern "C" {

// For launches.py: become() sets the GPU, and launches() returns the lines since its last call.
void become(int major, int minor, int multiprocessors, int shared_limit) {
  gpu = {major, minor, multiprocessors, shared_limit};
  shared_limits.clear();
}
const char* launches() {
  static std::string text;
  text = written.str();
  written.str("");
  return text.c_str();
}

// The functions that nvcc's code calls to register kernels, and those for <<< >>>.
void** __cudaRegisterFatBinary(void*) { return nullptr; }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  names[stub] = name;
}
unsigned __cudaPushCallConfiguration(dim3 blocks, dim3 threads, size_t shared, void* stream) {
  pushed = {blocks, threads, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* blocks, dim3* threads, size_t* shared, void* stream) {
  *blocks = pushed.blocks, *threads = pushed.threads, *shared = pushed.shared;
  *static_cast<void**>(stream) = pushed.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 blocks, dim3 threads, void**, size_t shared, cudaStream_t s) {
  return launch(kernel, {blocks, threads, shared, s});
}

// The functions of the CUDA runtime that csrc/cuda calls.
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t) { return "refused by the replacement of the CUDA runtime (runtime.cpp)"; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  switch (which) {
    case cudaDevAttrComputeCapabilityMajor: *value = gpu.major; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = gpu.minor; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = gpu.multiprocessors; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = gpu.shared_limit; return cudaSuccess;
    default: return fail(cudaErrorInvalidValue);
  }
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute which, int value) {
  if (which != cudaFuncAttributeMaxDynamicSharedMemorySize || value > gpu.shared_limit) {
    written << "refused " << value << " bytes of shared memory for " << names[kernel] << '\n';
    return fail(cudaErrorInvalidValue);
  }
  shared_limits[kernel] = value;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int byte, size_t bytes, cudaStream_t stream) {
  if (stream != STREAM) return fail(cudaErrorInvalidValue);
  std::memset(memory, byte, bytes);
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  const bool known = std::string(name) == "cuTensorMapEncodeTiled";
  *function = known ? reinterpret_cast<void*>(&encode_tiled) : nullptr;
  if (result) *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

// Functions of torch that a build without CUDA lacks, or that would report the tensors' device as the CPU.
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = STREAM;
  return 0;
}
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  *guard = reinterpret_cast<DeviceGuardHandle>(&guards);
  ++guards;
  return 0;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  --guards;
  return 0;
}
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle, int32_t* type) {
  *type = aoti_torch_device_type_cuda();
  return 0;
}
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) {
  *index = 0;
  return 0;
}
AOTITorchError aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t* strides, int32_t dtype,
                                        int32_t, int32_t, AtenTensorHandle* made) {
  static const auto of_torch =
      reinterpret_cast<decltype(&aoti_torch_empty_strided)>(dlsym(RTLD_NEXT, "aoti_torch_empty_strided"));
  return of_torch(dims, sizes, strides, dtype, aoti_torch_device_type_cpu(), 0, made);
}

}  // extern "C"
