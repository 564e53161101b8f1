"""A made-up report with every kind of number, each made by the library from a table of its own."""

import html

import numpy as np
import pandas as pd

from her2lib.readers import votes
from her2lib.stats import agreement, compare, intervals
from her2lib.stats.intervals import Estimate, bootstrap

N = 90
PATCHES = [f"p{i}" for i in range(N)]
PROBABILITIES = ["p0", "p1", "p2", "p3"]
TOGETHER = {
    "Fleiss kappa": agreement.fleiss,
    "Gwet AC1": agreement.gwet_ac1,
    "Gwet AC2 (quadratic)": agreement.gwet_ac2,
    "Krippendorff alpha (ordinal)": agreement.krippendorff,
}


class MadeReport:
    """Tables and numbers of a made-up report: 90 patches of 12 patients."""

    def __init__(self):
        self.random = np.random.default_rng(0)
        self.truth = self.random.integers(0, 4, N)
        self.groups = pd.Series([f"a{i % 12}" for i in range(N)], name="patient")
        self.draws = {"resamples": 60}
        self.tables = {}
        self.numbers = []
        self.add_networks()
        self.add_splits()
        self.add_people()
        self.add_values()
        self.add_changed_patches()
        self.add_corrected()
        self.add_ranks()

    def write(self, folder):
        """DataFrame, numbers.csv of the report that is written to the folder."""
        numbers = pd.concat(self.numbers, ignore_index=True)
        numbers["question"] = "06_compare"
        ids = "06/" + numbers["set"] + "/" + numbers["run"] + "/" + numbers["metric"]
        twice = numbers["metric"].isin(["accuracy as answered", "spearman"])
        numbers["id"] = ids.where(~twice, ids + "/" + numbers["source"])
        for name, table in self.tables.items():
            file = folder / "runs" / f"{name}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            table.to_csv(file, index=False)
        numbers.to_csv(folder / "numbers.csv", index=False)
        page = "\n".join(printed(row) for row in numbers.to_dict("records"))
        (folder / "report.html").write_text(page, encoding="utf-8")
        return numbers

    def add(self, estimates, **columns):
        """Rows of numbers.csv from {metric: Estimate} or a table."""
        table = estimates
        if isinstance(estimates, dict):
            table = pd.DataFrame([{"metric": m, **vars(one)} for m, one in estimates.items()])
        self.numbers.append(table.assign(**columns))

    def bootstrap(self, statistic, *columns, **options):
        return bootstrap(statistic, *columns, groups=self.groups, **self.draws, **options)

    def answers(self, name, run, *, subset="test"):
        """DataFrame, one run's probabilities for every patch: right for about 70 %."""
        right = self.random.random(N) < 0.6
        odds = self.random.dirichlet(np.ones(4), N) + np.eye(4)[np.where(right, self.truth, 0)]
        table = pd.DataFrame(odds / odds.sum(1, keepdims=True), columns=PROBABILITIES)
        return table.assign(name=name, run=run, set=subset, patch=PATCHES, truth=self.truth)

    def add_networks(self):
        """Two seeds of a network beside a rule, and their difference."""
        runs = (("net", "net-0"), ("net", "net-1"), ("rule", "rule-0"))
        table = pd.concat([self.answers(name, run) for name, run in runs])
        self.tables["06/contestants"] = table
        columns = {"set": "test", "source": "runs/06/contestants.csv"}
        for name in ("net", "rule"):
            estimates = agreement.metrics(
                self.truth, probabilities_of(table, name), groups=self.groups, **self.draws
            )
            self.add(estimates, run=name, **columns)
        net = [each.argmax(1) for each in probabilities_of(table, "net")]
        rule = probabilities_of(table, "rule")[0].argmax(1)
        gap = compare.compare(self.truth, net, rule, groups=self.groups, **self.draws)
        self.add(gap, run="net minus rule", **columns)

    def add_splits(self):
        """Two splits, each on its own test patches, three seeds against two; re-read labels."""
        tested = {"random": range(50), "grouped": range(30, 90)}
        runs = {name: [] for name in tested}  # scores; -1 where a split does not test the patch
        tables = []
        for name, n_seeds in (("random", 3), ("grouped", 2)):
            rows = list(tested[name])
            for seed in range(n_seeds):
                answers = self.answers(name, f"{name}-s{seed}", subset="own test").iloc[rows]
                tables.append(answers)
                scores = np.full(N, -1)
                scores[rows] = answers[PROBABILITIES].to_numpy().argmax(1)
                runs[name].append(scores)
        self.tables["09/by_split"] = pd.concat(tables)
        gap = compare.compare(
            self.truth, runs["random"][:2], runs["grouped"], groups=self.groups, **self.draws
        )
        gap["metric"] = gap["metric"].str.replace("difference", "gap")
        columns = {"set": "own test", "source": "runs/09/by_split.csv"}
        self.add(gap, run="random minus grouped", **columns)

        reread = np.where(np.arange(N) % 7 == 0, (self.truth + 1) % 4, self.truth)
        table = pd.DataFrame({"patch": PATCHES, "reread": reread})
        self.tables["09/reread"] = table[reread != self.truth]
        columns["source"] = "runs/09/by_split.csv, runs/09/reread.csv"
        for name, rows in tested.items():
            rows = list(rows)
            estimates = {
                f"kappa quadratic {when} re-reading": bootstrap(
                    agreement.SCORED["kappa quadratic"],
                    truth[rows],
                    [scores[rows] for scores in runs[name]],
                    groups=self.groups[rows],
                    **self.draws,
                )
                for when, truth in (("before", self.truth), ("after", reread))
            }
            self.add(estimates, run=name, **columns)

    def add_people(self):
        """Three people, one of whom did not read all, and a network among the raters."""
        guess = self.random.integers(0, 4, (2, N))
        third = np.where(np.arange(N) % 5, guess[0], -1)
        read = np.stack([self.truth, (self.truth + self.truth % 2) % 4, third, guess[1]], axis=1)
        raters = ["P1", "P2", "P3", "net"]
        wide = pd.DataFrame(read, columns=raters).assign(patch=PATCHES, reading=1)
        tidy = wide.melt(["patch", "reading"], var_name="rater", value_name="score")
        self.tables["07/ratings"] = tidy[tidy["score"] >= 0].assign(person=tidy["rater"] != "net")
        columns = {"set": "rated", "source": "runs/07/ratings.csv"}
        kappas = agreement.kappa_table(
            read, raters, groups=self.groups, weights="linear", **self.draws
        )
        self.add(kappas, run=kappas.a + " ~ " + kappas.b, **columns)
        people = read[:, :3]
        others = np.column_stack([votes.leave_one_out(people), votes.consensus(people)[0]])
        for k, rater in enumerate(raters):
            known = (others[:, k] >= 0) & (read[:, k] >= 0)
            estimates = {
                metric: bootstrap(
                    agreement.SCORED[metric],
                    others[known, k],
                    read[known, k],
                    groups=self.groups[known],
                    **self.draws,
                )
                for metric in ("accuracy", "kappa unweighted", "kappa quadratic")
            }
            self.add(estimates, run=f"{rater} against the other raters", **columns)
        together = {name: self.bootstrap(metric, people) for name, metric in TOGETHER.items()}
        self.add(together, run="all raters", **columns)

    def add_values(self):
        """Three values kept for each patch, some of them unknown."""
        values = self.random.random((N, 3))
        values[self.random.random((N, 3)) < 0.1] = np.nan
        columns = {"label": "net, grad-cam", "kind": "net", "patch": range(N)}
        self.tables["08/focus"] = pd.DataFrame({"share": values[:, 0], **columns})
        columns = {"label": "net, grad-cam", "change": "shift"}
        self.tables["08/likeness"] = pd.DataFrame({"spearman": values[:, 1], **columns})
        columns = {"number": "06/test/net/claimed"}
        self.tables["08/claims"] = pd.DataFrame({"value": values[:, 2], **columns})
        mean = [self.bootstrap(intervals.mean, values[:, k]) for k in range(3)]
        label = {"run": "net, grad-cam", "set": "test"}
        self.add({"share": mean[0]}, source="runs/08/focus.csv", **label)
        self.add({"likeness, shift": mean[1]}, source="runs/08/likeness.csv", **label)
        self.add({"claimed": mean[2]}, run="net", set="test", source="runs/08/claims.csv")

    def add_changed_patches(self):
        """Answers to patches whose tiles are shuffled."""
        answers = np.where(self.random.random(N) < 0.5, self.truth, self.random.integers(0, 4, N))
        columns = {"kind": "tiles_shuffled", "truth": self.truth}
        self.tables["08/ablations"] = pd.DataFrame({"net, tuned": answers, **columns})
        kappa = self.bootstrap(agreement.kappa, self.truth, answers, weights="quadratic")
        estimates = {
            "accuracy, net, tuned": self.bootstrap(agreement.accuracy, self.truth, answers),
            "kappa, net, tuned": kappa,
        }
        self.add(estimates, run="tiles_shuffled", set="test", source="runs/08/ablations.csv")

    def add_corrected(self):
        """Two probabilities for each patch: as answered, and for other shares of the scores."""
        for metric in ("accuracy as answered", "accuracy corrected"):
            answers = self.answers("net", "net-0").assign(metric=metric)
            before = self.tables.get("07/corrected")
            self.tables["07/corrected"] = pd.concat([before, answers])
            predicted = answers[PROBABILITIES].to_numpy().argmax(1)
            estimates = {metric: self.bootstrap(agreement.accuracy, self.truth, predicted)}
            self.add(estimates, run="net", set="test", source="runs/07/corrected.csv")

    def add_ranks(self):
        """Answers that come with a rank instead of probabilities, and a rule's value."""
        table = self.tables["06/contestants"]
        rank = table["p2"] + 2 * table["p3"]
        answer = table[PROBABILITIES].to_numpy().argmax(1)
        table = table.assign(rank=rank, answer=answer, set="external")
        self.tables["93/answers"] = table.drop(columns=PROBABILITIES)
        columns = {"set": "external", "source": "runs/93/answers.csv"}
        net = [seed.to_numpy() for _, seed in table[table.name == "net"].groupby("run")["answer"]]
        estimates = {"accuracy": self.bootstrap(agreement.accuracy, self.truth, net)}
        self.add(estimates, run="net", **columns)
        rule = table.loc[table.name == "rule", "answer"].to_numpy()
        gap = compare.compare(self.truth, net, [rule, rule], groups=self.groups, **self.draws)
        self.add(gap, run="net less rule", **columns)

        rank = table.loc[table.name == "rule", "rank"].to_numpy()
        rule = pd.DataFrame({"score": self.truth, "value": rank, "predicted": self.truth})
        self.tables["01/rule"] = rule
        estimates = {"spearman": self.bootstrap(agreement.spearman, rank, self.truth)}
        self.add(estimates, run="DAB rule", set="all", source="runs/01/rule.csv")


def probabilities_of(table, name):
    """list of (N,4), one for each seed."""
    seeds = table[table.name == name].groupby("run", sort=False)
    return [seed[PROBABILITIES].to_numpy() for _, seed in seeds]


def printed(row, text=None):
    """str, a number as the report prints it."""
    if text is None:
        keys = ("value", "low", "high", "n", "sample", "note", "as_percent")
        text = Estimate(**{key: row[key] for key in keys}).text()
    id_ = html.escape(row["id"], quote=True)
    span = f'<span class=number data-number="{id_}" title="a &gt; b">{html.escape(text)}</span>'
    return f"<p>It is {span}.</p>"
