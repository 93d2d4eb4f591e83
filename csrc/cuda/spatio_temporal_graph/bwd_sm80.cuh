// The gradient of the graph with respect to half-precision tokens, on tensor cores from sm_80 on.
//
//   dx_i = (g_i - (g_i . y_i) y_i) / |x_i|  with  y = x / |x|,  g_i = sum_j G_ij y_j,  G_ij = dW_ij + dW_ji on edges
//
// A block has 128 tokens i and 128 channels, and a warp has 32 of the tokens. The block walks along the tokens j of the
// band, 16 at a time, while the next 16 arrive. W and dW are float32. G is computed in registers, as the left operand
// of mma. The threads that copied x to shared memory turn it into y there. As g_i . y_i is sum_j G_ij W_ij, no block
// needs the channels of another one.
//
// G is rounded to T for the products. Gradients are often smaller than the smallest float16. So for float16, G is
// multiplied by a power of two that brings the largest of all gradients near 2^12, and the sums are divided by it.
#pragma once
#include "../common/weights.cuh"
#include "common.cuh"

namespace stgt::graph {

struct Backward {
  static constexpr int ROWS = 128, DEPTH = 128, STEP = 16, THREADS = 128;
  struct Stage {
    WideTile<ROWS, STEP> weight, dweight;
    WideTile<STEP, ROWS> mirror;  // dweight transposed, of the opposite frame
    Tile<STEP, DEPTH> y;
    static constexpr int BYTES = STEP * (3 * ROWS * 4 + DEPTH * 2);

    STGT_DEVICE explicit Stage(int number)
        : weight{number * BYTES}, dweight{weight.end()}, mirror{dweight.end()}, y{mirror.end()} {}
  };
  static constexpr int SHARED_BYTES = 2 * Stage::BYTES;  // afterwards used for the block's own tokens and channels
  static_assert(Tile<ROWS, DEPTH>::BYTES <= SHARED_BYTES);
};

// Turns a pair of channels of a token into those of its unit vector. inverse: of GraphParams::inv_norm.
template <class T> STGT_DEVICE void scale(uint32_t& pair, float inverse) {
  const float2 value = ptx::unpack<T>(pair);
  pair = ptx::pack<T>(unit(value.x, inverse), unit(value.y, inverse));
}

constexpr int LARGEST_THREADS = 256;

// Sets the word at `largest`, which must be 0 before, to the bits of the largest |x|. NaN does not count. Any number of
// blocks will do.
__global__ void __launch_bounds__(LARGEST_THREADS)
    spatio_temporal_graph_bwd_largest(const float* x, int64_t size, uint32_t* largest) {
  float own = 0;
  for (int64_t i = int64_t(blockIdx.x) * LARGEST_THREADS + threadIdx.x; i < size;
       i += int64_t(gridDim.x) * LARGEST_THREADS)
    own = fmaxf(own, fabsf(x[i]));
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) own = fmaxf(own, ptx::shuffle_xor(own, mask));
  if (threadIdx.x % 32 == 0) atomicMax(largest, __float_as_uint(own));
}

// Returns the exponent of the power of two that G is multiplied by. It is 0 if the largest gradient is zero, denormal
// or infinite.
STGT_DEVICE int gradient_exponent(const uint32_t* largest) {
  const int exponent = largest ? int(*largest >> 23) : 0;
  return exponent == 0 || exponent == 255 ? 0 : min(12 - (exponent - 127), 126);
}
STGT_DEVICE float power_of_two(int exponent) { return __uint_as_float(uint32_t(exponent + 127) << 23); }

// Launch B T ceil(P / 128) ceil(C / 128) blocks of Backward::THREADS threads with Backward::SHARED_BYTES.
template <class T>
__global__ void __launch_bounds__(128, 2) spatio_temporal_graph_bwd_sm80(const __grid_constant__ GraphParams p) {
  using S = Backward;
  const BackwardBlock block(p, S::ROWS, S::DEPTH);
  const int lane = threadIdx.x % 32, first_row = threadIdx.x / 32 * 32;
  const int64_t stride = int64_t(p.band()) * p.P;
  const int exponent = gradient_exponent(p.largest);
  const float up = power_of_two(exponent), down = power_of_two(-exponent);

  const auto load = [&](const S::Stage& stage, const Band& at) {
    if (!at.over()) {
      const float* const weight = static_cast<const float*>(p.weight);
      const int64_t other = block.frame + at.offset - p.W, edge = p.edge(block.frame, block.row, at.offset, at.column);
      stage.weight.template copy_async<S::THREADS>({weight + edge, stride, p.P - block.row, p.P - at.column});
      stage.dweight.template copy_async<S::THREADS>({p.dweight + edge, stride, p.P - block.row, p.P - at.column});
      stage.mirror.template copy_async<S::THREADS>(
          {p.dweight + p.edge(other, at.column, 2 * p.W - at.offset, block.row), stride, p.P - at.column,
           p.P - block.row});
      const uint16_t* const x = p.tokens<uint16_t>(other, at.column) + block.channel;
      stage.y.template copy_async<S::THREADS>({x, p.C, p.P - at.column, p.C - block.channel});
    }
    ptx::copy_async_commit();
  };

  float g[2][S::DEPTH / 8][4] = {}, along[2][2] = {};
  Band at(p, block.t);
  load(S::Stage(0), at);
  for (int number = 0; !at.over(); number ^= 1) {
    const S::Stage stage(number);
    ptx::copy_async_wait<0>();
    stage.y.template for_own_chunks<S::THREADS>([&](int row, uint4& chunk) {
      const int token = at.column + row;
      const float inverse = token < p.P ? p.inv_norm[(block.frame + at.offset - p.W) * p.P + token] : 0.0f;
      scale<T>(chunk.x, inverse), scale<T>(chunk.y, inverse), scale<T>(chunk.z, inverse), scale<T>(chunk.w, inverse);
    });
    ptx::sync_threads();
    Band next = at;
    next.advance(p, S::STEP);
    load(S::Stage(number ^ 1), next);
    if (block.row + first_row < p.P) {
#pragma unroll 1  // otherwise the compiler keeps more values than there are registers
      for (int k = 0; k < S::STEP; k += 16) {
        uint32_t left[2][4];
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          float2 weight[4], dweight[4], mirror[4];
          const int row = first_row + 16 * m;
          stage.weight.read_down(weight, row, k / 8);
          stage.dweight.read_down(dweight, row, k / 8);
          stage.mirror.template read_across<true>(mirror, k, row / 8);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float2 w = weight[i], dw = dweight[i], opposite = mirror[i];
            // The similarity of a token with itself is always 1, so it has no gradient.
            const int own = block.row + row + lane / 4 + i % 2 * 8, j = at.column + k + i / 2 * 8 + lane % 4 * 2;
            const int self = at.offset == p.W ? own - j : -1;
            left[m][i] = ptx::pack<T>(w.x != 0 && self != 0 ? up * (dw.x + opposite.x) : 0.0f,
                                      w.y != 0 && self != 1 ? up * (dw.y + opposite.y) : 0.0f);
            const float2 rounded = ptx::unpack<T>(left[m][i]);
            along[m][i % 2] += rounded.x * w.x + rounded.y * w.y;
          }
        }
#pragma unroll
        for (int n = 0; n < S::DEPTH / 8; n += 2) {
          uint32_t right[4];
          stage.y.template read_down<true>(right, k, n);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
            ptx::mma<T>(g[m][n], left[m], right[0], right[1]);
            ptx::mma<T>(g[m][n + 1], left[m], right[2], right[3]);
          }
        }
      }
    }
    at = next;
  }

  ptx::sync_threads();
  const Tile<S::ROWS, S::DEPTH> own{0};
  const Rows<const uint16_t> own_tokens{p.tokens<uint16_t>(block.frame, block.row) + block.channel, p.C,
                                        p.P - block.row, p.C - block.channel};
  own.template copy_async<S::THREADS>(own_tokens);
  ptx::copy_async_commit();
  ptx::copy_async_wait<0>();
  ptx::sync_threads();
#pragma unroll
  for (int m = 0; m < 2; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 16 * m + 8 * half, token = block.row + row + lane / 4;
      const float inv_norm = token < p.P ? p.inv_norm[block.frame * p.P + token] : 0.0f;
      const bool finite = inv_norm > 0;
      float sum = along[m][half];
      sum += ptx::shuffle_xor(sum, 1);
      sum += ptx::shuffle_xor(sum, 2);
#pragma unroll
      for (int n = 0; n < S::DEPTH / 8; ++n) {
        uint32_t& pair = own.pair(row, 8 * n);
        const float2 value = ptx::unpack<T>(pair);
        const float first = g[m][n][2 * half] - sum * (value.x * inv_norm);
        const float second = g[m][n][2 * half + 1] - sum * (value.y * inv_norm);
        pair = finite ? ptx::pack<T>(inv_norm * (down * first), inv_norm * (down * second)) : 0;
      }
    }
  ptx::sync_threads();
  uint16_t* const dx = static_cast<uint16_t*>(p.dx) + (block.frame * p.P + block.row) * p.C + block.channel;
  own.template store<S::THREADS>({dx, p.C, own_tokens.count, own_tokens.columns});
}

}  // namespace stgt::graph
