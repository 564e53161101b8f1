"""`her2`: thin verbs over the library; the signature of a verb is the only place of its defaults.

options       the command, and what a number or a list on its line may be
study_verbs   run, status, report, explorer, diff, audit
data_verbs    check, phantom, tile
score_verbs   score, sheet, consensus
command       one line read, one verb called, every refusal a sentence
"""

import lazy_loader

__all__ = ["main"]
__getattr__, __dir__, _ = lazy_loader.attach(__name__, submod_attrs={"command": ["main"]})
