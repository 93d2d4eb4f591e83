// Attention, backward: segments of a head's row frames run on different threads. This file joins what they share.
//
// dk and dv of a frame are sums over the row frames that are at most W away, in their order. Near the border of two
// segments, the first of these row frames belong to the segment before it and the others to the segment after it. The
// segment before keeps its sums, the segment after keeps each of its products, and then they are added in order. So
// any number of segments gives the same bits as one segment.
#pragma once
#include "blocks.h"

namespace stgt::STGT_ISA {

// The numbers that are kept for one border, for dk or for dv. The frames are those at most W before or after it.
template <class A> struct Border {
  int64_t frames, tiles, numbers;  // numbers: those of one frame, with the rows that a product writes behind its last
  A* base;

  Border(const GraphAttentionArgs& args, int64_t columns)
      : frames(2 * args.W), tiles(args.tiles()), numbers(round_up(args.P, ROWS_AT_A_TIME) * columns), base(nullptr) {}

  int64_t size() const { return (frames + frames * (frames + 1) / 2 * tiles) * numbers; }

  Border at(const GraphAttentionArgs& args, int64_t head, int64_t number, bool values) const {
    Border found = *this;
    found.base = (A*)args.shared + ((head * (args.segments - 1) + number) * 2 + values) * size();
    return found;
  }
  A* sum(int64_t frame) const { return base + frame * numbers; }
  // The product of a frame with the rows of a tile, `row_frame` frames after the border. A later frame has more of
  // them.
  A* product(int64_t frame, int64_t row_frame, int64_t tile) const {
    return base + (frames + (frame * (frame + 1) / 2 + row_frame) * tiles + tile) * numbers;
  }
};

template <class S, class A> int64_t border_columns(const GraphAttentionArgs& args) {
  return round_up(args.D, lanes<typename Operand<S, A>::type>);
}

// The number of elements of `shared`, which are zeros before the call: there is no product of a tile without edges.
inline int64_t graph_attention_bwd_shared(const GraphAttentionArgs& args) {
  int64_t size = 0;
  by_dtype(args.dtype, [&]<class S, class A>() { size = Border<A>(args, border_columns<S, A>(args)).size(); });
  return args.B * args.H * (args.segments - 1) * 2 * size;
}

// The tasks are (b, h, border, frame).
template <class S, class A>
void graph_attention_bwd_join_tasks(const GraphAttentionArgs& args, int64_t begin, int64_t end) {
  const int64_t columns = border_columns<S, A>(args), borders = args.segments - 1;
  const Border<A> layout(args, columns);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t frame = task % layout.frames, number = task / layout.frames % borders;
    const int64_t head = task / layout.frames / borders, b = head / args.H, h = head % args.H;
    const int64_t token = (args.first_frame(number + 1) - args.W + frame) * args.P;
    for (int values = 0; values < 2; ++values) {
      const Border<A> border = layout.at(args, head, number, values);
      A* const sum = border.sum(frame);
      for (int64_t row_frame = 0; row_frame <= frame; ++row_frame)
        for (int64_t tile = 0; tile < border.tiles; ++tile) {
          const A* product = border.product(frame, row_frame, tile);
          for (int64_t i = 0; i < border.numbers; ++i) sum[i] += product[i];
        }
      const Heads& to = values ? args.dv : args.dk;
      write_rows(to.rows<S>(b, h, token), to.n, args.P, args.D, values ? A(1) : A(args.scale), sum, columns);
    }
  }
}
inline void graph_attention_bwd_join(const GraphAttentionArgs& args, int64_t begin, int64_t end) {
  by_dtype(args.dtype, [&]<class S, class A>() { graph_attention_bwd_join_tasks<S, A>(args, begin, end); });
}

}  // namespace stgt::STGT_ISA
