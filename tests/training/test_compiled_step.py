"""torch.compile takes the whole training step, and gives what the plain model gives."""

import pytest
import torch
from helpers.processes import in_processes
from helpers.tiny import tiny_batch, tiny_model

from stgt.config import LossConfig
from stgt.data.words import predicted_places


def values_and_gradients(compiled, dynamic=None):
    """The values of one training step, and the gradients of all parameters."""
    model = tiny_model(vision=dict(layers=1, open_blocks=-1), qformer=dict(layers=1)).train()
    called = torch.compile(model, backend="aot_eager", dynamic=dynamic) if compiled else model
    batch = tiny_batch()
    batch["predicted"] = predicted_places(batch["attention_mask"])
    values = called(batch, LossConfig(), torch.Generator().manual_seed(0))
    values["loss"].backward()
    return values, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_compiled_step_is_a_step(assert_near, dynamic):
    torch._dynamo.reset()
    (values, gradients), (found, compiled) = values_and_gradients(False), values_and_gradients(True, dynamic)
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert_near(found[name], value.detach(), name)
    for name, gradient in gradients.items():
        assert_near(compiled[name], gradient, name, gradient=True)


def steps_of_a_process(rank):
    """Compiled steps, each beside the plain one. The process compiles again where its texts have another length."""
    torch._dynamo.reset()  # compiled code of the parent process has no other processes
    model = tiny_model(vision=dict(layers=1, open_blocks=-1), qformer=dict(layers=1)).train()
    compiled, loss = torch.compile(model, backend="aot_eager"), LossConfig(multi_positive=True)
    for step, lengths in enumerate([(6, 6), (6, 5)]):
        batch = tiny_batch(length=lengths[rank], seed=2 * step + rank)
        batch["predicted"] = predicted_places(batch["attention_mask"])
        batch["video_index"] = 4 * rank + torch.arange(4)
        found, expected = (each(batch, loss, torch.Generator().manual_seed(0))["loss"] for each in (compiled, model))
        found.backward()
        torch.testing.assert_close(found, expected)


def test_processes_with_texts_of_other_lengths_do_not_wait_for_each_other_for_ever():
    in_processes(2, steps_of_a_process)
