"""What the report says: its first page and its recurring tables, from the study's tables.

No number is typed: each comes from a row of numbers.csv and carries its id.
"""

import html
import tomllib

import pandas as pd

from her2lib.files import ROOT, read_json, resolve_path
from her2lib.report import recount
from her2lib.report.book import COLUMNS, Html, html_table
from her2lib.report.findings import in_new_words
from her2lib.scores import score_name
from her2lib.study.config import REVIEW, Study
from her2lib.study.results import display_names, is_null

COMPARED = "runs/06_compare_models/contestants.csv"  # what the paired differences come from


def all_numbers(study: Study) -> pd.DataFrame:
    """DataFrame, numbers.csv of all notebooks of the study, one row per number."""
    may_be_missing = {column: [""] for column in ("value", "low", "high")}
    tables = []
    for file in sorted((study.folder / "runs").glob("*/numbers.csv")):
        table = pd.read_csv(file, keep_default_na=False, na_values=may_be_missing)
        if len(table):
            tables.append(in_new_words(table))
    if not tables:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(tables, ignore_index=True)[COLUMNS]


# --- the first page -----------------------------------------------------------------------------


def question(study):
    """Html: what was asked, on how many patches of how many slides and patients."""
    file = study.folder_of("01_data_exploration") / "count.json"
    counts = pd.read_json(file, typ="series")
    source = study.data["source"]
    if source == "phantom":
        source = "synthetic patches (phantoms), whose truth is known"
    known = ", ".join(f"{number} {noun}" for noun, number in counts.items() if number)
    return Html(
        f"<p><strong>{html.escape(study.question)}</strong> "
        f"Answered on {html.escape(source)}: {html.escape(known)}.</p>"
    )


def answer(book, numbers, study):
    """Html: a sentence per network with its number, and whether it beats the nulls."""
    on_test = numbers["set"] == "test"
    table = numbers[on_test & numbers["metric"].isin(["accuracy", "kappa quadratic"])]
    _take_into(book, table)
    ids = table.set_index(["run", "metric"])["id"]
    names = list(dict.fromkeys(table["run"]))
    paragraphs_ = []
    for name in names:
        if not is_null(name):
            sentence = book.say(
                "{name} gave the true score to {accuracy}; "
                "quadratic-weighted kappa {kappa}. {verdict}",
                name=name,
                accuracy=ids[name, "accuracy"],
                kappa=ids[name, "kappa quadratic"],
                verdict=_against_nulls(table, name),
            )
            paragraphs_.append(sentence)
    for name in filter(is_null, names):
        accuracy = ids[name, "accuracy"]
        paragraphs_.append(
            book.say("For comparison, {name}: {accuracy}.", name=name, accuracy=accuracy)
        )
    if not paragraphs_:
        return Html("<p>No network has finished, so there is no answer.</p>")
    return Html("".join(paragraphs_))


def _against_nulls(table, name):
    """str, the sentence whether a network's accuracy lies above every null's."""
    accuracy = table[table["metric"] == "accuracy"].set_index("run")
    nulls = list(filter(is_null, accuracy.index))
    if not nulls:
        return "There is no null to compare it with."
    low = accuracy.at[name, "low"]
    not_cleared = [null for null in nulls if not low > accuracy.at[null, "high"]]
    if not_cleared:
        return f"Its interval does not lie clear above: {', '.join(not_cleared)}."
    return "Its interval lies above every null."


def collapsed_runs(study, records):
    """Html: every run that learnt nothing, in red, with the reason; or that there is none."""
    names = display_names(study)
    collapsed = {run: record["verdict"] for run, record in records.items() if record.get("verdict")}
    if not collapsed:
        sentence = (
            f"None of the {len(records)} finished runs collapsed "
            "(one score for every patch, or no better than the commonest)."
        )
        return paragraphs([sentence])
    items = []
    for run, why in collapsed.items():
        name = html.escape(names[run])
        items.append(
            f"<li><span class=collapsed>{name}</span> ({html.escape(run)}) "
            f"COLLAPSED: {html.escape(why)}</li>"
        )
    return Html(
        f"<p>Of {len(records)} finished runs, {len(collapsed)} collapsed; "
        f"their numbers mean nothing:</p><ul>{''.join(items)}</ul>"
    )


def failures(study):
    """Html: runs that failed, with the last line of the error; or that all were finished."""
    failed = read_json(study.folder / "runs" / "failures.json")
    if not failed:
        return Html("<p>No notebook of this study failed.</p>")
    items = []
    for row in failed:
        task = html.escape(str(row["task"]))
        error = html.escape(str(row["error"])[-300:])
        items.append(f"<li><span class=collapsed>{task}</span>: {error}</li>")
    return Html(
        "<p>These notebooks failed, and their results are missing from this report:</p>"
        f"<ul>{''.join(items)}</ul>"
    )


def limits(study, records):
    """Html list: what the data and the runs cannot tell, in plain words, from what is on record."""
    items = [f"<li>{html.escape(sentence)}</li>" for sentence in cautions(study, records)]
    return Html(f"<ul>{''.join(items)}</ul>")


def cautions(study, records):
    """list of str, the sentences of limits()."""
    sentences = ["Research use only: a score of one patch is not an ASCO/CAP score of a tumour."]
    if study.data["source"] == "phantom":
        sentences.append(
            "The patches are synthetic. They show that the software measures what it claims; "
            "they say nothing about real tissue."
        )
    if any(record["parameters"]["weights"] == "none" for record in records.values()):
        sentences.append(
            "Networks began from random weights, not from pretrained ones: "
            "a published network had a better start."
        )
    if len({run["seed"] for run in study.runs()}) == 1:
        sentences.append(
            "Each network was trained once. Another seed would give other numbers; "
            "that spread is not in the intervals."
        )
    notes = read_json(study.folder_of("01_data_exploration") / "notes.json")
    return [*sentences, *notes]


# --- tables that recur --------------------------------------------------------------------------


def comparison(book, table):
    """Html table of paired differences (compare.compare_all), whose rows are kept in numbers.csv.

    A row: the value with its interval, p by its test, p after Holm's correction.
    """
    rows = {}
    for row in table[table["metric"] != "McNemar"].to_dict("records"):
        pair = f"{row['a']} minus {row['b']}"
        ids = book.add(pd.DataFrame([row]), subset="test", run=pair, source=COMPARED)
        label = f"{pair}: {row['metric'].removesuffix(' difference')}"
        cells = [ids[row["metric"]], f"{row['p']:.2g}", f"{row['p_holm']:.2g}", row["test"]]
        rows[label] = cells
    exact = table[table["metric"] == "McNemar"]
    mcnemar = "; ".join(f"{row.a} p = {row.p_holm:.2g}" for row in exact.itertuples())
    return book.table(
        ["difference", "p", "p after Holm", "test"],
        rows=rows,
        head="on the test set",
        caption="Differences with 95 % intervals. Exact McNemar, as if patches were independent, "
        f"after Holm: {mcnemar or 'not with several seeds'}.",
    )


def paragraphs(sentences):
    """Html, one paragraph per sentence, escaped."""
    return Html("".join(f"<p>{html.escape(str(sentence))}</p>" for sentence in sentences))


def shifts(book, tables, *, source):
    """Html table of compare.domain_shift per network: recall of each score by set, ids kept."""
    rows = {}
    subsets = []
    for name, table in tables.items():
        subsets = list(dict.fromkeys([*subsets, *table["set"]]))
        for score, part in table.groupby("score", sort=False):
            cells = {}
            for row in part.to_dict("records"):
                recall = pd.DataFrame([row]).assign(as_percent=True)
                ids = book.add(recall, subset=row["set"], run=name, source=source)
                cells[row["set"]] = ids[row["metric"]]
            rows[f"{name}, score {score}"] = [cells.get(subset, "") for subset in subsets]
    return book.table(
        subsets,
        rows=rows,
        head="given the true score",
        caption="Share of the patches of each true score, 95 % intervals.",
    )


def published(book, study, numbers):
    """Html table of published accuracies beside ours, only where network and set correspond."""
    # 93 says some accuracies again, after the notebooks that made them
    accuracy = numbers[numbers["metric"] == "accuracy"].drop_duplicates(["set", "run"])
    _take_into(book, accuracy)
    ids = accuracy.set_index(["set", "run"])["id"]
    rows = {}
    for claim in _published_rates(study):
        ours = _names_of_network(study, claim.get("network"))
        for name in ours:
            if (claim.get("set"), name) not in ids.index:
                continue
            label = f"{claim['what']} ({claim.get('where', '')})"
            if len(ours) > 1:
                label += f"; here {name}"
            figure = f"{claim['value']} %"
            if claim.get("about"):
                figure = f"about {figure}"
            rows[label] = [figure, ids[claim["set"], name]]
    if not rows:
        return Html("<p>No published figure belongs to a network and a set of this study.</p>")
    return book.table(
        ["published, no interval given", "here"],
        rows=rows,
        head="share given the true score",
        caption=_worth_of_comparison(study),
    )


def _published_rates(study):
    """list of dict, the rates of a file of published figures, numbers as they were printed."""
    file = ROOT / "studies" / "published.toml"
    if study.published["file"]:
        file = resolve_path(study.published["file"])
    return tomllib.loads(file.read_text(encoding="utf-8"), parse_float=str).get("rate", [])


def _names_of_network(study, network):
    """list of str, the names of a network's runs, those with shuffled scores left out."""
    names = display_names(study)
    runs = []
    for run in study.runs():
        if run["label_shuffle"] == "none" and run["network"] == network:
            runs.append(run["run"])
    return list(dict.fromkeys(names[run] for run in runs))


def _worth_of_comparison(study):
    if study.data["source"] == "phantom":
        return (
            "The patches here are synthetic: these numbers say nothing about the published ones, "
            "whichever way they fall."
        )
    return (
        "The same patches only where this study's are the published ones; "
        "otherwise a difference may be the patches' alone."
    )


def doubt_rows(study, *, most=6):
    """Html table of the labels that people should read again (notebook 09), or a sentence."""
    file = study.folder_of(REVIEW) / "doubt.csv"
    if not file.is_file():
        return Html("<p>Labels in doubt were not looked for in this study.</p>")
    table = pd.read_csv(file, keep_default_na=False)
    doubted = table[table["kind"] != ""]
    if doubted.empty:
        return Html("<p>No label of this study is in doubt.</p>")
    first = doubted.drop(columns="path", errors="ignore").head(most)
    first = first.assign(
        score=first["score"].map(score_name),
        suggested=first["suggested"].map(score_name),
        doubt=first["doubt"].round(2),
    )
    caption = (
        f"The {len(first)} most doubtful; {len(doubted)} of {len(table)} labels are in doubt. "
        "A doubt is a reason to look again, no error; the chapter on labels shows the patches."
    )
    return html_table(first, caption=caption)


def computed_twice(study, numbers):
    """Html: contradictions if there are any, and a table of what was recounted from which table."""
    again = recount.recount(numbers, study.folder, scores=study.declared_scores)
    contradictions = again.loc[again["verdict"] == "contradiction", "sentence"]
    kinds = recount.count_by_kind(again)
    short_names = kinds["source"].str.replace(r"runs/[^/]*/|reading/|\.csv", "", regex=True)
    rows = []
    for (verdict, how), part in kinds.assign(source=short_names).groupby(
        ["verdict", "how"], sort=False
    ):
        row = {
            "numbers": part["numbers"].sum(),
            "verdict": verdict,
            "how, or why not": how,
            "tables": ", ".join(part["source"]),
        }
        rows.append(row)
    table = html_table(pd.DataFrame(rows), caption=recount.NOT_REPEATED)
    return Html(paragraphs(contradictions) + table)


def provenance(study, records):
    """Html table: which networks, on which device, under which recipe, for how long."""
    rows = []
    for name, record in records.items():
        row = {
            "run": name,
            "device": f"{record['device']}, {record['precision']}",
            "epochs": record["recipe"]["epochs"],
            "minutes": round(record["seconds"] / 60, 1),
            "data, code": " ".join(record["fingerprints"].values()),
        }
        rows.append(row)
    caption = "One row for every finished run. receipt.json holds the versions of all packages."
    return html_table(pd.DataFrame(rows), caption=caption)


def known_as(study):
    """dict name in numbers.csv -> its axes spelt out: what two studies can be compared by."""
    names = display_names(study)
    spelt = {}
    for run in study.runs():
        # seeds share a name
        axes = [f"{key}={value}" for key, value in run.items() if key not in ("run", "seed")]
        spelt[names[run["run"]]] = " ".join(axes)
    return spelt


def _take_into(book, numbers):
    """None; the book may name the numbers of another notebook by their ids."""
    for row in numbers.to_dict("records"):
        book.rows[row["id"]] = row
