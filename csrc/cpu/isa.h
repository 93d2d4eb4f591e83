// Each isa_<name>.cpp ends with this file, which compiles all kernels for one instruction set.
#include "dense_attention.h"
#include "edge_attention_bwd.h"
#include "edge_attention_fwd.h"
#include "graph_attention_bwd.h"
#include "graph_attention_fwd.h"
#include "linear.h"
#include "spatio_temporal_graph.h"

namespace stgt {
#define STGT_STRING(x) #x
#define STGT_NAME(x) STGT_STRING(x)
extern const Kernels STGT_TABLE;
const Kernels STGT_TABLE = {
    .name = STGT_NAME(STGT_ISA),
    .graph_attention_fwd_workspace = STGT_ISA::graph_attention_fwd_workspace,
    .graph_attention_fwd = STGT_ISA::graph_attention_fwd,
    .graph_attention_bwd_workspace = STGT_ISA::graph_attention_bwd_workspace,
    .graph_attention_bwd = STGT_ISA::graph_attention_bwd,
    .graph_attention_bwd_shared = STGT_ISA::graph_attention_bwd_shared,
    .graph_attention_bwd_join = STGT_ISA::graph_attention_bwd_join,
    .graph_attention_bwd_dweight_workspace = STGT_ISA::graph_attention_bwd_dweight_workspace,
    .graph_attention_bwd_dweight = STGT_ISA::graph_attention_bwd_dweight,
    .spatio_temporal_graph_fwd_workspace = STGT_ISA::spatio_temporal_graph_fwd_workspace,
    .spatio_temporal_graph_fwd = STGT_ISA::spatio_temporal_graph_fwd,
    .spatio_temporal_graph_scale_tokens = STGT_ISA::spatio_temporal_graph_scale_tokens,
    .spatio_temporal_graph_scale_norms = STGT_ISA::spatio_temporal_graph_scale_norms,
    .spatio_temporal_graph_bwd_workspace = STGT_ISA::spatio_temporal_graph_bwd_workspace,
    .spatio_temporal_graph_bwd = STGT_ISA::spatio_temporal_graph_bwd,
    .dense_attention_fwd_workspace = STGT_ISA::dense_attention_fwd_workspace,
    .dense_attention_fwd = STGT_ISA::dense_attention_fwd,
    .dense_attention_bwd_workspace = STGT_ISA::dense_attention_bwd_workspace,
    .dense_attention_bwd = STGT_ISA::dense_attention_bwd,
    .linear_workspace = STGT_ISA::linear_workspace,
    .linear_fwd = STGT_ISA::linear_fwd,
    .linear_bwd_x = STGT_ISA::linear_bwd_x,
    .linear_bwd_weight = STGT_ISA::linear_bwd_weight,
    .linear_bwd_join = STGT_ISA::linear_bwd_join,
    .edge_attention_workspace = STGT_ISA::edge_attention_workspace,
    .edge_attention_fwd = STGT_ISA::edge_attention_fwd,
    .edge_attention_bwd_rows = STGT_ISA::edge_attention_bwd_rows,
    .edge_attention_bwd_columns = STGT_ISA::edge_attention_bwd_columns,
};
}  // namespace stgt
