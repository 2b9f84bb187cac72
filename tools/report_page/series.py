"""Mean and spread over runs that differ only in their seed."""

import re
import statistics
from collections.abc import Iterable, Sequence
from os.path import commonprefix
from typing import Any, NamedTuple

PLACES = ("ROOT", "SAMPLE_WEIGHTS")  # keys of DATASET that may differ between the seeds of one experiment
SEED = re.compile(r"([\W_]+(seed)?|seed)[\W_]*\d*$", re.IGNORECASE)  # at the end of a run's name


class Score(NamedTuple):
    """One validation."""

    epoch: int
    miou: float


def summarise(runs: Iterable[list[Score]]) -> dict[str, Any]:
    """Statistics of the best, last and lowest score, as fractions, over runs with at least one score each."""
    runs = list(runs)
    found = {
        "best": [max(scores, key=lambda s: s.miou) for scores in runs],
        "last": [scores[-1] for scores in runs],
        "lowest": [min(scores, key=lambda s: s.miou) for scores in runs],  # such as a drop at the start of SAC
    }
    return {"runs": len(runs)} | {
        which: {**spread([s.miou for s in chosen]), "epochs": [s.epoch for s in chosen]}
        for which, chosen in found.items()
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for a single value), minimum and maximum."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {
        "mean": statistics.fmean(values), "deviation": deviation, "min": min(values), "max": max(values),
        "values": values,
    }


def titles(read: list[dict[str, Any]]) -> list[str]:
    """A title for each run, shared by runs of the same kind and configuration, apart from seed and places."""
    members: dict[str, list[dict[str, Any]]] = {}
    for run in read:
        members.setdefault(_key(run), []).append(run)
    found: dict[str, str] = {}
    for key, runs in members.items():
        names = [run["name"] for run in runs]
        title = names[0] if len(set(names)) == 1 else SEED.sub("", commonprefix(names)) or runs[0]["kind"]
        # Runs with the same name in two experiments stay apart.
        found[key] = title if title not in found.values() else f"{title} ({len(found) + 1})"
    return [found[_key(run)] for run in read]


def _key(run: dict[str, Any]) -> str:
    cfg = run["cfg"].clone()
    cfg.defrost()
    for name in PLACES:
        cfg.DATASET[name] = ""
    return f"{run['kind']}\n{cfg.dump()}"


def progress(read: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The student's mIoU on a list by epoch, one curve per title.

    With several runs, `points` are means over those that have the epoch; `band` is (epoch, lowest, highest).
    """
    scores: dict[str, dict[int, list[float]]] = {}
    for run in read:
        for epoch, miou in run["scores"].get(name, ()):
            scores.setdefault(run["title"], {}).setdefault(epoch, []).append(miou)
    curves = []
    for title, values in scores.items():
        course = sorted(values.items())
        several = max(len(found) for _, found in course) > 1
        curves.append({
            "name": title, "points": [(epoch, statistics.fmean(found)) for epoch, found in course],
            "band": [(epoch, min(found), max(found)) for epoch, found in course] if several else [],
        })
    return curves


def why(read: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last measurements of pseudo labels for each title: means over the runs that have any."""
    members: dict[str, list[dict[str, Any]]] = {}
    for run in read:
        if run["why"]:
            members.setdefault(run["title"], []).append(run["why"])
    found = []
    for title, runs in members.items():
        columns = {layer: _means([run[layer] for run in runs if run[layer]]) for layer in ("kept", "fused", "pseudo")}
        latest = runs[-1]
        found.append({"name": title, "runs": len(runs), "list": latest["list"], "epoch": latest["epoch"], **columns})
    return found


def _means(columns: list[list[float | None]]) -> list[float | None] | None:
    """The mean of each row over the columns that have a value there; None without columns."""
    rows = ([value for value in row if value is not None] for row in zip(*columns, strict=True))
    return [statistics.fmean(row) if row else None for row in rows] if columns else None


def merge(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge results of the same name: means, their deviations in `spread`, and summed counts."""
    members: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        members.setdefault(result["name"], []).append(result)
    return [found[0] if len(found) == 1 else _merged(found) for found in members.values()]


def _merged(found: list[dict[str, Any]]) -> dict[str, Any]:
    columns = list(zip(*(result["iou"] for result in found), strict=True))
    per_class = [spread(known) if (known := [v for v in column if v is not None]) else None for column in columns]
    miou = spread([result["miou"] for result in found])
    merged = {
        "name": found[0]["name"], "iou": [values and values["mean"] for values in per_class], "miou": miou["mean"],
        "runs": miou["values"],
        "spread": {"iou": [values and values["deviation"] for values in per_class], "miou": miou["deviation"]},
    }
    if "confusion" in found[0]:
        tables = (result["confusion"] for result in found)
        merged["confusion"] = [[sum(cells) for cells in zip(*rows, strict=True)] for rows in zip(*tables, strict=True)]
    return merged
