// The gradient of the graph with respect to float32 tokens, without tf32. Its formula is in bwd_sm80.cuh. A block has
// 64 tokens i and 64 channels, and a thread 8 by 4 of them. The block walks along the tokens j of the band, 32 at a
// time.
#pragma once
#include "common.cuh"

namespace stgt::graph {

struct BackwardFp32 {
  static constexpr int ROWS = 64, DEPTH = 64, STEP = 32, THREADS = 128, WARPS = THREADS / 32;
  // Sizes of tiles in floats: G (ROWS, STEP), y (STEP, DEPTH), dweight's mirror (STEP, ROWS). Their padding avoids
  // conflicts of banks.
  static constexpr int G_PITCH = STEP + 4, Y_PITCH = DEPTH, MIRROR_PITCH = ROWS + 1;
  static constexpr int G = ROWS * G_PITCH, Y = STEP * Y_PITCH, MIRROR = STEP * MIRROR_PITCH;
  static constexpr int SHARED_BYTES = (G + Y + MIRROR + ROWS) * 4;
};

// Reads 32 tokens of the opposite frame and the edges to them, and adds sum_j G_ij W_ij of rows i = warp + 4 k to
// along[k].
STGT_DEVICE void load_step(const GraphParams& p, const BackwardBlock& block, const Band& at, float* g, float* y,
                           float* mirror, float (&along)[BackwardFp32::ROWS / BackwardFp32::WARPS]) {
  using S = BackwardFp32;
  const float* const weight = static_cast<const float*>(p.weight);
  const float* const dweight = p.dweight;
  const int64_t other = block.frame + at.offset - p.W;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = threadIdx.x; i < S::STEP * S::ROWS; i += S::THREADS) {
    const int j = at.column + i / S::ROWS, row = block.row + i % S::ROWS;
    mirror[i / S::ROWS * S::MIRROR_PITCH + i % S::ROWS] =
        j < p.P && row < p.P ? dweight[p.edge(other, j, 2 * p.W - at.offset, row)] : 0.0f;
  }
  for (int i = threadIdx.x; i < S::STEP * S::DEPTH; i += S::THREADS) {
    const int j = at.column + i / S::DEPTH, channel = block.channel + i % S::DEPTH;
    const float inverse = j < p.P && channel < p.C ? p.inv_norm[other * p.P + j] : 0.0f;
    y[i] = inverse != 0 ? unit(p.tokens<float>(other, j)[channel], inverse) : 0.0f;  // 0 beyond the ends, too
  }
  ptx::sync_threads();
#pragma unroll
  for (int k = 0; k < S::ROWS / S::WARPS; ++k) {
    const int row = warp + S::WARPS * k, i = block.row + row, j = at.column + lane;
    const bool inside = i < p.P && j < p.P;
    const int64_t edge = p.edge(block.frame, i, at.offset, j);
    const float w = inside ? weight[edge] : 0.0f, dw = inside ? dweight[edge] : 0.0f;
    // The similarity of a token with itself is always 1, so it has no gradient.
    const bool kept = w != 0 && !(at.offset == p.W && i == j);
    const float value = kept ? dw + mirror[lane * S::MIRROR_PITCH + row] : 0.0f;
    along[k] += value * w;
    g[row * S::G_PITCH + lane] = value;
  }
}

// Launch B T ceil(P / 64) ceil(C / 64) blocks of BackwardFp32::THREADS threads with BackwardFp32::SHARED_BYTES.
__global__ void __launch_bounds__(128, 2) spatio_temporal_graph_bwd_fp32(const __grid_constant__ GraphParams p) {
  using S = BackwardFp32;
  const BackwardBlock block(p, S::ROWS, S::DEPTH);
  float* const g = reinterpret_cast<float*>(ptx::shared_memory());
  float *const y = g + S::G, *const mirror = y + S::Y, *const along_row = mirror + S::MIRROR;
  const int first_channel = threadIdx.x % 16 * 4,
            first_row = threadIdx.x / 16;  // the thread's other rows are every eighth from there

  float sum[8][4] = {}, along[S::ROWS / S::WARPS] = {};
  for (Band at(p, block.t); !at.over(); at.advance(p, S::STEP)) {
    load_step(p, block, at, g, y, mirror, along);
    ptx::sync_threads();
    float partial[8][4] = {};  // the error of one running sum over the whole band would grow with its length
#pragma unroll
    for (int k = 0; k < S::STEP; k += 4) {
      float4 b[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) b[n] = *reinterpret_cast<const float4*>(y + (k + n) * S::Y_PITCH + first_channel);
#pragma unroll
      for (int m = 0; m < 8; ++m) {
        const float4 a = *reinterpret_cast<const float4*>(g + (first_row + 8 * m) * S::G_PITCH + k);
        float (&d)[4] = partial[m];
        d[0] = fmaf(a.w, b[3].x, fmaf(a.z, b[2].x, fmaf(a.y, b[1].x, fmaf(a.x, b[0].x, d[0]))));
        d[1] = fmaf(a.w, b[3].y, fmaf(a.z, b[2].y, fmaf(a.y, b[1].y, fmaf(a.x, b[0].y, d[1]))));
        d[2] = fmaf(a.w, b[3].z, fmaf(a.z, b[2].z, fmaf(a.y, b[1].z, fmaf(a.x, b[0].z, d[2]))));
        d[3] = fmaf(a.w, b[3].w, fmaf(a.z, b[2].w, fmaf(a.y, b[1].w, fmaf(a.x, b[0].w, d[3]))));
      }
    }
#pragma unroll
    for (int m = 0; m < 8; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n) sum[m][n] += partial[m][n];
    ptx::sync_threads();
  }

#pragma unroll
  for (int k = 0; k < S::ROWS / S::WARPS; ++k) {
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) along[k] += ptx::shuffle_xor(along[k], mask);
    if (threadIdx.x % 32 == 0) along_row[threadIdx.x / 32 + S::WARPS * k] = along[k];
  }
  ptx::sync_threads();
#pragma unroll
  for (int m = 0; m < 8; ++m) {
    const int row = first_row + 8 * m, i = block.row + row;
    if (i >= p.P) continue;
    const int64_t token = block.frame * p.P + i;
    const float inverse = p.inv_norm[token];
    const float* const x = p.tokens<float>(block.frame, i);
    float* const dx = static_cast<float*>(p.dx) + token * p.C;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int channel = block.channel + first_channel + n;
      if (channel >= p.C) continue;
      dx[channel] = inverse > 0 ? inverse * (sum[m][n] - along_row[row] * (x[channel] * inverse)) : 0.0f;
    }
  }
}

}  // namespace stgt::graph
