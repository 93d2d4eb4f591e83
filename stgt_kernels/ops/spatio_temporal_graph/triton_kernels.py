"""Triton kernels that build the graph, and their gradient.

|x| counts as 1e-12 at least. A token that is not finite gets 1/|x| = 0: forward, 0 times its products, infinite or NaN,
is NaN, which is no edge; backward, it counts as zero.
"""

import triton
import triton.language as tl

RUNTIME_INTEGERS = ["x_b", "x_t", "x_p", "T", "O"]


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
    norm = tl.maximum(tl.sqrt_rn(total), 1e-12)
    inverse = tl.where(total < float("inf"), tl.div_rn(1.0, norm), 0.0)
    tl.store(inv_norm + i_bt * P + o_p, inverse, mask=o_p < P)


@triton.jit
def load_tokens(x, o_p, x_p, o_c, P: tl.constexpr, C: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr):
    """Channels o_c of tokens o_p; masks only where blocks do not divide."""
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
    """One program per (b, frame t, distance d in 0..window, i, j): block (i, j) of frames t and t + d, and its mirror.

    A frame beyond the end of the clip is taken modulo T: the mirror of what lies beyond the end of the band of frame t
    then is what lies before the beginning of the clip, and every entry of weight is written once.
    """
    blocks: tl.constexpr = (P + BM - 1) // BM
    n: tl.constexpr = (P + TILE - 1) // TILE
    window = O // 2
    j, i = tl.program_id(0) % blocks, tl.program_id(0) // blocks % blocks
    pair = tl.program_id(0) // blocks // blocks
    d, t, i_b = pair % (window + 1), pair // (window + 1) % T, pair // (window + 1) // T
    if (d == 0) & (i > j):
        return  # the mirror of block (j, i)
    other = (t + d) % T
    inside_clip = t + d < T
    b = i_b.to(tl.int64)
    o_m = tl.arange(0, BM)
    row, column = i * BM + o_m, j * BM + o_m
    x_row = x + (b * x_b + t.to(tl.int64) * x_t) * VEC
    x_column = x + (b * x_b + other.to(tl.int64) * x_t) * VEC
    x_p *= VEC

    product = tl.zeros((BM, BM), tl.float32)
    for start in range(0, tl.where(inside_clip, C, 1), BK):  # beyond the clip there is nothing to multiply
        o_c = start + tl.arange(0, BK)
        left = load_tokens(x_row, row, x_p, o_c, P, C, BM, BK)
        right = load_tokens(x_column, column, x_p, o_c, P, C, BM, BK)
        product = tl.dot(left, tl.trans(right), product, input_precision=PRECISION)

    frame_row, frame_column = b * T + t, b * T + other
    inv_row = tl.load(inv_norm + frame_row * P + row, mask=row < P, other=0.0)
    inv_column = tl.load(inv_norm + frame_column * P + column, mask=column < P, other=0.0)
    similarity = product * (inv_row[:, None] * inv_column[None, :])
    w = tl.where((similarity >= threshold) & inside_clip, similarity, 0.0).to(weight.dtype.element_ty)
    # A diagonal block is its own mirror: there, too, both of a pair's weights come from one product.
    w = tl.where((d > 0) | (row[:, None] <= column[None, :]), w, tl.trans(w))
    mirrored = (d > 0) | (i < j)
    inside = (row < P)[:, None] & (column < P)[None, :]
    # Offsets of a block's corner may pass 2^31; those within a block do not.
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
    dweight,  # (B, T, P, O, P) contiguous, as weight
    x,  # (B, T, P, C), the last dimension contiguous
    weight,
    inv_norm,  # (B, T, P) float32 contiguous
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
    g_i . y_i is sum_j G_ij W_ij: no program needs other channels than its own.
    """
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
        # A token's similarity with itself is 1 wherever the token moves.
        edge = (w != 0) & ((o != window) | (row[:, None] != column[None, :]))
        both = tl.where(edge, dw + tl.trans(mirror).to(tl.float32), 0.0).to(x.dtype.element_ty)
        along += tl.sum(both.to(tl.float32) * w, 1)
        inverse = tl.load(inv_norm + frame_column * P + column, mask=in_column, other=0.0)[:, None]
        y = load_tokens(x + (b * x_b + other.to(tl.int64) * x_t) * VEC, column, x_p, o_c, P, C, BN, BK).to(tl.float32)
        y = tl.where(inverse > 0, y * inverse, 0.0).to(x.dtype.element_ty)
        g = tl.dot(both, y, g, input_precision="ieee")  # tf32 here is more than Triton 3.7 can compile

    inverse = tl.load(inv_norm + frame_row * P + row, mask=in_row, other=0.0)[:, None]
    y = load_tokens(x + (b * x_b + t.to(tl.int64) * x_t) * VEC, row, x_p, o_c, P, C, BM, BK).to(tl.float32)
    y = tl.where(inverse > 0, y * inverse, 0.0)
    result = ((g - along[:, None] * y) * inverse).to(dx.dtype.element_ty)
    p_dx = (frame_row * P + row[:, None]) * C + o_c[None, :]
    tl.store(dx + p_dx, result, mask=in_row[:, None] & (o_c < C)[None, :])
