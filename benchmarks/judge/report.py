"""The result as Markdown and as a picture."""

from collections.abc import Iterator
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.judge import bounds, figures
from benchmarks.judge.cells import CLAIRVOYANT, CLAIRVOYANT_FEED, DAY_LONG, FEED, OURS, RAMP, TRAFFIC, UNTEMPERED, Sums
from benchmarks.judge.figures import Results
from benchmarks.judge.opponents import peers
from benchmarks.judge.shipped import (
    AFTER_PROOF_MINUTES,
    HISTORY_MINUTES,
    LATE_MINUTES,
    PUBLISHED_MINUTES,
    SETTINGS,
    TICK_LATE_S,
    WATCH_MINUTES,
)
from benchmarks.judge.traffic import TICK_S, Cell
from buddy_ops.health.stable_alone import MOST_MINUTES

SHORT = dict(
    zip(
        (*peers(), OURS, RAMP, FEED, DAY_LONG),
        (
            "guide's script",
            "guide's intent",
            "CodeDeploy, alias alarm",
            "CodeDeploy, alias 3 of 3",
            "CodeDeploy, version's alarm",
            "Flagger",
            "Argo, limit 1",
            "Argo, limit 3",
            "Kayenta",
            "PipeCD",
            "this judge",
            "this judge, with the ramp",
            "this judge, with the log feed",
            "this judge, watched to 24 h",
        ),
        strict=True,
    )
)


# These lie between the two of the guide: their names are set below those.
SPOTS: dict[str, dict[str, Any]] = {
    "Argo, failureLimit 1": {"xytext": (6, -25), "ha": "right"},
    "Flagger, threshold 5": {"xytext": (6, -31), "ha": "right"},
}


def table(results: Results) -> list[list[str]]:
    """The table of RESULTS.md: policy, false rollback, missed, failed; the first row is its heading."""
    rows = [
        [
            "policy",
            "false rollback % (worst / mean)",
            "missed % (1.5-2 % / >= 5 %)",
            "failed requests at 6 / 60 / 600 / 6,000 a minute",
        ]
    ]
    for name in (*peers(), *_ours(results), DAY_LONG):
        worst, average = figures.false_rollback(results, name)
        slight, clear = figures.missed(results, name)
        lost = " / ".join(f"{figures.failed(results, name, traffic):,.0f}" for traffic in TRAFFIC)
        rows.append([name, f"{_percent(worst)} / {_percent(average)}", f"{_percent(slight)} / {_percent(clear)}", lost])
    return rows


def _ours(results: Results) -> tuple[str, ...]:
    """This judge, with what was simulated of it."""
    return (OURS, RAMP, FEED) if figures.has_feed(results) else (OURS, RAMP)


def markdown(results: Results, timings: dict[str, float], note: str) -> str:
    """The whole report."""
    return "\n".join(
        [
            *_head(note),
            *_comparison(results),
            *_details(results),
            *_feed(results),
            *_harder(results),
            *_speed(timings),
            "",
        ]
    )


def _head(note: str) -> Iterator[str]:
    yield "# The judge, measured"
    yield ""
    yield "Written by `python -m benchmarks.judge`; simulated, none of it measured on AWS."
    yield note
    yield ""
    stages = ", ".join(f"{percent:g}" for percent in SETTINGS.rollout.stages_percent)
    bake = SETTINGS.rollout.bake_minutes
    yield "Every policy sees the same requests, and polls each minute. *This judge* runs with what ships"
    yield "(parameters/prod.yaml and the defaults of the settings):"
    yield f"a minute is judged {LATE_MINUTES} minutes after its end, stable's history has {HISTORY_MINUTES:,} minutes,"
    yield f"at 100 % its failures are weighed once they are published, by assumption {PUBLISHED_MINUTES} min after it,"
    yield f"the stages are {stages} % with bakes of {bake:g} minutes,"
    yield f"and the version is monitored for at most {WATCH_MINUTES} minutes after 100 %:"
    yield f"until it is shown to be healthy, and for {AFTER_PROOF_MINUTES} minutes more."
    yield f"*With the log feed* the new version is judged by ticks of {TICK_S} s, {TICK_LATE_S} s after their end"
    yield "(and polled as often), and stable's own rate by minutes, as without it."
    yield "The other policies read metrics after one minute already, and have stages of 10, 25, 50 and 100 %, both to"
    yield "their advantage. *Failed* is what users suffer beyond stable's own failures, up to 24 h if the version"
    yield "stands: the geometric mean over versions that fail 5, 20 and 100 %."
    yield "Good versions fail like stable: 0, 0.3 or 0.8 %. A version that is *held* (taken back without blame after a"
    yield "stretched bake in doubt) counts neither as missed nor as a false rollback; it is reported by itself below."
    yield "Latency is simulated beside errors (0.2 % slow, both versions), and its test may raise false alarms too."
    yield ""


def _comparison(results: Results) -> Iterator[str]:
    yield from _grid(table(results))
    yield ""
    yield "![The judge and its peers](judge.png)"
    yield ""
    yield "## What it must reach"
    yield ""
    yield "Failed requests are means with one standard error of the simulation. The mean decides: over its limit it"
    yield "misses, also where the error is larger than the difference."
    yield ""
    rows = [["must hold", "measured", "holds"]]
    rows += [[what, measured, "yes" if holds else "**no**"] for what, measured, holds in figures.targets(results)]
    yield from _grid(rows)
    yield ""
    peer = figures.best_careful_peer(results)
    if peer is None:
        yield "No peer rolls back at most 1 % of good versions in its worst cell."
    else:
        parts = (figures.failed(results, OURS, n) / figures.failed(results, peer, n) for n in TRAFFIC)
        told = " / ".join(f"{ratio:.2g}" for ratio in parts)
        yield f"Best peer with at most 1 % false rollback in its worst cell: {peer}."
        yield f"At 6 / 60 / 600 / 6,000 requests a minute this judge's failed requests are {told} times that peer's."
    yield ""


def _details(results: Results) -> Iterator[str]:
    yield "## Against the clairvoyant judge and the lower bound"
    yield ""
    yield "The clairvoyant judge runs the same rules and thresholds, but stakes all on the true p0, p1 and onset."
    yield "The bound is on any judge's mean requests at a weight of 10 %; it knows nothing of minutes, late metrics or"
    served = 600 * (1 + LATE_MINUTES)
    yield f"later stages: at 6,000 a minute {served:,} requests are served before the first figure can be read."
    yield ""
    rows = [["requests a minute", "failed / clairvoyant: mean (worst cell)", "failed / bound: geometric mean"]]
    for traffic in TRAFFIC:

        def here(cell: Cell, traffic: int = traffic) -> bool:
            return figures.is_clear(cell) and cell.traffic == traffic

        ratios = figures.ratios(results, CLAIRVOYANT, here).values()
        bound = figures.geometric(figures.bound_ratios(results, here).values())
        rows.append([f"{traffic:,}", f"{figures.mean(ratios):.2f} ({max(ratios):.2f})", f"{bound:.1f}"])
    yield from _grid(rows)
    yield ""
    yield "## Good versions, and how sure the figures are"
    yield ""
    yield "The intervals are 95 % (Wilson) of the simulation."
    yield ""
    rows = [["requests a minute", "stable fails", "rolled back", "held", "unproven", "at 100 % / proved after"]]
    for cell, sums in figures.pick(results, OURS, lambda cell: cell.suite == "good").items():
        rolled, held = _interval(sums, "rolled back"), _interval(sums, "held")
        minutes = " / ".join(f"{median(m):.0f}" if m else "never" for m in (sums.reached, sums.proved))
        unproven = _percent(sums.share("unproven")) + " %"
        rows.append([f"{cell.traffic:,}", f"{cell.p0:.1%}", rolled, held, unproven, f"{minutes} min (median)"])
    yield from _grid(rows)
    yield ""
    yield "## Bad versions"
    yield ""
    rows = [["requests a minute", "stable / new", "missed", "missed if watched to 24 h", "held", "failed"]]
    for cell, sums in figures.pick(results, OURS, lambda cell: cell.suite == "bad").items():
        told = f"{sums.mean_failed:,.1f} ± {1.96 * sums.failed_error:,.1f}"
        shares = [
            f"{_percent(sums.missed)} %",
            f"{_percent(results[cell, DAY_LONG].missed)} %",
            f"{_percent(sums.share('held'))} %",
        ]
        rows.append([f"{cell.traffic:,}", f"{cell.p0:.1%} / {cell.p1:.1%}", *shares, told])
    yield from _grid(rows)
    yield ""


def _feed(results: Results) -> Iterator[str]:
    if not figures.has_feed(results):
        return
    yield "## With the log feed"
    yield ""
    yield "The same requests, by ticks and with the ramp that fits them. The clairvoyant judge has the same ticks and"
    yield "the same ramp. A version fails from the start, from minute 12 or from minute 30 on."
    yield ""
    rows = [["requests a minute", "stable / new", "from minute", "missed", "held", "failed", "clairvoyant", "bound"]]
    for cell, sums in figures.pick(results, FEED, lambda cell: cell.suite in ("bad", "late")).items():
        told = f"{sums.mean_failed:,.1f} ± {1.96 * sums.failed_error:,.1f}"
        shares = [f"{_percent(share)} %" for share in (sums.missed, sums.share("held"))]
        knows = results.get((cell, CLAIRVOYANT_FEED))
        least = "-" if knows is None else f"{knows.mean_failed:,.1f}"
        bound = f"{bounds.failures(cell.p0, cell.p1):.1f}"
        rates = f"{cell.p0:.1%} / {cell.p1:.1%}"
        rows.append([f"{cell.traffic:,}", rates, str(cell.onset), *shares, told, least, bound])
    yield from _grid(rows)
    yield ""
    yield "Good versions, also where both fail 1.3 % for ever, and where failures come in bursts (of geometric size,"
    yield "within one tick of one version)."
    yield ""
    rows = [["requests a minute", "stable fails", "mean burst", "rolled back", "held", "unproven", "at 100 % after"]]
    for cell, sums in figures.pick(results, FEED, lambda c: c.suite in ("good", "usual", "clumped")).items():
        shares = [_interval(sums, "rolled back"), _interval(sums, "held"), f"{_percent(sums.share('unproven'))} %"]
        reached = f"{median(sums.reached):.1f} min (median)" if sums.reached else "never"
        rows.append([f"{cell.traffic:,}", f"{cell.p0:.1%}", f"{cell.clump:.0f}", *shares, reached])
    yield from _grid(rows)
    yield ""
    yield "External faults (as below), 2 / 5 / 20 / 90 % of requests of both versions."
    yield ""
    rows = [["requests a minute", "begins at", "blamed beside stable %", "blamed at 100 %, %", "held %"]]
    for traffic, at in ((traffic, at) for traffic in TRAFFIC[1:] for at in (2, 7, 12, 18)):
        cells = figures.pick(results, FEED, lambda cell: cell.fault is not None)
        here = {cell: s for cell, s in cells.items() if cell.fault and (cell.traffic, cell.fault[0]) == (traffic, at)}
        beside = [sums.blamed_beside_stable / sums.rollouts for sums in here.values()]
        later = [sums.share("rolled back") - both for sums, both in zip(here.values(), beside, strict=True)]
        held = [sums.share("held", "external") for sums in here.values()]
        told = [" / ".join(_percent(share) for share in shares) for shares in (beside, later, held)]
        rows.append([f"{traffic:,}", f"minute {at}", *told])
    yield from _grid(rows)
    yield ""


def _harder(results: Results) -> Iterator[str]:
    yield "## Harder cases"
    yield ""
    yield "**A fault that begins late**, while traffic is split (minute 12) or at 100 % (minute 30)."
    yield ""
    rows = [["requests a minute", "begins at", "stable / then", "missed", "failed", "clairvoyant"]]
    for cell, sums in figures.pick(results, OURS, lambda cell: cell.suite == "late").items():
        knows = results[cell, CLAIRVOYANT].mean_failed
        missed = f"{_percent(sums.missed)} %"
        rates = f"{cell.p0:.1%} / {cell.p1:.0%}"
        figures_of_cell = [missed, f"{sums.mean_failed:,.1f}", f"{knows:,.1f}"]
        rows.append([f"{cell.traffic:,}", f"minute {cell.onset}", rates, *figures_of_cell])
    yield from _grid(rows)
    yield ""
    yield "**Stable fails 1.3 % for ever**, and so does the new version: it is no worse, and both are over the limit."
    yield ""
    rows = [["requests a minute", "rolled back", "held", "stays"]]
    for cell, sums in figures.pick(results, OURS, lambda cell: cell.suite == "usual").items():
        held = f"{_percent(sums.share('held', 'external'))} %"
        rows.append([f"{cell.traffic:,}", _interval(sums, "rolled back"), held, f"{_percent(sums.missed)} %"])
    yield from _grid(rows)
    yield ""
    yield "**An external fault**: both versions fail for 10 minutes, 2 / 5 / 20 / 90 % of requests. Blamed: rolled"
    yield "back. At minute 18 all traffic is on the new version and nobody could tell; a fault that begins just before"
    yield "100 % is reached may be seen only after it. After a rollback from 100 % stable is tested alone for up to"
    yield f"{MOST_MINUTES} minutes: *excused* is the share of these rollbacks after which it was over the limit, too."
    yield "A dash: nothing was rolled back from 100 %. The peers' blame is their mean over the four: lowest, median,"
    yield "highest."
    yield ""
    faults = figures.pick(results, OURS, lambda cell: cell.suite == "fault")
    rows = [
        [
            "requests a minute",
            "begins at",
            "blamed beside stable %",
            "blamed at 100 %, %",
            "excused %",
            "held %",
            "peers' blame %",
        ]
    ]
    for traffic, at in sorted({(cell.traffic, cell.fault[0]) for cell in faults if cell.fault}):
        here = {
            cell: sums for cell, sums in faults.items() if cell.fault and (cell.traffic, cell.fault[0]) == (traffic, at)
        }
        beside = [sums.blamed_beside_stable / sums.rollouts for sums in here.values()]
        later = [s.share("rolled back") - share for s, share in zip(here.values(), beside, strict=True)]
        held = [sums.share("held", "external") for sums in here.values()]
        blames = sorted(figures.mean(results[cell, name].share("rolled back") for cell in here) for name in peers())
        excused = [sums.excused for sums in here.values()]
        ours = [" / ".join(_percent(share) for share in shares) for shares in (beside, later, excused, held)]
        theirs = " / ".join(_percent(blame) for blame in (blames[0], median(blames), blames[-1]))
        rows.append([f"{traffic:,}", f"minute {at}", *ours, theirs])
    yield from _grid(rows)
    yield ""
    yield "**Failures in bursts** (each of geometric size, within ten seconds of one version), good versions."
    yield ""
    rows = [
        ["requests a minute", "stable fails", "mean burst", "rolled back", "held", "rolled back without dispersion"]
    ]
    for cell, sums in figures.pick(results, OURS, lambda cell: cell.suite == "clumped").items():
        without = f"{_percent(results[cell, UNTEMPERED].share('rolled back'))} %"
        told = [_interval(sums, "rolled back"), f"{_percent(sums.share('held'))} %", without]
        rows.append([f"{cell.traffic:,}", f"{cell.p0:.1%}", f"{cell.clump:.0f}", *told])
    yield from _grid(rows)
    yield ""


def _speed(timings: dict[str, float]) -> Iterator[str]:
    yield "## Speed"
    yield ""
    yield from _grid([["what", "ms, best of 5"], *([name, f"{ms:.0f}"] for name, ms in timings.items())])


def _grid(rows: list[list[str]]) -> Iterator[str]:
    heading, *rest = rows
    yield "| " + " | ".join(heading) + " |"
    yield "|" + "---|" * len(heading)
    for row in rest:
        yield (
            "| " + " | ".join(f"**{cell}**" if row[0] in (OURS, RAMP, FEED, DAY_LONG) else cell for cell in row) + " |"
        )


def _percent(share: float) -> str:
    if isnan(share):
        return "-"
    percent = 100 * share
    return (
        f"{percent:.0f}"
        if percent >= 10
        else f"{percent:.2g}"
        if percent >= 1
        else f"{percent:.2f}".rstrip("0").rstrip(".")
    )


def _interval(sums: Sums, end: str) -> str:
    """A share with its 95 % interval."""
    low, high = sums.interval(end)
    return f"{_percent(sums.share(end))} % ({100 * low:.2f} to {100 * high:.2f})"


def picture(results: Results, path: Path) -> None:
    """Left: failed requests against false rollbacks. Right: failed requests over the clairvoyant's, by traffic."""
    figure = Figure(figsize=(13, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    knows = [figures.failed(results, CLAIRVOYANT, traffic) for traffic in TRAFFIC]
    for number, name in enumerate((*peers(), *_ours(results))):
        mine = name in (OURS, RAMP, FEED)
        color = "#c2410c" if mine else f"C{(number * 3) % 10}"
        lost = [figures.failed(results, name, traffic) for traffic in TRAFFIC]
        x, y = max(100 * figures.false_rollback(results, name)[0], 0.01), figures.geometric(lost)
        left.scatter(x, y, s=70 if mine else 36, color=color, zorder=3)
        spot: dict[str, Any] = {"xytext": (7, -3) if x < 3 else (-7, -3), "ha": "left" if x < 3 else "right"}
        spot |= SPOTS.get(name, {})
        left.annotate(SHORT[name], (x, y), textcoords="offset points", fontsize=8, **spot)
        ratio = [each / least for each, least in zip(lost, knows, strict=True)]
        style: dict[str, Any] = (
            {"lw": 2.5, "zorder": 3, "ls": {OURS: "-", RAMP: "--", FEED: ":"}[name]} if mine else {"lw": 1}
        )
        right.plot(TRAFFIC, ratio, marker="o", ms=4, color=color, label=SHORT[name], **style)
    left.set(xscale="log", yscale="log", xlim=(0.007, 150))
    left.set_xlabel("good versions rolled back, worst cell, % (0.01: none seen)")
    left.set_ylabel("failed requests of bad versions (geometric mean)")
    left.set_title("Down and left is better", loc="left")
    right.axhline(1, color="black", lw=0.8, ls=":")
    clear = [cell for cell in figures.pick(results, OURS, figures.is_clear) if cell.traffic == TRAFFIC[0]]
    bound = figures.geometric(bounds.failures(cell.p0, cell.p1) for cell in clear)
    references = [([bound] * len(TRAFFIC), "lower bound", "-")]
    if figures.has_feed(results):
        least = [figures.failed(results, CLAIRVOYANT_FEED, traffic) for traffic in TRAFFIC]
        references.append((least, "clairvoyant, log feed", "-."))
    for lost, label, style in references:
        ratio = [each / most for each, most in zip(lost, knows, strict=True)]
        right.plot(TRAFFIC, ratio, color="black", lw=1, ls=style, label=label)
    right.set(xscale="log", yscale="log", xlabel="requests a minute")
    right.set_title("Failed requests / those of the clairvoyant judge", loc="left")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
