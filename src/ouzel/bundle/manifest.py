"""The manifest: everything a Bundle says about itself, and the digest that names it.

The manifest is JSON in one canonical form (sorted keys, two spaces). It holds the digest of every
other file, so the digest of its own bytes names the whole Bundle.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from ouzel.features.states import Precision

FORMAT_VERSION = 4
"""The newest Bundle format that this library reads and the one it writes.

2 added `states` and `index`, 3 `kind`; 4 may have lengths in place of the table of inputs. Older
Bundles are read: before 2 states are in float32, before 3 all are of sequence models.
"""

Kind = Literal["sequence", "encoder", "closed_form"]
"""What serves: a graph for each step of a user's state; item factors and the fold-in of a history;
or weights from item to item."""

FOLDER_DIGITS = 16
"""How many hex digits of the digest name the folder."""


class FileDigest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one file must be: its SHA-256 in hex and its size in bytes."""

    sha256: str
    size: int


class GraphSignature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs and outputs of one graph: name to shape, a free dimension as its letter."""

    inputs: dict[str, list[int | str]]
    outputs: dict[str, list[int | str]]


class DataRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The data a model has seen: its digest, its end in UTC milliseconds, and its size."""

    digest: str
    cut_off_ms: int | None
    num_events: int
    num_users: int


class MeasuredPrecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What it costs to keep the keys and values of states in `precision`, on held-out events.

    `state_bytes` is the size of one user's state, `vector_error` the largest difference of an entry
    of a user vector from float64, and `overlap_at_10` the share of its ten best items that stay.
    """

    precision: Precision
    state_bytes: int
    vector_error: float
    overlap_at_10: float
    ndcg_at_10: float


class StatePrecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The precision of a Bundle's states (its graphs say it too), and what it was chosen from."""

    chosen: Precision
    measured: list[MeasuredPrecision]


class IndexRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An engine of `ouzel.retrieval.engines` with its effort, and what it was measured to find.

    `recall` has `recall@10` and `recall@100`, against exact search, over `num_queries` users whose
    vectors took no part in choosing.
    """

    engine: str
    effort: int
    recall: dict[str, float]
    num_queries: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The self-description of a Bundle.

    `num_rows` is the length of the catalogue prefix that the model knows, padding row included,
    and `catalogue_digest` the digest of that prefix. `error_bounds` are measured largest absolute
    differences, by name. `parent` is the digest of the Bundle this one was made from. `states` says
    in which precision user states are kept, and why. `index` is the automatic choice of an item
    index when the Bundle was made (None: not measured). `kind` says how it is served.
    """

    format_version: int
    model: str
    config: dict[str, Any]
    features: dict[str, Any]
    num_rows: int
    catalogue_digest: str
    data: DataRange
    metrics: list[dict[str, Any]]
    graphs: dict[str, GraphSignature]
    error_bounds: dict[str, float]
    versions: dict[str, str]
    seed: int
    parent: str | None
    files: dict[str, FileDigest]
    states: StatePrecision | None = None
    index: IndexRecord | None = None
    kind: Kind = "sequence"


class _FormatOnly(msgspec.Struct):
    format_version: int


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical JSON of a manifest, the bytes that its digest is taken of.

    Raises:
        ValueError: a number in it is NaN or infinite, which JSON cannot hold.

    >>> fields = dict(model="Popular", config={}, features={}, num_rows=3, catalogue_digest="c")
    >>> fields |= dict(metrics=[], graphs={}, error_bounds={}, versions={}, seed=1, parent=None)
    >>> data = {"digest": "d", "cut_off_ms": None, "num_events": 2, "num_users": 1}
    >>> manifest = build_manifest(fields | {"data": data}, files={})
    >>> decode_manifest(encode_manifest(manifest)) == manifest
    True
    """
    _refuse_non_finite(msgspec.to_builtins(manifest, enc_hook=_plain), "manifest")
    text = msgspec.json.encode(manifest, enc_hook=_plain, order="deterministic")
    return msgspec.json.format(text, indent=2) + b"\n"


def decode_manifest(text: bytes) -> Manifest:
    """Return the manifest that these bytes hold.

    Raises:
        ValueError: it is not a manifest, or a newer library wrote it; the message says which.

    >>> decode_manifest(b'{"format_version": 99}')
    Traceback (most recent call last):
    ...
    ValueError: manifest.json has format version 99, this library reads up to 4: upgrade ouzel
    """
    try:
        version = msgspec.json.decode(text, type=_FormatOnly).format_version
        if version > FORMAT_VERSION:
            raise ValueError(
                f"manifest.json has format version {version}, this library reads up to "
                f"{FORMAT_VERSION}: upgrade ouzel"
            )
        return msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise ValueError(
            f"manifest.json is damaged ({error}): copy the bundle again, or train again"
        ) from None


def build_manifest(fields: Mapping[str, Any], *, files: dict[str, FileDigest]) -> Manifest:
    """Return a manifest of the current format from its fields, all but the version and `files`.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type; the message names it.

    >>> build_manifest({"model": "Popular"}, files={})
    Traceback (most recent call last):
    ...
    ValueError: the manifest cannot be written: Object missing required field `config`
    """
    whole = {**fields, "format_version": FORMAT_VERSION, "files": files}
    try:
        plain = msgspec.to_builtins(whole, enc_hook=_plain)
        return msgspec.convert(plain, type=Manifest)
    except (msgspec.ValidationError, TypeError) as error:
        raise ValueError(f"the manifest cannot be written: {error}") from None


def digest_of(text: bytes) -> str:
    """Return the SHA-256 of some bytes in hex.

    >>> digest_of(b"")[:16]
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(text).hexdigest()


def _plain(value: object) -> object:
    """Return a numpy scalar as the Python number it holds."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r} has no place in a manifest")


def _refuse_non_finite(value: object, where: str) -> None:
    # msgspec would write NaN as null, and the reader would see a number that is not there.
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}, which JSON cannot hold: leave it out or fix it")
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_non_finite(inner, f"{where}.{name}")
    if isinstance(value, list):
        for place, inner in enumerate(value):
            _refuse_non_finite(inner, f"{where}[{place}]")
