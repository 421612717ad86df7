"""Spaces of architectures: every net once, by one name, with the cost that torch counts."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from metabench.core.errors import MetabenchError
from metabench.models.operations import IDENTITY, OPERATIONS
from metabench.models.search_space import Space
from metabench.models.spaces import SPACES, space

TINY, SMALL = space("tiny"), space("small")
PAIRS = Space("pairs", "two layers at each size", ("conv3", "pool3", IDENTITY), (False, True, False, True), (4, 8))
"""A space in which texts of equal nets differ."""


def scores(of: Space, encoding: str, images: torch.Tensor) -> torch.Tensor:
    net = of.net(encoding, images.shape[1:], 3)
    return net.scores(net.initial(torch.Generator().manual_seed(1), images.dtype), images)


def test_spaces_have_as_many_nets_as_they_say() -> None:
    assert (TINY.size, SMALL.size) == (125, 1250)
    for of in (TINY, SMALL, PAIRS):
        assert len(of.all()) == of.size == len(set(of.all()))
        assert all(of.read(encoding) == encoding for encoding in of.all())


def test_equal_nets_have_one_encoding_and_others_have_not() -> None:
    assert PAIRS.read("identity-conv3-identity-pool3@8") == "conv3-identity-pool3-identity@8"
    texts = ["-".join(named) + "@4" for named in itertools.product(PAIRS.operations, repeat=4)]
    # By what is computed: equal weights for equal operations, whichever layer holds them.
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found: dict[str, torch.Tensor] = {}
    for text in texts:
        net = PAIRS.net(PAIRS.read(text), (1, 8, 8), 3)
        params = net.initial(torch.Generator().manual_seed(1), torch.float64)
        found.setdefault(PAIRS.read(text), net.scores(params, images))
        # What the text says, built as it stands.
        literal = Space("literal", "", PAIRS.operations, (True,) * 4, (4,))
        assert literal.read(text.removesuffix("@4")) == text.removesuffix("@4")
    assert len(found) == PAIRS.size // 2
    different = list(found.values())
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(different, 2))


def test_every_way_to_a_net_gives_its_canonical_encoding() -> None:
    known = set(PAIRS.all())
    assert all(PAIRS.text(genes) in known for genes in itertools.product(*(range(count) for count in PAIRS.choices)))
    assert set(PAIRS.neighbours("conv3-identity-pool3-pool3@4")) <= known
    near = {net: PAIRS.neighbours(net) for net in known}
    assert all(net not in others and len(others) == len(set(others)) for net, others in near.items())
    assert all(net in near[other] for net, others in near.items() for other in others)
    assert "conv3-conv3-pool3-pool3@4" in PAIRS.neighbours(" identity-conv3-pool3-pool3@4")
    assert len(TINY.neighbours("conv3-conv3-conv3")) == 12
    drawn = list(PAIRS.drawn(0, "test"))
    assert sorted(drawn) == sorted(known)
    assert drawn == list(PAIRS.drawn(0, "test")) != list(PAIRS.drawn(1, "test"))


def test_one_hot_vectors_tell_nets_apart() -> None:
    vectors = SMALL.one_hot(SMALL.all())
    assert vectors.shape == (1250, 22)
    assert (vectors.sum(1) == 5).all()
    assert len({tuple(row) for row in vectors}) == 1250


@pytest.mark.parametrize("encoding", ["conv3-sep5-pool3", "identity-sep3-conv3", "pool3-pool3-identity"])
def test_flops_and_parameters_are_those_of_the_net_that_is_built(encoding: str) -> None:
    images = torch.zeros(1, 1, 16, 16)
    net = TINY.net(encoding, (1, 16, 16), 5)
    params = net.initial(torch.Generator(), torch.float32)
    with FlopCounterMode(display=False) as counter:
        net.scores(params, images)
    assert TINY.flops(encoding, (1, 16, 16), 5) == counter.get_total_flops()
    assert TINY.parameters(encoding, (1, 16, 16), 5) == sum(leaf.numel() for leaf in params.values())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_keeps_the_shape_and_counts_what_torch_counts(operation: str) -> None:
    of, maps = OPERATIONS[operation], torch.randn(2, 6, 8, 8)
    params = {name: torch.randn(shape) for name, shape in of.shapes(6).items()}
    with FlopCounterMode(display=False) as counter:
        found = of(params, maps)
    assert found.shape == maps.shape
    assert counter.get_total_flops() == 2 * of.flops(6, 8)


@pytest.mark.parametrize(
    ("of", "text", "said"),
    [
        (
            TINY,
            "conv3-sepp5-pool3",
            "unknown operation of space 'tiny' in 'conv3-sepp5-pool3' 'sepp5': did you mean 'sep5'?",
        ),
        (
            TINY,
            "conv3-sep5",
            "'conv3-sep5' has 2 layers, and nets of space 'tiny' have 3: for example 'conv3-sep5-identity'",
        ),
        (TINY, "conv3-sep5-pool3-pool3", "have 3: for example 'conv3-sep5-pool3'"),
        (TINY, "conv3-sep5-pool3@9", "space 'tiny' has no width 9: the nearest is 16"),
        (SMALL, "conv3-sep5-pool3-pool3", "names no width: space 'small' has 8, 16"),
        (SMALL, "conv3-sep5-pool3-pool3@15", "has no width 15: the nearest is 16"),
    ],
)
def test_what_a_space_lacks_is_refused_with_the_nearest_that_it_has(of: Space, text: str, said: str) -> None:
    with pytest.raises(MetabenchError) as refused:
        of.read(text)
    assert said in str(refused.value)


def test_spaces_and_images_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MetabenchError, match=r"unknown space 'tiney': did you mean 'tiny'\?"):
        space("tiney")
    with pytest.raises(MetabenchError, match=r"4 x 4 pixels are too small for space 'tiny', which halves them 3 times"):
        TINY.net("conv3-conv3-conv3", (1, 4, 4), 5)
    with pytest.raises(MetabenchError, match="too many to list"):
        SPACES["large"].all()
