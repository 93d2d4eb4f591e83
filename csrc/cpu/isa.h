// The end of each isa_<name>.cpp: all kernels, compiled for one instruction set.
#include "graph_attention_bwd.h"
#include "graph_attention_fwd.h"
#include "spatio_temporal_graph.h"

namespace stgt {
#define STGT_STRING(x) #x
#define STGT_NAME(x) STGT_STRING(x)
extern const Kernels STGT_TABLE;
const Kernels STGT_TABLE = {
    STGT_NAME(STGT_ISA),
    STGT_ISA::attention_forward_workspace,  STGT_ISA::attention_forward,
    STGT_ISA::attention_backward_workspace, STGT_ISA::attention_backward,
    STGT_ISA::attention_dweight_workspace,  STGT_ISA::attention_dweight,
    STGT_ISA::graph_forward_workspace,      STGT_ISA::graph_forward,
    STGT_ISA::graph_scale_tokens,           STGT_ISA::graph_scale_norms,
    STGT_ISA::graph_backward_workspace,     STGT_ISA::graph_backward,
};
}  // namespace stgt
