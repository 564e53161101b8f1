"""Fingerprints: they change when, and only when, what they stand for did."""

from her2lib.study import config, fingerprints


def test_code_fingerprint_follows_imports(tmp_path, monkeypatch):
    assert fingerprints.imported_modules(
        "from her2lib import stain\nimport her2lib.networks.train as t\n"
        "from her2lib.scores import SCORES\nimport numpy"
    ) == {"stain", "networks.train", "scores"}
    before = fingerprints.code_fingerprint("data.patches")
    real = fingerprints._python_source
    monkeypatch.setattr(
        fingerprints,
        "_python_source",
        lambda file: real(file) + ("\n# changed" if file.stem == "scores" else ""),
    )
    assert fingerprints.code_fingerprint("data.patches") != before
    assert fingerprints.code_fingerprint("stats.intervals") == fingerprints.code_fingerprint(
        "stats.intervals"
    )


def test_data_fingerprint_changes_with_the_files(tmp_path):
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches" / "a_1+.png").write_bytes(b"1")
    file = tmp_path / "x.toml"
    file.write_text(f"[data]\nsource = '{tmp_path / 'patches'}'\n")
    loaded = config.load_study(file)
    before = fingerprints.data_fingerprint(loaded)
    assert fingerprints.data_fingerprint(loaded) == before
    (tmp_path / "patches" / "b_2+.png").write_bytes(b"2")
    assert fingerprints.data_fingerprint(loaded) != before


def test_a_name_through_the_door_of_a_room_counts_as_the_whole_room():
    room = fingerprints.imported_modules("from her2lib.stats import bootstrap")
    assert {"stats.intervals", "stats.agreement"} <= room
    assert all(name.startswith("stats.") for name in room)
    assert fingerprints.imported_modules("from her2lib.stats.intervals import bootstrap") == {
        "stats.intervals"
    }


def test_the_environment_names_python_every_package_and_the_lock():
    versions = fingerprints.environment()
    assert set(versions) == {"python", *fingerprints.PACKAGES, "platform", "lock"}
    assert all(versions.values())
