"""Notes survive other readers, torn rows and kills: what was acknowledged is on the disk."""

import signal
import subprocess
import sys
import time

import pytest

from her2lib.explorer import notes

EVIL = "<img src=x onerror=alert(1)>_3+.png"
WRITE_UNTIL_KILLED = """
import sys
from her2lib.explorer import notes
for k in range(10**6):
    notes.add_note(sys.argv[1], "A", f"p{k}", "1+", "x" * 500)
    print(k, flush=True)
"""


def test_readers_notes_stand_in_their_own_files_and_never_overwrite(tmp_path):
    first = notes.add_note(tmp_path, "Dr. A/../x", EVIL, "3", 'faint, "blush"\nat the edge')
    second = notes.add_note(tmp_path, "B", EVIL, "2+", "")
    notes.add_note(tmp_path, "Dr. A/../x", "p2", "", "again")
    assert first.parent == second.parent == tmp_path
    assert first != second
    rows = notes.read_notes(tmp_path)
    assert sorted(rows["reader"]) == ["B", "Dr. A/../x", "Dr. A/../x"]
    assert set(rows["patch"]) == {EVIL, "p2"}
    assert set(rows["score"]) == {"3+", "2+", ""}
    assert 'faint, "blush" at the edge' in set(rows["note"])


def test_a_folder_without_notes_is_an_empty_table(tmp_path):
    rows = notes.read_notes(tmp_path / "nowhere")
    assert rows.empty
    assert tuple(rows) == notes.COLUMNS


def test_a_note_needs_a_reader_and_a_real_score(tmp_path):
    with pytest.raises(ValueError, match="name as reader"):
        notes.add_note(tmp_path, " ", "p", "1+", "")
    with pytest.raises(ValueError, match="not a HER2 score"):
        notes.add_note(tmp_path, "A", "p", "7", "")


def test_a_torn_row_is_dropped_and_the_next_note_is_whole(tmp_path):
    file = notes.add_note(tmp_path, "A", "p1", "1+", "kept")
    with file.open("ab") as out:
        out.write(b'2026,A,p2,2+,"torn')
    assert list(notes.read_notes(tmp_path)["patch"]) == ["p1"]
    notes.add_note(tmp_path, "A", "p3", "3+", "whole")
    assert list(notes.read_notes(tmp_path)["patch"]) == ["p1", "p3"]


def test_a_kill_while_writing_loses_no_note_that_was_acknowledged(tmp_path):
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, str(tmp_path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    writer.stdout.readline()
    time.sleep(0.5)
    writer.send_signal(signal.SIGKILL)
    lines = writer.communicate()[0].splitlines()
    acknowledged = 1 + len([line for line in lines if line])
    assert len(notes.read_notes(tmp_path)) in (acknowledged, acknowledged + 1)
    notes.add_note(tmp_path, "A", "after", "", "goes on")
    assert notes.read_notes(tmp_path)["patch"].iloc[-1] == "after"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"time;reader;patch;score;note\n1;A;p;;x\n", "with commas and the header"),
        (b"time,reader,patch,score\n1,A,p,\n", "begins with 'time,reader,patch,score'"),
        (b"time,reader,patch,score,note\n1,A,p,,\xff\n", "is no table of notes"),
        (b"time,reader,patch,score,note\n1,A,p,,x\n2,A,p,,x,y\n", "row 3 has 6 cells, not 5"),
    ],
)
def test_notes_that_are_no_such_table_any_more_are_named(tmp_path, content, says):
    (tmp_path / "A.csv").write_bytes(content)
    with pytest.raises(ValueError, match=says) as raised:
        notes.read_notes(tmp_path)
    assert "A.csv" in str(raised.value)
