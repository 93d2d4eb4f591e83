"""Triton kernel of graph attention's forward pass."""

import triton
import triton.language as tl

from stgt_kernels.ops.graph_attention.triton_common import (
    LOG2E,
    add_heads,
    dot_heads,
    inside_frame,
    kept,
    load_heads,
    program_block,
    store_heads,
    zero_heads,
)

FLOOR = tl.constexpr(-1e30)  # the running maximum starts finite, because -inf - -inf is NaN

RUNTIME_INTEGERS = ["q_b", "q_h", "q_n", "k_b", "k_h", "k_n", "v_b", "v_h", "v_n", "H", "T", "O", "drop_threshold"]


@triton.jit(do_not_specialize=RUNTIME_INTEGERS)
def graph_attention_fwd_kernel(
    q,  # (B, H, N, D), as k and v
    k,
    v,
    weight,  # (B, T, P, O, P) contiguous
    tiles,  # (B, T, ceil(P/BM), O * ceil(P/TILE) + 1) int32: each block's live tiles
    count,  # (B, T, ceil(P/BM)) int32: how many, at least one
    seed,  # (1,) int64, or None
    out,  # (B, N, H, D) contiguous, written
    lse,  # (B, H, N) float32 contiguous, written
    q_b,  # strides, in units of VEC elements
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
    scale,  # positive
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
    # Offsets of a block's corner may exceed 2^31; offsets within a block do not.
    b, h, corner = i_b.to(tl.int64), i_h.to(tl.int64), (i_t * P + i_p).to(tl.int64)
    q += (b * q_b + h * q_h + corner * q_n) * VEC
    k += (b * k_b + h * k_h) * VEC
    v += (b * v_b + h * v_h) * VEC
    weight += (b * T * P + corner) * O * P
    tiles += i_list * (O * n + 1)
    scale_2 = scale * LOG2E  # the hardware has exp2

    o_m, o_n = tl.arange(0, BM), tl.arange(0, BN)
    in_m = inside_frame(i_p + o_m, P, BM)
    q0, q1 = load_heads(q, o_m, q_n * VEC, in_m, D, D0, D1)
    acc0, acc1 = zero_heads(BM, D0, D1)
    top = tl.full((BM,), FLOOR, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    if DROPOUT:
        seed = tl.load(seed)
    steps = tl.load(count + i_list) * (TILE // BN)
    tl.assume(steps > 0)  # else the loop could be skipped, and the compiler would wait for each wgmma alone
    next_tile = tl.load(tiles)
    for step in range(steps):
        tile = next_tile
        next_tile = tl.load(tiles + (step + 1) // (TILE // BN))  # one step ahead, so that K and V can be prefetched
        frame = i_t + tile // n - O // 2
        i_n = tile % n * TILE + step % (TILE // BN) * BN
        in_n = inside_frame(i_n + o_n, P, BN)
        column = (frame * P + i_n).to(tl.int64)
        k0, k1 = load_heads(k + column * k_n * VEC, o_n, k_n * VEC, in_n, D, D0, D1)
        p_w = weight + (tile // n * P + i_n) + o_m[:, None] * (O * P) + o_n[None, :]
        w = tl.load(p_w, mask=in_m[:, None] & in_n[None, :], other=0.0).to(tl.float32)
        score = tl.where(w != 0, dot_heads(q0, q1, k0, k1, D1, PRECISION) * w, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        if EXACT:  # two large products would be rounded before they are subtracted, and this costs one instruction more
            p = tl.exp2((score - new_top[:, None]) * scale_2)
        else:
            p = tl.exp2(score * scale_2 - (new_top * scale_2)[:, None])
        shrink = tl.exp2((top - new_top) * scale_2)
        total = total * shrink + tl.sum(p, 1)
        top = new_top
        if DROPOUT:
            keep = kept(seed, i_t * P + i_p + o_m, frame, i_n, i_b * H + i_h, drop_threshold, BM, BN)
            p = tl.where(keep, p, 0.0)
        v0, v1 = load_heads(v + column * v_n * VEC, o_n, v_n * VEC, in_n, D, D0, D1)
        acc0, acc1 = add_heads(acc0 * shrink[:, None], acc1 * shrink[:, None], p, v0, v1, D1, PRECISION)

    inverse = inv_keep_prob / tl.where(total == 0, 1.0, total)  # a row without edges has summed nothing
    out += ((b * T * P + corner) * H + h) * D
    store_heads(out, o_m, H * D, in_m, acc0 * inverse[:, None], acc1 * inverse[:, None], D, D0, D1)
    tl.store(lse + (b * H + h) * T * P + corner + o_m, top * scale + tl.log(total), mask=in_m)
