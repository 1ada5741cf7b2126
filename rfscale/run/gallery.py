"""What the finished trials of a sweep drew for the same held-out captions, with the true images: for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rfscale.data import load
from rfscale.data.base import DataError
from rfscale.data.space import to_uint8
from rfscale.data.spec import DataSpec
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.validation.grid import Pixels, read_grid

if TYPE_CHECKING:
    from analysis.report.gallery import Gallery

CAPTIONS = 8
"""The first of those in the pictures of the trials."""

Drawn = tuple[tuple[str, ...], list[Pixels]]


def gallery_of(trials: Sequence[Trial], store: Store) -> Gallery | None:
    """Of the trials that have a picture; None where none has. Those with other captions than most are left out."""
    from analysis.report.gallery import Gallery

    known = {trial.data: _held_out(trial.data) for trial in trials}
    found = {trial.trial_id: drawn for trial in trials if (drawn := _drawn(trial, store, known[trial.data]))}
    if not found:
        return None
    ((captions, _),) = Counter(texts for texts, _ in found.values()).most_common(1)
    shown = {trial_id: images for trial_id, (texts, images) in found.items() if texts == captions}
    truths = (held for held in known.values() if held[0][: len(captions)] == captions)
    truth = next((images[: len(captions)] for _, images in truths), None)
    return Gallery(captions, shown, truth, len(trials) - len(shown))


def _held_out(data: DataSpec) -> Drawn:
    """The first held-out captions and images; none where the data cannot be read here."""
    try:
        first = load(data).validation(CAPTIONS)
    except (DataError, OSError):
        return (), []
    images = to_uint8(first.images)
    return first.captions, [image.repeat(3, axis=2) if image.shape[2] == 1 else image for image in images]


def _drawn(trial: Trial, store: Store, held_out: Drawn) -> Drawn | None:
    """Captions and images of one trial; None without a picture of it, or where its captions are not known."""
    path = store.trial(trial.trial_id).samples
    try:
        cells = read_grid(path, trial.data.resolution)[:CAPTIONS]
    except (OSError, ValueError, TypeError):
        return None
    texts = [text if text is not None else known for (_, text), known in zip(cells, _padded(held_out[0]), strict=False)]
    if not cells or None in texts:
        return None
    return tuple(map(str, texts)), [image for image, _ in cells]


def _padded(captions: Sequence[str]) -> list[str | None]:
    return [*captions, *[None] * (CAPTIONS - len(captions))]
