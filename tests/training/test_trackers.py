"""Curves go to the service that a run names, and a service that fails does not stop the run."""

import sys
from types import ModuleType

import pytest
from helpers import standin

from stgt.training.trackers import Service, require_service


@pytest.fixture(params=["wandb", "trackio"])
def service(request, monkeypatch):
    """A stand-in for the package of a service. It notes the calls of its functions in `calls`."""
    module = ModuleType(request.param)
    module.calls = []
    for name in ("init", "log", "finish"):
        setattr(module, name, lambda *args, called=name, **settings: module.calls.append((called, args, settings)))
    monkeypatch.setitem(sys.modules, request.param, module)
    return module


def test_a_run_sends_its_values_to_the_service(service, tmp_path):
    config = standin.config(tmp_path / "run", log_to=service.__name__, log_every=1, epochs=1)
    standin.trainer(config).fit()
    names = [called for called, _, _ in service.calls]
    assert names[0] == "init" and names[-1] == "finish" and set(names[1:-1]) == {"log"}
    settings = service.calls[0][2]
    assert settings["project"] == "stgt" and settings["name"] == "run" and settings["resume"] == "allow"
    assert settings["config"]["log_to"] == service.__name__
    steps = [settings["step"] for called, _, settings in service.calls if called == "log"]
    assert steps == list(range(1, len(steps) + 1)) and "train/loss" in service.calls[1][1][0]
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_service_that_fails_gives_a_warning(service, tmp_path, caplog):
    def fail(*_, **__):
        raise ConnectionError("no network")

    service.init = service.log = fail
    tracker = Service(service.__name__, standin.config(tmp_path / "run"))
    tracker.write({"train/loss": 1.0}, 1)
    tracker.close()
    assert caplog.text.count("no network") == 1 and "the run goes on without it" in caplog.text


def test_a_service_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match="log_to is 'wandb', but the package is not installed; run: pip install wandb"):
        require_service("wandb")
