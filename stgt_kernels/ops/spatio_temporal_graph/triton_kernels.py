"""Triton kernels that build the graph, and their gradient.

A token of zeros gets 1/|x| = 0, and so does one that is not finite. In the forward pass, 0 times its products is 0 or
NaN, and neither is an edge. In the backward pass, such a token counts as zero. Tokens whose squares over- or underflow
float32 get 0 as well, at first, and rescue_kernel makes their edges afterwards.
"""

import triton
import triton.language as tl

RUNTIME_INTEGERS = ["x_b", "x_t", "x_p", "T", "O"]
# Products of tokens whose squared norms lie between these neither overflow nor lose digits that matter.
LEAST_SQUARE, LARGEST_SQUARE = tl.constexpr(2.0**-80), tl.constexpr(2.0**100)
SMALLEST_NORMAL = tl.constexpr(2.0**-126)
LIFT = tl.constexpr(2.0**64)


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def inv_norm_kernel(
    x,  # (B, T, P, C), the last dimension contiguous
    inv_norm,  # (B, T, P) float32 contiguous, written: 1/|x|
    x_b,  # strides, in units of VEC elements
    x_t,
    x_p,
    T,
    P: tl.constexpr,
    C: tl.constexpr,
    VEC: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    """One program per BM tokens of a frame."""
    blocks: tl.constexpr = (P + BM - 1) // BM
    i_bt = tl.program_id(0) // blocks
    b, t = (i_bt // T).to(tl.int64), (i_bt % T).to(tl.int64)
    o_p = tl.program_id(0) % blocks * BM + tl.arange(0, BM)
    p_x = x + (b * x_b + t * x_t) * VEC + o_p.to(tl.int64)[:, None] * (x_p * VEC)
    square = tl.zeros((BM, BK), tl.float32)
    for start in range(0, C, BK):
        o_c = start + tl.arange(0, BK)
        value = tl.load(p_x + o_c[None, :], mask=(o_p < P)[:, None] & (o_c < C)[None, :], other=0.0).to(tl.float32)
        square += value * value
    total = tl.sum(square, 1)
    in_range = (total >= LEAST_SQUARE) & (total <= LARGEST_SQUARE)
    inverse = tl.where(in_range, tl.div_rn(1.0, tl.sqrt_rn(tl.where(in_range, total, 1.0))), 0.0)
    tl.store(inv_norm + i_bt * P + o_p, inverse, mask=o_p < P)


@triton.jit
def scaled_tokens(p_x, inside, C: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr):
    """Returns BM tokens divided by their largest channels, (BM, BC >= C) float32; these channels, (BM,); and (BM,)
    bool, whether a token is finite and not all zeros.
    """
    o_c = tl.arange(0, BC)
    mask = inside[:, None] & (o_c < C)[None, :]
    value = tl.load(p_x + o_c[None, :], mask=mask, other=0.0).to(tl.float32)
    size = tl.abs(value)
    finite = tl.sum((size < float("inf")).to(tl.int32), 1) == BC
    peak = tl.max(tl.where(size < float("inf"), size, 0.0), 1)
    usable = finite & (peak > 0)
    # Denormal numbers are first multiplied to become normal ones, whose division is exact enough.
    lift = tl.where(peak < SMALLEST_NORMAL, LIFT, 1.0)
    divisor = tl.where(usable, peak * lift, 1.0)
    scaled = tl.div_rn(value * lift[:, None], tl.broadcast(divisor[:, None], value)[0])
    return tl.where(usable[:, None], scaled, 0.0), peak, usable


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def rescue_kernel(
    x,  # (B, T, P, C), the last dimension contiguous
    inv_norm,  # (B, T, P) float32 contiguous, as inv_norm_kernel wrote it; rewritten where it is 0
    weight,  # (B, T, P, O, P) contiguous, rewritten in the rows and columns of the rescued tokens
    live,  # (B, T, n, O, n) bool contiguous, set where the rescued tokens have edges
    x_b,  # strides, in units of VEC elements
    x_t,
    x_p,
    T,
    O,
    threshold,
    P: tl.constexpr,
    C: tl.constexpr,
    VEC: tl.constexpr,
    TILE: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """One program per token. It ends at once if the squares of the token's channels neither over- nor underflowed.

    If the squares of two tokens did, the edge between them is computed twice, with the same bits.
    """
    n: tl.constexpr = (P + TILE - 1) // TILE
    i_bt, i = tl.program_id(0) // P, tl.program_id(0) % P
    if tl.load(inv_norm + i_bt * P + i) == 0:
        b, t = (i_bt // T).to(tl.int64), i_bt % T
        window = O // 2
        rows = tl.arange(0, BM)  # all rows are this token, so sums of a pair have one order
        offset = (b * x_b + t.to(tl.int64) * x_t + tl.cast(i, tl.int64) * x_p) * VEC
        own, peak, usable = scaled_tokens(x + (offset + 0 * rows)[:, None], rows >= 0, C, BM, BC)
        own_norm = tl.sqrt_rn(tl.where(usable, tl.sum(own * own, 1), 1.0))
        if tl.sum(usable.to(tl.int32), 0) == BM:
            for step in range(tl.maximum(window - t, 0) * P, tl.minimum(O, T + window - t) * P, BM):
                place = step + tl.arange(0, BM)
                o, j = place // P, place % P
                inside = place < tl.minimum(O, T + window - t) * P
                other = t + o - window
                p_other = x + ((b * x_b + other.to(tl.int64) * x_t + j.to(tl.int64) * x_p) * VEC)[:, None]
                column, _, there = scaled_tokens(p_other, inside, C, BM, BC)
                column_norm = tl.sqrt_rn(tl.where(there, tl.sum(column * column, 1), 1.0))
                similarity = tl.div_rn(tl.sum(own * column, 1), own_norm * column_norm)
                w = tl.where(similarity >= threshold, similarity, 0.0).to(weight.dtype.element_ty)
                frame_row, frame_column = i_bt.to(tl.int64), (i_bt + o - window).to(tl.int64)
                write = inside & there
                tl.store(weight + ((frame_row * P + i) * O + o) * P + j, w, mask=write)
                tl.store(weight + ((frame_column * P + j) * O + O - 1 - o) * P + i, w, mask=write)
                edge = write & (w != 0)
                yes = tl.full((BM,), 1, tl.int1)
                tl.store(live + ((frame_row * n + i // TILE) * O + o) * n + j // TILE, yes, mask=edge)
                tl.store(live + ((frame_column * n + j // TILE) * O + O - 1 - o) * n + i // TILE, yes, mask=edge)
            # 1 / |x| may be too large if all channels are denormal. Such a token has -1 / (LIFT |x|), and no gradient.
            normal = peak >= SMALLEST_NORMAL
            inverse = tl.div_rn(
                tl.div_rn(tl.full((BM,), 1.0, tl.float32), own_norm), tl.where(normal, peak, peak * LIFT)
            )
            tl.store(inv_norm + i_bt * P + i + 0 * rows, tl.where(normal, inverse, -inverse), mask=rows == 0)


@triton.jit
def load_tokens(x, o_p, x_p, o_c, P: tl.constexpr, C: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    """Loads channels o_c of tokens o_p. It masks only if blocks do not divide P and C."""
    p_x = x + o_p.to(tl.int64)[:, None] * x_p + o_c[None, :]
    if P % BM == 0 and C % BK == 0:
        return tl.load(p_x)
    else:
        return tl.load(p_x, mask=(o_p < P)[:, None] & (o_c < C)[None, :], other=0.0)


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def spatio_temporal_graph_fwd_kernel(
    x,  # (B, T, P, C), the last dimension contiguous
    inv_norm,  # (B, T, P) float32 contiguous
    weight,  # (B, T, P, O, P) contiguous, written
    live,  # (B, T, n, O, n) bool contiguous, written
    x_b,  # strides, in units of VEC elements
    x_t,
    x_p,
    T,
    O,
    threshold,
    P: tl.constexpr,
    C: tl.constexpr,
    VEC: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    """One program per (b, frame t, distance d in 0..window, i, j) writes block (i, j) of frames t and t + d, and its
    mirror image.

    A frame t + d beyond the end of the clip is taken modulo T. The mirror image of such a block then lies before the
    beginning of the clip, and every entry of weight is written once.
    """
    blocks: tl.constexpr = (P + BM - 1) // BM
    n: tl.constexpr = (P + TILE - 1) // TILE
    window = O // 2
    j, i = tl.program_id(0) % blocks, tl.program_id(0) // blocks % blocks
    pair = tl.program_id(0) // blocks // blocks
    d, t, i_b = pair % (window + 1), pair // (window + 1) % T, pair // (window + 1) // T
    if (d == 0) & (i > j):
        return  # block (j, i) writes this one
    other = (t + d) % T
    inside_clip = t + d < T
    b = i_b.to(tl.int64)
    o_m = tl.arange(0, BM)
    row, column = i * BM + o_m, j * BM + o_m
    x_row = x + (b * x_b + t.to(tl.int64) * x_t) * VEC
    x_column = x + (b * x_b + other.to(tl.int64) * x_t) * VEC
    x_p *= VEC

    product = tl.zeros((BM, BM), tl.float32)
    for start in range(0, tl.where(inside_clip, C, 1), BK):  # one step, whose result is not used, beyond the clip
        o_c = start + tl.arange(0, BK)
        left = load_tokens(x_row, row, x_p, o_c, P, C, BM, BK)
        right = load_tokens(x_column, column, x_p, o_c, P, C, BM, BK)
        product = tl.dot(left, tl.trans(right), product, input_precision=PRECISION)

    frame_row, frame_column = b * T + t, b * T + other
    inv_row = tl.load(inv_norm + frame_row * P + row, mask=row < P, other=0.0)
    inv_column = tl.load(inv_norm + frame_column * P + column, mask=column < P, other=0.0)
    similarity = product * (inv_row[:, None] * inv_column[None, :])
    w = tl.where((similarity >= threshold) & inside_clip, similarity, 0.0).to(weight.dtype.element_ty)
    # A diagonal block is its own mirror image. Both weights of a pair come from one product there, too.
    w = tl.where((d > 0) | (row[:, None] <= column[None, :]), w, tl.trans(w))
    mirrored = (d > 0) | (i < j)
    inside = (row < P)[:, None] & (column < P)[None, :]
    # Offsets of a block's corner may exceed 2^31; offsets within a block do not.
    p_block = o_m[:, None] * (O * P) + o_m[None, :]
    corner = ((frame_row * P + i * BM) * O + window + d) * P + j * BM
    tl.store(weight + corner + p_block, w, mask=inside)
    corner = ((frame_column * P + j * BM) * O + window - d) * P + i * BM
    tl.store(weight + corner + p_block, tl.trans(w), mask=tl.trans(inside) & mirrored)

    SIDE: tl.constexpr = BM // TILE
    edge = ((w != 0) & inside).to(tl.int32)
    hit = tl.max(tl.max(tl.reshape(edge, (SIDE, TILE, SIDE, TILE)), 3), 1)
    row, column = i * SIDE + tl.arange(0, SIDE)[:, None], j * SIDE + tl.arange(0, SIDE)[None, :]
    inside = (row < n) & (column < n)
    tl.store(live + ((frame_row * n + row) * O + window + d) * n + column, hit, mask=inside)
    tl.store(live + ((frame_column * n + column) * O + window - d) * n + row, hit, mask=inside & mirrored)


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def spatio_temporal_graph_bwd_kernel(
    dweight,  # (B, T, P, O, P) float32 contiguous, as weight
    largest,  # (1,) float32: max |dweight|, for half-precision x; else None
    x,  # (B, T, P, C), the last dimension contiguous
    weight,
    inv_norm,  # (B, T, P) float32 contiguous, as the forward kernels wrote it
    dx,  # (B, T, P, C) contiguous, written
    x_b,  # strides, in units of VEC elements
    x_t,
    x_p,
    T,
    O,
    P: tl.constexpr,
    C: tl.constexpr,
    VEC: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """One program per (b, t, block of BM tokens, BK channels).

    dx_i = (g_i - (g_i . y_i) y_i) / |x_i| with y = x / |x| and g_i = sum_j G_ij y_j, G_ij = dW_ij + dW_ji on edges.
    g_i . y_i is sum_j G_ij W_ij, so no program needs other channels than its own.

    G gets x's dtype for the products. Gradients are often smaller than the smallest float16. So in half precision G is
    multiplied by a number that makes the largest gradient 2^12, and its sums are divided by this number.
    """
    up, down = 1.0, 1.0
    if largest is not None:
        size = tl.load(largest)
        usable = (size > 2.0**-100) & (size < float("inf"))
        down = tl.where(usable, size * 2.0**-12, 1.0)
        up = 1.0 / down
    blocks: tl.constexpr = (P + BM - 1) // BM
    columns: tl.constexpr = (P + BN - 1) // BN
    channels: tl.constexpr = (C + BK - 1) // BK
    x_p *= VEC
    window = O // 2
    o_c = tl.program_id(0) % channels * BK + tl.arange(0, BK)
    i_block = tl.program_id(0) // channels
    t, i_b = i_block // blocks % T, i_block // blocks // T
    b = i_b.to(tl.int64)
    row = i_block % blocks * BM + tl.arange(0, BM)
    in_row = row < P
    frame_row = b * T + t

    g = tl.zeros((BM, BK), tl.float32)
    along = tl.zeros((BM,), tl.float32)
    first, last = tl.maximum(window - t, 0), tl.minimum(O, T + window - t)
    for step in range(first * columns, last * columns):
        o, column = step // columns, step % columns * BN + tl.arange(0, BN)
        in_column = column < P
        other = t + o - window
        frame_column = frame_row + o - window
        p_weight = ((frame_row * P + row[:, None]) * O + o) * P + column[None, :]
        p_mirror = ((frame_column * P + column[:, None]) * O + O - 1 - o) * P + row[None, :]
        inside = in_row[:, None] & in_column[None, :]
        w = tl.load(weight + p_weight, mask=inside, other=0.0).to(tl.float32)
        dw = tl.load(dweight + p_weight, mask=inside, other=0.0).to(tl.float32)
        mirror = tl.load(dweight + p_mirror, mask=in_column[:, None] & in_row[None, :], other=0.0)
        # A token's similarity with itself is always 1, so it has no gradient.
        edge = (w != 0) & ((o != window) | (row[:, None] != column[None, :]))
        both = tl.where(edge, (dw + tl.trans(mirror).to(tl.float32)) * up, 0.0).to(x.dtype.element_ty)
        along += tl.sum(both.to(tl.float32) * w, 1)
        inverse = tl.load(inv_norm + frame_column * P + column, mask=in_column, other=0.0)[:, None]
        y = load_tokens(x + (b * x_b + other.to(tl.int64) * x_t) * VEC, column, x_p, o_c, P, C, BN, BK).to(tl.float32)
        y = tl.where(inverse > 0, y * inverse, tl.where(inverse < 0, y * LIFT * -inverse, 0.0)).to(x.dtype.element_ty)
        g = tl.dot(both, y, g, input_precision="ieee")  # Triton 3.7 cannot compile this product in tf32

    inverse = tl.load(inv_norm + frame_row * P + row, mask=in_row, other=0.0)[:, None]
    y = load_tokens(x + (b * x_b + t.to(tl.int64) * x_t) * VEC, row, x_p, o_c, P, C, BM, BK).to(tl.float32)
    y = tl.where(inverse > 0, y * inverse, 0.0)
    result = ((g - along[:, None] * y) * down * tl.maximum(inverse, 0.0)).to(dx.dtype.element_ty)
    p_dx = (frame_row * P + row[:, None]) * C + o_c[None, :]
    tl.store(dx + p_dx, result, mask=in_row[:, None] & (o_c < C)[None, :])
