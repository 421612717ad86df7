"""Each mistake in a call is named in one sentence, with what was expected instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import metabench
from metabench import MetabenchError


def inner(params: Any, meta: Any, batch: Any) -> torch.Tensor:
    return (batch["x"] @ params["w"] - batch["y"]).square().mean() + meta["penalty"].exp() * params["w"].square().sum()


def outer(params: Any, meta: Any, batch: Any) -> torch.Tensor:
    return (batch["x"] @ params["w"] - batch["y"]).square().mean()


def batch(**changed: Any) -> dict[str, Any]:
    stream = torch.Generator().manual_seed(0)
    inputs = torch.randn(6, 2, generator=stream)
    return {"x": inputs, "y": inputs.sum(1), **changed}


def call(method: Any = "mixflow", **changed: Any) -> metabench.Result:
    given: dict[str, Any] = {
        "inner_loss": inner,
        "outer_loss": outer,
        "params": {"w": torch.zeros(2)},
        "meta": {"penalty": torch.tensor(-1.0)},
        "inner_batches": [batch(), batch()],
        "outer_batch": batch(),
        "optimiser": metabench.SGD(0.1),
    }
    return metabench.hypergradient(method, **given | changed)


def test_the_call_that_the_others_spoil_is_right() -> None:
    assert float(call().hypergradient["penalty"]) != 0


NOT_FINITE = batch(x=torch.full((6, 2), float("nan")))
FAR = batch(x=torch.zeros(6, 2, device="meta"))

MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "negative rate": (
        lambda: call(optimiser=metabench.SGD(-0.1)),
        "learning rate is -0.1: expected a finite number of at least 0",
    ),
    "rate that is a text": (
        lambda: call(optimiser="sgd", learning_rate="0.1"),
        "learning rate is '0.1': expected a finite number",
    ),
    "rate that turns negative": (
        lambda: call(optimiser=metabench.SGD(lambda meta, step: 0.1 - step)),
        "gives a learning rate of -0.9 at step 1 of 2",
    ),
    "batch that is None": (
        lambda: call(inner_batches=[None]),
        r"inner_batches.0. is None, expected a tensor, or a dict",
    ),
    "state of something else": (
        lambda: call(state={}),
        "the state is a dict, expected the `state` of a previous result",
    ),
    "meta-parameters of another shape": (
        lambda: call().assign({"penalty": torch.zeros(2)}),
        r"the hypergradient of 'penalty' is of shape \(\), and the meta-parameter of \(2,\)",
    ),
    "method": (lambda: call("mixflw"), "unknown method 'mixflw': did you mean 'mixflow'"),
    "option": (
        lambda: call(block_rematt=True),
        "unknown option of method 'mixflow' 'block_rematt': did you mean 'block_remat'",
    ),
    "value of an option": (
        lambda: call(block_remat=2),
        "option 'block_remat' of method 'mixflow': expected bool, got 2",
    ),
    "unhashable option": (lambda: call(block_remat=[]), r"expected bool, got \[\]"),
    "combination": (
        lambda: call("reptile"),
        "method 'reptile' does not apply here: the meta-parameters are not the initial",
    ),
    "optimiser": (lambda: call(optimiser="sdg", learning_rate=1), "unknown inner optimiser 'sdg': did you mean 'sgd'"),
    "rate": (lambda: call(optimiser="sgd"), "optimiser 'sgd' needs a learning_rate"),
    "two rates": (lambda: call(learning_rate=1), "learning_rate is for an optimiser given by name"),
    "torch's optimiser": (
        lambda: call(optimiser=torch.optim.SGD([torch.zeros(2, requires_grad=True)])),
        r"the inner optimiser is a SGD, expected metabench.SGD\(0.1\)",
    ),
    "class of optimiser": (lambda: call(optimiser=metabench.Adam), "the inner optimiser is a class Adam, expected"),
    "integers": (
        lambda: call(params={"w": torch.zeros(2, dtype=torch.int64)}),
        "parameter 'w' is of torch.int64, in which there is no",
    ),
    "booleans": (lambda: call(meta={"penalty": torch.tensor(True)}), "meta-parameter 'penalty' is of torch.bool"),
    "a list of parameters": (
        lambda: call(params=[torch.zeros(2)]),
        "params is a list, expected a tensor, a dict of tensors",
    ),
    "no parameters": (lambda: call(params={}), "params is an empty dict, expected one or more tensors"),
    "a number": (lambda: call(meta={"penalty": 1.0}), r"meta\['penalty'\] is a float, expected a tensor"),
    "a frozen module": (
        lambda: call(params=torch.nn.Linear(2, 1).requires_grad_(False)),
        "params, a Linear, has no parameter that requires",
    ),
    "dropout": (
        lambda: call(params=torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout())),
        r"'params.1' \(Dropout\) draws from global random numbers",
    ),
    "a loss per example": (
        lambda: call(inner_loss=lambda params, meta, batch: batch["x"] @ params["w"]),
        r"the inner loss has the shape \(6,\), expected a scalar",
    ),
    "a loss that is a number": (
        lambda: call(outer_loss=lambda *_: 1.0),
        "the outer loss is a float, expected a tensor",
    ),
    "a detached loss": (
        lambda: call(inner_loss=lambda p, m, b: inner({"w": p["w"].detach()}, m, b)),
        "the inner loss does not depend on the par",
    ),
    "noise in a loss": (
        lambda: call(inner_loss=lambda p, m, b: inner(p, m, b) * torch.rand(())),
        "the inner loss is not a function of its arg",
    ),
    "unused": (
        lambda: call(meta={"penalty": torch.tensor(-1.0), "rate": torch.tensor(0.1)}),
        "the outer loss does not depend on the meta-parameter 'rate'",
    ),
    "all unused": (
        lambda: call(inner_loss=outer),
        r"the meta-parameters \['penalty'\] enter neither loss, nor the inner update, nor a start",
    ),
    "unknown role": (lambda: call(roles=["inner"]), "unknown role 'inner': did you mean 'inner_loss'"),
    "wrong role": (
        lambda: call(roles=["update"]),
        "the inner loss reads meta-parameters, and the problem's roles do not say so",
    ),
    "no batch": (lambda: call(inner_batches=[]), "inner_batches is empty, expected one batch per inner step"),
    "one batch": (lambda: call(inner_batches=batch()), "inner_batches is a dict, expected a list of K batches"),
    "no outer batch": (
        lambda: call(outer_batch=None),
        "neither outer_batch nor outer_batches is given, expected one of them",
    ),
    "both": (
        lambda: call(outer_batches=[None, batch()]),
        "both outer_batch and outer_batches are given, expected one of them",
    ),
    "too few outer batches": (
        lambda: call(outer_batch=None, outer_batches=[batch()]),
        "outer_batches has 1 batches in 1 places, expected 2 places, one per inner step",
    ),
    "batches that differ": (
        lambda: call(inner_batches=[batch(), (1, 2)]),
        r"inner_batches\[1\]\['0'\] is a int, expected a tensor",
    ),
    "another device": (
        lambda: call(inner_batches=[batch(), FAR]),
        r"inner_batches\[1\]\['x'\] is on the device meta, and the parameters are on cpu",
    ),
    "meta-parameters on another device": (
        lambda: call(meta={"penalty": torch.zeros((), device="meta")}),
        "meta-parameter 'penalty' is on the device meta, and the first parameter is on cpu",
    ),
    "NaN in the first batch": (
        lambda: call(inner_batches=[NOT_FINITE] * 2),
        r"inner batch 0\['x'\] holds NaN or an infinity",
    ),
    "NaN in the second batch": (
        lambda: call(inner_batches=[batch(), NOT_FINITE]),
        r"inner batch 1\['x'\] holds NaN or an infinity",
    ),
    "NaN in a parameter": (
        lambda: call(params={"w": torch.tensor([0.0, float("inf")])}),
        r"params\['w'\] holds NaN or an infinity",
    ),
    "divergence": (
        lambda: call("unrolled", optimiser=metabench.SGD(1e30), inner_batches=[batch()] * 5),
        "method 'unrolled': the .* not finite.*; every input is finite",
    ),
    "another state": (
        lambda: call(state=call(params={"w": torch.zeros(2)}).state, params={"v": torch.zeros(2)}),
        r"the state has the parameters \['w'\]",
    ),
    "another shape": (
        lambda: call(state=call().state, params={"w": torch.zeros(3)}),
        r"the state has the parameter 'w' of shape \(2,\) in torch.float32 on cpu, and in params it is of shape \(3,\)",
    ),
    "another optimiser": (
        lambda: call(state=call().state, optimiser=metabench.Adam(0.1)),
        r"the state has the optimiser's slots \[\], and the inn",
    ),
    "another start": (
        lambda: call(start=lambda params, meta: meta),
        r"what `start` returns has the parameters \['penalty'\], and params has \['w'\]",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake: str) -> None:
    made, words = MISTAKES[mistake]
    with pytest.raises(MetabenchError, match=words) as caught:
        made()
    assert "\n" not in str(caught.value)
    # Nothing was kept that would let it pass the second time.
    with pytest.raises(MetabenchError, match=words):
        made()


def test_large_values_that_sum_to_infinity_are_finite() -> None:
    large = {"w": torch.full((2,), 2e38)}
    zero = {"x": torch.zeros(6, 2), "y": torch.zeros(6)}

    def indifferent(params: Any, meta: Any, batch: Any) -> torch.Tensor:
        return (batch["x"] @ params["w"] + meta["penalty"]).square().mean()

    found = call(params=large, inner_loss=indifferent, outer_loss=indifferent, inner_batches=[zero], outer_batch=zero)
    assert torch.equal(found.params["w"], large["w"])


def test_with_roles_given_a_meta_parameter_may_reach_nothing() -> None:
    found = call(meta={"penalty": torch.tensor(-1.0), "rate": torch.tensor(0.1)}, roles=["inner_loss"])
    assert float(found.hypergradient["rate"]) == 0


def test_a_loss_that_stops_gradients_must_say_so() -> None:
    def stopped(params: Any, meta: Any, batch: Any) -> torch.Tensor:
        scores = batch["x"] @ params["w"]
        return ((scores - batch["y"]).square() * scores.detach().exp()).mean() + meta["penalty"].exp() * params[
            "w"
        ].square().sum()

    doubled = {"params": {"w": torch.zeros(2).double()}, "meta": {"penalty": torch.tensor(-1.0).double()}}
    data = {name: leaf.double() for name, leaf in batch().items()}
    given: dict[str, Any] = {**doubled, "inner_loss": stopped, "inner_batches": [data], "outer_batch": data}
    with pytest.raises(MetabenchError, match="stops_gradients"):
        call(**given)
    call(**given, stops_gradients=True)
