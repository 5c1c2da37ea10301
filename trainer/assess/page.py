"""The section of a run's report that a credit officer reads: verdicts, tables and pictures, from what the run directory holds."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.assess import pictures
from trainer.assess.applicants import Applicant, Told, told
from trainer.assess.reasons import number as stated_number
from trainer.assess.told import (
    ASSESSED,
    DECISIONS,
    FAIR,
    HIGHER_IS_BETTER,
    METRICS,
    NEURAL,
    amount,
    assessment,
    better,
    fairness_verdict,
    interval,
    number,
    percent,
    verdicts,
)
from trainer.explain.run import explanations

MEANINGS = {
    "auc": "how often a defaulter is given a higher risk than one who pays back: 0.5 is a coin, 1 is always",
    "ks": "the largest distance between the scores of the two: 0 is none, 1 is apart",
    "brier": "the mean squared error of the probabilities: 0 is perfect",
    "ece": "how far the probabilities are from what happens, on average: 0 is exact",
}
HEADS = {"good": "Good", "bad": "Not good", "unsure": "Not sure"}


def section(run_dir: Path) -> str:
    """The section of the report of `run_dir`; empty where nothing was assessed."""
    found = assessment(run_dir)
    if not found:
        return ""
    applicants = told(run_dir, found)
    explained = explanations(run_dir).get("explainers", {}).get(applicants.by, {}).get("global", {})
    return page(found, applicants, {column: figures["mean_abs"] for column, figures in explained.items()})


def page(found: Mapping[str, Any], applicants: Told, neural_looks_at: Mapping[str, float]) -> str:
    """The section, from assess.json, the applicants that are shown, and for each column how much it matters to the network, if that was explained."""
    people, unit = found["evaluation"], found["costs"]["unit"]
    curves = f'<div class="charts">{pictures.calibration(found["models"])}{pictures.cost(found["cost_curves"], found["decisions"], unit)}</div>'
    parts = [
        "<h2>The decision</h2>",
        f'<p class="lead">{people["people"]:,} applicants that no model has seen, of whom {people["defaults"]:,} ({people["defaults"] / people["people"]:.1%}) '
        f"default ({_escape(found['target'])} is {_escape(found['default_class'])}). In brackets: 95 % intervals.</p>",
        f'<ul class="verdicts">{"".join(_item(*each) for each in verdicts(found))}</ul>',
        f"<h3>Is it better than a simple model?</h3>{_metrics(found['models'])}",
        curves,
        _looks(found["boosting_looks_at"], neural_looks_at, applicants.by),
        f"<h3>Whom to refuse</h3>{_costs(found)}",
        *(_fairness(of_column, found) for of_column in found["fairness"]),
        _refused(found, applicants),
        _method(found),
    ]
    return "\n".join(part for part in parts if part)


def _metrics(models: Mapping[str, Any]) -> str:
    rows = []
    for metric, name in METRICS.items():
        cells = []
        for one in models.values():
            difference = one["metrics"].get(f"{metric}/difference")
            cells.append(_estimate(one["metrics"][metric]) if difference is None else _against(metric, one["metrics"][metric], difference))
        rows.append([f"{name}<small>{'higher' if metric in HIGHER_IS_BETTER else 'lower'} is better; {MEANINGS[metric]}</small>", *cells])
    return _table(["", *models], rows)


def _against(metric: str, estimate: Mapping[str, Any], difference: Mapping[str, Any]) -> str:
    """A figure of a simple model, and whether the neural network is better."""
    sign = better(metric, difference)
    state, said = {1: ("good", "neural is better"), -1: ("bad", "neural is worse"), 0: ("unsure", "may be chance")}[sign]
    more = f'<small class="{state}">neural differs by {interval(difference, sign=True)}: {said}</small>'
    return _estimate(estimate, more=more)


def _looks(boosting: Mapping[str, float], neural: Mapping[str, float], by: str) -> str:
    """The share that each column has in what moves the log-odds, of both models where both are known."""
    if not boosting:
        return ""
    shares = {name: {column: value / (sum(of.values()) or 1) for column, value in of.items()} for name, of in (("boosting", boosting), ("neural", neural))}
    ranked = sorted(boosting, key=lambda column: -boosting[column])
    rows = [
        [_escape(column.replace("_", " ")), *(_cell(f"{shares[name][column]:.0%}") for name in ("neural", "boosting") if column in shares[name])]
        for column in ranked
    ]
    head = ["", *([f"neural network, by {by}"] if neural else []), "gradient boosting, Shapley values"]
    note = (
        "The share of each column in what moves the log-odds, over the applicants. Where two models that are as good look at different columns, "
        "neither's reasons are the only ones."
    )
    return f'<h3>What do they look at?</h3><p class="note">{note}</p>{_table(head, rows)}'


def _costs(found: Mapping[str, Any]) -> str:
    costs, unit = found["costs"], found["costs"]["unit"]
    unit_after = f" {unit}" if unit else ""
    note = (
        f'<p class="note">A default that was accepted costs {costs["default"]:g}{_escape(unit_after)}, a good applicant who was refused {costs["refusal"]:g}'
        f"{_escape(unit_after)}. Were the probabilities exact, refusing from {costs['exact_threshold']:.1%} on would be cheapest.</p>"
    )
    rows = []
    for name, one in found["decisions"].items():
        thousand = [f"{1000 * one[key]['value']:.0f}" for key in ("refused", "defaults_accepted", "good_refused")]
        rows.append([_escape(name), *map(_cell, [f"from {one['threshold']:.1%} on", *thousand]), _estimate(one["cost"], amount(costs))])
    neural, share = found["decisions"][NEURAL], found["evaluation"]["defaults"] / found["evaluation"]["people"]
    for what, key, counts in (
        ("refuse nobody", "none", ["0", f"{1000 * share:.0f}", "0"]),
        ("refuse everybody", "all", ["1000", "0", f"{1000 * (1 - share):.0f}"]),
    ):
        rows.append([what, *map(_cell, ["–", *counts]), _estimate(neural[key], amount(costs))])
    head = [
        "",
        "refuses",
        "of 1,000 applicants refused",
        "of 1,000 accepted and default",
        "of 1,000 refused and would pay back",
        f"cost per applicant{f', {unit}' if unit else ''}",
    ]
    return note + _table(head, rows)


def _fairness(of_column: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    smallest, column = found["knobs"]["smallest_group"], of_column["column"]
    rows = []
    for group in of_column["groups"]:
        cells = [f"{group['people']:,}", f"{group['observed']:.1%}", f"{group['predicted']:.1%}"]
        judged = group["judged"]
        shares = [_share(group["accepted"], judged["demographic_parity"]), _share(group["accepted_good"], judged["equal_opportunity"])]
        small = (
            "" if all(judged.values()) else f"<small>too few to judge (fewer than {smallest}{'' if group['people'] < smallest else ' who pay back'})</small>"
        )
        rows.append([f"{_escape(group['name'])}{small}", *map(_cell, cells), *shares])
    head = [column.replace("_", " "), "applicants", "default", "default as predicted", "accepted", "accepted of those who pay back"]
    seen = f"{column} is one of the model's inputs." if column in found["features"] else f"The model does not see {column}; other inputs may stand for it."
    said = "".join(_item(*fairness_verdict(of_column, name, found["knobs"]), more=FAIR[name][1]) for name in FAIR)
    return (
        f"<h3>Fairness by {_escape(column.replace('_', ' '))}</h3>{_table(head, rows)}"
        f'<ul class="verdicts">{said}</ul><p class="note">{_escape(seen)} Groups that default more often are accepted less often by any model that is right '
        "about them: whether a difference is just is not a question of numbers alone.</p>"
    )


def _share(estimate: Mapping[str, Any], judged: bool) -> str:
    return _estimate(estimate, percent, "" if judged else "quiet")


def _refused(found: Mapping[str, Any], applicants: Told) -> str:
    if not applicants.shown:
        return '<h3>Refused applicants</h3><p class="note">Nobody is refused.</p>' if found["knobs"]["refused"] else ""
    threshold = found["decisions"][NEURAL]["threshold"]
    cards = "".join(_card(one, threshold, found["features"]) for one in applicants.shown)
    warning = f'<ul class="verdicts">{_item("bad", applicants.warning)}</ul>' if applicants.warning else ""
    return f'<h3>Refused applicants, and why</h3><p class="note">{_escape(applicants.note)}</p>{warning}<div class="cards">{cards}</div>'


def _card(one: Applicant, threshold: float, features: Sequence[str]) -> str:
    stated = ", ".join(
        f"{name.replace('_', ' ')} {stated_number(one.stated[name]) if isinstance(one.stated[name], float) else one.stated[name] or '–'}" for name in features
    )
    reasons = "".join(f"<li>{_escape(reason.words)} <small>{reason.share:.0%} of what speaks against</small></li>" for reason in one.reasons)
    none = "<p>No single column speaks against this applicant more than for the usual one.</p>" if one.explained else ""
    return (
        f'<div class="card"><h4>Row {one.row:,} of the file</h4><p>Probability of default <b class="bad">{one.probability:.1%}</b>; '
        f"refused from {threshold:.1%} on. {'Did default.' if one.defaulted else 'Did pay back.'}</p>"
        f"{f'<ol>{reasons}</ol>' if reasons else none}<small>{_escape(stated)}</small></div>"
    )


def _method(found: Mapping[str, Any]) -> str:
    training, people = found["training"], found["evaluation"]
    bars = "; ".join(f"{name}: {said}" for name, said in found["bars"].items())
    some = "".join(
        f" Of the {split} split's {one['of']:,} rows {one['people']:,} were taken, at even distances."
        for split, one in (("training", training), ("evaluation", people))
        if one["people"] < one["of"]
    )
    lines = [
        f"All models learned from the same {training['people']:,} applicants, of whom {training['defaults']:,} default, and are judged on others.{some}",
        f"{bars[0].upper()}{bars[1:]}.",
        "Thresholds were chosen on the training split, not on the applicants that they are judged on: for the simple models by predictions for applicants "
        f"that they had not seen (5-fold), for the neural network on those that it was trained on (there its AUC is {found['training_auc']:.3f}).",
        "Intervals: 2,000 bootstrap samples of applicants, the same for all models and groups. A calibration error, a KS and a largest difference are above "
        "0 by chance alone: their intervals reach as far down as up, or to 0. The calibration error is over ten bins of the same size.",
        "Differences between groups: the largest share less the smallest, of the groups that are judged. A model is beaten where AUC or Brier score is surely "
        "better, and neither is surely worse. A difference between groups is chance where people who change groups at random make one as large in more "
        "than 5 cases of 100.",
    ]
    lines.append(f"Every decision is in {ASSESSED}/{DECISIONS}.")
    return f"<details><summary>How this was found</summary>{''.join(f'<p class=note>{_escape(line)}</p>' for line in lines)}</details>"


def _item(state: str, words: str, more: str = "") -> str:
    return f'<li class="{state}"><b>{HEADS[state]}</b> <span>{_escape(words)}{f"<small>{_escape(more)}</small>" if more else ""}</span></li>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """`rows`: the name of each, then its cells, all in HTML."""
    top = "".join(f'<th scope="col">{_escape(title)}</th>' for title in head)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>{"".join(row[1:])}</tr>' for row in rows)
    return f'<div class="scroll"><table class="decision"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _estimate(estimate: Mapping[str, Any], show: Callable[[float], str] = number, style: str = "", more: str = "") -> str:
    """A cell: a value, and under it its interval and `more`."""
    value, _, rest = interval(estimate, show).partition(" (")
    under = f"<small>{_escape(rest.rstrip(')'))}</small>" if rest else ""
    return f'<td class="{style}">{_escape(value)}{under}{more}</td>'


def _cell(text: str) -> str:
    return f"<td>{_escape(text)}</td>"


def _escape(value: Any) -> str:
    return html.escape(str(value))
