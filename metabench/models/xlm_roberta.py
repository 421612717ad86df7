"""XLM-R (Conneau et al. 2020) from the library `transformers`, block by block as pure functions: the extra `nlp`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from metabench.core.errors import MetabenchError
from metabench.core.lazy import torch
from metabench.core.types import Tree
from metabench.models.encoders import PADDING, NamedEncoder
from metabench.models.modules import as_function

SHAPES: Mapping[str, tuple[int, int, int, int]] = {
    "xlmr-tiny": (32, 2, 2, 64),
    "xlmr-base": (768, 12, 12, 3072),
    "xlmr-large": (1024, 24, 16, 4096),
}
"""Width, blocks, heads, and width of the MLPs."""

_LONGEST = 512


class XLMRoberta:
    """The encoder of XLM-R: no pooler, no dropout, attention by its formula. Its padding token is 1, that of `encoders` is 0.

    Trained weights are those of a folder as `save_pretrained` writes it, with config.json and model.safetensors; without one, parameters
    are drawn as the library does, by the generator's seed.

    Raises:
        MetabenchError: the library is not installed, or the folder has no such model.
    """

    def __init__(self, size: str, vocabulary: int, weights: Path | None, device: torch.device) -> None:
        try:
            import transformers
        except ImportError as error:
            raise MetabenchError(
                f"the encoder '{size}' needs the library transformers, which is not installed: pip install 'metabench[nlp]'"
            ) from error
        self._device = device
        if weights is not None:
            try:
                self._make = functools.partial(
                    transformers.XLMRobertaModel.from_pretrained,
                    str(weights),
                    local_files_only=True,
                    add_pooling_layer=False,
                    attn_implementation="eager",
                    hidden_dropout_prob=0.0,
                    attention_probs_dropout_prob=0.0,
                )
                config = transformers.XLMRobertaConfig.from_pretrained(str(weights), local_files_only=True)
            except (OSError, ValueError) as error:
                raise MetabenchError(
                    f"the folder {weights} has no XLM-R as save_pretrained writes it: {error}"
                ) from error
        else:
            width, blocks, heads, hidden = SHAPES[size]
            config = transformers.XLMRobertaConfig(
                vocab_size=vocabulary + 1,
                hidden_size=width,
                num_hidden_layers=blocks,
                num_attention_heads=heads,
                intermediate_size=hidden,
                max_position_embeddings=_LONGEST + 2,
                type_vocab_size=1,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                attn_implementation="eager",
            )
            self._make = functools.partial(transformers.XLMRobertaModel, config, add_pooling_layer=False)
        self.width, self.blocks = int(config.hidden_size), int(config.num_hidden_layers)
        self._padding = int(config.pad_token_id)
        # Ours are numbered from 1, with 0 for padding: those of trained weights follow their own numbers, others keep clear of the padding.
        self._offset = self._padding if weights is None else -1
        self._parts = {name: as_function(part, device)[1] for name, part in self._modules(0).items()}

    def _modules(self, seed: int) -> dict[str, torch.nn.Module]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self._make()
        return {"embed": model.embeddings} | {f"block{i}": layer for i, layer in enumerate(model.encoder.layer)}

    def initial(self, generator: torch.Generator, dtype: torch.dtype) -> Tree:
        """Return the parameters, on the encoder's device."""
        found: Tree = {}
        for part, module in self._modules(generator.initial_seed()).items():
            params, _ = as_function(module, self._device, dtype)
            found |= {f"{part}.{name}": leaf for name, leaf in params.items()}
        return found

    def __call__(
        self, params: Tree, tokens: torch.Tensor, after: int, change: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return the last hidden states; `metabench.models.encoders.Encoder` says of what."""
        padding = tokens == PADDING
        own = torch.where(padding, self._padding, tokens + self._offset)
        states = self._of(params, "embed", own)
        masked = torch.where(padding, -1e4, 0.0).to(states.dtype)[:, None, None]
        for i in range(self.blocks + 1):
            if i:
                states = self._of(params, f"block{i - 1}", states, masked)
            if i == after:
                states = change(states)
        return states

    def _of(self, params: Tree, part: str, *inputs: Any) -> torch.Tensor:
        own = {name[len(part) + 1 :]: leaf for name, leaf in params.items() if name.startswith(f"{part}.")}
        found = self._parts[part](own, *inputs)
        return found[0] if isinstance(found, tuple) else found


XLM_ROBERTAS = tuple(
    NamedEncoder(
        name,
        f"XLM-R, {blocks} blocks of width {width}, {heads} heads (extra nlp)",
        "XLM-R",
        functools.partial(XLMRoberta, name),
        100 + order,
    )
    for order, (name, (width, blocks, heads, _)) in enumerate(SHAPES.items())
)
