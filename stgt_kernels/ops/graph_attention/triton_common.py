"""Functions that the Triton kernels of graph attention share: loads of heads, lists of live tiles, the dropout mask.

Triton's tiles are powers of two. So a tile (rows, D) is held as two, with its first D0 and its next D1 columns: a D of
88 takes 64 + 32 columns in place of 128. If D1 is 0, the second tile is a copy of the first that nothing reads.
"""

import triton
import triton.language as tl

from stgt_kernels.ops.graph_attention import philox

PHILOX_ROUNDS = tl.constexpr(philox.ROUNDS)
LOG2E = tl.constexpr(1.4426950408889634)


def split_head_dim(D: int) -> tuple[int, int]:
    """(D0, D1): the smallest sum of one or two powers of two, each at least 16, that holds D; D1 may be 0."""
    whole = max(16, triton.next_power_of_2(D))
    half = whole // 2
    rest = max(16, triton.next_power_of_2(D - half))
    return (half, rest) if rest < half else (whole, 0)


@triton.jit(do_not_specialize=["T", "O", "n"])
def live_tiles_kernel(
    live,  # (B, T, n, O, n) bool
    tiles,  # (B, T, ceil(n/GROUP), O * n + 1) int32, written: the live tiles opposite to a group, and a 0
    count,  # (B, T, ceil(n/GROUP)) int32, written: how many
    T,
    O,
    n,
    GROUP: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program per group of GROUP row tiles of a frame, or with COLUMNS of column tiles.

    Attention walks along the list, which has no gaps, so it can prefetch. The number o * n + j stands for tile j of
    frame t + o - window. No list is empty: a group without edges gets one tile whose weights are 0. The 0 after the
    list is for kernels that look one entry ahead; entries behind it are not written.
    """
    groups = tl.cdiv(n, GROUP)
    i_list = tl.program_id(0)
    i_bt = i_list // groups
    i_t = i_bt % T
    first = i_list % groups * GROUP
    tiles += i_list * (O * n + 1)
    found = 0
    for start in range(0, O * n, BLOCK):
        o_l = start + tl.arange(0, BLOCK)
        o, j = o_l // n, o_l % n
        frame = i_t + o - O // 2
        inside = (o_l < O * n) & (frame >= 0) & (frame < T)
        hit = tl.zeros((BLOCK,), tl.int32)
        for g in tl.static_range(GROUP):
            if COLUMNS:
                p_live = live + (((i_bt + o - O // 2) * n + j) * O + (O - 1 - o)) * n + first + g
            else:
                p_live = live + ((i_bt * n + first + g) * O + o) * n + j
            hit |= tl.load(p_live, mask=inside & (first + g < n), other=0).to(tl.int32)
        tl.store(tiles + found + tl.cumsum(hit) - 1, o_l, mask=hit != 0)
        found += tl.sum(hit)
    if found == 0:
        tl.store(tiles, O // 2 * n)
    found = tl.maximum(found, 1)
    tl.store(tiles + found, 0)
    tl.store(count + i_list, found)


@triton.jit
def program_block(H, T, P: tl.constexpr, BLOCK: tl.constexpr):
    """This program's head, list of tiles, sample, frame and first token.

    Neighbouring programs differ in the head, so programs that read the same weights run side by side.
    """
    blocks: tl.constexpr = (P + BLOCK - 1) // BLOCK
    i_list = tl.program_id(0) // H
    return tl.program_id(0) % H, i_list, i_list // blocks // T, i_list // blocks % T, i_list % blocks * BLOCK


@triton.jit
def inside_frame(o_p, P: tl.constexpr, BLOCK: tl.constexpr):
    """The tokens of a block that lie in its frame. If blocks divide frames, it is constant, and masks vanish."""
    if P % BLOCK == 0:
        return tl.full((BLOCK,), True, tl.int1)
    else:
        return o_p < P


@triton.jit
def load_columns(base, o_n, stride_n, inside, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Columns FIRST to FIRST + WIDTH - 1 of rows o_n of a matrix (N, D), with zeros outside of it."""
    o_d = FIRST + tl.arange(0, WIDTH)
    mask = inside[:, None]
    if FIRST + WIDTH > D:
        mask = mask & (o_d < D)[None, :]
    return tl.load(base + o_n[:, None] * stride_n + o_d[None, :], mask=mask, other=0.0)


@triton.jit
def load_heads(base, o_n, stride_n, inside, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr):
    """Rows o_n of a matrix (N, D), as two tiles with its first D0 and its next D1 columns."""
    x0 = load_columns(base, o_n, stride_n, inside, 0, D0, D)
    x1 = x0
    if D1 > 0:
        x1 = load_columns(base, o_n, stride_n, inside, D0, D1, D)
    return x0, x1


@triton.jit
def store_columns(base, o_n, stride_n, inside, x, FIRST: tl.constexpr, WIDTH: tl.constexpr, D: tl.constexpr):
    """Writes x as columns FIRST to FIRST + WIDTH - 1 of rows o_n of a matrix (N, D), as far as they are inside."""
    o_d = FIRST + tl.arange(0, WIDTH)
    mask = inside[:, None] & (o_d < D)[None, :]
    tl.store(base + o_n[:, None] * stride_n + o_d[None, :], x.to(base.dtype.element_ty), mask=mask)


@triton.jit
def store_heads(base, o_n, stride_n, inside, x0, x1, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr):
    """Writes two tiles as rows o_n of a matrix (N, D), in the matrix's dtype."""
    store_columns(base, o_n, stride_n, inside, x0, 0, D0, D)
    if D1 > 0:
        store_columns(base, o_n, stride_n, inside, x1, D0, D1, D)


@triton.jit
def zero_heads(BLOCK: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr):
    """Two float32 tiles of zeros for the sums of BLOCK rows. If D1 is 0, nothing reads the second one."""
    return tl.zeros((BLOCK, D0), tl.float32), tl.zeros((BLOCK, D1 if D1 > 0 else 16), tl.float32)


@triton.jit
def dot_heads(a0, a1, b0, b1, D1: tl.constexpr, PRECISION: tl.constexpr):
    """Returns a @ b.T, summed over the head dimension."""
    product = tl.dot(a0, tl.trans(b0), input_precision=PRECISION)
    if D1 > 0:
        product = tl.dot(a1, tl.trans(b1), product, input_precision=PRECISION)
    return product


@triton.jit
def add_heads(acc0, acc1, p, x0, x1, D1: tl.constexpr, PRECISION: tl.constexpr):
    """Returns acc + p @ x."""
    p = p.to(x0.dtype)
    acc0 = tl.dot(p, x0, acc0, input_precision=PRECISION)
    if D1 > 0:
        acc1 = tl.dot(p, x1, acc1, input_precision=PRECISION)
    return acc0, acc1


@triton.jit
def probabilities(score, w, log_sum, scale, EXACT: tl.constexpr):
    """Returns exp(scale * score * w - log_sum) on edges, and 0 elsewhere."""
    # A row whose log_sum is -inf may have edges, whose scores all overflow to -inf, and -inf - -inf would be NaN.
    log_sum = tl.where(log_sum == float("-inf"), 0.0, log_sum)
    if EXACT:
        # The product is rounded as it was for log_sum. The compiler would fuse it with the difference if no selection
        # stood between them.
        exponent = (tl.where(w != 0, score * w * scale, 0.0) - log_sum) * LOG2E
    else:
        exponent = score * w * (scale * LOG2E) - log_sum * LOG2E
    # Where scores are large, rounding brings the exponent above 0, but a probability is at most 1.
    exponent = tl.minimum(exponent, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(w != 0, tl.exp2(exponent), 0.0)


@triton.jit
def kept(seed, row, frame, first_column, sample_head, drop_threshold, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The dropout mask (ROWS, COLUMNS), as philox.py defines it.

    row: (ROWS,), numbers within the clip. frame: the columns' frame. first_column: the place of the first column in
    its frame, a multiple of 32.
    """
    call = first_column // 8 + tl.arange(0, COLUMNS // 8)
    c0, c1 = tl.broadcast(call[None, :], row[:, None])
    c2, c3 = tl.zeros_like(c0) + frame, tl.zeros_like(c0) + sample_head
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, c2, c3, PHILOX_ROUNDS)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # (ROWS, call, word // 2, word % 2)
    lanes = tl.join(words << 16, words)  # each lane is the high half of a word; the low half does not matter
    # (ROWS, column // 32, column % 8 // 2, column // 8 % 4, column % 2) -> columns in order
    lanes = tl.permute(tl.reshape(lanes, (ROWS, COLUMNS // 32, 4, 4, 2)), (0, 1, 3, 2, 4))
    return tl.reshape(lanes, (ROWS, COLUMNS)) >= (drop_threshold.to(tl.uint32) << 16)
