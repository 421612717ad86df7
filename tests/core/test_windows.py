"""A window is K inner batches and the outer losses due along the way."""

from __future__ import annotations

import pytest

from metabench.core import Window


def test_a_window_that_ends_in_its_outer_loss() -> None:
    inner = ({}, {}, {})
    outer = {}
    window = Window.ending_in(inner, outer)
    assert window.inner == inner
    assert window.outer == (None, None, outer)
    assert Window.ending_in(({},), outer).outer == (outer,)


def test_the_last_steps_of_a_window() -> None:
    batches = tuple({"x": k} for k in range(4))
    window = Window(batches, (None, batches[1], None, batches[3]))  # type: ignore[arg-type]
    assert window.last(2) == Window(batches[2:], (None, batches[3]))  # type: ignore[arg-type]
    assert window.last(4) == window
    assert window.last(9) == window


def test_what_is_no_window() -> None:
    with pytest.raises(ValueError, match="at least one inner step"):
        Window((), ())
    with pytest.raises(ValueError, match="2 inner steps has 1 places"):
        Window(({}, {}), ({},))
    with pytest.raises(ValueError, match="at least one outer loss"):
        Window(({}, {}), (None, None))
    with pytest.raises(ValueError, match="at least one outer loss"):
        Window(({}, {}), ({}, None)).last(1)
