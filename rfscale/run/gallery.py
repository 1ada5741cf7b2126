"""What the finished trials of a sweep drew for the same held-out captions, with the true images: for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rfscale.data.base import DataError
from rfscale.data.space import to_uint8
from rfscale.data.spec import DataSpec
from rfscale.spec.trial import Trial
from rfscale.store import Store
from rfscale.validation.grid import Pixels, read_grid, save_row

if TYPE_CHECKING:
    from analysis.report.gallery import Gallery
    from analysis.table.read import SweepTable

CAPTIONS = 8
"""The first of those in the pictures of the trials."""
ENOUGH = 16 * CAPTIONS
"""Held-out images of which those of every shape are taken."""
READERS = 2
"""Pictures that are decoded at a time, outside the interpreter's lock."""

Drawn = tuple[tuple[str, ...], list[Pixels]]
T = TypeVar("T")


def gallery_of(trials: Sequence[Trial], store: Store) -> Gallery | None:
    """Of the trials that have a picture; None where none has. Those with other captions than most are left out."""
    known = {trial.data: _held_out(trial.data) for trial in trials}

    def drawn(trial: Trial) -> Drawn | None:
        return _drawn(store.trial(trial.trial_id).samples, trial.data.resolution, known[trial.data])

    with ThreadPoolExecutor(READERS) as readers:
        found = dict(zip((trial.trial_id for trial in trials), readers.map(drawn, trials), strict=True))
    return _gallery(found, list(known.values()))


def gallery_in(folder: Path, truth: Path, table: SweepTable) -> Gallery | None:
    """The same from a published folder: of the pictures `folder/<trial id>/samples.png`, with the true images of the
    file that `save_truth` wrote, if there is one."""
    sides = dict(zip(table.trials["trial_id"], table.trials["resolution"], strict=True))
    held_out = _drawn(truth, 0, ((), [])) or ((), [])
    drawn = {t: _drawn(folder / t / "samples.png", side, held_out) for t, side in sides.items() if side == side}
    return _gallery(drawn, [held_out])


def save_truth(gallery: Gallery, path: Path) -> None:
    """The true images of a gallery with their captions, as a picture; none where they are not known."""
    if gallery.truth is not None:
        save_row(gallery.truth, gallery.captions, path)


def _gallery(drawn: Mapping[str, Drawn | None], held_out: Sequence[Drawn]) -> Gallery | None:
    from analysis.report.gallery import Gallery

    found = {trial_id: cells for trial_id, cells in drawn.items() if cells is not None}
    if not found:
        return None
    ((captions, _),) = Counter(texts for texts, _ in found.values()).most_common(1)
    shown = {trial_id: images for trial_id, (texts, images) in found.items() if texts == captions}
    truths = (held for held in held_out if held[0][: len(captions)] == captions)
    truth = next((images[: len(captions)] for _, images in truths), None)
    return Gallery(captions, shown, truth, len(drawn) - len(shown))


def _held_out(data: DataSpec) -> Drawn:
    """The first held-out captions and images, of every shape; none where the data cannot be read here."""
    try:
        buckets = data.pictures.load_buckets()
        asked = CAPTIONS if len(buckets) == 1 else ENOUGH  # of all shapes together
        parts = [bucket.validation(asked) for bucket in buckets]
    except (DataError, OSError):
        return (), []
    cells = [
        (image.repeat(3, axis=2) if image.shape[2] == 1 else image, text)
        for part in parts
        if part.captions
        for image, text in zip(to_uint8(part.images), part.captions, strict=True)
    ]
    some = _of_every_shape(cells)
    return tuple(text for _, text in some), [image for image, _ in some]


def _of_every_shape(cells: Sequence[tuple[Pixels, T]]) -> list[tuple[Pixels, T]]:
    """The first `CAPTIONS`, or of images in several shapes as many of each as there is room for, in their order."""
    shapes: dict[tuple[int, ...], list[tuple[Pixels, T]]] = {}
    for cell in cells:
        shapes.setdefault(cell[0].shape, []).append(cell)
    found: list[tuple[Pixels, T]] = []
    for number, of_one in enumerate(shapes.values()):
        found += of_one[: -(-(CAPTIONS - len(found)) // (len(shapes) - number))]
    return found


def _drawn(path: Path, resolution: int, held_out: Drawn) -> Drawn | None:
    """Captions and images of a picture; None where there is none, or where its captions are not known."""
    try:
        cells = _of_every_shape(read_grid(path, resolution))
    except (OSError, ValueError, TypeError):
        return None
    texts = [text if text is not None else known for (_, text), known in zip(cells, _padded(held_out[0]), strict=False)]
    if not cells or None in texts:
        return None
    return tuple(map(str, texts)), [image for image, _ in cells]


def _padded(captions: Sequence[str]) -> list[str | None]:
    return [*captions, *[None] * (CAPTIONS - len(captions))]
