"""Types of the door: the same names as in __init__.py, where they are loaded when first used."""

from her2lib import plots as plots
from her2lib.data.patches import Patches as Patches
from her2lib.data.patches import check_patches as check_patches
from her2lib.data.reading import read_patches as read_patches
from her2lib.maps.attribution import attention as attention
from her2lib.maps.attribution import grad_cam as grad_cam
from her2lib.networks.checkpoint import load_run as load_run
from her2lib.networks.models import create as create
from her2lib.networks.train import predict as predict
from her2lib.networks.train import train as train
from her2lib.phantoms.dataset import write_phantoms as write_phantoms
from her2lib.stain import rule_score as rule_score
from her2lib.stats.intervals import Estimate as Estimate
from her2lib.stats.intervals import bootstrap as bootstrap
from her2lib.stats.one_kappa import quadratic_kappa as quadratic_kappa

__all__: list[str]
