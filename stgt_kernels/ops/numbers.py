"""The checks of the ops' arguments that are numbers or bools. Each error names the op, the argument and its value."""

import math
import operator

import torch


def finite_scale(op: str, scale: float | None, D: int) -> float:
    """The factor of the scores, ``D ** -0.5`` if none is given.

    Raises ValueError for one that is not a finite number, and for a tensor that requires a gradient.
    """
    if scale is None:
        # torch.jit.trace gives sizes as tensors, whose powers are float32. A symbol of torch.compile stays one.
        return (int(D) if isinstance(D, torch.Tensor) else D) ** -0.5
    if isinstance(scale, torch.Tensor) and scale.requires_grad:
        raise ValueError(f"{op}: scale gets no gradient, so it must not require one; multiply q by it instead")
    factor = _number(op, "scale", scale)
    if not -math.inf < factor < math.inf:  # torch.compile cannot trace math.isfinite of a symbol
        raise ValueError(f"{op}: scale must be finite, got {factor}")
    return factor


def dropout_probability(op: str, name: str, value: float) -> float:
    """The probability of dropout as a float. Raises ValueError unless it is a number in [0, 1)."""
    probability = _number(op, name, value)
    if not 0 <= probability < 1:
        raise ValueError(f"{op}: {name} must satisfy 0 <= {name} < 1, got {value}")
    return probability


def clamp_limit(op: str, clamp: float | None) -> float:
    """The largest size of a score, or inf if nothing is clamped. Raises ValueError unless it is positive and finite."""
    if clamp is None:
        return math.inf
    limit = _number(op, "clamp", clamp)
    if not 0 < limit < math.inf:
        raise ValueError(f"{op}: clamp must be positive and finite, or None, got {clamp}")
    return limit


def flag(op: str, name: str, value: bool) -> bool:
    """The value itself. Raises ValueError unless it is a bool, since the text "False" counts as true in Python."""
    if not isinstance(value, bool):
        raise ValueError(f"{op}: {name} must be True or False, got {value!r}")
    return value


def integer(value: object) -> int | None:
    """The integer that an argument is, also one of NumPy's or a symbol of torch.compile. None for bool and all else."""
    if isinstance(value, (bool, torch.Tensor)):
        return None
    if isinstance(value, (int, torch.SymInt)):
        return value  # pyright: ignore[reportReturnType]
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType]
    except TypeError:
        return None


def _number(op: str, name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{op}: {name} must be a number, got {value!r}") from None
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if value > 0 else -math.inf
