"""What the report says: its first page and its recurring tables, put together from the study's tables; no number is typed."""

import html
import tomllib

import pandas as pd

from her2lib.files import ROOT, read_json, resolve_path
from her2lib.report.book import COLUMNS, Html, html_table
from her2lib.scores import score_name as written
from her2lib.study.config import REVIEW
from her2lib.study.results import display_names, is_null


def all_numbers(study):
    """DataFrame, numbers.csv of all notebooks of the study, one row per number."""
    files = sorted((study.folder / "runs").glob("*/numbers.csv"))
    frames = [
        pd.read_csv(
            file,
            keep_default_na=False,
            na_values={column: [""] for column in ("value", "low", "high")},
        )
        for file in files
    ]
    frames = [frame for frame in frames if len(frame)]
    return (
        pd.concat(frames, ignore_index=True)[COLUMNS] if frames else pd.DataFrame(columns=COLUMNS)
    )


def question(study):
    """Html: what was asked, on how many patches of how many slides and patients."""
    count = pd.read_json(study.folder_of("01_data_exploration") / "count.json", typ="series")
    source = (
        "synthetic patches (phantoms), whose truth is known"
        if study.data["source"] == "phantom"
        else study.data["source"]
    )
    known = ", ".join(f"{number} {word}" for word, number in count.items() if number)
    return Html(
        f"<p><strong>{html.escape(study.question)}</strong> Answered on {html.escape(source)}: {html.escape(known)}.</p>"
    )


def answer(book, numbers, study):
    """Html: one sentence per network with its number, then whether it beats the nulls, by intervals."""
    table = numbers[
        (numbers["set"] == "test") & numbers["metric"].isin(["accuracy", "kappa quadratic"])
    ]
    book.rows |= {row["id"]: row for row in table.to_dict("records")}
    ids = table.set_index(["run", "metric"])["id"]
    parts = []
    for name in dict.fromkeys(table["run"]):
        if not is_null(name):
            parts.append(
                book.say(
                    "{name} gave the true score to {accuracy}; quadratic-weighted kappa {kappa}. {verdict}",
                    name=name,
                    accuracy=ids[name, "accuracy"],
                    kappa=ids[name, "kappa quadratic"],
                    verdict=_against_nulls(table, name),
                )
            )
    nulls = [name for name in dict.fromkeys(table["run"]) if is_null(name)]
    parts += [
        book.say("For comparison, {name}: {accuracy}.", name=name, accuracy=ids[name, "accuracy"])
        for name in nulls
    ]
    return Html("".join(parts) or "<p>No network has finished, so there is no answer.</p>")


def _against_nulls(table, name):
    rows = table[table["metric"] == "accuracy"].set_index("run")
    beaten = {
        null: rows.at[name, "low"] > rows.at[null, "high"] for null in rows.index if is_null(null)
    }
    lost = [null for null, clear in beaten.items() if not clear]
    if not beaten:
        return "There is no null to compare it with."
    return (
        "Its interval lies above every null."
        if not lost
        else f"Its interval does not lie clear above: {', '.join(lost)}."
    )


def collapsed_runs(study, records):
    """Html: every run that is below the majority rate, answers one score or lost its loss, in red; or that there is none."""
    names = display_names(study)
    bad = [(name, run["verdict"]) for name, run in records.items() if run.get("verdict")]
    if not bad:
        return paragraphs(
            [
                f"None of the {len(records)} finished runs collapsed "
                "(one score for every patch, or no better than the commonest)."
            ]
        )
    items = "".join(
        f"<li><span class=collapsed>{html.escape(names[run])}</span> ({html.escape(run)}) COLLAPSED: {html.escape(why)}</li>"
        for run, why in bad
    )
    return Html(
        f"<p>Of {len(records)} finished runs, {len(bad)} collapsed; their numbers mean nothing:</p><ul>{items}</ul>"
    )


def comparison(book, table):
    """Html table of paired differences (agreement.compare_all): value with interval, p by test, p after Holm; rows kept in numbers.csv."""
    rows = {}
    for row in table[table["metric"] != "McNemar"].to_dict("records"):
        name = f"{row['a']} minus {row['b']}"
        ids = book.add(
            pd.DataFrame([row]),
            subset="test",
            run=name,
            source="runs/06_compare_models/contestants.csv",
        )
        what = f"{name}: {row['metric'].removesuffix(' difference')}"
        rows[what] = [ids[row["metric"]], f"{row['p']:.2g}", f"{row['p_holm']:.2g}", row["test"]]
    exact = table[table["metric"] == "McNemar"]
    told = (
        "; ".join(f"{row.a} p = {row.p_holm:.2g}" for row in exact.itertuples())
        or "not with several seeds"
    )
    return book.table(
        ["difference", "p", "p after Holm", "test"],
        rows=rows,
        head="on the test set",
        caption=f"Differences with 95 % intervals. Exact McNemar, as if patches were independent, after Holm: {told}.",
    )


def paragraphs(sentences):
    """Html, one paragraph per sentence, escaped."""
    return Html("".join(f"<p>{html.escape(str(sentence))}</p>" for sentence in sentences))


def shifts(book, tables, *, source):
    """Html table of agreement.shift per network: recall of each score by set, ids kept."""
    rows, sets = {}, []
    for name, table in tables.items():
        sets = list(dict.fromkeys([*sets, *table["set"]]))
        for score, part in table.groupby("score", sort=False):
            cells = {
                row["set"]: book.add(
                    pd.DataFrame([row]).assign(as_percent=True),
                    subset=row["set"],
                    run=name,
                    source=source,
                )[row["metric"]]
                for row in part.to_dict("records")
            }
            rows[f"{name}, score {score}"] = [cells.get(each, "") for each in sets]
    return book.table(
        sets,
        rows=rows,
        head="given the true score",
        caption="Share of the patches of each true score, 95 % intervals.",
    )


def published(book, study, numbers):
    """Html table of published accuracies beside ours, only where network and set correspond; the caption says what that is worth."""
    names, runs = (
        display_names(study),
        [run for run in study.runs() if run["label_shuffle"] == "none"],
    )
    table = (
        numbers[numbers["metric"] == "accuracy"]
        .drop_duplicates(["set", "run"])
        .set_index(["set", "run"])
    )  # 93 says some again
    book.rows |= {row["id"]: row for row in table.reset_index().to_dict("records")}
    rows, file = (
        {},
        resolve_path(study.published["file"])
        if study.published["file"]
        else ROOT / "studies" / "published.toml",
    )
    for claim in tomllib.loads(file.read_text(encoding="utf-8"), parse_float=str).get(
        "rate", []
    ):  # str: as it was printed
        own = dict.fromkeys(
            names[run["run"]] for run in runs if run["network"] == claim.get("network")
        )
        for name in [name for name in own if (claim.get("set"), name) in table.index]:
            what = f"{claim['what']} ({claim.get('where', '')})" + f"; here {name}" * (len(own) > 1)
            rows[what] = [
                "about " * bool(claim.get("about")) + f"{claim['value']} %",
                table.at[(claim["set"], name), "id"],
            ]
    if not rows:
        return Html("<p>No published figure belongs to a network and a set of this study.</p>")
    worth = (
        "The patches here are synthetic: these numbers say nothing about the published ones, whichever way they fall."
        if study.data["source"] == "phantom"
        else "The same patches only where this study's are the published ones; otherwise a difference may be the patches' alone."
    )
    return book.table(
        ["published, no interval given", "here"],
        rows=rows,
        head="share given the true score",
        caption=worth,
    )


def doubt_rows(study, *, most=6):
    """Html table of the labels that a pathologist should read again (notebook 09), the first ones; or a sentence that there is none."""
    file = study.folder_of(REVIEW) / "doubt.csv"
    if not file.is_file():
        return Html("<p>Labels in doubt were not looked for in this study.</p>")
    table = pd.read_csv(file, keep_default_na=False)
    looked, table = len(table), table[table["kind"] != ""]
    if table.empty:
        return Html("<p>No label of this study is in doubt.</p>")
    shown = table.loc[:, table.columns != "path"].head(most)
    shown = shown.assign(
        **{column: shown[column].map(written) for column in ("score", "suggested")},
        doubt=shown["doubt"].round(2),
    )
    return html_table(
        shown,
        caption=f"The {len(shown)} most doubtful; {len(table)} of {looked} labels are in doubt. "
        "A doubt is a reason to look again, no error; the chapter on labels shows the patches.",
    )


def known_as(study):
    """dict name in numbers.csv -> its axes spelt out (seeds share a name): what two studies can be compared by."""
    names, left_out = display_names(study), ("run", "seed")
    return {
        names[run["run"]]: " ".join(
            f"{key}={value}" for key, value in run.items() if key not in left_out
        )
        for run in study.runs()
    }


def failures(study):
    """Html: runs that failed, with the last line of the error; or that all were finished."""
    failed = read_json(study.folder / "runs" / "failures.json")
    if not failed:
        return Html("<p>No notebook of this study failed.</p>")
    items = "".join(
        f"<li><span class=collapsed>{html.escape(str(row['task']))}</span>: {html.escape(str(row['error'])[-300:])}</li>"
        for row in failed
    )
    return Html(
        f"<p>These notebooks failed, and their results are missing from this report:</p><ul>{items}</ul>"
    )


def limits(study, records):
    """Html list: what the data and the runs cannot tell, in plain words, from what is on record."""
    return Html(
        "<ul>"
        + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in cautions(study, records))
        + "</ul>"
    )


def cautions(study, records):
    """list of str, the sentences of limits()."""
    say = ["Research use only: a score of one patch is not an ASCO/CAP score of a tumour."]
    if study.data["source"] == "phantom":
        say.append(
            "The patches are synthetic. They show that the software measures what it claims; they say nothing about real tissue."
        )
    if any(run["parameters"]["weights"] == "none" for run in records.values()):
        say.append(
            "Networks began from random weights, not from pretrained ones: a published network had a better start."
        )
    if len({run["seed"] for run in study.runs()}) == 1:
        say.append(
            "Each network was trained once. Another seed would give other numbers; that spread is not in the intervals."
        )
    return [*say, *read_json(study.folder_of("01_data_exploration") / "notes.json")]


def provenance(study, records):
    """Html table: which networks, from which weights, on which device, under which recipe, for how long."""
    rows = [
        {
            "run": name,
            "device": f"{run['device']}, {run['precision']}",
            "epochs": run["recipe"]["epochs"],
            "minutes": round(run["seconds"] / 60, 1),
            "data, code": " ".join(run["fingerprints"].values()),
        }
        for name, run in records.items()
    ]
    return html_table(
        pd.DataFrame(rows),
        caption="One row for every finished run. receipt.json holds the versions of all packages.",
    )
