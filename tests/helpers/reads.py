"""Finds operators that would make the host wait for a GPU, because the host has to know a value or a size."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique_dim", "_unique2"}


class HostReads(TorchDispatchMode):
    """Lists the operators that read a value. An index of booleans counts, since its values decide the result's size."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        index = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if name in WAIT or any(each is not None and each.dtype == torch.bool for each in index):
            self.names.append(name)
        return function(*args, **(kwargs or {}))
