// spatio_temporal_graph_fwd and spatio_temporal_graph_bwd for CUDA tensors: checks, outputs, the choice of a kernel.
#include "../../tensors.h"
#include "../common/launch.h"
#include "../common/tensor_map.h"
#include "bwd_fp32.cuh"
#include "bwd_sm80.cuh"
#include "fwd_fp32.cuh"
#include "fwd_rescue.cuh"
#include "fwd_sm80.cuh"
#include "fwd_sm90.cuh"

#include <algorithm>
#include <climits>
#include <tuple>
#include <type_traits>

namespace stgt {
namespace {

using graph::GraphParams;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

GraphParams checked(const char* op, const Tensor& x, int64_t window) {
  STGT_CHECK(op, x.dim() == 4, "x must be (B, T, P, C), got ", x.dim(), " dimensions");
  STGT_CHECK(op, x.numel() > 0, "x must not be empty, got (", x.size(0), ", ", x.size(1), ", ", x.size(2), ", ",
             x.size(3), ")");
  const ScalarType dtype = x.scalar_type();
  STGT_CHECK(op, dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
             "x must be float32, bfloat16 or float16, got ", dtype_name(dtype));
  for (int64_t size : x.sizes())
    STGT_CHECK(op, size <= INT_MAX / 2, "x must have sizes of at most ", INT_MAX / 2, ", got ", size);
  STGT_CHECK(op, 0 <= window && window < x.size(1), "window must satisfy 0 <= window < T=", x.size(1), ", got ",
             window);
  GraphParams p{};
  p.B = int(x.size(0)), p.T = int(x.size(1)), p.P = int(x.size(2)), p.C = int(x.size(3)), p.W = int(window);
  return p;
}

dim3 grid(const char* op, int64_t blocks) {
  STGT_CHECK(op, blocks <= INT_MAX, "x is too large: ", blocks, " blocks");
  return dim3(unsigned(blocks));
}

dim3 forward_grid(const char* op, const GraphParams& p, int rows, int columns) {
  return grid(op, int64_t(p.B) * p.T * (p.W + 1) * ceil_div(p.P, rows) * ceil_div(p.P, columns));
}

template <class T, bool WIDE> void rescue(const char* op, const Launcher& launch, const GraphParams& p) {
  launch(graph::spatio_temporal_graph_fwd_rescue<T, WIDE>, grid(op, int64_t(p.B) * p.T * ceil_div(p.P, graph::TILE)),
         graph::RESCUE_THREADS, 0, p);
}

template <class T, bool WIDE>
void forward_half(const char* op, const Launcher& launch, const GraphParams& p, const Tensor& x) {
  if (launch.runs_sm90a() && fits_tensor_map(x)) {
    using S = graph::ForwardSm90;
    const auto map = tensor_map<3>(launch, op, p.x, x.scalar_type(), {p.C, p.P, int64_t(p.B) * p.T},
                                   {p.C, int64_t(p.P) * p.C}, {S::DEPTH, graph::TILE, 1}, ptx::Swizzle::B128);
    launch(graph::spatio_temporal_graph_fwd_sm90<T, WIDE>, forward_grid(op, p, S::ROWS, S::COLUMNS), S::THREADS,
           S::SHARED_BYTES, p, map);
  } else {
    using S = graph::ForwardSm80<WIDE>;
    launch(graph::spatio_temporal_graph_fwd_sm80<T, WIDE>, forward_grid(op, p, S::ROWS, S::ROWS), S::THREADS,
           S::SHARED_BYTES, p);
  }
  if constexpr (std::is_same_v<T, ptx::bf16>) rescue<T, WIDE>(op, launch, p);
}

template <class T>
void forward_half(const char* op, const Launcher& launch, const GraphParams& p, const Tensor& x, bool wide) {
  wide ? forward_half<T, true>(op, launch, p, x) : forward_half<T, false>(op, launch, p, x);
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor x, double threshold, int64_t window, bool differentiable) {
  const char* op = "spatio_temporal_graph_fwd";
  GraphParams p = checked(op, x, window);
  const Launcher launch(op, x);
  x = as_contiguous(x);
  const ScalarType dtype = x.scalar_type();
  const int64_t B = p.B, T = p.T, P = p.P, band = 2 * window + 1, tiles = ceil_div(P, graph::TILE);
  Tensor weight = new_tensor(op, "weight", x, {B, T, P, band, P}, weight_dtype(dtype, differentiable));
  Tensor live = new_tensor(op, "live", x, {B, T, tiles, band, tiles}, ScalarType::Bool);
  Tensor norms = new_tensor(op, "inv_norm", x, {B * T * P + 1}, ScalarType::Float);  // the last element is last_block
  p.threshold = float(threshold), p.x = x.data_ptr(), p.weight = weight.data_ptr();
  p.live = static_cast<bool*>(live.data_ptr()), p.inv_norm = static_cast<float*>(norms.data_ptr());
  p.last_block = reinterpret_cast<uint32_t*>(p.inv_norm + B * T * P);
  // Norms become NaN, which means that they are not computed yet, and last_block becomes -1.
  launch.fill_bytes(p.inv_norm, 0xff, (B * T * P + 1) * sizeof(float));
  switch (dtype) {
    case ScalarType::BFloat16: forward_half<ptx::bf16>(op, launch, p, x, differentiable); break;
    case ScalarType::Half: forward_half<ptx::f16>(op, launch, p, x, differentiable); break;
    default:
      launch(graph::spatio_temporal_graph_fwd_fp32, forward_grid(op, p, graph::TILE, graph::TILE),
             graph::ForwardFp32::THREADS, graph::ForwardFp32::SHARED_BYTES, p);
      rescue<float, true>(op, launch, p);
  }
  return {weight, live, torch::stable::view(torch::stable::narrow(norms, 0, 0, B * T * P), {B, T, P})};
}

template <class S>
void backward_with(const char* op, const Launcher& launch, const GraphParams& p, void (*kernel)(GraphParams)) {
  launch(kernel, grid(op, int64_t(p.B) * p.T * ceil_div(p.P, S::ROWS) * ceil_div(p.C, S::DEPTH)), S::THREADS,
         S::SHARED_BYTES, p);
}

Tensor backward(Tensor dweight, Tensor x, Tensor weight, Tensor inv_norm) {
  const char* op = "spatio_temporal_graph_bwd";
  STGT_CHECK(op, weight.dim() == 5, "weight must be (B, T, P, 2w+1, P), got ", weight.dim(), " dimensions");
  GraphParams p = checked(op, x, weight.size(3) / 2);
  for (const auto& [name, tensor] : {std::pair{"weight", &weight}, std::pair{"dweight", &dweight}}) {
    check_shape(op, name, *tensor, {p.B, p.T, p.P, 2 * p.W + 1, p.P});
    check_dtype(op, name, *tensor, ScalarType::Float);
    check_device(op, name, *tensor, x);
  }
  check_shape(op, "inv_norm", inv_norm, {p.B, p.T, p.P});
  check_dtype(op, "inv_norm", inv_norm, ScalarType::Float);
  check_device(op, "inv_norm", inv_norm, x);
  const Launcher launch(op, x);
  x = as_contiguous(x), weight = as_contiguous(weight);
  dweight = as_contiguous(dweight), inv_norm = as_contiguous(inv_norm);
  Tensor dx = new_tensor(op, "dx", x, {p.B, p.T, p.P, p.C}, x.scalar_type());
  Tensor largest = new_tensor(op, "largest", x, {1}, ScalarType::Float);
  p.x = x.data_ptr(), p.weight = weight.data_ptr(), p.dx = dx.data_ptr();
  p.dweight = static_cast<const float*>(dweight.data_ptr());
  p.inv_norm = static_cast<float*>(inv_norm.data_ptr());
  switch (x.scalar_type()) {
    case ScalarType::BFloat16:
      backward_with<graph::Backward>(op, launch, p, graph::spatio_temporal_graph_bwd_sm80<ptx::bf16>);
      break;
    case ScalarType::Half:
      launch.fill_bytes(largest.data_ptr(), 0, sizeof(float));
      p.largest = static_cast<const uint32_t*>(largest.data_ptr());
      launch(graph::spatio_temporal_graph_bwd_largest,
             grid(op, std::min<int64_t>(ceil_div(dweight.numel(), 4096), 1024)), graph::LARGEST_THREADS, 0, p.dweight,
             dweight.numel(), static_cast<uint32_t*>(largest.data_ptr()));
      backward_with<graph::Backward>(op, launch, p, graph::spatio_temporal_graph_bwd_sm80<ptx::f16>);
      break;
    default: backward_with<graph::BackwardFp32>(op, launch, p, graph::spatio_temporal_graph_bwd_fp32);
  }
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CUDA, m) {
  m.impl("spatio_temporal_graph_fwd", TORCH_BOX(&forward));
  m.impl("spatio_temporal_graph_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
