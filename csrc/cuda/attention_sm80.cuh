// What the sm_80 kernels of graph attention share: tiles of 16-bit values in shared memory, filled by asynchronous
// copies and read as the fragments of mma.
#pragma once
#include "attention.cuh"

namespace stgt::sm80 {

// What mma sums over for a head dimension of at most D: whole steps of 16.
template <int D> constexpr int DEPTH = (D + 15) / 16 * 16;

// Rows of values in global memory, `stride` apart. A tile that is filled from them gets zeros beyond their ends.
template <class E> struct Rows {
  E* data;
  int64_t stride, first;
  int count, columns;

  STGT_DEVICE E* row(int i) const { return data + (first + i) * stride; }

  // The largest of 16, 8, 4 and 2 bytes at which every row starts and ends.
  STGT_DEVICE int alignment() const {
    const uint32_t bytes = uint32_t(reinterpret_cast<uintptr_t>(data)) | sizeof(E) * (uint32_t(stride) | columns);
    return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : 2;
  }
};

// The tokens of a frame from `first` on, of q, k, v or dout.
template <class E>
STGT_DEVICE Rows<const E> tokens(const AttentionParams& p, const void* x, const Strides& at, int b, int h, int frame,
                                 int first) {
  return {static_cast<const E*>(x) + b * at.b + h * at.h, at.n, frame * p.P + first, p.P - first, p.D};
}

// The same of an output or gradient, (B, N, H, D) contiguous.
template <class E>
STGT_DEVICE Rows<E> result(const AttentionParams& p, void* x, int b, int h, int frame, int first) {
  const int64_t stride = int64_t(p.H) * p.D;
  return {static_cast<E*>(x) + b * stride * p.T * p.P + h * p.D, stride, frame * p.P + first, p.P - first, p.D};
}

// The edges from row i of frame t on, and from column j on of the frame at this offset in the band. x: weight, dweight.
template <class E, class Pointer>
STGT_DEVICE Rows<E> edges(const AttentionParams& p, Pointer x, int b, int t, int i, int offset, int j) {
  return {static_cast<E*>(x) + offset * p.P + j, int64_t(p.band()) * p.P, (int64_t(b) * p.T + t) * p.P + i, p.P - i,
          p.P - j};
}

// A tile of values in shared memory, in chunks of 16 bytes. A chunk's place in its row is xored with bits of the row's
// number, so that no two of eight rows have the same chunk in the same banks.
template <int ROWS, int COLUMNS> struct Tile {
  static constexpr int CHUNKS = COLUMNS / 8, ROW_BYTES = COLUMNS * 2, BYTES = ROWS * ROW_BYTES;
  static constexpr int SPAN = CHUNKS % 8 == 0 ? 8 : 4;  // so many neighbouring chunks trade places
  static_assert(CHUNKS % SPAN == 0);

  int offset;  // in shared memory, a multiple of 128

  STGT_DEVICE int end() const { return offset + BYTES; }

  // The tile from a row on that is a multiple of 8. For rows that are known at run time only.
  STGT_DEVICE Tile below(int row) const { return {offset + row * ROW_BYTES}; }

  STGT_DEVICE char* at(int row, int chunk) const { return at(row, 0, 0, chunk); }

  // Four 8x8 matrices: rows 0-7 and 8-15 of a chunk, then those of the next. They are the left operand of an mma, or
  // values at the places of two accumulators; transposed, the right operands of two mma that sum over these rows.
  template <bool TRANSPOSE = false> STGT_DEVICE void read_down(uint32_t (&r)[4], int row, int chunk) const {
    const int lane = threadIdx.x % 32;
    ptx::load_matrices<TRANSPOSE>(r, at(lane % 16, lane / 16, row, chunk));
  }

  // Four 8x8 matrices: a chunk and the next of rows 0-7, then of rows 8-15. They are the right operands of two mma that
  // sum over these columns; transposed, values at the places of two accumulators.
  template <bool TRANSPOSE = false> STGT_DEVICE void read_across(uint32_t (&r)[4], int row, int chunk) const {
    const int lane = threadIdx.x % 32;
    ptx::load_matrices<TRANSPOSE>(r, at(lane % 8 + lane / 16 * 8, lane / 8 % 2, row, chunk));
  }

  // Fills the tile, by all THREADS threads of the block.
  template <int THREADS> STGT_DEVICE void copy_async(const Rows<const uint16_t>& from) const {
    switch (from.alignment()) {
      case 16: return copy_in_units<THREADS, 16>(from);
      case 8: return copy_in_units<THREADS, 8>(from);
      case 4: return copy_in_units<THREADS, 4>(from);
      default: return copy_in_units<THREADS, 2>(from);
    }
  }

  // The reverse, of what was written at `at`.
  template <int THREADS> STGT_DEVICE void store(const Rows<uint16_t>& to) const {
    const bool aligned = to.alignment() == 16;
    for (int row = threadIdx.x / SPAN; row < ROWS && row < to.count; row += THREADS / SPAN)
      for (int column = threadIdx.x % SPAN * 8; column < COLUMNS && column < to.columns; column += SPAN * 8) {
        const uint16_t* const values = reinterpret_cast<const uint16_t*>(at(row, column / 8));
        uint16_t* const target = to.row(row) + column;
        if (aligned)
          *reinterpret_cast<uint4*>(target) = *reinterpret_cast<const uint4*>(values);
        else
          for (int i = 0; i < 8 && column + i < to.columns; ++i) target[i] = values[i];
      }
  }

 private:
  // A thread's own row and chunk, and what is the same for all threads: a row that is a multiple of 8, and a chunk. In
  // this order of terms the latter cost a xor with a constant, or nothing.
  STGT_DEVICE char* at(int thread_row, int thread_chunk, int row, int chunk) const {
    const int swizzle = SPAN == 8 ? thread_row % 8 : thread_row / 2 % 4;
    const int place = offset + thread_row * ROW_BYTES + (thread_chunk ^ swizzle) * 16;
    return ptx::shared_memory() + (place ^ chunk % SPAN * 16) + row * ROW_BYTES + chunk / SPAN * SPAN * 16;
  }

  // SPAN threads side by side copy a row, so that each quarter of a warp writes to all banks.
  template <int THREADS, int UNIT> STGT_DEVICE void copy_in_units(const Rows<const uint16_t>& from) const {
    // The narrow ones are rare, and take several instructions per chunk anyway.
    [[maybe_unused]] constexpr int UNROLL = UNIT == 16 ? ROWS : 1;
    const int first_row = threadIdx.x / SPAN, first_chunk = threadIdx.x % SPAN;
    const uint16_t* source = from.row(first_row) + first_chunk * 8;
#pragma unroll UNROLL
    for (int r = 0; r < ROWS; r += THREADS / SPAN) {
#pragma unroll UNROLL
      for (int c = 0; c < CHUNKS; c += SPAN)
        copy_chunk<UNIT>(at(first_row, first_chunk, r, c), source + c * 8,
                         r + first_row < from.count ? from.columns - (c + first_chunk) * 8 : 0);
      source += THREADS / SPAN * from.stride;
    }
  }

  template <int UNIT> static STGT_DEVICE void copy_chunk(char* shared, const uint16_t* global, int values) {
    if constexpr (UNIT > 2) {
#pragma unroll
      for (int i = 0; i < 16; i += UNIT) ptx::copy_async<UNIT>(shared + i, global + i / 2, values > i / 2);
    } else {
      uint32_t x[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = values > i ? global[i] : 0;
      *reinterpret_cast<uint4*>(shared) = {x[0] | x[1] << 16, x[2] | x[3] << 16, x[4] | x[5] << 16, x[6] | x[7] << 16};
    }
  }
};

// Walks along the live tiles opposite to a block in steps of SIZE tokens, a whole tile or half of one.
template <bool OF_COLUMNS, int COUNT, int SIZE> struct Steps : LiveTiles<OF_COLUMNS, COUNT> {
  int token = TILE - SIZE;  // where the step starts in its frame; at first, as at the end of a tile
  int patches;

  STGT_DEVICE Steps(const AttentionParams& p, int b, int t, int first)
      : LiveTiles<OF_COLUMNS, COUNT>(p, b, t, first / TILE), patches(p.P) {}

  STGT_DEVICE bool next() {
    token += SIZE;
    if (token % TILE != 0 && token < patches) return true;
    if (!LiveTiles<OF_COLUMNS, COUNT>::next()) return false;
    token = this->tile * TILE;
    return true;
  }
};

// Which tokens of which head a block works on: blocks of SIZE tokens of a frame, heads fastest.
struct Place {
  int b, t, first, h;

  STGT_DEVICE Place(const AttentionParams& p, int size) {
    const int blocks = (p.P + size - 1) / size, rest = blockIdx.x / p.H;
    h = blockIdx.x % p.H, first = rest % blocks * size, t = rest / blocks % p.T, b = rest / blocks / p.T;
  }
};

// Dropout's random bits of 16 rows and 32 columns, at the places of accumulators: words[n][r] are those of the lane's
// row 8 r + lane / 4 and its pair of columns in the n-th eight.
STGT_DEVICE void draw_rows(uint32_t (&words)[4][2], const AttentionParams& p, int sample_head, int row, int frame,
                           int column) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint4 drawn = dropout_words(*p.seed, sample_head, row + 8 * r + lane / 4, frame, column / 32, lane % 4);
    words[0][r] = drawn.x, words[1][r] = drawn.y, words[2][r] = drawn.z, words[3][r] = drawn.w;
  }
}

// Whether dropout keeps one of the two edges whose 16 bits a word of dropout_words holds.
STGT_DEVICE bool is_kept(uint32_t word, int which, uint32_t threshold) {
  return (which ? word >> 16 : word & 0xffff) >= threshold;
}

}  // namespace stgt::sm80
