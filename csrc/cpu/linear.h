// A linear layer, forward and backward: out = x w^T + bias in float32.
//
// Results are computed in blocks, each as a sum over parts of the contracted dimension. A part of the right operand
// stays in the second-level cache while all rows of a thread are multiplied with it. Where the blocks and parts begin
// follows from the sizes alone, so the number of threads changes no bit.
#pragma once
#include "blocks.h"

namespace stgt::STGT_ISA {

// A block of consecutive columns, and their number padded to whole vectors.
struct Columns {
  int64_t first, count, width;
  Columns(int64_t first, int64_t end, int64_t most)
      : first(first), count(least(most, end - first)), width(round_up(count, lanes<float>)) {}
};

// Copies of a part of the right operand and of a block of results, with padded columns.
struct LinearWorkspace {
  float *right, *block;
  LinearWorkspace(Arena& arena)
      : right(arena.take<float>(
            most(LinearArgs::DEPTH * LinearArgs::COLUMNS, LinearArgs::SUMMED_ROWS * LinearArgs::INPUTS))),
        block(
            arena.take<float>(most(LinearArgs::ROWS * LinearArgs::COLUMNS, LinearArgs::OUTPUTS * LinearArgs::INPUTS))) {
  }
};

// Cuts the tasks [begin, end) into groups of `tasks` consecutive ones. Calls run(group, first, last) for each group
// with its tasks in this range, which are [first, last), counted from the beginning of the group.
inline void for_each_group(int64_t begin, int64_t end, int64_t tasks, auto&& run) {
  while (begin < end) {
    const int64_t group = begin / tasks, first = group * tasks, last = least(end, first + tasks);
    run(group, begin - first, last - first);
    begin = last;
  }
}

// The most products in a running sum. Sums of sums round less than one sum of all products.
inline constexpr int64_t SUMMED = 192;

// A left operand of any strides, or a result whose rows are contiguous.
struct Left {
  const float* data;
  int64_t row, column;
};
struct Result {
  float* data;
  int64_t row;
};

// result = initial + left * right, for a block of rows. `initial` is null for zeros, and may be the result itself. Its
// rows are initial_row numbers apart, so with 0 it is one row for all, as a bias is. Results whose columns are not
// whole vectors are computed in `block`, whose padding must be initialised.
inline void multiply_rows(int64_t rows, const Columns& columns, int64_t K, Left left, const float* right,
                          int64_t right_row, const float* initial, int64_t initial_row, Result result, float* block,
                          auto& ahead) {
  const auto copy = [&](const float* from, int64_t from_row, Result to) {
    for (int64_t r = 0; r < rows; ++r) memcpy(to.data + r * to.row, from + r * from_row, columns.count * sizeof(float));
  };
  const bool whole = columns.count == columns.width;
  const Result sums = whole ? result : Result{block, columns.width};
  if (initial && initial != sums.data) copy(initial, initial_row, sums);
  for (int64_t k = 0; k < K; k += SUMMED)
    gemm(rows, columns.width, least(SUMMED, K - k), left.data + k * left.column, left.row, left.column,
         right + k * right_row, right_row, sums.data, sums.row, initial || k, ahead);
  if (!whole) copy(sums.data, sums.row, result);
}

// A product whose results have M rows: out, or dx.
struct Product {
  int64_t columns, K;  // of the result, and of the left operand
  const float* left;
  int64_t left_row;
  const float* right;
  int64_t right_row;
  bool transposed;    // whether `right` is (columns, K), and not (K, columns)
  const float* bias;  // (columns), or null
  float* result;

  // The rows k to k + DEPTH of some columns of the right operand.
  NextRows<8> panel(const Columns& some, int64_t k) const {
    const int64_t depth = least(LinearArgs::DEPTH, K - k);
    if (transposed) return {right + some.first * right_row + k, some.count, depth, right_row};
    return {right + k * right_row + some.first, depth, some.count, right_row};
  }
};

// Computes results. The tasks are (block of columns, block of rows). A panel of the right operand is fetched while
// results are computed with the one before it.
inline void multiply(const LinearArgs& args, const Product& product, int64_t begin, int64_t end, char* workspace) {
  constexpr int64_t ROWS = LinearArgs::ROWS, COLUMNS = LinearArgs::COLUMNS, DEPTH = LinearArgs::DEPTH;
  Arena arena{workspace};
  const LinearWorkspace at(arena);
  memset(at.block, 0, ROWS * COLUMNS * sizeof(float));  // its padding is summed up, too; no denormals may slow that
  for_each_group(begin, end, args.row_blocks(), [&](int64_t group, int64_t first, int64_t last) {
    const auto columns_of = [&](int64_t block) { return Columns(block * COLUMNS, product.columns, COLUMNS); };
    const Columns columns = columns_of(group);
    const bool is_last = (group + 1) * args.row_blocks() >= end;
    for (int64_t k = 0; k < product.K; k += DEPTH) {
      const int64_t depth = least(DEPTH, product.K - k);
      const auto panel = product.panel(columns, k);
      if (product.transposed)
        transposed_copy(panel.row, panel.stride, panel.rows, panel.columns, at.right, columns.width);
      else
        copy_rows(panel.row, panel.stride, panel.rows, panel.columns, at.right, columns.width);
      NextRows<8> ahead;
      if (k + DEPTH < product.K)
        ahead = product.panel(columns, k + DEPTH);
      else if (!is_last)
        ahead = product.panel(columns_of(group + 1), 0);
      for (int64_t row = first * ROWS; row < least(args.M, last * ROWS); row += ROWS) {
        const Result result{product.result + row * product.columns + columns.first, product.columns};
        const float* const bias = product.bias ? product.bias + columns.first : nullptr;
        multiply_rows(least(ROWS, args.M - row), columns, depth,
                      {product.left + row * product.left_row + k, product.left_row, 1}, at.right, columns.width,
                      k ? result.data : bias, k ? result.row : 0, result, at.block, ahead);
      }
    }
  });
}

inline void linear_fwd(const LinearArgs& args, int64_t begin, int64_t end, char* workspace) {
  multiply(args, {args.N, args.K, args.x, args.x_row, args.weight, args.K, true, args.bias, args.out}, begin, end,
           workspace);
}

// The gradient of x.
inline void linear_bwd_x(const LinearArgs& args, int64_t begin, int64_t end, char* workspace) {
  multiply(args, {args.K, args.N, args.dout, args.dout_row, args.weight, args.K, false, nullptr, args.dx}, begin, end,
           workspace);
}

// Adds rows of dout to the gradient of the bias, in float64 but for the sums of 16 rows, since each number of this
// gradient is a sum of all rows, of which there may be a hundred thousand.
inline void add_rows(int64_t rows, int64_t outputs, const float* dout, int64_t stride, double* dbias) {
  for (int64_t n0 = 0; n0 < outputs; n0 += 16) {
    const int64_t count = least(16, outputs - n0);
    for (int64_t r0 = 0; r0 < rows; r0 += 16) {
      float sum[16] = {};
      for (int64_t r = r0; r < least(rows, r0 + 16); ++r)
        for (int64_t n = 0; n < count; ++n) sum[n] += dout[r * stride + n0 + n];
      for (int64_t n = 0; n < count; ++n) dbias[n0 + n] += double(sum[n]);
    }
  }
}

// One part's sums of the gradients of weight and bias. The tasks are (part, block of inputs, block of outputs).
inline void linear_bwd_weight(const LinearArgs& args, int64_t begin, int64_t end, char* workspace) {
  constexpr int64_t OUTPUTS = LinearArgs::OUTPUTS, INPUTS = LinearArgs::INPUTS, ROWS = LinearArgs::SUMMED_ROWS;
  Arena arena{workspace};
  const LinearWorkspace at(arena);
  memset(at.block, 0, OUTPUTS * INPUTS * sizeof(float));  // as in multiply
  for_each_group(begin, end, args.output_blocks(), [&](int64_t group, int64_t first, int64_t last) {
    const int64_t blocks = ceil_div(args.K, INPUTS), part = group / blocks, first_row = args.first_row(part);
    const Columns columns(group % blocks * INPUTS, args.K, INPUTS);
    const int64_t n0 = first * OUTPUTS, n1 = least(args.N, last * OUTPUTS);
    double* const dbias = args.bias_sums + part * args.N + n0;
    float* const dweight = args.weight_sums + part * args.N * args.K + columns.first;
    for (int64_t row = first_row; row < args.first_row(part + 1); row += ROWS) {
      const int64_t rows = least(ROWS, args.first_row(part + 1) - row);
      const float *const x = args.x + row * args.x_row + columns.first, *const dout = args.dout + row * args.dout_row;
      copy_rows(x, args.x_row, rows, columns.count, at.right, columns.width);
      for (int64_t n = n0; n < n1; n += OUTPUTS) {
        const Result result{dweight + n * args.K, args.K};
        NextRows<2> ahead;  // those of dout that the next block of outputs reads
        if (n + OUTPUTS < n1) ahead = {dout + n + OUTPUTS, rows, OUTPUTS, args.dout_row};
        multiply_rows(least(OUTPUTS, n1 - n), columns, rows, {dout + n, 1, args.dout_row}, at.right, columns.width,
                      row > first_row ? result.data : nullptr, args.K, result, at.block, ahead);
      }
      if (columns.first == 0) add_rows(rows, n1 - n0, dout + n0, args.dout_row, dbias);
    }
  });
}

// Adds the sums of all parts, in pairs, which rounds less than one running sum. The tasks are outputs.
inline void linear_bwd_join(const LinearArgs& args, int64_t begin, int64_t end) {
  const int64_t parts = args.parts();
  const auto add = [&](auto* sums, int64_t size, int64_t first, int64_t last, float* to) {
    for (int64_t step = 1; step < parts; step *= 2)
      for (int64_t part = 0; part + step < parts; part += 2 * step)
        for (int64_t i = first; i < last; ++i) sums[part * size + i] += sums[(part + step) * size + i];
    for (int64_t i = first; i < last; ++i) to[i] = float(sums[i]);
  };
  if (parts > 1) add(args.weight_sums, args.N * args.K, begin * args.K, end * args.K, args.dweight);
  add(args.bias_sums, args.N, begin, end, args.dbias);
}

inline int64_t linear_workspace() {
  Arena arena{nullptr};
  LinearWorkspace{arena};
  return arena.used;
}

}  // namespace stgt::STGT_ISA
