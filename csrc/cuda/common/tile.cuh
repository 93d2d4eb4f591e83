// Tiles of 16-bit values in shared memory, which are filled by asynchronous copies and read as the fragments of mma.
#pragma once
#include "ptx.cuh"

namespace stgt {

// Rows of values in global memory. A tile that is filled from them gets zeros beyond their ends.
template <class E> struct Rows {
  E* data;
  int64_t stride;  // from one row to the next, in elements
  int count, columns;

  STGT_DEVICE E* row(int i) const { return data + i * stride; }

  // Returns the alignment of all rows in bytes: the largest of 16, 8, 4 and 2 that divides where each starts and ends.
  STGT_DEVICE int alignment() const {
    const uint32_t bytes = uint32_t(reinterpret_cast<uintptr_t>(data)) | sizeof(E) * (uint32_t(stride) | columns);
    return bytes % 16 == 0 ? 16 : bytes % 8 == 0 ? 8 : bytes % 4 == 0 ? 4 : 2;
  }
};

// A tile of chunks of 16 bytes. The place of a chunk in its row is xored with bits of the row's number. Without that,
// the same chunk of eight rows would lie in the same banks.
template <int ROWS, int COLUMNS> struct Tile {
  using Element = uint16_t;
  using Pair = uint32_t;
  static constexpr int CHUNKS = COLUMNS / 8, ROW_BYTES = COLUMNS * 2, BYTES = ROWS * ROW_BYTES;
  static constexpr int SPAN = CHUNKS % 8 == 0 ? 8 : 4;  // the number of neighbouring chunks that trade places
  static_assert(CHUNKS % SPAN == 0);

  int offset;  // in shared memory, a multiple of 128

  STGT_DEVICE int end() const { return offset + BYTES; }

  // Returns the tile from a row on, which must be a multiple of 8. It is for rows that are known only at run time.
  STGT_DEVICE Tile below(int row) const { return {offset + row * ROW_BYTES}; }

  STGT_DEVICE char* at(int row, int chunk) const { return at(row, 0, 0, chunk); }

  // Returns the pair of 16-bit values that this thread has of an 8x8 matrix at this place.
  STGT_DEVICE uint32_t& pair(int row, int column) const {
    return *reinterpret_cast<uint32_t*>(at(threadIdx.x % 32 / 4, 0, row, column / 8) + threadIdx.x % 4 * 4);
  }

  // Reads four 8x8 matrices: rows 0-7 and 8-15 of a chunk, and then those of the next chunk. They are the left operand
  // of an mma, or values in the order of two accumulators. Transposed, they are the right operands of two mma that sum
  // over these rows.
  template <bool TRANSPOSE = false> STGT_DEVICE void read_down(uint32_t (&r)[4], int row, int chunk) const {
    const int lane = threadIdx.x % 32;
    ptx::load_matrices<TRANSPOSE>(r, at(lane % 16, lane / 16, row, chunk));
  }

  // Reads four 8x8 matrices: a chunk and the next of rows 0-7, and then of rows 8-15. They are the right operands of
  // two mma that sum over these columns. Transposed, they are the left operand of an mma that sums over these rows, or
  // values in the order of two accumulators.
  template <bool TRANSPOSE = false> STGT_DEVICE void read_across(uint32_t (&r)[4], int row, int chunk) const {
    const int lane = threadIdx.x % 32;
    ptx::load_matrices<TRANSPOSE>(r, at(lane % 8 + lane / 16 * 8, lane / 8 % 2, row, chunk));
  }

  // Fills the tile. All THREADS threads of the block must call it.
  template <int THREADS> STGT_DEVICE void copy_async(const Rows<const uint16_t>& from) const {
    switch (from.alignment()) {
      case 16: return copy_in_units<THREADS, 16>(from);
      case 8: return copy_in_units<THREADS, 8>(from);
      case 4: return copy_in_units<THREADS, 4>(from);
      default: return copy_in_units<THREADS, 2>(from);
    }
  }

  // Calls f(row, chunk) with each chunk that this thread copied in copy_async. The thread sees them after
  // copy_async_wait.
  template <int THREADS, class Function> STGT_DEVICE void for_own_chunks(Function f) const {
#pragma unroll
    for (int row = 0; row < ROWS; row += THREADS / SPAN)
#pragma unroll
      for (int chunk = 0; chunk < CHUNKS; chunk += SPAN)
        f(row + threadIdx.x / SPAN, *reinterpret_cast<uint4*>(at(threadIdx.x / SPAN, threadIdx.x % SPAN, row, chunk)));
  }

  // Stores the tile, whose values were written through `at` or `pair`, to the rows in global memory. Values beyond
  // their ends are not stored. All THREADS threads of the block must call it.
  template <int THREADS> STGT_DEVICE void store(const Rows<uint16_t>& to) const {
    store<THREADS>(to, [](int, int) { return true; });
  }

  // Stores only those rows and columns for which wanted(row, column) is true. Its answer must be the same for all
  // values of a 64x64 tile.
  template <int THREADS, class Wanted> STGT_DEVICE void store(const Rows<uint16_t>& to, Wanted wanted) const {
    switch (to.alignment()) {
      case 16: return store_units<THREADS, uint4>(to, wanted);
      case 8: return store_units<THREADS, uint2>(to, wanted);
      case 4: return store_units<THREADS, uint32_t>(to, wanted);
      default: return store_units<THREADS, uint16_t>(to, wanted);
    }
  }

 private:
  // Returns the place of row thread_row + row and chunk thread_chunk + chunk. `row` must be a multiple of 8, and
  // `chunk` must be a multiple of a power of two that is larger than thread_chunk. If `row` and `chunk` are constants,
  // they cost one xor with a constant, or nothing.
  STGT_DEVICE char* at(int thread_row, int thread_chunk, int row, int chunk) const {
    const int swizzle = SPAN == 8 ? thread_row % 8 : thread_row / 2 % 4;
    const int place = offset + thread_row * ROW_BYTES + (thread_chunk ^ swizzle) * 16;
    return ptx::shared_memory() + (place ^ chunk % SPAN * 16) + row * ROW_BYTES + chunk / SPAN * SPAN * 16;
  }

  template <int THREADS, class Unit, class Wanted>
  STGT_DEVICE void store_units(const Rows<uint16_t>& to, Wanted wanted) const {
    constexpr int WIDTH = sizeof(Unit) / 2, PER_ROW = COLUMNS / WIDTH;
#pragma unroll(WIDTH == 8 ? 4 : 1)
    for (int i = threadIdx.x; i < ROWS * PER_ROW; i += THREADS) {
      const int row = i / PER_ROW, column = i % PER_ROW * WIDTH;
      if (row < to.count && column < to.columns && wanted(row, column))
        *reinterpret_cast<Unit*>(to.row(row) + column) =
            *reinterpret_cast<const Unit*>(at(row, column / 8) + column % 8 * 2);
    }
  }

  // SPAN neighbouring threads copy SPAN chunks of a row, so that each quarter of a warp writes to all banks. Units
  // other than 16 bytes are rare and need a few instructions per chunk anyway, so their loops are not unrolled.
  template <int THREADS, int UNIT> STGT_DEVICE void copy_in_units(const Rows<const uint16_t>& from) const {
    static_assert(ROWS % (THREADS / SPAN) == 0 && THREADS / SPAN % 8 == 0);
    const int first_row = threadIdx.x / SPAN, first_chunk = threadIdx.x % SPAN;
    const uint16_t* source = from.row(first_row) + first_chunk * 8;
#pragma unroll(UNIT == 16 ? ROWS : 1)
    for (int row = 0; row < ROWS; row += THREADS / SPAN) {
#pragma unroll(UNIT == 16 ? ROWS : 1)
      for (int chunk = 0; chunk < CHUNKS; chunk += SPAN)
        copy_chunk<UNIT>(at(first_row, first_chunk, row, chunk), source + chunk * 8,
                         row + first_row < from.count ? from.columns - (chunk + first_chunk) * 8 : 0);
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

}  // namespace stgt
