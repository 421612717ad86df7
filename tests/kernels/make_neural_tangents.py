"""Write `neural_tangents.json` and `neural_tangents_convolutional.json`: kernels by neural-tangents 0.6.5 in float64, for the tests.

The library is archived and needs an older jax than other packages: run this in an environment of its own,

    pip install neural-tangents==0.6.5 jax==0.4.24 jaxlib==0.4.24 'numpy<2' 'scipy<1.13'
    python tests/kernels/make_neural_tangents.py
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import jax
import numpy as np
from neural_tangents import stax

jax.config.update("jax_enable_x64", True)
WIDTHS = (64, 32, 16)
ACTIVATIONS = {
    "relu": stax.Relu(),
    "leaky_relu": stax.LeakyRelu(0.1),
    "erf": stax.Erf(),
    "gelu": stax.Gelu(),
    "identity": stax.Identity(),
}


def _dense(width: int, w_std: float, b_std: float, parametrisation: str):
    scale = {"s": (1, 1)} if parametrisation == "standard" else {}
    return stax.Dense(width, W_std=w_std, b_std=b_std or None, parameterization=parametrisation, **scale)


def convolutional(depth: int, between, w_std: float, b_std: float, readout: str, pools: tuple[int, ...]):
    """Return the kernel of a convolutional network, and its options in metabench's terms."""
    layers = []
    for layer in range(1, depth + 1):
        layers += [stax.Conv(1, (3, 3), padding="SAME", W_std=w_std, b_std=b_std or None), between]
        if layer in pools:
            layers.append(stax.AvgPool((2, 2), (2, 2)))
    layers.append(stax.GlobalAvgPool() if readout == "gap" else stax.Flatten())
    return stax.serial(*layers, stax.Dense(1, W_std=w_std, b_std=b_std or None))[-1]


def write_convolutional() -> None:
    """Write the kernels of convolutional networks: of images that are not square, some with zeros."""
    random = np.random.default_rng(1)
    rows, columns = random.standard_normal((2, 2, 4, 8)), random.standard_normal((3, 2, 4, 8))
    rows[1, :, :2, :4], columns[2, :, 1:, 3:] = 0, 0
    cases = []
    readouts = [("flatten", ()), ("gap", ()), ("pool", (1,)), ("pool", (1, 2)), ("gap", (2,))]
    for name, depth, (w_std, b_std), (readout, pools) in itertools.product(
        ACTIVATIONS, (1, 2, 3), ((2**0.5, 0.0), (1.3, 0.2)), readouts
    ):
        if any(layer > depth for layer in pools):
            continue
        kernel = convolutional(depth, ACTIVATIONS[name], w_std, b_std, readout, pools)
        # jax images have the channels last.
        found = kernel(*(jax.numpy.moveaxis(one, 1, -1) for one in (rows, columns)), ("nngp", "ntk"))
        options = {
            "depth": depth,
            "activation": name,
            "W_std": w_std,
            "b_std": b_std,
            "readout": readout,
            "pools": pools,
        }
        kernels = {"nngp": np.asarray(found.nngp).tolist(), "ntk": np.asarray(found.ntk).tolist()}
        cases.append({"network": options, **kernels})
    out = Path(__file__).with_name("neural_tangents_convolutional.json")
    out.write_text(json.dumps({"rows": rows.tolist(), "columns": columns.tolist(), "cases": cases}))


def write_dense() -> None:
    """Write the kernels of MLPs."""
    random = np.random.default_rng(0)
    rows, columns = random.standard_normal((5, 7)), random.standard_normal((4, 7))
    columns[0], columns[1] = 1.5 * rows[1], -rows[2]
    cases = []
    for (name, between), depth, (w_std, b_std), parametrisation in itertools.product(
        ACTIVATIONS.items(), (1, 2, 3), ((2**0.5, 0.0), (1.3, 0.2)), ("ntk", "standard")
    ):
        layers = [
            layer for width in WIDTHS[:depth] for layer in (_dense(width, w_std, b_std, parametrisation), between)
        ]
        *_, kernel = stax.serial(*layers, _dense(1, w_std, b_std, parametrisation))
        found = kernel(rows, columns, ("nngp", "ntk"))
        cases.append(
            {
                "mlp": {
                    "depth": depth,
                    "activation": name,
                    "W_std": w_std,
                    "b_std": b_std,
                    "parametrisation": parametrisation,
                    "widths": WIDTHS[:depth] if parametrisation == "standard" else (),
                },
                "nngp": np.asarray(found.nngp).tolist(),
                "ntk": np.asarray(found.ntk).tolist(),
            }
        )
    out = Path(__file__).with_name("neural_tangents.json")
    out.write_text(json.dumps({"rows": rows.tolist(), "columns": columns.tolist(), "cases": cases}))


if __name__ == "__main__":
    write_dense()
    write_convolutional()
