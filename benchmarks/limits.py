"""The limits of this machine, measured: multiply-adds and bytes per second. Results are stated as shares of them."""

import ctypes
import functools
import importlib
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

# These multiply-adds use no memory, and enough of them are in flight that none waits for another.
PROBE = r"""
#if defined(__AVX512BF16__)
#include <immintrin.h>
#include <cstdint>
#endif
typedef float vec __attribute__((vector_size(64)));
constexpr int CHAINS = 16;
extern "C" double fp32(long n, float* seed) {
  vec x = vec{} + seed[0], y = vec{} + seed[1], a[CHAINS];
  for (int i = 0; i < CHAINS; ++i) a[i] = vec{} + float(i);
  for (long k = 0; k < n; ++k)
    for (int i = 0; i < CHAINS; ++i) a[i] = a[i] * x + y;
  for (int i = 1; i < CHAINS; ++i) a[0] += a[i];
  seed[0] = a[0][0];
  return 2.0 * 16 * CHAINS * n;
}
#if defined(__AVX512BF16__)
extern "C" double bf16(long n, float* seed) {
  __m512bh x;
  __builtin_memcpy(&x, seed, sizeof x);
  __m512 a[CHAINS];
  for (int i = 0; i < CHAINS; ++i) a[i] = _mm512_set1_ps(float(i));
  for (long k = 0; k < n; ++k)
    for (int i = 0; i < CHAINS; ++i) a[i] = _mm512_dpbf16_ps(a[i], x, x);
  for (int i = 1; i < CHAINS; ++i) a[0] = _mm512_add_ps(a[0], a[i]);
  seed[0] = a[0][0];
  return 2.0 * 32 * CHAINS * n;
}
#endif
#if defined(__AMX_BF16__)
extern "C" double bf16_tiles(long n, float* seed) {
  struct alignas(64) { uint8_t palette = 1, other[15] = {}; uint16_t bytes[16] = {}; uint8_t rows[16] = {}; } shape;
  for (int i = 0; i < 8; ++i) shape.bytes[i] = 64, shape.rows[i] = 16;
  asm volatile("" :: "r"(&shape) : "memory");
  _tile_loadconfig(&shape);
  for (long k = 0; k < n; k += 16) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  _tile_release();
  return 2.0 * 16 * 16 * 32 * 6 * ((n + 15) / 16);
}
#endif
"""


@dataclass(frozen=True)
class Limits:
    flops: dict[str, float]
    """FLOP/s by dtype. On a CPU: the multiply-add units of all threads. On a GPU: a large matrix product."""
    gemm: dict[str, float]
    """FLOP/s of a large matrix product in torch. On a CPU only fp32: some take a minute in bf16."""
    bandwidth: float
    """Bytes/s of a large copy, counting both reads and writes"""

    def seconds(self, flops: float, nbytes: float, dtype: str) -> float:
        """The least time in which this machine can do this many FLOPs and move this many bytes."""
        return max(flops / self.flops[dtype], nbytes / self.bandwidth)


@functools.cache
def measure(device: torch.device) -> Limits:
    """Measures the limits of a device, which takes a second or two."""
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if device.type == "cuda" else {})
    size, repeats = (8192, 10) if device.type == "cuda" else (2048, 3)
    gemm = {}
    for name, dtype in dtypes.items():
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        gemm[name] = 2.0 * size**3 / _best(lambda a=a, b=b: a @ b, device, repeats)
    elements = 2**30 if device.type == "cuda" else 2**26
    source, target = (torch.rand(elements, device=device) for _ in range(2))  # zeros copy faster on some machines
    bandwidth = 2 * source.nbytes / _best(lambda: target.copy_(source), device, repeats)
    flops = {**gemm, "fp16": gemm["bf16"]} if device.type == "cuda" else _multiply_adds()
    return Limits(flops, gemm, bandwidth)


def _best(function: Callable[[], object], device: torch.device, repeats: int) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _multiply_adds() -> dict[str, float]:
    """FLOP/s of all of torch's threads together, for bf16 of the CPU's fastest unit, or that of fp32 if it has none."""
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "probe.cpp", Path(folder) / "probe.so"
        source.write_text(PROBE)
        subprocess.run(["g++", "-O3", "-march=native", "-shared", "-fPIC", source, "-o", library], check=True)
        probe = ctypes.CDLL(str(library))

    def rate(function: Callable) -> float:
        function.restype = ctypes.c_double
        seeds = [(ctypes.c_float * 16)(0.5, 0.5) for _ in range(threads)]
        best = 0.0
        with ThreadPoolExecutor(threads) as pool:
            for _ in range(3):
                begin = time.perf_counter()
                done = sum(pool.map(lambda seed: function(ctypes.c_long(5_000_000), seed), seeds))
                best = max(best, done / (time.perf_counter() - begin))
        return best

    fp32, units = rate(probe.fp32), []
    if hasattr(probe, "bf16"):
        units.append(probe.bf16)
    kernels = importlib.import_module("stgt_kernels._C").build_info()
    if kernels["cpu_isa"] == "amx":  # the system has granted the matrix unit
        units.append(probe.bf16_tiles)
    return {"fp32": fp32, "bf16": max(map(rate, units), default=fp32)}
