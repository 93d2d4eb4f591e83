// graph_attention_fwd and graph_attention_bwd for CUDA tensors: checks, outputs, the choice of a path.
#include "../../tensors.h"
#include "bwd_delta.cuh"
#include "launch.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

namespace stgt {
namespace {

// The stride of a dimension of one element does not matter, and 0 suits every kernel.
Strides strides(const Tensor& x) {
  const auto at = [&](int dim) { return x.size(dim) == 1 ? 0 : x.stride(dim); };
  return {at(0), at(1), at(2)};
}

// Returns whether Hopper's copy engine takes the layout of a (B, H, N, D) tensor. The engine needs multiples of 16
// bytes, and cuda.h does not say that it can repeat an expanded dimension.
bool fits_copies(const Tensor& x) {
  const auto suits = [&](int dim) { return x.size(dim) == 1 || (x.stride(dim) > 0 && x.stride(dim) % 8 == 0); };
  return reinterpret_cast<uintptr_t>(x.data_ptr()) % 16 == 0 && x.stride(3) == 1 && suits(0) && suits(1) && suits(2);
}

// Returns x, or a copy if the kernels do not take its layout. hopper: whether they are the kernels for Hopper.
Tensor suited(const char* op, const char* name, const Tensor& x, bool hopper) {
  if (hopper ? fits_copies(x) : x.size(3) == 1 || x.stride(3) == 1) return x;
  Tensor copy = new_heads_last(op, name, x);
  return torch::stable::copy_(copy, x);
}

AttentionParams checked(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weight,
                        const Tensor& live, const std::optional<Tensor>& seed, double scale, double dropout_p) {
  STGT_CHECK(op, q.dim() == 4 && weight.dim() == 5, "q must be (B, H, N, D) and weight (B, T, P, 2w+1, P), got ",
             q.dim(), " and ", weight.dim(), " dimensions");
  const ScalarType dtype = q.scalar_type();
  STGT_CHECK(op, dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
             "q must be float32, bfloat16 or float16, got ", dtype_name(dtype));
  STGT_CHECK(op, 1 <= q.size(3) && q.size(3) <= 128, "q must have 1 <= D <= 128, got ", q.size(3));
  STGT_CHECK(op, q.size(2) <= INT32_MAX && q.size(0) * q.size(1) <= INT32_MAX, "q must have N and B * H of at most ",
             INT32_MAX, ", got N=", q.size(2), " and B * H=", q.size(0) * q.size(1));
  AttentionParams p{};
  p.B = int(q.size(0)), p.H = int(q.size(1)), p.D = int(q.size(3));
  p.T = int(weight.size(1)), p.P = int(weight.size(2)), p.W = int(weight.size(3) / 2), p.scale = float(scale);
  const int64_t N = int64_t(p.T) * p.P, tiles = (p.P + TILE - 1) / TILE, band = 2 * p.W + 1;
  check_shape(op, "q", q, {p.B, p.H, N, p.D});
  check_shape(op, "weight", weight, {p.B, p.T, p.P, band, p.P});
  check_weight_dtype(op, weight, dtype);
  check_shape(op, "live", live, {p.B, p.T, tiles, band, tiles});
  check_dtype(op, "live", live, ScalarType::Bool);
  for (const auto& [name, tensor] : {std::pair{"k", &k}, std::pair{"v", &v}}) {
    check_shape(op, name, *tensor, {p.B, p.H, N, p.D});
    check_dtype(op, name, *tensor, dtype);
  }
  for (const auto& [name, tensor] :
       {std::pair{"k", &k}, std::pair{"v", &v}, std::pair{"weight", &weight}, std::pair{"live", &live}})
    check_device(op, name, *tensor, q);
  p.inverse_keep = 1;
  if (dropout_p > 0) {
    STGT_CHECK(op, dropout_p < 1 && seed, "dropout needs a seed and a probability below 1, got ", dropout_p,
               seed ? " and a seed" : " and no seed");
    check_shape(op, "seed", *seed, {1});
    check_dtype(op, "seed", *seed, ScalarType::Long);
    check_device(op, "seed", *seed, q);
    p.drop_threshold = uint32_t(std::min(std::nearbyint(dropout_p * 65536), 65535.0));
    p.inverse_keep = 65536.0f / float(65536 - p.drop_threshold);
    p.seed = static_cast<const int64_t*>(seed->data_ptr());
  }
  return p;
}

// Returns whether weights are float32 and q has half precision. There are separate kernels for this combination.
bool is_wide(const Tensor& q, const Tensor& weight) {
  return q.scalar_type() != ScalarType::Float && weight.scalar_type() == ScalarType::Float;
}

void point_at_inputs(AttentionParams& p, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& weight,
                     const Tensor& live) {
  p.q = q.data_ptr(), p.k = k.data_ptr(), p.v = v.data_ptr();
  p.q_at = strides(q), p.k_at = strides(k), p.v_at = strides(v);
  p.weight = weight.data_ptr(), p.live = static_cast<const bool*>(live.data_ptr());
}

// Returns the weights as Hopper's copy engine takes them: `weight` itself, or a copy whose rows are aligned.
Tensor with_aligned_rows(const AttentionCall& call, const Tensor& weight) {
  const int64_t chunk = call.wide ? 4 : 8, P = call.p.P, pitch = (P + chunk - 1) / chunk * chunk;
  if (pitch == P && reinterpret_cast<uintptr_t>(weight.data_ptr()) % 16 == 0) return weight;
  Tensor aligned = new_tensor(call.op, "aligned weights", weight, {call.p.B, call.p.T, P, 2 * call.p.W + 1, pitch},
                              weight.scalar_type());
  align_weights(call, aligned.data_ptr(), int(pitch));
  return aligned;
}

std::tuple<Tensor, Tensor> forward(Tensor q, Tensor k, Tensor v, Tensor weight, Tensor live, std::optional<Tensor> seed,
                                   double scale, double dropout_p) {
  const char* op = "graph_attention_fwd";
  AttentionParams p = checked(op, q, k, v, weight, live, seed, scale, dropout_p);
  const Launcher launch(op, q);
  const bool hopper = q.scalar_type() != ScalarType::Float && fits_sm90(launch, p);
  q = suited(op, "q", q, hopper), k = suited(op, "k", k, hopper), v = suited(op, "v", v, hopper);
  weight = as_contiguous(weight), live = as_contiguous(live);
  Tensor out = new_heads_last(op, "out", q);
  Tensor lse = new_tensor(op, "lse", q, {p.B, p.H, int64_t(p.T) * p.P}, ScalarType::Float);
  if (q.numel() == 0) return {out, lse};
  point_at_inputs(p, q, k, v, weight, live);
  p.out = out.data_ptr(), p.lse = static_cast<float*>(lse.data_ptr());
  AttentionCall call{op, launch, q.scalar_type(), is_wide(q, weight), p};
  if (call.dtype == ScalarType::Float) {
    forward_fp32(call);
  } else if (hopper) {
    const Tensor aligned = with_aligned_rows(call, weight);
    call.weight_rows = {aligned.data_ptr(), aligned.size(4)};
    forward_sm90(call);
  } else {
    forward_sm80(call);
  }
  return {out, lse};
}

void compute_delta(const AttentionCall& call, const float* dlse, float* delta) {
  const auto kernel = call.dtype == ScalarType::Float      ? graph_attention_bwd_delta<float>
                      : call.dtype == ScalarType::BFloat16 ? graph_attention_bwd_delta<ptx::bf16>
                                                           : graph_attention_bwd_delta<ptx::f16>;
  call.launch(kernel, call.grid(int64_t(call.p.B) * call.p.T * call.p.P), DELTA_THREADS, 0, call.p, dlse, delta);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor weight,
                                                    Tensor live, std::optional<Tensor> seed, Tensor out, Tensor lse,
                                                    std::optional<Tensor> dlse, double scale, double dropout_p,
                                                    bool need_dweight) {
  const char* op = "graph_attention_bwd";
  AttentionParams p = checked(op, q, k, v, weight, live, seed, scale, dropout_p);
  const int64_t N = int64_t(p.T) * p.P;
  for (const auto& [name, tensor] : {std::pair{"dout", &dout}, std::pair{"out", &out}}) {
    check_shape(op, name, *tensor, {p.B, p.H, N, p.D});
    check_dtype(op, name, *tensor, q.scalar_type());
    check_device(op, name, *tensor, q);
  }
  check_shape(op, "lse", lse, {p.B, p.H, N});
  check_dtype(op, "lse", lse, ScalarType::Float);
  check_device(op, "lse", lse, q);
  if (dlse) {
    check_shape(op, "dlse", *dlse, {p.B, p.H, N});
    check_dtype(op, "dlse", *dlse, ScalarType::Float);
    check_device(op, "dlse", *dlse, q);
    dlse = as_contiguous(*dlse);
  }
  const Launcher launch(op, q);
  const bool hopper = q.scalar_type() != ScalarType::Float && fits_sm90(launch, p);
  q = suited(op, "q", q, hopper), k = suited(op, "k", k, hopper), v = suited(op, "v", v, hopper);
  dout = suited(op, "dout", dout, hopper);
  weight = as_contiguous(weight), live = as_contiguous(live);
  lse = as_contiguous(lse), out = torch::stable::contiguous(torch::stable::transpose(out, 1, 2));
  Tensor dq = new_heads_last(op, "dq", q), dk = new_heads_last(op, "dk", q), dv = new_heads_last(op, "dv", q);
  Tensor delta = new_tensor(op, "delta", lse, {p.B, p.H, N}, ScalarType::Float);
  Tensor dweight = new_tensor(op, "dweight", weight, {0}, weight.scalar_type());
  point_at_inputs(p, q, k, v, weight, live);
  p.dout = dout.data_ptr(), p.dout_at = strides(dout), p.out = out.data_ptr();
  p.lse = static_cast<float*>(lse.data_ptr()), p.delta = static_cast<const float*>(delta.data_ptr());
  p.dq = dq.data_ptr(), p.dk = dk.data_ptr(), p.dv = dv.data_ptr();
  if (need_dweight) {
    STGT_CHECK(op, weight.scalar_type() == ScalarType::Float,
               "gradients of weights need weights in float32, got float16");
    dweight = new_tensor(op, "dweight", weight, {p.B, p.T, p.P, 2 * p.W + 1, p.P}, ScalarType::Float);
    p.dweight = dweight.data_ptr();
  }
  if (q.numel() == 0) {
    // There may be weights even so, but no heads whose gradients could be added up.
    if (dweight.numel() > 0) launch.fill_bytes(p.dweight, 0, dweight.numel() * int64_t(sizeof(float)));
    return {dq, dk, dv, dweight};
  }
  AttentionCall call{op, launch, q.scalar_type(), is_wide(q, weight), p};
  compute_delta(call, dlse ? static_cast<const float*>(dlse->data_ptr()) : nullptr,
                static_cast<float*>(delta.data_ptr()));
  if (call.dtype == ScalarType::Float) {
    backward_fp32(call);
    if (need_dweight) dweight_fp32(call);
  } else {
    if (hopper) {
      const Tensor aligned = with_aligned_rows(call, weight);
      call.weight_rows = {aligned.data_ptr(), aligned.size(4)};
      backward_sm90(call);
    } else {
      backward_sm80(call);
    }
    if (need_dweight) dweight_sm80(call);
  }
  return {dq, dk, dv, dweight};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stgt_kernels, CUDA, m) {
  m.impl("graph_attention_fwd", TORCH_BOX(&forward));
  m.impl("graph_attention_bwd", TORCH_BOX(&backward));
}

}  // namespace stgt
