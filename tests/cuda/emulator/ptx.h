// Takes the place of csrc/cuda/common/ptx.cuh for the emulator (block.h).
//
// The emulator cannot show in which order the hardware adds the products of a matrix product, and how it rounds or
// truncates the sums. Here they are added in float32, in the order of their index.
#pragma once
#define STGT_CUDA_PTX_CUH

#include "block.h"

namespace stgt::emulator {

struct Fragment { int row, column; };
// Returns the place of value i of a lane in a 16x8 accumulator. The values of an 8x8 matrix of ldmatrix have the same
// places.
inline Fragment accumulator(int lane, int i) { return {lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2}; }

}  // namespace stgt::emulator

namespace stgt::ptx {

namespace e = stgt::emulator;

struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

template <class T> float widen(uint16_t bits);
template <> inline float widen<bf16>(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
template <> inline float widen<f16>(uint16_t bits) { return float(std::bit_cast<_Float16>(bits)); }

template <class T> uint16_t narrow(float x);
template <> inline uint16_t narrow<bf16>(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
template <> inline uint16_t narrow<f16>(float x) { return std::bit_cast<uint16_t>(_Float16(x)); }

template <class T> uint32_t pack(float first, float second) {
  return narrow<T>(first) | uint32_t(narrow<T>(second)) << 16;
}
template <class T> float2 unpack(uint32_t packed) {
  return {widen<T>(uint16_t(packed)), widen<T>(uint16_t(packed >> 16))};
}

inline uint32_t nonzero_mask(uint32_t pair) {
  return (pair & 0x7fff ? 0xffffu : 0) | (pair >> 16 & 0x7fff ? 0xffff0000u : 0);
}
inline void where_nonzero(uint32_t pair, float& first, float& second, float otherwise) {
  first = pair & 0x7fff ? first : otherwise, second = pair >> 16 & 0x7fff ? second : otherwise;
}

inline float exp2(float x) { return std::exp2(x); }
inline float product(float a, float b) { return a * b; }
inline float exp2_at_most_one(float x) { return std::exp2(x > 0 ? 0 : x); }
inline void settle(uint32_t&) {}

inline char* shared_memory() { return e::shared; }
inline uint32_t shared_address(const void* p) { return uint32_t(static_cast<const char*>(p) - e::shared); }

template <class V> V shuffled(V x, int from, const char* name) {
  struct Data {
    V value;
    int from;
    V result;
  } data{x, from, x};
  e::meet_warp(name, &data, [](auto& calls) {
    for (auto& call : calls) {
      auto* own = static_cast<Data*>(call.data);
      own->result = static_cast<Data*>(calls[own->from].data)->value;
    }
  });
  return data.result;
}
inline float shuffle_xor(float x, int mask) { return shuffled(x, (e::current->index % 32) ^ mask, "shuffle_xor"); }
inline int shuffle(int x, int lane) { return shuffled(x, lane, "shuffle"); }
inline uint32_t ballot(bool x) {
  struct Data {
    bool value;
    uint32_t result;
  } data{x, 0};
  e::meet_warp("ballot", &data, [](auto& calls) {
    uint32_t result = 0;
    for (int l = 0; l < 32; ++l) result |= uint32_t(static_cast<Data*>(calls[l].data)->value) << l;
    for (auto& call : calls) static_cast<Data*>(call.data)->result = result;
  });
  return data.result;
}
inline int first_bit(uint32_t x) { return std::countr_zero(x); }
inline void sync_warp() {
  e::meet_warp("sync_warp", nullptr, [](auto&) {});
}
inline void sync_threads() {
  e::meet(2, 0, e::block_size, "sync_threads", nullptr, [](auto&) {});
}
inline void sync_named(int barrier, int threads) {
  e::meet(2, barrier, threads, "sync_named", nullptr, [](auto&) {});
}

template <int BYTES = 16> void copy_async(void* shared, const void* global, bool valid) {
  e::check_shared(shared, BYTES, BYTES);
  if (valid && reinterpret_cast<uintptr_t>(global) % BYTES) e::fail("misaligned copy_async");
  auto copy = [=] { valid ? (void)memcpy(shared, global, BYTES) : (void)memset(shared, 0, BYTES); };
  e::eager ? copy() : e::current->copies.back().push_back(copy);
}
inline void copy_async_commit() { e::current->copies.emplace_back(); }
template <int PENDING> void copy_async_wait() {
  auto& groups = e::current->copies;
  for (; groups.size() > PENDING + 1; groups.pop_front())
    for (auto& copy : groups.front()) copy();
}

template <bool TRANSPOSE = false> void load_matrices(uint32_t (&r)[4], const void* row) {
  e::check_shared(row, 16, 16);
  struct Data {
    const char* row;
    uint32_t* r;
  } data{static_cast<const char*>(row), r};
  e::meet_warp(TRANSPOSE ? "load_matrices transposed" : "load_matrices", &data, [](auto& calls) {
    uint16_t values[4][8][8];
    for (int l = 0; l < 32; ++l) memcpy(values[l / 8][l % 8], static_cast<Data*>(calls[l].data)->row, 16);
    for (int l = 0; l < 32; ++l)
      for (int m = 0; m < 4; ++m) {
        uint32_t pair = 0;
        for (int i = 0; i < 2; ++i) {
          auto [row, column] = e::accumulator(l, i);
          pair |= uint32_t(TRANSPOSE ? values[m][column][row] : values[m][row][column]) << 16 * i;
        }
        static_cast<Data*>(calls[l].data)->r[m] = pair;
      }
  });
}

inline uint32_t transpose_matrix(uint32_t x) {
  struct Data { uint32_t in, out; } data{x, 0};
  e::meet_warp("transpose_matrix", &data, [](auto& calls) {
    uint16_t values[8][8];
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 2; ++i) {
        auto [row, column] = e::accumulator(l, i);
        values[row][column] = uint16_t(static_cast<Data*>(calls[l].data)->in >> 16 * i);
      }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 2; ++i) {
        auto [row, column] = e::accumulator(l, i);
        static_cast<Data*>(calls[l].data)->out |= uint32_t(values[column][row]) << 16 * i;
      }
  });
  return data.out;
}

// Reads the 16 x 16 left operand of a warp from the registers of a lane.
template <class T> void read_left(float (&left)[16][16], int lane, const uint32_t* a) {
  for (int i = 0; i < 4; ++i)
    for (int half = 0; half < 2; ++half)
      left[lane / 4 + 8 * (i % 2)][2 * (lane % 4) + half + 8 * (i / 2)] = widen<T>(uint16_t(a[i] >> 16 * half));
}

template <class T> void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Data {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
  } data{d, a, {b0, b1}};
  e::meet_warp("mma", &data, [](auto& calls) {
    float left[16][16], right[16][8];
    for (int l = 0; l < 32; ++l) {
      auto* own = static_cast<Data*>(calls[l].data);
      read_left<T>(left, l, own->a);
      for (int i = 0; i < 2; ++i)
        for (int half = 0; half < 2; ++half)
          right[2 * (l % 4) + half + 8 * i][l / 4] = widen<T>(uint16_t(own->b[i] >> 16 * half));
    }
    for (int l = 0; l < 32; ++l)
      for (int i = 0; i < 4; ++i) {
        auto [row, column] = e::accumulator(l, i);
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        static_cast<Data*>(calls[l].data)->d[i] += sum;
      }
  });
}

}  // namespace stgt::ptx
