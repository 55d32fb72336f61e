"""Every model by its name, over the closed tuples of all families.

A model that is in the tuple of its folder is known here, and so on the command line, in Python and
in `ouzel models`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any, Literal, get_type_hints

import msgspec

from ouzel.models.closed_form import ClosedForm
from ouzel.models.ctr import CTR_MODELS
from ouzel.models.ctr.base import CTRModel
from ouzel.models.encoder import Encoder
from ouzel.models.factorization import FACTORIZATION_MODELS, RATING_MODELS
from ouzel.models.graph import GRAPH_MODELS
from ouzel.models.graph_encoder import GraphEncoder
from ouzel.models.neighbours import NEIGHBOUR_MODELS
from ouzel.models.protocols import SequenceEncoder
from ouzel.models.rating import RatingModel
from ouzel.models.sequence import SEQUENCE_MODELS

Kind = Literal["sequence", "encoder", "rating", "closed_form"]
Model = SequenceEncoder | Encoder | GraphEncoder | RatingModel | ClosedForm

MODELS: tuple[type[Model], ...] = (
    *SEQUENCE_MODELS,
    *FACTORIZATION_MODELS,
    *GRAPH_MODELS,
    *RATING_MODELS,
    *NEIGHBOUR_MODELS,
)
"""Every model that can be trained by its name."""

_KINDS: tuple[tuple[type[Model], Kind], ...] = (
    (SequenceEncoder, "sequence"),
    (Encoder, "encoder"),
    (GraphEncoder, "encoder"),
    (RatingModel, "rating"),
    (ClosedForm, "closed_form"),
)


def model_named(name: str) -> type[Model]:
    """Return the model of this name.

    Raises:
        ValueError: there is none; the message suggests the nearest.

    >>> model_named("essrec")
    Traceback (most recent call last):
    ...
    ValueError: there is no model 'essrec': did you mean 'esasrec'?
    >>> model_named("deepfm")
    Traceback (most recent call last):
    ...
    ValueError: deepfm finds nothing, it orders what a model has found: train one with --ctr deepfm
    """
    known = {model.name: model for model in MODELS}
    if name in known:
        return known[name]
    if name in {model.name for model in CTR_MODELS}:
        raise ValueError(
            f"{name} finds nothing, it orders what a model has found: train one with --ctr {name}"
        )
    raise ValueError(f"there is no model {name!r}: {_hint(name, tuple(known))}")


def ctr_model_named(name: str) -> type[CTRModel]:
    """Return the model of fields of this name: one that scores candidates, and finds none.

    Raises:
        ValueError: there is none; the message suggests the nearest.

    >>> ctr_model_named("deepmf")
    Traceback (most recent call last):
    ...
    ValueError: there is no model of fields 'deepmf': did you mean 'deepfm'?
    """
    known = {model.name: model for model in CTR_MODELS}
    if name in known:
        return known[name]
    raise ValueError(f"there is no model of fields {name!r}: {_hint(name, tuple(known))}")


def kind_of(model: type[Model]) -> Kind:
    """Return how a model is trained and served.

    >>> kind_of(model_named("esasrec"))
    'sequence'
    """
    (kind,) = (kind for base, kind in _KINDS if issubclass(model, base))
    return kind


def family_of(model: type[Model | CTRModel]) -> str:
    """Return the folder of a model.

    >>> family_of(model_named("esasrec"))
    'sequence'
    """
    return model.__module__.split(".")[-2]


def checked_settings(
    model: type[Model | CTRModel],
    preset: str,
    settings: Mapping[str, Any],
    *,
    beside: Sequence[str] = (),
) -> dict[str, Any]:
    """Return `settings` as the config of `model` has them: texts become what their fields hold.

    `beside` are the names of settings that are not the config's, for the message.

    Raises:
        ValueError: the preset or a setting is unknown (the message says which there are), or a
            value does not fit.

    >>> checked_settings(model_named("esasrec"), "S", {"dim": "128", "timed": "false"})
    {'dim': 128, 'timed': False}
    >>> checked_settings(model_named("esasrec"), "S", {"size": 1})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: esasrec has no setting 'size': it has dim, num_layers, num_heads, ...
    """
    if preset not in model.presets:
        raise ValueError(f"there is no preset {preset!r}: {_hint(preset, tuple(model.presets))}")
    config = model.presets[preset]
    hints, names = get_type_hints(type(config)), tuple(field.name for field in fields(config))
    known = (*names, *beside)
    checked = {}
    for name, value in settings.items():
        if name not in names:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            nearest = f"did you mean {near[0]!r}? It" if near else "it"
            raise ValueError(
                f"{model.name} has no setting {name!r}: {nearest} has {', '.join(known)}"
            )
        try:
            checked[name] = msgspec.convert(value, hints[name], strict=False)
        except msgspec.ValidationError as error:
            raise ValueError(f"{model.name}: {name} is {value!r}: {error}") from None
        if isinstance(checked[name], float) and not math.isfinite(checked[name]):
            raise ValueError(f"{model.name}: {name} is {value!r}: give a finite number")
    replace(config, **checked)
    return checked


def _hint(name: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
