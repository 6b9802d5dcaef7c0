"""Counter-based randomness: every number is a hash of what it is for, so no batch, order or device changes it.

Source: the finaliser of Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators" (2014), figure 17
(splitmix64), applied to chained counters as Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011) advise.
Integer arithmetic only, on two's-complement int64, so CPU and GPU agree to the bit before the final logarithms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worker.models.errors import RangeError

MAX_SEED = 2**63 - 1
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_BITS = 24  # of each uniform number: what float32 holds exactly


def check_seed(seed: int) -> int:
    """The seed itself, or RangeError: 0 to 2**63 - 1 are seeds, 0 among them."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise RangeError(f"seed {seed!r} is outside [0, 2**63 - 1]")
    return seed


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def fold(key: Tensor, counter: Tensor | int) -> Tensor:
    """A new key (int64, broadcast shape) from a key and a counter; chains give as many counters as needed."""
    place = torch.as_tensor(counter, dtype=torch.int64, device=key.device)
    return _mix(_mix(key + _GOLDEN) ^ (place * _MIX_2 + _GOLDEN))


def uniform(key: Tensor, count: int, first: int = 0) -> Tensor:
    """`count` numbers in (0, 1), float32, in a new last dimension, of every key (int64, any shape): from its number
    `first` on."""
    lanes = torch.arange(first, first + count, device=key.device, dtype=torch.int64)
    return uniform_at(key.unsqueeze(-1), lanes)


def uniform_at(key: Tensor, lanes: Tensor) -> Tensor:
    """Of the numbers that `uniform` gives for a key, those at `lanes` (int64); key and lanes broadcast.

    It is fold() in two buffers: new ones for each of its sums cost four times as much as the sums.
    """
    x = (lanes * _MIX_2).add_(_GOLDEN) ^ _mix(key + _GOLDEN)
    spare = torch.empty_like(x)
    for bits, factor in ((30, _MIX_1), (27, _MIX_2), (31, None)):
        torch.bitwise_right_shift(x, bits, out=spare)
        x.bitwise_xor_(spare.bitwise_and_((1 << (64 - bits)) - 1))
        if factor is not None:
            x.mul_(factor)
    x.bitwise_right_shift_(64 - _BITS).bitwise_and_((1 << _BITS) - 1)
    return x.to(torch.float32).add_(0.5).mul_(1.0 / 2**_BITS)


def normal(key: Tensor, count: int, first: int = 0, total: int | None = None) -> Tensor:
    """`count` standard normal numbers, float32, in a new last dimension (Box and Muller, 1958): of the `total` that a
    key gives at once, those from `first` on."""
    if total is None or total == count:
        u, v = uniform(key, 2 * count).split(count, dim=-1)
    else:
        u, v = uniform(key, count, first), uniform(key, count, total + first)
    radius = u.clamp_max(1.0 - 2.0**-24).log_().mul_(-2.0).sqrt_()
    return radius.mul_((v * (2.0 * torch.pi)).cos_())


def gumbel_at(key: Tensor, lanes: Tensor) -> Tensor:
    """Standard Gumbel numbers, float32: of those that belong to a key, the ones at `lanes` (int64); both broadcast."""
    u = uniform_at(key, lanes).clamp_max(1.0 - 2.0**-24)
    return -(-u.log()).log()


def key_of(seed: int, *counters: int, device: torch.device | str | None = None) -> Tensor:
    """A scalar key of a seed and counters, for draws that belong to one job."""
    key = torch.tensor(check_seed(seed), dtype=torch.int64, device=device)
    for counter in counters:
        key = fold(key, counter)
    return key
