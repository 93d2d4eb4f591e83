// The kernels of graph attention, as functions that the op calls. Each launch_<architecture>.cu has those of one
// architecture.
#pragma once
#include "../common/launch.h"
#include "common.cuh"

namespace stgt {

// Weights whose rows begin at multiples of 16 bytes: `pitch` values from one row to the next.
struct WeightRows {
  const void* data;
  int64_t pitch;
};

struct AttentionCall {
  const char* op;
  const Launcher& launch;
  ScalarType dtype;
  bool wide;  // whether q has half precision and weights are float32
  AttentionParams p;
  WeightRows weight_rows{};  // for Hopper's kernels: the weights as the copy engine takes them

  // Returns a grid with one block for each head and for each `tokens` tokens of a frame.
  dim3 blocks(int tokens) const { return grid(int64_t(p.B) * p.T * p.H * ((p.P + tokens - 1) / tokens)); }

  dim3 grid(int64_t count) const {
    STGT_CHECK(op, count <= INT32_MAX, "q is too large: ", count, " blocks");
    return dim3(unsigned(count));
  }
};

// Calls f.template operator()<T, D, DROPOUT, WIDE>() with the type of the tensors, the smallest of 64, 88 and 128 that
// holds the head dimension, whether there is dropout, and whether weights are float32.
template <class F> void specialize(const AttentionCall& call, F f) {
  const auto with_type = [&]<class T>() {
    const auto with_dropout = [&]<int D, bool DROPOUT>() {
      call.wide ? f.template operator()<T, D, DROPOUT, true>() : f.template operator()<T, D, DROPOUT, false>();
    };
    const auto with_dim = [&]<int D>() {
      call.p.drop_threshold ? with_dropout.template operator()<D, true>()
                            : with_dropout.template operator()<D, false>();
    };
    if (call.p.D <= 64) return with_dim.template operator()<64>();
    if (call.p.D <= 88) return with_dim.template operator()<88>();
    with_dim.template operator()<128>();
  };
  call.dtype == ScalarType::BFloat16 ? with_type.template operator()<ptx::bf16>()
                                     : with_type.template operator()<ptx::f16>();
}

// These take half precision on Hopper. fits_sm90 says whether Hopper's kernels run here and support the sizes, the
// scale and dropout. The copy engine takes weights if their rows begin at multiples of 16 bytes, and align_weights
// copies others to rows that do.
bool fits_sm90(const Launcher& launch, const AttentionParams& p);
void align_weights(const AttentionCall& call, void* aligned, int pitch);
void forward_sm90(const AttentionCall& call);
void backward_sm90(const AttentionCall& call);
// These take half precision on every GPU from sm_80 on.
void forward_sm80(const AttentionCall& call);
void backward_sm80(const AttentionCall& call);
void dweight_sm80(const AttentionCall& call);
// These take float32.
void forward_fp32(const AttentionCall& call);
void backward_fp32(const AttentionCall& call);
void dweight_fp32(const AttentionCall& call);

}  // namespace stgt
