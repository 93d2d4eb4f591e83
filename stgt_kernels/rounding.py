"""How far rounding takes a similarity from its exact value, and what that means for the threshold."""

import math

import torch


def similarity_error(C: int, dtype: torch.dtype) -> float:
    """The error that a kernel's similarity of two tokens with C channels may have, before it is stored.

    With u the unit of the accumulator (2**-24 for float32, which also accumulates half precision, 2**-53 for float64):

    - Norms, their product and the final multiplication, and sums of a few hundred products, which kernels add up in
      blocks, err by some 32 u together: 2e-6 in float32. Rounding to nearest has no direction, so errors of longer sums
      grow with the square root of their length: sqrt(C) u where that is more.
    - Tensor cores, which multiply half precision, do not round to nearest. They align 16 products at a time to the
      largest of them and the sum so far, keep 24 bits (Ampere) or 25 (Hopper), and cut off the rest. So all C / 16
      steps err in one direction, by about u of the final sum each in the mean: C / 16 u are added. In a bit-exact
      simulation at C = 1408 the largest errors were 2.9e-6 to 5.9e-6 on Ampere and 1.4e-6 to 2.7e-6 on Hopper; this
      bound is 7.2e-6.
    """
    unit = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps / 2
    if dtype in (torch.bfloat16, torch.float16):
        return (32 + C / 16) * unit
    return max(32, math.sqrt(C)) * unit


def compared_threshold(threshold: float, C: int, dtype: torch.dtype) -> float:
    """What similarities of tokens with C channels are compared with, so that rounding takes no edge at either end.

    Identical tokens have a similarity of 1 and opposite ones of -1, but a computed one may miss that by
    ``similarity_error``. Thresholds closer to 1 than that mean 1 less that error, and -1 means everything. All other
    thresholds are taken as they are.
    """
    error = similarity_error(C, dtype)
    return -1 - error if threshold == -1 else min(threshold, 1 - error)
