"""Which of several bit widths each layer gets: one option per layer, the least sum under limits, by integer
programming."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bitsr.errors import ConfigError
from bitsr.program.packing import packed_size

FLOAT_BITS = 32  # what floating point is computed in, as `bitsr.program.counting` has it
SECONDS = 60.0  # for the solver; what it has found by then is within its gap of the best


@dataclass(frozen=True)
class Option:
    """One layer at ``w_bits`` and ``a_bits``: the output's mean squared error, bytes in the packed file, BitOps."""

    w_bits: int
    a_bits: int
    error: float
    file_bytes: float
    bit_ops: float


@dataclass(frozen=True)
class LayerSize:
    """``weights`` in ``rows``, ``biased`` or not, and ``macs`` for one picture; a matrix product has no weights."""

    weights: int
    rows: int
    biased: bool
    macs: int

    def file_bytes(self, w_bits: int) -> int:
        """Codes, a scale (and below 8 bits an offset) and a bias per row in fp32; or everything in fp16."""
        if w_bits >= 16:
            return 2 * (self.weights + self.rows * self.biased)
        return packed_size(self.weights, w_bits) + 4 * self.rows * (3 if w_bits < 8 else 2)

    def bit_ops(self, w_bits: int, a_bits: int) -> int:
        """A matrix product multiplies activations with activations."""
        bits = (w_bits if self.weights else a_bits, a_bits)
        return self.macs * (FLOAT_BITS**2 if max(bits) >= 16 else bits[0] * bits[1])


Quantity = Callable[[Option], float]


def pareto(options: Sequence[Option]) -> list[Option]:
    """Without those that another one equals or beats in error, bytes and BitOps."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.error, o.file_bytes, o.bit_ops)):
        if all(k.file_bytes > option.file_bytes or k.bit_ops > option.bit_ops for k in kept):
            kept.append(option)
    return kept


def best_options(
    options: Mapping[str, Sequence[Option]], objective: Quantity, limits: Sequence[tuple[Quantity, float]]
) -> dict[str, Option]:
    """One option per layer with the least sum of ``objective`` whose sums of each quantity stay within its limit.

    An exact solution of the multiple-choice knapsack by HiGHS's branch and bound (relative gap 1e-6).  Raises
    `ConfigError` where no choice stays within the limits.
    """
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_matrix
    except ImportError:
        raise ConfigError("bits per layer are chosen with scipy, which is missing; pip install scipy") from None
    pool = {name: pareto(several) for name, several in options.items()}
    flat = [(row, option) for row, several in enumerate(pool.values()) for option in several]
    columns = np.arange(len(flat))
    one_each = csr_matrix((np.ones(len(flat)), ([row for row, _ in flat], columns)), (len(pool), len(flat)))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for quantity, limit in limits:
        least = sum(min(map(quantity, several)) for several in pool.values())
        if least > limit or limit <= 0:
            raise ConfigError(f"the narrowest choice takes {least:.4g}, which is above the limit of {limit:.4g}")
        amounts = np.array([[quantity(option) for _, option in flat]])
        constraints.append(LinearConstraint(amounts / limit, -np.inf, 1))
    costs = np.array([objective(option) for _, option in flat])
    scale = sum(min(map(objective, several)) for several in pool.values()) or costs.max() or 1.0
    with stdout_to_stderr():
        result = milp(
            costs / scale, integrality=np.ones(len(flat)), bounds=Bounds(0, 1), constraints=constraints,
            options={"mip_rel_gap": 1e-6, "time_limit": SECONDS},
        )  # fmt: skip
    if result.x is None:
        raise ConfigError(f"no choice of bits stays within all limits ({result.message})")
    chosen = {row: option for (row, option), share in zip(flat, result.x, strict=True) if share > 0.5}
    return {name: chosen[row] for row, name in enumerate(pool)}


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Whatever compiled code prints to stdout goes to stderr; HiGHS has a line there which no option silences."""
    flush = getattr(ctypes.CDLL(None), "fflush", None) if os.name == "posix" else None
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        if flush is not None:
            flush(None)
        os.dup2(kept, 1)
        os.close(kept)
