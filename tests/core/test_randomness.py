"""One stream per seed and purpose: drawing more of one thing never changes another."""

from __future__ import annotations

import torch

from metabench.core.randomness import generator, stream_seed


def draws(seed: int, purpose: str, n: int = 20_000) -> torch.Tensor:
    return torch.randn(n, generator=generator(seed, purpose), dtype=torch.float64)


def test_a_stream_is_a_function_of_its_seed_and_purpose() -> None:
    torch.manual_seed(1)
    first = draws(3, "noise")
    torch.manual_seed(2)
    assert torch.equal(draws(3, "noise"), first)


def test_streams_are_the_same_on_every_machine() -> None:
    assert stream_seed(0, "initial") == 2331052326859358921
    assert all(0 <= stream_seed(seed, "x") < 2**63 for seed in range(100))


def test_no_two_streams_are_alike() -> None:
    names = [
        (seed, purpose) for seed in range(20) for purpose in ("initial", "noise", "inner batches", "outer batches")
    ]
    assert len({stream_seed(*name) for name in names}) == len(names)
    assert stream_seed(1, "1/x") != stream_seed(11, "x")


def test_streams_are_uncorrelated_between_seeds_and_purposes() -> None:
    streams = torch.stack([draws(seed, purpose) for seed in (0, 1, 2) for purpose in ("initial", "noise")])
    correlations = torch.corrcoef(streams) - torch.eye(6, dtype=torch.float64)
    # 15 pairs, each within 5 standard errors of zero: missed by chance with probability 1e-5.
    assert float(correlations.abs().max()) < 5 / 20_000**0.5


def test_drawing_more_of_one_stream_leaves_the_other_as_it_was() -> None:
    one, other = generator(0, "a"), generator(0, "b")
    torch.randn(1000, generator=one)
    assert torch.equal(torch.randn(5, generator=other), torch.randn(5, generator=generator(0, "b")))
