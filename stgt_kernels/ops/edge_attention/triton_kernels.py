"""Triton kernels of edge attention: a program for each row, or column, and block of heads.

A program takes BE edges at a time, and holds the heads of the nodes at their other ends as a tile (BE, BH, BD). All
sums are in float32 and in one order, so that the same input gives the same bits.
"""

import triton
import triton.language as tl

from stgt_kernels.ops.graph_attention import philox

PHILOX_ROUNDS = tl.constexpr(philox.ROUNDS)


@triton.jit
def edge_slots(ptr, other, edge, node, chunk, BE: tl.constexpr):
    """For one chunk of a node's edges: the nodes at their other ends, their numbers, and True for slots that exist."""
    slot = tl.load(ptr + node) + chunk * BE + tl.arange(0, BE)
    inside = slot < tl.load(ptr + node + 1)
    other_node = tl.load(other + slot, mask=inside, other=0).to(tl.int64)
    return other_node, tl.load(edge + slot, mask=inside, other=0).to(tl.int64), inside


@triton.jit
def chunks(ptr, node, BE: tl.constexpr):
    """The number of chunks of BE edges that a node has."""
    return tl.cdiv(tl.load(ptr + node + 1) - tl.load(ptr + node), BE)


@triton.jit
def load_one(x, node, x_n, x_h, o_h, H, VEC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """The heads o_h of one node, (BH, BD)."""
    o_d = tl.arange(0, BD)
    mask = (o_h < H)[:, None] & (o_d < D)[None, :]
    return tl.load(x + node * (x_n * VEC) + o_h[:, None] * (x_h * VEC) + o_d[None, :], mask=mask, other=0.0).to(
        tl.float32
    )


@triton.jit
def load_many(x, nodes, inside, x_n, x_h, o_h, H, VEC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr):
    """The heads o_h of many nodes, (BE, BH, BD)."""
    o_d = tl.arange(0, BD)
    mask = inside[:, None, None] & (o_h < H)[None, :, None] & (o_d < D)[None, None, :]
    p_x = x + nodes[:, None, None] * (x_n * VEC) + o_h[None, :, None] * (x_h * VEC) + o_d[None, None, :]
    return tl.load(p_x, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_one(x, node, o_h, values, H, D: tl.constexpr, BD: tl.constexpr):
    """Writes the heads o_h of one node of a contiguous (N, H, D)."""
    o_d = tl.arange(0, BD)
    mask = (o_h < H)[:, None] & (o_d < D)[None, :]
    tl.store(x + (node * H + o_h[:, None]) * D + o_d[None, :], values.to(x.dtype.element_ty), mask=mask)


@triton.jit
def edge_values(values, types, edges, inside, mask, o_h, H, default):
    """(BE, BH) of edge_scale or edge_bias, which may be None, and which has a row for each type if there are types."""
    result = tl.zeros(mask.shape, tl.float32) + default
    if values is not None:
        rows = edges
        if types is not None:
            rows = tl.load(types + edges, mask=inside, other=0).to(tl.int64)
        result = tl.load(values + rows[:, None] * H + o_h[None, :], mask=mask, other=0.0)
    return result


@triton.jit
def clamped(x, clamp):
    """x, limited to [-clamp, clamp]. NaN stays NaN."""
    return tl.where(x > clamp, clamp, tl.where(x < -clamp, -clamp, x))


@triton.jit
def kept(seed, edges, o_h, drop_threshold):
    """Dropout's mask (BE, BH), as dropout.py defines it."""
    c0 = (o_h // 8)[None, :] + tl.zeros_like(edges.to(tl.int32))[:, None]
    c1 = edges.to(tl.int32)[:, None] + tl.zeros_like(o_h)[None, :]
    zero = tl.zeros_like(c0)
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, zero, zero, PHILOX_ROUNDS)
    word = (o_h % 8 // 2)[None, :]
    chosen = tl.where(word == 0, w0, tl.where(word == 1, w1, tl.where(word == 2, w2, w3)))
    lane = tl.where((o_h % 2)[None, :] == 0, chosen & 0xFFFF, chosen >> 16)
    return lane.to(tl.int32) >= drop_threshold


@triton.jit(do_not_specialize=["drop_threshold"])
def edge_attention_fwd_kernel(
    q,  # (N, H, D), as k and v
    k,
    v,
    edge_scale,  # (E or types, H) float32 contiguous, or None, as edge_bias
    edge_bias,
    row_ptr,  # (N + 1) int32
    source,  # (E) int32, as row_edge
    row_edge,
    scale_type,  # (E) uint8, or None, as bias_type
    bias_type,
    seed,  # (1,) int64, or None
    out,  # (N, H, D) contiguous, written
    scores,  # (E, H) float32, written
    softmax,  # (N, H, 2) float32, written: each row's maximum, and 1 / sum
    q_n,  # strides, in units of VEC elements
    q_h,
    k_n,
    k_h,
    v_n,
    v_h,
    H,
    clamp,
    scale,
    drop_threshold,
    inv_keep_prob,
    VEC: tl.constexpr,
    D: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    """One program per row and block of BH heads. It goes through the edges once, with a running maximum."""
    i = tl.program_id(0).to(tl.int64)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    in_h = o_h < H
    q_i = load_one(q, i, q_n, q_h, o_h, H, VEC, D, BD)
    acc = tl.zeros((BH, BD), tl.float32)
    top = tl.full((BH,), float("-inf"), tl.float32)
    total = tl.zeros((BH,), tl.float32)
    for chunk in range(chunks(row_ptr, i, BE)):
        nodes, edges, inside = edge_slots(row_ptr, source, row_edge, i, chunk, BE)
        mask = inside[:, None] & in_h[None, :]
        s = tl.sum(q_i[None, :, :] * load_many(k, nodes, inside, k_n, k_h, o_h, H, VEC, D, BD), 2) * scale
        tl.store(scores + edges[:, None] * H + o_h[None, :], s, mask=mask)
        factor = edge_values(edge_scale, scale_type, edges, inside, mask, o_h, H, 1.0)
        z = clamped(s * factor, clamp) + edge_values(edge_bias, bias_type, edges, inside, mask, o_h, H, 0.0)
        z = tl.where(mask, z, float("-inf"))
        new_top = tl.maximum(top, tl.max(z, 0))
        base = tl.where(new_top == float("-inf"), 0.0, new_top)  # -inf - -inf would be NaN
        p = tl.exp(z - base[None, :])
        shrink = tl.exp(top - base)
        total = total * shrink + tl.sum(p, 0)
        top = new_top
        if DROPOUT:
            p = tl.where(kept(tl.load(seed), edges, o_h, drop_threshold), p, 0.0)
        acc = acc * shrink[:, None] + tl.sum(
            p[:, :, None] * load_many(v, nodes, inside, v_n, v_h, o_h, H, VEC, D, BD), 0
        )
    inverse = tl.where(total == 0, 0.0, 1 / total)
    store_one(out, i, o_h, acc * (inverse * inv_keep_prob)[:, None], H, D, BD)
    tl.store(softmax + (i * H + o_h) * 2, tl.where(top == float("-inf"), 0.0, top), mask=in_h)
    tl.store(softmax + (i * H + o_h) * 2 + 1, inverse, mask=in_h)


@triton.jit
def row_chunk(
    dout_i, v, scores, edge_scale, edge_bias, scale_type, bias_type, seed, nodes, edges, inside, o_h, top, inverse,
    v_n, v_h, H, clamp, drop_threshold, inv_keep_prob,
    VEC: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Returns five values for each edge of a chunk of a row: the score, the factor, the probability, the number that
    dropout multiplies the probability by, and the gradient of the probability.
    """
    mask = inside[:, None] & (o_h < H)[None, :]
    s = tl.load(scores + edges[:, None] * H + o_h[None, :], mask=mask, other=0.0)
    factor = edge_values(edge_scale, scale_type, edges, inside, mask, o_h, H, 1.0)
    z = clamped(s * factor, clamp) + edge_values(edge_bias, bias_type, edges, inside, mask, o_h, H, 0.0)
    p = tl.where(mask, tl.exp(z - top[None, :]) * inverse[None, :], 0.0)
    keep = tl.full(mask.shape, 1.0, tl.float32)
    if DROPOUT:
        keep = tl.where(kept(tl.load(seed), edges, o_h, drop_threshold), inv_keep_prob, 0.0)
    dp = tl.sum(dout_i[None, :, :] * load_many(v, nodes, inside, v_n, v_h, o_h, H, VEC, D, BD), 2)
    return s, factor, p, keep, tl.where(keep != 0, dp * keep, 0.0)


@triton.jit(do_not_specialize=["drop_threshold"])
def edge_attention_bwd_rows_kernel(
    dout,  # (N, H, D), as k and v
    dscores,  # (E, H) float32 contiguous, or None
    k,
    v,
    edge_scale,
    edge_bias,
    row_ptr,
    source,
    row_edge,
    scale_type,
    bias_type,
    seed,
    scores,
    softmax,
    dq,  # (N, H, D) contiguous, written
    dproduct,  # (E, H) float32, written: the gradient of q . k
    probability,  # (E, H) float32, written: probabilities after dropout
    dscale,  # (E, H) float32, written, or None, as dbias
    dbias,
    dout_n,
    dout_h,
    k_n,
    k_h,
    v_n,
    v_h,
    H,
    clamp,
    scale,
    drop_threshold,
    inv_keep_prob,
    VEC: tl.constexpr,
    D: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
    DROPOUT: tl.constexpr,
):
    """One program per row and block of BH heads. It goes through the edges twice: for delta, and for the gradients.

    delta is the sum of p dp over the edges of the row.
    """
    i = tl.program_id(0).to(tl.int64)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    in_h = o_h < H
    dout_i = load_one(dout, i, dout_n, dout_h, o_h, H, VEC, D, BD)
    top = tl.load(softmax + (i * H + o_h) * 2, mask=in_h, other=0.0)
    inverse = tl.load(softmax + (i * H + o_h) * 2 + 1, mask=in_h, other=0.0)
    count = chunks(row_ptr, i, BE)
    delta = tl.zeros((BH,), tl.float32)
    for chunk in range(count):
        nodes, edges, inside = edge_slots(row_ptr, source, row_edge, i, chunk, BE)
        _, _, p, _, dp = row_chunk(
            dout_i, v, scores, edge_scale, edge_bias, scale_type, bias_type, seed, nodes, edges, inside, o_h,
            top, inverse, v_n, v_h, H, clamp, drop_threshold, inv_keep_prob, VEC, D, BD, DROPOUT,
        )  # fmt: skip
        delta += tl.sum(p * dp, 0)
    acc = tl.zeros((BH, BD), tl.float32)
    for chunk in range(count):
        nodes, edges, inside = edge_slots(row_ptr, source, row_edge, i, chunk, BE)
        s, factor, p, keep, dp = row_chunk(
            dout_i, v, scores, edge_scale, edge_bias, scale_type, bias_type, seed, nodes, edges, inside, o_h,
            top, inverse, v_n, v_h, H, clamp, drop_threshold, inv_keep_prob, VEC, D, BD, DROPOUT,
        )  # fmt: skip
        mask = inside[:, None] & in_h[None, :]
        offsets = edges[:, None] * H + o_h[None, :]
        dz = p * (dp - delta[None, :])
        x = s * factor
        dx = tl.where((x <= clamp) & (x >= -clamp), dz, 0.0)
        if dbias is not None:
            tl.store(dbias + offsets, dz, mask=mask)
        if dscale is not None:
            tl.store(dscale + offsets, dx * s, mask=mask)
        ds = dx * factor
        if dscores is not None:
            ds += tl.load(dscores + offsets, mask=mask, other=0.0)
        ds = tl.where(mask, ds * scale, 0.0)
        tl.store(dproduct + offsets, ds, mask=mask)
        tl.store(probability + offsets, p * keep, mask=mask)
        acc += tl.sum(ds[:, :, None] * load_many(k, nodes, inside, k_n, k_h, o_h, H, VEC, D, BD), 0)
    store_one(dq, i, o_h, acc, H, D, BD)


@triton.jit
def edge_attention_bwd_columns_kernel(
    dout,  # (N, H, D), as q
    q,
    col_ptr,
    target,
    col_edge,
    dproduct,  # (E, H) float32, as probability
    probability,
    dk,  # (N, H, D) contiguous, written, as dv
    dv,
    dout_n,
    dout_h,
    q_n,
    q_h,
    H,
    VEC: tl.constexpr,
    D: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
    BD: tl.constexpr,
):
    """One program per column and block of BH heads."""
    j = tl.program_id(0).to(tl.int64)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    acc_k = tl.zeros((BH, BD), tl.float32)
    acc_v = tl.zeros((BH, BD), tl.float32)
    for chunk in range(chunks(col_ptr, j, BE)):
        nodes, edges, inside = edge_slots(col_ptr, target, col_edge, j, chunk, BE)
        mask = inside[:, None] & (o_h < H)[None, :]
        offsets = edges[:, None] * H + o_h[None, :]
        ds = tl.load(dproduct + offsets, mask=mask, other=0.0)
        acc_k += tl.sum(ds[:, :, None] * load_many(q, nodes, inside, q_n, q_h, o_h, H, VEC, D, BD), 0)
        p = tl.load(probability + offsets, mask=mask, other=0.0)
        acc_v += tl.sum(p[:, :, None] * load_many(dout, nodes, inside, dout_n, dout_h, o_h, H, VEC, D, BD), 0)
    store_one(dk, j, o_h, acc_k, H, D, BD)
    store_one(dv, j, o_h, acc_v, H, D, BD)


@triton.jit(do_not_specialize=["E"])
def edge_attention_bwd_types_kernel(
    per_edge,  # (E, H) float32
    types,  # (E) uint8
    partial,  # (ceil(E / LENGTH), types, H) float32, written: the sums of LENGTH edges each
    E,
    H,
    LENGTH: tl.constexpr,
    BE: tl.constexpr,
    BH: tl.constexpr,
):
    """One program per part of LENGTH edges, type, and block of BH heads."""
    i_part, i_t = tl.program_id(0), tl.program_id(1)
    o_h = tl.program_id(2) * BH + tl.arange(0, BH)
    total = tl.zeros((BH,), tl.float32)
    for first in range(0, LENGTH, BE):
        edge = (i_part * LENGTH + first + tl.arange(0, BE)).to(tl.int64)
        own = tl.load(types + edge, mask=edge < E, other=0).to(tl.int32) == i_t
        mask = (own & (edge < E))[:, None] & (o_h < H)[None, :]
        total += tl.sum(tl.load(per_edge + edge[:, None] * H + o_h[None, :], mask=mask, other=0.0), 0)
    tl.store(partial + (i_part * tl.num_programs(1) + i_t) * H + o_h, total, mask=o_h < H)
