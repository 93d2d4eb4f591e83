// A linear layer, forward and backward: out = x w^T + bias in float32.
//
// A block of rows is multiplied with the whole weight, which is transposed once for all rows of a thread. The gradients
// of weight and bias are sums over parts of the rows. There are as many parts as the rows need, whatever the number of
// threads, so that threads change no bit.
#pragma once
#include "blocks.h"

namespace stgt::STGT_ISA {

inline constexpr int64_t SUMMED_ROWS = 192;  // rows whose operands lie in the second-level cache

// Multiplies a block of rows with `right` (K, width), and adds it to `first` in each row, if that is not null. Columns
// behind the last are cut off, for which `buffer` has room.
inline void multiply_rows(int64_t rows, int64_t columns, int64_t K, const float* left, int64_t stride,
                          const float* right, int64_t width, const float* first, float* to, float* buffer) {
  float* const block = columns == width ? to : buffer;
  if (first)
    for (int64_t r = 0; r < rows; ++r) memcpy(block + r * width, first, columns * sizeof(float));
  gemm(rows, width, K, left, stride, 1, right, width, block, width, first != nullptr);
  if (block != to)
    for (int64_t r = 0; r < rows; ++r) memcpy(to + r * columns, block + r * width, columns * sizeof(float));
}

struct LinearForward {
  int64_t width;  // N padded to whole vectors
  float *weight_t, *buffer;
  LinearForward(Arena& arena, const LinearArgs& args)
      : width(round_up(args.N, lanes<float>)),
        weight_t(arena.take<float>(args.K * width)),
        buffer(arena.take<float>(LinearArgs::ROWS * width)) {}
};

// The tasks are blocks of LinearArgs::ROWS rows.
inline void linear_fwd(const LinearArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  const LinearForward pass(arena, args);
  transposed_copy(args.weight, args.K, args.N, args.K, pass.weight_t, pass.width);
  memset(pass.buffer, 0, LinearArgs::ROWS * pass.width * sizeof(float));
  for (int64_t row = begin * LinearArgs::ROWS; row < least(args.M, end * LinearArgs::ROWS); row += LinearArgs::ROWS)
    multiply_rows(least(LinearArgs::ROWS, args.M - row), args.N, args.K, args.x + row * args.x_row, args.x_row,
                  pass.weight_t, pass.width, args.bias, args.out + row * args.N, pass.buffer);
}

struct LinearInputGradient {
  int64_t width;  // K padded to whole vectors
  float *weight, *buffer;
  LinearInputGradient(Arena& arena, const LinearArgs& args)
      : width(round_up(args.K, lanes<float>)),
        weight(arena.take<float>(width == args.K ? 0 : args.N * width)),
        buffer(arena.take<float>(LinearArgs::ROWS * width)) {}
};

// The gradient of x. The tasks are blocks of LinearArgs::ROWS rows.
inline void linear_bwd_x(const LinearArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  const LinearInputGradient pass(arena, args);
  const float* weight = args.weight;
  if (pass.width != args.K) copy_rows(weight, args.K, args.N, args.K, pass.weight, pass.width), weight = pass.weight;
  for (int64_t row = begin * LinearArgs::ROWS; row < least(args.M, end * LinearArgs::ROWS); row += LinearArgs::ROWS)
    multiply_rows(least(LinearArgs::ROWS, args.M - row), args.K, args.N, args.dout + row * args.dout_row, args.dout_row,
                  weight, pass.width, nullptr, args.dx + row * args.K, pass.buffer);
}

struct LinearWeightGradient {
  int64_t width;  // K padded to whole vectors
  float *x, *sums;
  LinearWeightGradient(Arena& arena, const LinearArgs& args)
      : width(round_up(args.K, lanes<float>)),
        x(arena.take<float>(width == args.K ? 0 : SUMMED_ROWS * width)),
        sums(arena.take<float>(width == args.K ? 0 : LinearArgs::OUTPUTS * width)) {}
};

// One part's sums of the gradients of weight and bias. The tasks are (part, block of OUTPUTS outputs).
inline void linear_bwd_weight(const LinearArgs& args, int64_t begin, int64_t end, char* workspace) {
  Arena arena{workspace};
  const LinearWeightGradient pass(arena, args);
  const int64_t K = args.K, N = args.N, width = pass.width;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t part = task / args.output_blocks(), n0 = task % args.output_blocks() * LinearArgs::OUTPUTS;
    const int64_t outputs = least(LinearArgs::OUTPUTS, N - n0), last = args.first_row(part + 1);
    float *const dbias = args.bias_sums + part * N + n0, *const dweight = args.weight_sums + (part * N + n0) * K;
    float* const sums = width == K ? dweight : pass.sums;
    memset(sums, 0, outputs * width * sizeof(float));
    memset(dbias, 0, outputs * sizeof(float));
    for (int64_t row = args.first_row(part); row < last; row += SUMMED_ROWS) {
      const int64_t rows = least(SUMMED_ROWS, last - row);
      const float *dout = args.dout + row * args.dout_row + n0, *x = args.x + row * args.x_row;
      if (width != K) copy_rows(x, args.x_row, rows, K, pass.x, width), x = pass.x;
      gemm(outputs, width, rows, dout, 1, args.dout_row, x, width == K ? args.x_row : width, sums, width, true);
      // Sums of sums round less than one running sum over all rows.
      float total[LinearArgs::OUTPUTS] = {};
      for (int64_t r0 = 0; r0 < rows; r0 += 16) {
        float sum[LinearArgs::OUTPUTS] = {};
        for (int64_t r = r0; r < least(rows, r0 + 16); ++r)
          for (int64_t n = 0; n < outputs; ++n) sum[n] += dout[r * args.dout_row + n];
        for (int64_t n = 0; n < outputs; ++n) total[n] += sum[n];
      }
      for (int64_t n = 0; n < outputs; ++n) dbias[n] += total[n];
    }
    if (width != K)
      for (int64_t n = 0; n < outputs; ++n) memcpy(dweight + n * K, sums + n * width, K * sizeof(float));
  }
}

// Adds the sums of all parts. The tasks are outputs.
inline void linear_bwd_join(const LinearArgs& args, int64_t begin, int64_t end) {
  const auto add = [&](const float* sums, int64_t size, int64_t first, int64_t last, float* to) {
    memcpy(to + first, sums + first, (last - first) * sizeof(float));
    for (int64_t part = 1; part < args.parts(); ++part)
      for (int64_t i = first; i < last; ++i) to[i] += sums[part * size + i];
  };
  add(args.weight_sums, args.N * args.K, begin * args.K, end * args.K, args.dweight);
  add(args.bias_sums, args.N, begin, end, args.dbias);
}

template <class Pass> int64_t linear_workspace(const LinearArgs& args) {
  Arena arena{nullptr};
  Pass(arena, args);
  return arena.used;
}

}  // namespace stgt::STGT_ISA
