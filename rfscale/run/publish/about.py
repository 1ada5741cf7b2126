"""What makes a publication citable and checkable: licence, citation, environment, Croissant and checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rfscale import __version__, environment
from rfscale.quoting import quoted
from rfscale.spec.sweep import Sweep, SweepError
from rfscale.store import StoreError
from rfscale.store.files import sha256

if TYPE_CHECKING:
    import pandas as pd

    from analysis.table.dictionary import Entry
    from analysis.table.read import SweepTable

LICENCES = {
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/legalcode",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/legalcode",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
}
"""SPDX identifier -> its text."""
SUMS = "SHA256SUMS"
PAPER = {
    "type": "article",
    "title": "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
    "authors": [{"family-names": "Esser", "given-names": "Patrick"}, {"name": "and others"}],
    "year": 2024,
    "url": "https://arxiv.org/abs/2403.03206",
}


def check_licence(licence: str) -> None:
    """Raises SweepError for one that is not known."""
    if licence not in LICENCES:
        raise SweepError(f"--licence {quoted(licence)} is not known; choose one of {', '.join(LICENCES)}")


def licence_text(licence: str, name: str) -> str:
    return (
        f"The results, figures, tables and weights of {name} in this folder may be used under {licence}:\n"
        f"{LICENCES[licence]}\n\nSPDX-License-Identifier: {licence}\n"
    )


def citation(sweep: Sweep, authors: Sequence[str], licence: str, url: str, date: str) -> str:
    """CITATION.cff, version 1.2.0 of the format."""
    people: list[dict[str, str]] = []
    for author in authors:
        given, _, family = author.rpartition(" ")
        people.append({"family-names": family, "given-names": given} if given else {"name": author})
    value = {
        "cff-version": "1.2.0",
        "message": "If you use these results or weights, please cite them as below.",
        "type": "dataset",
        "title": f"{sweep.name}: {sweep.question}",
        "authors": people or [{"name": f"The authors of {sweep.name}"}],
        "date-released": date,
        "license": licence,
        **({"url": url} if url else {}),
        "version": __version__,
        "keywords": ["rectified flow", "diffusion transformers", "scaling laws"],
        "references": [PAPER],
    }
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def write_environment(table: SweepTable, folder: Path) -> None:
    """environment.json, of the trainings and of the publication, and requirements.txt, of the latter."""
    found = {
        "trainings": {"versions": table.versions, "commits": table.commits, "devices": table.devices},
        "publication": {**environment.describe("cpu"), "rfscale": __version__},
    }
    (folder / "environment.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()}, key=str.lower)
    (folder / "requirements.txt").write_text("\n".join(packages) + "\n", encoding="utf-8")


def write_dictionary(entries: Sequence[Entry], folder: Path) -> None:
    """dictionary.csv."""
    import pandas as pd

    pd.DataFrame([asdict(entry) for entry in entries]).to_csv(folder / "dictionary.csv", index=False)


# --- Croissant --------------------------------------------------------------------------------------------------------

_TYPES = {"integer": "sc:Integer", "number": "sc:Float", "boolean": "sc:Boolean", "text": "sc:Text"}
_CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"}, "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/", "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract",
    "field": "cr:field", "fileProperty": "cr:fileProperty", "fileObject": "cr:fileObject", "fileSet": "cr:fileSet",
    "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath",
    "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip


def croissant(
    sweep: Sweep,
    frames: Mapping[str, pd.DataFrame],
    entries: Sequence[Entry],
    folder: Path,
    authors: Sequence[str],
    licence: str,
    url: str,
    date: str,
) -> dict[str, Any]:
    """The description of the tables in the format of MLCommons Croissant 1.0; empty tables have no records."""
    meaning = {(entry.table, entry.column): entry for entry in entries}
    shown = {name: frame for name, frame in frames.items() if len(frame)}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": sweep.name,
        "description": f"{sweep.question} The results of {len(frames['trials'])} trainings.",
        "license": LICENCES[licence],
        "creator": [{"@type": "sc:Person", "name": author} for author in authors]
        or {"@type": "sc:Organization", "name": f"The authors of {sweep.name}"},
        "datePublished": date,
        "version": "1.0.0",
        **({"url": url} if url else {}),
        "citeAs": f"{', '.join(authors) or f'The authors of {sweep.name}'}: {sweep.name}, {date}. See CITATION.cff.",
        "distribution": [_file(f"tables/{name}.csv", folder) for name in shown],
        "recordSet": [_records(name, frame, meaning) for name, frame in shown.items()],
    }


def _file(path: str, folder: Path) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "encodingFormat": "text/csv",
        "sha256": sha256(folder / path),
    }


def _records(name: str, frame: pd.DataFrame, meaning: Mapping[tuple[str, str], Entry]) -> dict[str, Any]:
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{column}",
            "name": f"{name}/{column}",
            "description": _described(meaning[name, column]),
            "dataType": _TYPES[meaning[name, column].type],
            "source": {"fileObject": {"@id": f"tables/{name}.csv"}, "extract": {"column": column}},
        }
        for column in frame.columns
    ]
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "field": fields}


def _described(entry: Entry) -> str:
    return entry.meaning + (f" [{entry.unit}]" if entry.unit else "")


# --- checksums --------------------------------------------------------------------------------------------------------


def write_sums(folder: Path) -> None:
    """SHA256SUMS over all other files, as `sha256sum -c` reads it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{sha256(path)}  {path.relative_to(folder)}" for path in files]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_sums(folder: Path, without: str | None = "models/") -> str:
    """The SHA-256 of the list itself, by which a publication is known, after every file on it was checked but those
    under `without`. Raises StoreError for the first that differs, and for a folder without the list."""
    sums = folder / SUMS
    try:
        lines = sums.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder} is no published folder: it has no readable {SUMS}; give one that `rfscale publish` wrote"
        ) from error
    for line in lines:
        digest, _, name = line.partition("  ")
        if without is not None and name.startswith(without):
            continue
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            raise StoreError(f"{path} is missing or has changed since it was published; get the folder again")
    return sha256(sums)
