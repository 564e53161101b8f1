"""Report: what notebooks hand over, the report made of it, and audits of reported numbers.

book          numbers with ids, and the sentences, tables and figures that carry them
sections      the first page and tables that recur
executed      executed notebooks as HTML in which nothing runs
tables        every table for LaTeX and Word
printing      the PDF
render        report.html and what lies beside it
drafts        model cards and checklists from what is on record
published     reported figures of a TOML file, checked against each other
recount       a study's own numbers computed a second time
recount_coefficients  Fleiss, Gwet and Krippendorff, reading by reading
findings      what an audit finds; what moved between two studies
"""

import lazy_loader

__all__ = [
    "Book",
    "Html",
    "all_numbers",
    "audit_file",
    "audit_report",
    "html_table",
    "moved_numbers",
    "render_report",
]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "book": ["Book", "Html", "html_table"],
        "findings": ["moved_numbers"],
        "published": ["audit_file"],
        "recount": ["audit_report"],
        "render": ["render_report"],
        "sections": ["all_numbers"],
    },
)
