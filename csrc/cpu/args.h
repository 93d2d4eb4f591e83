// Plain arguments of the CPU kernels. The registered ops check their tensors, and hand these structs to the code of one
// instruction set.
#pragma once
#include <cstdint>

#include "edge_attention_args.h"

namespace stgt {

constexpr int64_t TILE = 64;        // tokens of one frame in a block of rows or columns, and in a tile of `live`
constexpr int64_t ROW_BLOCK = 256;  // rows of one frame per task

enum class Dtype : int { f32, f64, bf16, f16 };

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A (B, H, N, D) tensor with a contiguous last dimension.
struct Heads {
  void* data;
  int64_t b, h, n;  // strides, in elements

  template <class S> S* rows(int64_t sample, int64_t head, int64_t token) const {
    return static_cast<S*>(data) + sample * b + head * h + token * n;
  }
};

struct GraphAttentionArgs {
  Dtype dtype;
  bool half_weight;          // whether weight is float16; otherwise it has the accumulator's type
  int64_t B, H, T, P, W, D;  // W: the window; the band has 2W+1 frames
  double scale;
  uint32_t drop_threshold;  // an edge is dropped if its 16 random bits are below it; 0: no dropout
  uint64_t seed;
  Heads q, k, v;
  const void* weight;    // (B, T, P, 2W+1, P) contiguous: float, double, or float16 if q is half-precision as well
  const bool* live;      // (B, T, tiles, 2W+1, tiles) contiguous
  Heads out;             // written forward, read backward
  void* lse;             // (B, H, N) contiguous, float or double: written forward, read backward
  Heads dout;            // backward
  const void* dlse;      // (B, H, N) contiguous, like lse; null stands for zeros
  void* delta;           // (B, H, N) contiguous, like lse; written, and read for dweight
  Heads dq, dk, dv;      // written
  void* dweight;         // like weight, which then is not float16; zeros before the call; null if not wanted
  int64_t segments = 1;  // backward: parts of a head's row frames, each of at least 2W frames
  void* shared;          // backward: what segments share, see graph_attention_borders.h

  int64_t tiles() const { return ceil_div(P, TILE); }
  int64_t band() const { return 2 * W + 1; }
  int64_t row_blocks() const { return ceil_div(P, ROW_BLOCK); }
  double product() const { return double(B * H) * double(T * P) * double(band() * P) * double(D); }  // multiply-adds
  int64_t first_frame(int64_t segment) const { return T * segment / segments; }
  // The weight of the edge from token `row` of the clip to column j of the frame at offset o.
  template <class WT> const WT* edges(int64_t b, int64_t row, int64_t o, int64_t j) const {
    return static_cast<const WT*>(weight) + ((b * T * P + row) * band() + o) * P + j;
  }
};

// The parts into which the row frames of each head are cut in the backward pass, so that every thread has work: as many
// as the threads need, but at most as many as have 2W frames each.
constexpr int64_t graph_attention_bwd_segments(int64_t heads, int64_t T, int64_t W, int64_t threads) {
  const int64_t wanted = heads > 0 ? ceil_div(threads, heads) : 1, most = T / (W > 0 ? 2 * W : 1);
  return wanted < most ? wanted : most > 0 ? most : 1;
}

struct SpatioTemporalGraphArgs {
  Dtype dtype;
  bool half_weight;  // forward: whether weight is float16; otherwise it has the accumulator's type
  int64_t B, T, P, C, W;
  double threshold;
  const void* x;        // (B, T, P, C) contiguous
  void* weight;         // (B, T, P, 2W+1, P)
  bool* live;           // (B, T, tiles, 2W+1, tiles)
  void* inv_norm;       // (B, T, P), float or double; 0 for a token of zeros and for one that is not finite; negative
                        // for one of denormal numbers (spatio_temporal_graph_scale_norms)
  bool* out_of_range;   // forward: set to true if squares of a finite token over- or underflow
  const void* dweight;  // backward, like weight
  void* dx;             // like x

  int64_t tiles() const { return ceil_div(P, TILE); }
  int64_t band() const { return 2 * W + 1; }
  double product() const { return double(B * T) * double(P) * double(band() * P) * double(C); }  // multiply-adds
};

struct DenseAttentionArgs {
  Dtype dtype;            // f32 or f64, of all tensors
  int64_t B, H, M, N, D;  // M queries and N keys in each head
  double scale;
  Heads q, k, v;
  Heads bias;        // (B, H, M, N), added to the scaled scores; null data stands for zeros
  Heads out;         // written forward, read backward
  void* stats;       // (B, H, M, 2) contiguous: each row's maximum and 1 / sum; written forward, read backward
  Heads dout;        // backward
  Heads dq, dk, dv;  // written

  int64_t tiles() const { return ceil_div(N, TILE); }  // of keys
  int64_t row_blocks() const { return ceil_div(M, ROW_BLOCK); }
  double product() const { return double(B * H) * double(M) * double(N) * double(D); }  // multiply-adds
};

struct LinearArgs {
  // Blocks of out and dx, and how much of the contracted dimension is added to them at a time.
  static constexpr int64_t ROWS = 48, COLUMNS = 128, DEPTH = 768;
  // Blocks of dweight, outputs by inputs, and how many rows of x and dout are added to them at a time.
  static constexpr int64_t OUTPUTS = 24, INPUTS = 384, SUMMED_ROWS = 384;

  int64_t M, N, K;  // rows, outputs and inputs
  const float* x;   // (M, K) with a contiguous last dimension
  int64_t x_row;
  const float *weight, *bias;  // (N, K) and (N) contiguous; bias may be null
  float* out;                  // (M, N) contiguous; written forward
  const float* dout;           // (M, N) with a contiguous last dimension
  int64_t dout_row;
  float *dx, *dweight, *dbias;  // (M, K), (N, K) and (N) contiguous; written backward
  float* weight_sums;           // (parts, N, K) contiguous; that of one part is dweight
  double* bias_sums;            // (parts, N) contiguous, zeros at first

  int64_t row_blocks() const { return ceil_div(M, ROWS); }
  int64_t output_blocks() const { return ceil_div(N, OUTPUTS); }
  int64_t weight_blocks() const { return ceil_div(K, INPUTS) * output_blocks(); }
  // The number of parts of the rows: so many that there are about 64 tasks for the threads, and no more, since the sums
  // of parts have to be added. Each part has at least 1024 rows.
  int64_t parts() const {
    const int64_t enough = ceil_div(64, weight_blocks()), most = M / 1024;
    return most < 2 ? 1 : enough < most ? enough : most;
  }
  int64_t first_row(int64_t part) const { return M * part / parts(); }
  double product() const { return double(M) * double(N) * double(K); }  // multiply-adds
};

// The kernels of one instruction set. Each runs the tasks [begin, end), and needs a workspace of as many bytes as its
// function with the name `..._workspace` returns.
struct Kernels {
  const char* name;
  int64_t (*graph_attention_fwd_workspace)(const GraphAttentionArgs&);
  void (*graph_attention_fwd)(const GraphAttentionArgs&, int64_t begin, int64_t end, char* workspace);
  int64_t (*graph_attention_bwd_workspace)(const GraphAttentionArgs&);
  void (*graph_attention_bwd)(const GraphAttentionArgs&, int64_t begin, int64_t end, char* workspace);
  int64_t (*graph_attention_bwd_shared)(const GraphAttentionArgs&);
  void (*graph_attention_bwd_join)(const GraphAttentionArgs&, int64_t begin, int64_t end);
  int64_t (*graph_attention_bwd_dweight_workspace)(const GraphAttentionArgs&);
  void (*graph_attention_bwd_dweight)(const GraphAttentionArgs&, int64_t begin, int64_t end, char* workspace);
  int64_t (*spatio_temporal_graph_fwd_workspace)(const SpatioTemporalGraphArgs&);
  void (*spatio_temporal_graph_fwd)(const SpatioTemporalGraphArgs&, int64_t begin, int64_t end, char* workspace);
  void (*spatio_temporal_graph_scale_tokens)(const SpatioTemporalGraphArgs&, void* scaled, int64_t begin, int64_t end);
  void (*spatio_temporal_graph_scale_norms)(const SpatioTemporalGraphArgs&, int64_t begin, int64_t end);
  int64_t (*spatio_temporal_graph_bwd_workspace)(const SpatioTemporalGraphArgs&);
  void (*spatio_temporal_graph_bwd)(const SpatioTemporalGraphArgs&, int64_t begin, int64_t end, char* workspace);
  int64_t (*dense_attention_fwd_workspace)(const DenseAttentionArgs&);
  void (*dense_attention_fwd)(const DenseAttentionArgs&, int64_t begin, int64_t end, char* workspace);
  int64_t (*dense_attention_bwd_workspace)(const DenseAttentionArgs&);
  void (*dense_attention_bwd)(const DenseAttentionArgs&, int64_t begin, int64_t end, char* workspace);
  int64_t (*linear_workspace)();
  void (*linear_fwd)(const LinearArgs&, int64_t begin, int64_t end, char* workspace);
  void (*linear_bwd_x)(const LinearArgs&, int64_t begin, int64_t end, char* workspace);
  void (*linear_bwd_weight)(const LinearArgs&, int64_t begin, int64_t end, char* workspace);
  void (*linear_bwd_join)(const LinearArgs&, int64_t begin, int64_t end);
  int64_t (*edge_attention_workspace)(const EdgeAttentionArgs&);
  void (*edge_attention_fwd)(const EdgeAttentionArgs&, int64_t begin, int64_t end, char* workspace);
  void (*edge_attention_bwd_rows)(const EdgeAttentionArgs&, int64_t begin, int64_t end, char* workspace);
  void (*edge_attention_bwd_columns)(const EdgeAttentionArgs&, int64_t begin, int64_t end, char* workspace);
};

const Kernels& kernels();  // those of the best instruction set that this machine runs

}  // namespace stgt
