"""Findings as rows, rounding as it was printed, old numbers.csv read, numbers of two studies."""

import io
from decimal import Decimal

import pandas as pd
import pytest

from her2lib.report import findings
from her2lib.report.findings import Finding

OLD = """id,question,set,run,metric,value,low,high,n,units,source,note,share
06/test/net/recall 2+,06_compare_models,test,net,concordance 2+,0.5,0.4,0.6,9,patches,a.csv,,True
06/test/net/kappa linear,06_compare_models,test,net,kappa linear,0.5,0.4,0.6,9,patches,a.csv,,False
"""


def test_contradictions_come_first_and_a_claim_that_has_one_is_not_cleared():
    rows = [
        Finding("a", 1, "", "consistent", "a: nothing contradicts 1."),
        Finding("a", 1, 2, "contradiction", "a is 2."),
        Finding("b", 1, "", "consistent", "b: nothing contradicts 1."),
        Finding("b", 1, "", "consistent", "b: nothing contradicts 1."),
        Finding("c", 1, "", "caution", "c is small."),
        Finding("d / b2", "", "", "contradiction", "d against b2."),
        Finding("b2", 1, "", "consistent", "b2: nothing contradicts 1."),
    ]
    table = findings.findings_table(rows)
    assert table["id"].tolist() == ["a", "d / b2", "c", "b"]
    assert table.columns.tolist() == findings.COLUMNS
    assert findings.exit_code(table) == 1
    assert findings.exit_code(table[table["verdict"] != "contradiction"]) == 0
    assert findings.exit_code(findings.findings_table([])) == 0


@pytest.mark.parametrize(
    ("printed", "half"), [("58.7", 0.05), ("58.70", 0.005), ("59", 0.5), ("0.816", 0.0005)]
)
def test_rounding_is_judged_by_the_last_printed_digit(printed, half):
    assert findings.half_last_digit(Decimal(printed)) == pytest.approx(half)
    exact = float(printed) + 0.99 * half
    assert findings.rounds_to(Decimal(printed), exact)
    assert not findings.rounds_to(Decimal(printed), exact + 0.02 * half)
    assert findings.rounds_to(Decimal(printed), exact + half, half=3 * half)


def test_an_older_numbers_file_is_read_in_todays_words():
    old = pd.read_csv(io.StringIO(OLD), keep_default_na=False)
    new = findings.in_new_words(old)
    assert new["metric"].tolist() == ["recall 2+", "kappa linear"]
    assert new["sample"].tolist() == ["patches", "patches"]
    assert new["as_percent"].tolist() == [True, False]
    assert not {"units", "share"} & set(new)
    assert new["id"].tolist() == old["id"].tolist()
    assert findings.in_new_words(new).equals(new)
    assert findings.in_new_words(old[:0])["metric"].empty


class TestMoved:
    """Two numbers.csv side by side."""

    def table(self, **intervals):
        table = pd.DataFrame(intervals.values(), columns=["value", "low", "high"])
        names = list(intervals)
        return table.assign(id=names, question="06", set="test", run=names, metric="accuracy")

    def verdicts(self, a, b, **options):
        return findings.moved_numbers(a, b, **options).set_index("id")["verdict"].to_dict()

    def test_a_number_moves_when_the_interval_of_its_difference_excludes_zero(self):
        half = (0.5, 0.4, 0.6)
        before = self.table(far=half, close=half, equal=half, gone=half)
        after = self.table(far=(0.8, 0.7, 0.9), close=(0.6, 0.5, 0.7), equal=half, new=half)
        moved = findings.moved_numbers(before, after).set_index("id")
        assert moved["verdict"].to_dict() == {
            "far": "moved",
            "gone": "only in the first",
            "new": "only in the second",
            "close": "within",
            "equal": "unchanged",
        }
        low, high = moved.loc["far", ["low", "high"]]
        # by hand: 0.3 -+ sqrt(0.1^2 + 0.1^2)
        assert (low, high) == pytest.approx((0.3 - 0.02**0.5, 0.3 + 0.02**0.5))

    def test_intervals_that_overlap_may_still_have_moved(self):
        before = self.table(a=(0.5, 0.4, 0.6))
        after = self.table(a=(0.65, 0.55, 0.75))
        assert self.verdicts(before, after) == {"a": "moved"}  # 0.15 > 0.1414

    def test_without_an_interval_nothing_is_said_to_move(self):
        nan = float("nan")
        half, most, unknown = (self.table(a=(value, nan, nan)) for value in (0.5, 0.9, nan))
        assert self.verdicts(half, most) == {"a": "no interval"}
        assert self.verdicts(unknown, unknown) == {"a": "unchanged"}

    def test_names_are_matched_by_their_axes(self):
        before = self.table(ResNet18=(0.5, 0.4, 0.6)).assign(run="ResNet18 minus DAB rule")
        after = self.table(long=(0.9, 0.8, 1.0)).assign(run="ResNet18, as presented minus DAB rule")
        names = {"ResNet18": "network=resnet18"}, {"ResNet18, as presented": "network=resnet18"}
        assert self.verdicts(before, after, names=names) == {"long": "moved"}
        assert set(self.verdicts(before, after).values()) == set(findings.ONLY)

    def test_a_number_of_an_older_report_is_compared_with_its_new_name(self):
        old = pd.read_csv(io.StringIO(OLD), keep_default_na=False)
        new = findings.in_new_words(old)
        assert set(self.verdicts(old, new).values()) == {"unchanged"}
