"""Slides: whole slides cut into patches at a stated mpp, every field cut or left out for a reason.

tiling         slides -> patches, manifest and overview; resumes where it stopped
slide_files    which files are slides, what each is called, which one a written name means
slide_grid     how one slide is read: its pixel size, the grid of fields, a field's pixels
tissue_finder  tissue, ink and focus on a slide's overview; is it stained with eosin
field_cutter   one field after the other cut on all cores, each with its line in a log
tile_tables    the tables of cut slides, merged with what people typed into them
annotations    GeoJSON of QuPath: fields and scores out, drawn regions in
"""

import lazy_loader

__all__ = ["find_slides", "is_slide", "read_patients", "read_regions", "tile_slides"]
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "annotations": ["read_regions"],
        "slide_files": ["find_slides", "is_slide"],
        "tile_tables": ["read_patients"],
        "tiling": ["tile_slides"],
    },
)
