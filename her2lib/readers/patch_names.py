"""Patches as people name them in their tables -> the patches of a manifest."""

import unicodedata
from collections.abc import Iterable, Mapping

from her2lib.intake.columns import SUFFIXES


class PatchNames:
    """Patches of a manifest, found by name, by path, or without their ending, where that is clear.

    names: unique names of patches, or a dict name -> path as the manifest writes it.

    PatchNames(["a.png", "b.png"]).match("export/a")  # ("a.png", "")
    """

    def __init__(self, names: Iterable[str] | Mapping[str, str]) -> None:
        if isinstance(names, Mapping):
            path_of = {str(name): str(path) for name, path in names.items()}
        else:
            path_of = {str(name): str(name) for name in names}
        self.names = set(path_of)
        self._path_of = {name: _plain_path(path) for name, path in path_of.items()}
        self._by_key: dict[str, set[str]] = {}
        for name, path in path_of.items():
            for key in {*_keys(name), *_keys(path)}:
                self._by_key.setdefault(key, set()).add(name)

    def match(self, text: str) -> tuple[str, str]:
        """(name of the patch that a text means, ""), or ("", why there is none)."""
        if text in self.names:
            return text, ""
        # The longest part of a path that the manifest knows decides.
        for key in _keys(text):
            names = self._by_key.get(key, set())
            if len(names) == 1:
                return next(iter(names)), ""
            if names:
                shown = " or ".join(map(repr, sorted(names)[:3]))
                return "", f"the patch {text!r} could be {shown}, write which"
        return "", f"the patch {text!r} is not in the manifest, correct its name"

    def match_all(self, texts: Iterable[str]) -> dict[str, tuple[str, str]]:
        """dict text -> match of it; ("", why) for those that name one patch in several folders.

        "slide7/a.png" and "slide9/a.png" are two patches even where the manifest has one "a.png".
        """
        matches = {text: self.match(text) for text in set(texts)}
        folders: dict[str, set[str]] = {}
        for text, (name, _) in matches.items():
            if name:
                folders.setdefault(name, set()).add(self._folder(text, name))
        for text, (name, _) in matches.items():
            several = name and len(folders[name] - {""}) > 1
            if several and self._folder(text, name) not in ("", "/"):
                why = f"the patch {text!r} is one of several that may be {name!r}, write which"
                matches[text] = ("", why)
        return matches

    def _folder(self, text, name):
        """str, the folder that a text names; "" for none, "/" for that of the manifest."""
        path = _plain_path(text)
        if "/" not in path:
            return ""
        if "/" in self._path_of[name] and f"/{path}".endswith("/" + self._path_of[name]):
            return "/"
        return path.rpartition("/")[0]


def _keys(text):
    """list of str: a path, and what is left of it without folders, each also without its ending."""
    parts = _plain_path(text).split("/")
    keys = []
    for first in range(len(parts)):
        path = "/".join(parts[first:])
        keys.append(path)
        if path.endswith(SUFFIXES):
            keys.append(path.rpartition(".")[0])
    return [key for key in keys if key]


def _plain_path(text):
    """str, a path with forward slashes, in one Unicode form and in lower case."""
    path = unicodedata.normalize("NFC", text).strip().replace("\\", "/").casefold()
    return "/".join(part for part in path.split("/") if part not in ("", "."))
