"""The dtype that kernels sum in, the rounding error of a similarity, and how the threshold allows for it."""

import math

import torch


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that kernels sum in: float64 for float64, and float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def similarity_error(C: int, dtype: torch.dtype) -> float:
    """The largest error of a kernel's similarity of two tokens with C channels, before the similarity is stored.

    u is the accumulator's unit of rounding: 2**-24 for float32, in which half precision is summed, too, and 2**-53 for
    float64.

    - The norms, their product, the final multiplication, and sums of a few hundred products err by about 32 u together,
      which is 2e-6 in float32. Rounding to nearest errs in both directions, so the errors of longer sums grow with the
      square root of their length, to sqrt(C) u.
    - Tensor cores, which multiply half precision, do not round to nearest. They align 16 products at a time to the
      largest of them and of the sum so far, keep 24 bits (Ampere) or 25 (Hopper), and cut off the rest. So all C / 16
      steps err in one direction, each by about u of the final sum on average, which adds C / 16 u. In a bit-exact
      simulation with C = 1408 the largest errors were 2.9e-6 to 5.9e-6 on Ampere and 1.4e-6 to 2.7e-6 on Hopper. This
      bound is 7.2e-6.
    - In float64 the products may be summed in any order, also all in one chain, where the errors of equal channels
      have one sign. That is at most C u for the product of two unit vectors, and C u for their norms.
    """
    unit = torch.finfo(accumulator_dtype(dtype)).eps / 2
    if dtype == torch.float64:
        return (32 + 2 * C) * unit
    if dtype in (torch.bfloat16, torch.float16):
        return (32 + C / 16) * unit
    return max(32, math.sqrt(C)) * unit


def compared_threshold(threshold: float, C: int, dtype: torch.dtype) -> float:
    """The number that similarities of tokens with C channels are compared with, for a threshold that the caller gave.

    Identical tokens have a similarity of 1 and opposite tokens of -1, but the computed similarity may miss that by
    ``similarity_error``. So a threshold closer to 1 than that error becomes 1 minus the error, and -1 becomes a number
    that every similarity passes. All other thresholds stay as they are.
    """
    error = similarity_error(C, dtype)
    return -1 - error if threshold == -1 else min(threshold, 1 - error)
