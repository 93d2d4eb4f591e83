"""Triton kernels of graph attention's backward pass. Every element has one writer, so its bits never change.

With z = scale (q . k) W, P = exp(z - lse) and M the dropout mask divided by the probability of keeping:
dP_ij = M do_i . v_j,  dz = P (dP - delta_i),  dv_j = sum_i M P do_i,  dk_j = scale sum_i dz W q_i,
dq_i = scale sum_j dz W k_j,  dW_ij = scale sum_h dz (q_i . k_j).
"""

import triton
import triton.language as tl

from stgt_kernels.ops.graph_attention.triton_common import (
    add_heads,
    dot_heads,
    inside_frame,
    kept,
    load_heads,
    probabilities,
    program_block,
    store_heads,
    zero_heads,
)
from stgt_kernels.ops.graph_attention.triton_fwd import RUNTIME_INTEGERS

RUNTIME_INTEGERS = [*RUNTIME_INTEGERS, "do_b", "do_h", "do_n"]


@triton.jit(do_not_specialize=["do_b", "do_h", "do_n", "H", "N", "rows"])
def graph_attention_bwd_delta_kernel(
    dout,  # (B, H, N, D)
    out,  # (B, N, H, D) contiguous
    dlse,  # (B, H, N) float32 contiguous, or None
    delta,  # (B, H, N) float32 contiguous, written
    do_b,  # strides, in units of VEC elements
    do_h,
    do_n,
    H,
    N,
    rows,
    D: tl.constexpr,
    VEC: tl.constexpr,
    BM: tl.constexpr,
    BD: tl.constexpr,
):
    """delta_i = do_i . o_i - dlse_i. One program per BM rows, in the order of out's memory."""
    place = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    h, n, b = place % H, place // H % N, place // H // N
    o_d = tl.arange(0, BD)
    inside = place < rows
    mask = inside[:, None] & (o_d < D)[None, :]
    p_do = dout + ((b * do_b + h * do_h + n * do_n) * VEC)[:, None] + o_d[None, :]
    product = tl.load(p_do, mask=mask, other=0.0).to(tl.float32)
    product *= tl.load(out + place[:, None] * D + o_d[None, :], mask=mask, other=0.0).to(tl.float32)
    total = tl.sum(product, 1)
    p_row = (b * H + h) * N + n
    if dlse is not None:
        total -= tl.load(dlse + p_row, mask=inside, other=0.0)
    tl.store(delta + p_row, total, mask=inside)


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def graph_attention_bwd_dkdv_kernel(
    dout,  # (B, H, N, D), as q, k and v
    q,
    k,
    v,
    weight,  # (B, T, P, O, P) contiguous
    tiles,  # (B, T, ceil(P/BM), O * ceil(P/TILE) + 1) int32: each block of columns' live tiles of rows
    count,  # (B, T, ceil(P/BM)) int32: how many, at least one
    seed,  # (1,) int64, or None
    lse,  # (B, H, N) float32 contiguous, as delta
    delta,
    dk,  # (B, N, H, D) contiguous, written, as dv
    dv,
    do_b,  # strides, in units of VEC elements
    do_h,
    do_n,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    H,
    T,
    O,
    scale,
    drop_threshold,
    inv_keep_prob,
    P: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    VEC: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program per (b, frame, block of BM columns, h).

    Scores are computed transposed, (columns, rows), so that P and dz are left operands that come from registers.
    """
    n: tl.constexpr = (P + TILE - 1) // TILE
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32
    i_h, i_list, i_b, i_t, i_p = program_block(H, T, P, BM)
    b, h, corner = i_b.to(tl.int64), i_h.to(tl.int64), (i_t * P + i_p).to(tl.int64)
    dout += (b * do_b + h * do_h) * VEC
    q += (b * q_b + h * q_h) * VEC
    k += (b * k_b + h * k_h + corner * k_n) * VEC
    v += (b * v_b + h * v_h + corner * v_n) * VEC
    weight += i_p
    lse += (b * H + h) * T * P
    delta += (b * H + h) * T * P
    tiles += i_list * (O * n + 1)

    o_m, o_n = tl.arange(0, BM), tl.arange(0, BN)
    in_m = inside_frame(i_p + o_m, P, BM)
    k0, k1 = load_heads(k, o_m, k_n * VEC, in_m, D, D0, D1)
    v0, v1 = load_heads(v, o_m, v_n * VEC, in_m, D, D0, D1)
    dk0, dk1 = zero_heads(BM, D0, D1)
    dv0, dv1 = zero_heads(BM, D0, D1)
    if DROPOUT:
        seed = tl.load(seed)
    steps = tl.load(count + i_list) * (TILE // BN)
    tl.assume(steps > 0)
    next_tile = tl.load(tiles)
    for step in range(steps):
        tile = next_tile
        next_tile = tl.load(tiles + (step + 1) // (TILE // BN))
        i_n = tile % n * TILE + step % (TILE // BN) * BN
        in_n = inside_frame(i_n + o_n, P, BN)
        row = ((i_t + tile // n - O // 2) * P + i_n).to(tl.int64)
        # dP comes before P, and each sum as early as it can. Any other order needs more registers than there are.
        do0, do1 = load_heads(dout + row * do_n * VEC, o_n, do_n * VEC, in_n, D, D0, D1)
        d = tl.load(delta + row + o_n, mask=in_n, other=0.0)
        dp = dot_heads(v0, v1, do0, do1, D1, PRECISION)
        if DROPOUT:
            keep = kept(seed, row.to(tl.int32) + o_n, i_t, i_p, i_b * H + i_h, drop_threshold, BN, BM)
            mask = tl.trans(tl.where(keep, 1.0, 0.0).to(tl.float16)).to(tl.float32)  # 16 bits transpose fastest
            dp = dp * mask * inv_keep_prob
        dp -= d[None, :]
        q0, q1 = load_heads(q + row * q_n * VEC, o_n, q_n * VEC, in_n, D, D0, D1)
        p_w = weight + ((b * T * P + row) * O + (O - 1 - tile // n)) * P + o_n[:, None] * (O * P) + o_m[None, :]
        w = tl.load(p_w, mask=in_n[:, None] & in_m[None, :], other=0.0)
        log_sum = tl.load(lse + row + o_n, mask=in_n, other=0.0)
        score = dot_heads(k0, k1, q0, q1, D1, PRECISION)
        w = tl.trans(w).to(tl.float32)
        p = probabilities(score, w, log_sum[None, :], scale, EXACT)
        if DROPOUT:
            dv0, dv1 = add_heads(dv0, dv1, p * mask, do0, do1, D1, PRECISION)
        else:
            dv0, dv1 = add_heads(dv0, dv1, p, do0, do1, D1, PRECISION)
        dk0, dk1 = add_heads(dk0, dk1, p * w * dp, q0, q1, D1, PRECISION)

    block = ((b * T * P + corner) * H + h) * D
    store_heads(dk + block, o_m, H * D, in_m, dk0 * scale, dk1 * scale, D, D0, D1)
    store_heads(dv + block, o_m, H * D, in_m, dv0 * inv_keep_prob, dv1 * inv_keep_prob, D, D0, D1)


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def graph_attention_bwd_dq_kernel(
    dout,  # (B, H, N, D), as q, k and v
    q,
    k,
    v,
    weight,  # (B, T, P, O, P) contiguous
    tiles,  # (B, T, ceil(P/BM), O * ceil(P/TILE) + 1) int32: each block's live tiles
    count,  # (B, T, ceil(P/BM)) int32: how many, at least one
    seed,  # (1,) int64, or None
    lse,  # (B, H, N) float32 contiguous, as delta
    delta,
    dq,  # (B, N, H, D) contiguous, written
    do_b,  # strides, in units of VEC elements
    do_h,
    do_n,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    H,
    T,
    O,
    scale,
    drop_threshold,
    inv_keep_prob,
    P: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    VEC: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program per (b, frame, block of BM rows, h)."""
    n: tl.constexpr = (P + TILE - 1) // TILE
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32
    i_h, i_list, i_b, i_t, i_p = program_block(H, T, P, BM)
    b, h, corner = i_b.to(tl.int64), i_h.to(tl.int64), (i_t * P + i_p).to(tl.int64)
    dout += (b * do_b + h * do_h + corner * do_n) * VEC
    q += (b * q_b + h * q_h + corner * q_n) * VEC
    k += (b * k_b + h * k_h) * VEC
    v += (b * v_b + h * v_h) * VEC
    weight += (b * T * P + corner) * O * P
    tiles += i_list * (O * n + 1)

    o_m, o_n = tl.arange(0, BM), tl.arange(0, BN)
    in_m = inside_frame(i_p + o_m, P, BM)
    q0, q1 = load_heads(q, o_m, q_n * VEC, in_m, D, D0, D1)
    do0, do1 = load_heads(dout, o_m, do_n * VEC, in_m, D, D0, D1)
    p_row = (b * H + h) * T * P + corner + o_m
    log_sum = tl.load(lse + p_row, mask=in_m, other=0.0)
    d = tl.load(delta + p_row, mask=in_m, other=0.0)
    dq0, dq1 = zero_heads(BM, D0, D1)
    if DROPOUT:
        seed = tl.load(seed)
    steps = tl.load(count + i_list) * (TILE // BN)
    tl.assume(steps > 0)
    next_tile = tl.load(tiles)
    for step in range(steps):
        tile = next_tile
        next_tile = tl.load(tiles + (step + 1) // (TILE // BN))
        frame = i_t + tile // n - O // 2
        i_n = tile % n * TILE + step % (TILE // BN) * BN
        in_n = inside_frame(i_n + o_n, P, BN)
        column = (frame * P + i_n).to(tl.int64)
        k0, k1 = load_heads(k + column * k_n * VEC, o_n, k_n * VEC, in_n, D, D0, D1)
        p_w = weight + (tile // n * P + i_n) + o_m[:, None] * (O * P) + o_n[None, :]
        w = tl.load(p_w, mask=in_m[:, None] & in_n[None, :], other=0.0).to(tl.float32)
        score = dot_heads(q0, q1, k0, k1, D1, PRECISION)
        p = probabilities(score, w, log_sum[:, None], scale, EXACT)
        v0, v1 = load_heads(v + column * v_n * VEC, o_n, v_n * VEC, in_n, D, D0, D1)
        dp = dot_heads(do0, do1, v0, v1, D1, PRECISION)
        if DROPOUT:
            keep = kept(seed, i_t * P + i_p + o_m, frame, i_n, i_b * H + i_h, drop_threshold, BM, BN)
            dp = tl.where(keep, dp * inv_keep_prob, 0.0)
        dq0, dq1 = add_heads(dq0, dq1, p * w * (dp - d[:, None]), k0, k1, D1, PRECISION)

    dq += ((b * T * P + corner) * H + h) * D
    store_heads(dq, o_m, H * D, in_m, dq0 * scale, dq1 * scale, D, D0, D1)


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def graph_attention_bwd_dweight_kernel(
    dout,  # (B, H, N, D), as q, k and v
    q,
    k,
    v,
    weight,  # (B, T, P, O, P) contiguous
    live,  # (B, T, n, O, n) bool
    seed,  # (1,) int64, or None
    lse,  # (B, H, N) float32 contiguous, as delta
    delta,
    dweight,  # (B, T, P, O, P) contiguous, written
    do_b,  # strides, in units of VEC elements
    do_h,
    do_n,
    q_b,
    q_h,
    q_n,
    k_b,
    k_h,
    k_n,
    v_b,
    v_h,
    v_n,
    H,
    T,
    O,
    scale,
    drop_threshold,
    inv_keep_prob,
    P: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    VEC: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    BN: tl.constexpr,
    TILE: tl.constexpr,
):
    """One program per BN columns of a tile (b, t, i, o, j). It sums over the heads, or writes 0 if there is no edge."""
    n: tl.constexpr = (P + TILE - 1) // TILE
    EXACT: tl.constexpr = q.dtype.element_ty == tl.float32
    i_live, part = tl.program_id(0) // (TILE // BN), tl.program_id(0) % (TILE // BN)
    i_row = i_live // n // O
    i_b, i_t, i_p = i_row // n // T, i_row // n % T, i_row % n * TILE
    o, i_n = i_live // n % O, i_live % n * TILE + part * BN
    frame = i_t + o - O // 2
    b, row, column = i_b.to(tl.int64), (i_t * P + i_p).to(tl.int64), (frame * P + i_n).to(tl.int64)
    dout += (b * do_b + row * do_n) * VEC
    q += (b * q_b + row * q_n) * VEC
    k += (b * k_b + column * k_n) * VEC
    v += (b * v_b + column * v_n) * VEC

    o_m, o_n = tl.arange(0, TILE), tl.arange(0, BN)
    in_m, in_n = inside_frame(i_p + o_m, P, TILE), inside_frame(i_n + o_n, P, BN)
    inside = in_m[:, None] & in_n[None, :]
    p_w = ((b * T * P + row) * O + o) * P + i_n + o_m[:, None] * (O * P) + o_n[None, :]
    w = tl.load(weight + p_w, mask=inside, other=0.0).to(tl.float32)
    dw = tl.zeros((TILE, BN), tl.float32)
    if DROPOUT:
        seed = tl.load(seed)
    alive = (frame >= 0) & (frame < T) & (tl.load(live + i_live) != 0)
    for i_h in range(tl.where(alive, H, 0)):
        h = tl.cast(i_h, tl.int64)
        p_row = (b * H + h) * T * P + row + o_m
        log_sum = tl.load(lse + p_row, mask=in_m, other=0.0)
        d = tl.load(delta + p_row, mask=in_m, other=0.0)
        q0, q1 = load_heads(q + h * q_h * VEC, o_m, q_n * VEC, in_m, D, D0, D1)
        k0, k1 = load_heads(k + h * k_h * VEC, o_n, k_n * VEC, in_n, D, D0, D1)
        score = dot_heads(q0, q1, k0, k1, D1, PRECISION)
        p = probabilities(score, w, log_sum[:, None], scale, EXACT)
        do0, do1 = load_heads(dout + h * do_h * VEC, o_m, do_n * VEC, in_m, D, D0, D1)
        v0, v1 = load_heads(v + h * v_h * VEC, o_n, v_n * VEC, in_n, D, D0, D1)
        dp = dot_heads(do0, do1, v0, v1, D1, PRECISION)
        if DROPOUT:
            keep = kept(seed, i_t * P + i_p + o_m, frame, i_n, i_b * H + i_h, drop_threshold, TILE, BN)
            dp = tl.where(keep, dp * inv_keep_prob, 0.0)
        dw += p * (dp - d[:, None]) * score
    tl.store(dweight + p_w, (dw * scale).to(dweight.dtype.element_ty), mask=inside)
