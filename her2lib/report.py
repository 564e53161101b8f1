"""Executed notebooks and tables -> report.html: one file without code or outside address; and the sentences of its first page."""

import html
import json
import re
from datetime import date
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, select_autoescape

from her2lib.book import COLUMNS, Html, is_null, listing, names_of, record, records
from her2lib.study import NOTEBOOK_OF, environment, fingerprint, made, write_json, write_table, write_text

TAG = "report"  # a notebook cell with this tag is part of the report
LIMIT_BYTES = 8_000_000


def render(study):
    """Path of reports/<study>/report.html, made from the executed notebooks; numbers.csv and receipt.json beside it."""
    chapters = [chapter for task in _reading_order(study) if (chapter := _chapter(study, task))]
    if not chapters:
        raise ValueError(f"Study {study.name} has no executed notebook yet: her2 run {study.name}")
    write_table(study.folder / "numbers.csv", all_numbers(study))
    receipt = {"study": study.name, "made": date.today().isoformat(), "file": study.file.name, "environment": environment(),
               "runs": {name: run["fingerprints"] for name, run in records(study).items()}}
    write_json(study.folder / "receipt.json", receipt)
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape())
    page = templates.get_template("report.html").render(study=study, chapters=chapters, receipt=receipt, id=fingerprint(receipt))
    if len(page) > LIMIT_BYTES:
        print(f"The report is {len(page) / 1e6:.1f} MB, above {LIMIT_BYTES / 1e6:.0f} MB: lower gallery under [maps] in {study.file.name}.")
    return write_text(study.folder / "report.html", page)


def all_numbers(study):
    """DataFrame, numbers.csv of all notebooks of the study, one row per number."""
    files = sorted((study.folder / "runs").glob("*/numbers.csv"))
    frames = [pd.read_csv(file, keep_default_na=False, na_values={column: [""] for column in ("value", "low", "high")}) for file in files]
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True)[COLUMNS] if frames else pd.DataFrame(columns=COLUMNS)


def question(study):
    """Html: what was asked, on how many patches of how many slides and patients."""
    count = json.loads((study.folder_of("01_data_exploration") / "count.json").read_text(encoding="utf-8"))
    source = "synthetic patches (phantoms), whose truth is known" if study.data["source"] == "phantom" else study.data["source"]
    known = ", ".join(f"{number} {word}" for word, number in count.items() if number)
    return Html(f"<p><strong>{html.escape(study.question)}</strong> Answered on {html.escape(source)}: {html.escape(known)}.</p>")


def answer(book, numbers, study):
    """Html: one sentence per network with its number, then whether it beats the nulls, by intervals."""
    table = numbers[(numbers["set"] == "test") & numbers["metric"].isin(["accuracy", "kappa quadratic"])]
    book.rows |= {row["id"]: row for row in table.to_dict("records")}
    ids = table.set_index(["run", "metric"])["id"]
    parts = []
    for name in dict.fromkeys(table["run"]):
        if not is_null(name):
            parts.append(book.say("{name} gave the true score to {accuracy}; quadratic-weighted kappa {kappa}. {verdict}", name=name,
                                  accuracy=ids[name, "accuracy"], kappa=ids[name, "kappa quadratic"], verdict=_against_nulls(table, name)))
    nulls = [name for name in dict.fromkeys(table["run"]) if is_null(name)]
    parts += [book.say("For comparison, {name}: {accuracy}.", name=name, accuracy=ids[name, "accuracy"]) for name in nulls]
    return Html("".join(parts) or "<p>No network has finished, so there is no answer.</p>")


def _against_nulls(table, name):
    rows = table[table["metric"] == "accuracy"].set_index("run")
    beaten = {null: rows.at[name, "low"] > rows.at[null, "high"] for null in rows.index if is_null(null)}
    lost = [null for null, clear in beaten.items() if not clear]
    if not beaten:
        return "There is no null to compare it with."
    return "Its interval lies above every null." if not lost else f"Its interval does not lie clear above: {', '.join(lost)}."


def collapsed_runs(study, records):
    """Html: every run that is below the majority rate, answers one score or lost its loss, in red; or that there is none."""
    names = names_of(study)
    bad = [(name, run["verdict"]) for name, run in records.items() if run.get("verdict")]
    if not bad:
        none = f"None of the {len(records)} finished runs collapsed (one score for every patch, or no better than the commonest)."
        return Html(f"<p>{none}</p>")
    items = "".join(f"<li><span class=collapsed>{html.escape(names[run])}</span> ({html.escape(run)}) COLLAPSED: {html.escape(why)}</li>"
                    for run, why in bad)
    return Html(f"<p>Of {len(records)} finished runs, {len(bad)} collapsed; their numbers mean nothing:</p><ul>{items}</ul>")


def comparison(book, table):
    """Html table of paired differences (agreement.compare_all): value with interval, p by test, p after Holm; rows kept in numbers.csv."""
    rows = {}
    for row in table[table["metric"] != "McNemar"].to_dict("records"):
        name = f"{row['a']} minus {row['b']}"
        ids = book.add(pd.DataFrame([row]), set="test", run=name, source="runs/06_compare_models/contestants.csv")
        what = f"{name}: {row['metric'].removesuffix(' difference')}"
        rows[what] = [ids[row["metric"]], f"{row['p']:.2g}", f"{row['p_holm']:.2g}", row["test"]]
    exact = table[table["metric"] == "McNemar"]
    told = "; ".join(f"{row.a} p = {row.p_holm:.2g}" for row in exact.itertuples()) or "not with several seeds"
    return book.table(["difference", "p", "p after Holm", "test"], rows=rows, head="on the test set",
                      caption=f"Differences with 95 % intervals. Exact McNemar, as if patches were independent, after Holm: {told}.")


def verdict(record):
    """Html: whether this run collapsed, and how much its validation curve fluctuates (1 = to and fro over its whole range each epoch)."""
    why = record["verdict"]
    said = f"<span class=collapsed>COLLAPSED: {html.escape(why)}.</span>" if why else "This run did not collapse."
    return Html(f"<p>{said} Mean change of validation accuracy from epoch to epoch: {record['fluctuation']:.2f} of its range.</p>")


def sibling(study, run):
    """dict, one finished run in a row: accuracy by set, fluctuation, verdict."""
    done = record(study, run)
    sets = {f"{name} accuracy": found.get("accuracy") for name, found in done["sets"].items()}
    return {"run": run, **sets, "fluctuation": done["fluctuation"], "verdict": done["verdict"] and f"COLLAPSED: {done['verdict']}"}


def paragraphs(sentences):
    """Html, one paragraph per sentence, escaped."""
    return Html("".join(f"<p>{html.escape(str(sentence))}</p>" for sentence in sentences))


def shifts(book, tables, *, source):
    """Html table of agreement.shift per network: concordance of each score by set, ids kept."""
    rows, sets = {}, []
    for name, table in tables.items():
        sets = list(dict.fromkeys([*sets, *table["set"]]))
        for score, part in table.groupby("score", sort=False):
            cells = {row["set"]: book.add(pd.DataFrame([row]).assign(share=True), set=row["set"], run=name, source=source)[row["metric"]]
                     for row in part.to_dict("records")}
            rows[f"{name}, score {score}"] = [cells.get(each, "") for each in sets]
    return book.table(sets, rows=rows, head="given the true score", caption="Share of the patches of each true score, 95 % intervals.")


def failures(study):
    """Html: runs that failed, with the last line of the error; or that all were finished."""
    file = study.folder / "runs" / "failures.json"
    failed = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    if not failed:
        return Html("<p>No notebook of this study failed.</p>")
    items = "".join(f"<li><span class=collapsed>{html.escape(str(row['task']))}</span>: {html.escape(str(row['error'])[-300:])}</li>"
                    for row in failed)
    return Html(f"<p>These notebooks failed, and their results are missing from this report:</p><ul>{items}</ul>")


def limits(study, records):
    """Html list: what the data and the runs cannot tell, in plain words, from what is on record."""
    say = ["Research use only: a score of one patch is not an ASCO/CAP score of a tumour."]
    if study.data["source"] == "phantom":
        say.append("The patches are synthetic. They show that the software measures what it claims; they say nothing about real tissue.")
    if any(run["parameters"]["weights"] == "none" for run in records.values()):
        say.append("Networks began from random weights, not from pretrained ones: a published network had a better start.")
    if len({run["seed"] for run in study.runs()}) == 1:
        say.append("Each network was trained once. Another seed would give other numbers; that spread is not in the intervals.")
    say += json.loads((study.folder_of("01_data_exploration") / "notes.json").read_text(encoding="utf-8"))
    return Html("<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in say) + "</ul>")


def provenance(study, records):
    """Html table: which networks, from which weights, on which device, under which recipe, for how long."""
    rows = [{"run": name, "device": f"{run['device']}, {run['precision']}", "epochs": run["recipe"]["epochs"],
             "minutes": round(run["seconds"] / 60, 1), "data, code": " ".join(run["fingerprints"].values())}
            for name, run in records.items()]
    return listing(pd.DataFrame(rows), caption="One row for every finished run. receipt.json holds the versions of all packages.")


def _reading_order(study):
    """First page first, then the notebooks by number; of many runs of one network the first stands in the report."""
    shown = {run["network"]: run["run"] for run in reversed(study.runs()) if run["twin"] == "none"}
    runs = {run["run"] for run in study.runs()}
    folders = [folder.name for folder in made(study.folder / "runs").iterdir() if (folder / "notebook.ipynb").is_file()]
    wanted = [name for name in folders if name not in runs or name in shown.values()]
    return sorted(wanted, key=lambda name: (not name.startswith("10_"), _notebook_of(study, name), name))


def _notebook_of(study, task):
    networks = {run["run"]: run["network"] for run in study.runs()}
    return NOTEBOOK_OF[networks[task]] if task in networks else task


def _chapter(study, task):
    import nbformat  # 2 s to import: only where notebooks are read

    notebook = nbformat.read(study.folder_of(task) / "notebook.ipynb", as_version=4)
    parts = [_part(cell) for cell in notebook.cells if TAG in cell.metadata.get("tags", [])]
    body = "\n".join(part for part in parts if part)
    if not body:
        return None
    title = re.search(r"<h2[^>]*>(.*?)</h2>", body, re.S)
    anchor = f"chapter-{re.sub(r'[^a-z0-9]+', '-', task.lower())}"
    return {"anchor": anchor, "title": re.sub(r"<[^>]+>|¶", "", title[1]).strip() if title else task, "body": body}


def _part(cell):
    from nbconvert.filters import markdown2html

    if cell.cell_type == "markdown":
        text = re.sub(r'<a class="anchor-link".*?</a>', "", markdown2html(cell.source))
        return re.sub(r'(<h\d) id="[^"]*"', r"\1", text)  # several notebooks have equal headings; ids must be unique
    return "\n".join(filter(None, (_output(output) for output in cell.get("outputs", []))))


def _output(output):
    if output.output_type == "stream":
        return ""  # progress bars and prints are for the person at the notebook
    data = output.get("data", {})
    if "text/html" in data:
        return data["text/html"]
    if "image/png" in data:
        return f'<figure><img alt="" src="data:image/png;base64,{data["image/png"].strip()}"></figure>'
    return f"<pre>{html.escape(data.get('text/plain', ''))}</pre>" if "text/plain" in data else ""
