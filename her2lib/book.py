"""What a notebook hands to the report: numbers that carry their ids, sentences, tables, figures; and the tidy tables of finished runs."""

import base64
import html
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd

from her2lib import plots
from her2lib.intervals import Estimate, units_of
from her2lib.scores import SCORES
from her2lib.study import read_json, write_bytes, write_table

COLUMNS = [
    "id",
    "question",
    "set",
    "run",
    "metric",
    "value",
    "low",
    "high",
    "n",
    "units",
    "source",
    "note",
    "share",
]
MANY = 12  # names; a study of more is a sweep, shown whole by 92_recipes alone
NULLS = ("always the commonest score", "DAB rule")  # and every twin trained on shuffled scores
PROBABILITIES = [f"p{score}" for score in range(len(SCORES))]
NETWORKS = {
    "resnet18": "ResNet18",
    "densenet201": "DenseNet-201",
    "vit_b16": "ViT-B/16",
    "vit_tiny": "ViT-Tiny",
    "hybrid": "Hybrid ViT",
}
WORDS = {
    "recipe": "{}",
    "weights": "{} weights",
    "side_px": "{} px",
    "n_train": "{:.0%} of the training patches",
    "split": "{} split",
}


class Html(str):
    """A piece of the report that Jupyter shows as it will stand there."""

    def _repr_html_(self):
        return str(self)


class Book:
    """What one notebook hands to the report: numbers with ids, sentences, tables and figures that carry them."""

    def __init__(self, study, notebook):
        self.study, self.notebook = study, notebook
        self.file = study.folder_of(notebook) / "numbers.csv"
        self.rows = {}
        write_table(self.file, pd.DataFrame(columns=COLUMNS))

    def add(self, table, *, question="", set="", run="", source=""):
        """dict metric -> id after keeping a tidy table (metric, value, low, high, n, units …), or {metric: Estimate}, in numbers.csv."""
        if isinstance(table, dict):
            table = pd.DataFrame(
                [{"metric": metric, **vars(estimate)} for metric, estimate in table.items()]
            )
        ids = {}
        for row in table.to_dict("records"):
            known = {
                "question": question or self.notebook,
                "set": set,
                "run": run,
                "source": source,
                "note": "",
                "share": False,
            }
            row = {**known, **{key: value for key, value in row.items() if key in COLUMNS}}
            row["id"] = ids[row["metric"]] = "/".join(
                str(part)
                for part in (self.notebook[:2], row["set"], row["run"], row["metric"])
                if str(part)
            )
            self.rows[row["id"]] = row
        write_table(self.file, pd.DataFrame(self.rows.values(), columns=COLUMNS))
        return ids

    def say(self, text, **numbers):
        """Html of a paragraph; {name} is replaced by the number whose id is given, other values are shown as text."""
        return Html(f"<p>{self._filled(text, numbers)}</p>")

    def table(self, ids, *, rows, caption, head=""):
        """Html table: rows maps a row's name to the ids (or texts) of its cells; ids names the columns."""
        body = []
        for name, cells in rows.items():
            shown = [
                number(self.rows[cell], short=True) if cell in self.rows else html.escape(str(cell))
                for cell in cells
            ]
            body.append(
                f"<tr><th>{html.escape(str(name))}</th>"
                + "".join(f"<td>{cell}</td>" for cell in shown)
                + "</tr>"
            )
        top = "".join(f"<th>{html.escape(str(column))}</th>" for column in (head, *ids))
        return Html(
            f"<figure class=table><table><thead><tr>{top}</tr></thead><tbody>{''.join(body)}</tbody></table>"
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )

    def figure(self, figure, name, caption, *, photo=False, **numbers):
        """Html figure with its caption; also written to figures/ at 300 dpi and, when it is no photograph, as SVG."""
        start = (
            self.notebook[:2] if self.notebook[:2].isdigit() else self.notebook
        )  # runs of one network have figures of one name
        stem = f"{start}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}"
        kinds = ("jpeg",) if photo else ("png", "svg")
        for kind in kinds:
            write_bytes(
                self.study.figures / f"{stem}.{kind.replace('jpeg', 'jpg')}",
                plots.image_bytes(figure, kind=kind, dpi=300),
            )
        source = f"data:image/{kinds[0]};base64,{base64.b64encode(plots.image_bytes(figure, kind=kinds[0])).decode()}"
        plots.close(figure)
        alt = html.escape(re.sub(r"\{\w+\}", "", caption), quote=True)
        return Html(
            f'<figure><img alt="{alt}" src="{source}"><figcaption>{self._filled(caption, numbers)}</figcaption></figure>'
        )

    def _filled(self, text, numbers):
        shown = {
            key: number(self.rows[value]) if value in self.rows else html.escape(str(value))
            for key, value in numbers.items()
        }
        return html.escape(text, quote=False).format(**shown)


def number(row, *, short=False):
    """Html span of one row of numbers.csv; the text is Estimate.text(), cut before n when short."""
    keys = ("value", "low", "high", "n", "units", "note", "share")
    text = Estimate(**{key: row[key] for key in keys}).text()
    if short and not text.startswith("not estimable"):
        text = re.sub(r"(: [^;]*)?; n = .*\)$", ")", text, flags=re.S)
    title = html.escape(str(row["note"] or row["metric"]), quote=True)
    return Html(
        f'<span class=number data-number="{html.escape(row["id"], quote=True)}" title="{title}">{html.escape(text)}</span>'
    )


def listing(table, *, caption="", columns=None):
    """Html table of plain text cells (file names, settings, findings), every cell escaped."""
    shown = table if columns is None else table[columns]
    body = shown.to_html(
        index=False, escape=True, border=0, na_rep="", float_format=lambda value: f"{value:.4g}"
    )
    return Html(
        f"<figure class=table>{body.replace(chr(10), '')}<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def case(row):
    """str, caption of one predicted patch: file name, true score, predicted score, confidence."""
    probabilities = np.array([row[column] for column in PROBABILITIES], float)
    best = int(probabilities.argmax())
    stem = str(row["patch"])
    stem = stem if len(stem) <= 34 else f"{stem[:15]}…{stem[-18:]}"
    true = SCORES[int(row["truth"])] if row["truth"] >= 0 else "?"
    return f"{stem}\ntrue {true}, predicted {SCORES[best]}, {100 * probabilities[best]:.0f} % sure"


def tables(study, name):
    """DataFrame of all tables of that name (predictions, history …) of the study's finished runs, one below the other."""
    frames = []
    for run in study.runs():
        file = study.folder_of(run["run"]) / f"{name}.csv"
        if finished(study, run["run"]) and file.is_file():
            frames.append(
                pd.read_csv(file, keep_default_na=False, na_values=["nan", "NaN"]).assign(
                    run=run["run"]
                )
            )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def records(study):
    """dict run -> run.json of every finished run, in reading order."""
    return {
        run["run"]: record(study, run["run"]) for run in study.runs() if finished(study, run["run"])
    }


def record(study, run):
    """dict, the run.json of one run; empty when there is none."""
    return read_json(study.folder_of(run) / "run.json")


def finished(study, run):
    """bool, whether run.json says that the run is complete."""
    return bool(record(study, run).get("complete"))


def verdict(record):
    """Html: whether this run collapsed, and how much its validation curve fluctuates (1 = to and fro over its whole range each epoch)."""
    why = record["verdict"]
    said = (
        f"<span class=collapsed>COLLAPSED: {html.escape(why)}.</span>"
        if why
        else "This run did not collapse."
    )
    return Html(
        f"<p>{said} Mean change of validation accuracy from epoch to epoch: {record['fluctuation']:.2f} of its range.</p>"
    )


def sibling(study, run):
    """dict, one finished run in a row: accuracy by set, fluctuation, verdict."""
    done = record(study, run)
    sets = {f"{name} accuracy": found.get("accuracy") for name, found in done["sets"].items()}
    return {
        "run": run,
        **sets,
        "fluctuation": done["fluctuation"],
        "verdict": done["verdict"] and f"COLLAPSED: {done['verdict']}",
    }


def frame(book, ids, *, names):
    """DataFrame (name, value, low, high, null) of numbers by id, as plots.forest draws them; nulls are grey."""
    rows = [
        {**book.rows[id_], "name": name, "null": is_null(name)}
        for id_, name in zip(ids, names, strict=True)
    ]
    return pd.DataFrame(rows)[["name", "value", "low", "high", "null"]]


def is_null(name):
    """bool, whether a contestant is a null and not a network."""
    return name in NULLS or "shuffled" in name


def names_of(study):
    """dict run -> the name people read: the network and those axes that vary in this study; seeds share a name."""
    runs = study.runs()
    varying = [axis for axis in WORDS if len({str(run[axis]) for run in runs}) > 1]
    names = {}
    for run in runs:
        words = [
            WORDS[axis].format(str(run[axis]).replace("_", " ") if axis != "n_train" else run[axis])
            for axis in varying
        ]
        words += ["shuffled scores"] * (run["twin"] == "shuffled")
        names[run["run"]] = ", ".join([NETWORKS[run["network"]], *words])
    return names


def shown_split(study):
    """str, the split whose runs are shown together; 09 compares the others, since what one was taught another is tested on."""
    splits = {run["split"] for run in study.runs() if finished(study, run["run"])}
    return next((split for split in ("official", "grouped", "random") if split in splits), "")


def shown_runs(study):
    """dict name -> run: the first finished run of every name that is no twin, of a sweep (over MANY names) that of every network."""
    names, first, split = names_of(study), {}, shown_split(study)
    runs = [
        run
        for run in study.runs()
        if run["twin"] == "none" and run["split"] == split and finished(study, run["run"])
    ]
    many = len({names[run["run"]] for run in runs}) > MANY
    for run in runs:
        first.setdefault(run["network"] if many else names[run["run"]], run["run"])
    return {names[run]: run for run in first.values()}


def contestants(study, predictions, rule):
    """DataFrame of predictions with a column name (seeds share one) and two nulls as further rows: commonest score, DAB rule."""
    own, shown, split = (
        predictions.assign(name=predictions["run"].map(names_of(study))),
        shown_runs(study),
        shown_split(study),
    )
    own = own[own["run"].isin([run["run"] for run in study.runs() if run["split"] == split])]
    own = own[own["name"].isin(shown) | own["name"].map(is_null)]
    first = own[own["run"] == own["run"].iloc[0]]
    commonest = np.bincount(
        first.loc[first["set"] == "train", "truth"], minlength=len(SCORES)
    ).argmax()
    ruled = rule.set_index("name")["predicted"].reindex(first["patch"]).to_numpy(int)
    nulls = [
        first.assign(
            name=name,
            run=name,
            **dict(zip(PROBABILITIES, np.eye(len(SCORES))[answer].T, strict=True)),
        )
        for name, answer in zip(NULLS, (np.full(len(first), commonest), ruled), strict=True)
    ]
    return pd.concat([own, *nulls], ignore_index=True)


@dataclass(frozen=True)
class Side:
    """One contestant on one set: truth (N,), given [(N,4) per seed], patch (N,), units (Series) and the sentence on them."""

    set: str
    name: str
    truth: np.ndarray
    given: list
    patch: np.ndarray
    units: object
    unit: str
    warning: str


def sides(contestants):
    """list of Side, one for every set and contestant, the patches in the same order for all."""
    found = []
    for (set_, name), rows in contestants[contestants["truth"] >= 0].groupby(
        ["set", "name"], sort=False
    ):
        runs = [part.sort_values("patch") for _, part in rows.groupby("run", sort=False)]
        first = runs[0]
        units, unit, warning = units_of(first["patient"], first["slide"], first["patch"])
        given = [part[PROBABILITIES].to_numpy(float) for part in runs]
        found.append(
            Side(
                set_,
                name,
                first["truth"].to_numpy(int),
                given,
                first["patch"].to_numpy(),
                units,
                unit,
                warning,
            )
        )
    return found


@dataclass(frozen=True)
class Rated:
    """Patches that people read: ratings (N,R) with -1 missing; names of its columns: consensus, people, networks; units (Series)."""

    ratings: np.ndarray
    names: list
    people: list
    networks: list
    patch: np.ndarray
    units: object
    unit: str
    warning: str

    def of(self, names):
        """(N,len(names)) the columns of these names."""
        return self.ratings[:, [self.names.index(name) for name in names]]

    def tidy(self):
        """DataFrame ratings.csv: patch, rater, reading, score; one row per rating that was given."""
        table = pd.DataFrame(self.ratings, columns=self.names).assign(patch=self.patch, reading=1)
        table = table.melt(["patch", "reading"], var_name="rater", value_name="score")
        return table[table["score"] >= 0][["patch", "rater", "reading", "score"]]


def rated(study, table, predictions):
    """Rated, the test and external patches that a person read, with the given consensus and every shown network as further columns."""
    people = [column for column in table if column.startswith("rater_")]
    table = table[table["set"].isin(["test", "external"])]  # a network has learnt the others
    read = table[(table[people].fillna(-1) >= 0).any(axis=1)] if people else table.iloc[:0]
    columns = {
        "consensus": read["score"],
        **{column.removeprefix("rater_"): read[column].fillna(-1) for column in people},
    }
    networks = shown_runs(study)
    for name, run in networks.items():
        own = (
            predictions[predictions["run"] == run]
            .drop_duplicates("patch")
            .set_index("patch")[PROBABILITIES]
        )
        answers = pd.Series(own.to_numpy(float).argmax(1), index=own.index)
        columns[name] = answers.reindex(read["name"]).fillna(-1).to_numpy()
    units, unit, warning = units_of(read["patient"], read["slide"], read["name"])
    ratings = np.stack([np.asarray(column, int) for column in columns.values()], axis=1)  # (N,R)
    return Rated(
        ratings,
        list(columns),
        [c.removeprefix("rater_") for c in people],
        list(networks),
        read["name"].to_numpy(),
        units,
        unit,
        warning,
    )


def cases(predictions, *, each):
    """DataFrame of the surest right and the surest wrong patches, `each` of both, with answer and right."""
    probabilities = predictions[PROBABILITIES].to_numpy(float)
    rows = predictions.assign(answer=probabilities.argmax(1), sure=probabilities.max(1))
    rows = rows.assign(right=rows["answer"] == rows["truth"]).sort_values(
        "sure", ascending=False, kind="stable"
    )
    return pd.concat(
        [rows[rows["right"]].head(each), rows[~rows["right"]].head(each)], ignore_index=True
    )
