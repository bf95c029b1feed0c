"""The merge methods: one file each, and the table that names them all."""

from merging.methods.breadcrumbs import Breadcrumbs
from merging.methods.breadcrumbs_ties import BreadcrumbsTies
from merging.methods.consensus import Consensus
from merging.methods.dare_linear import DareLinear
from merging.methods.dare_ties import DareTies
from merging.methods.della import Della
from merging.methods.della_linear import DellaLinear
from merging.methods.emr import Emr
from merging.methods.fisher import Fisher
from merging.methods.karcher import Karcher
from merging.methods.linear import Linear
from merging.methods.method import MergeMethod
from merging.methods.model_stock import ModelStock
from merging.methods.multislerp import MultiSlerp
from merging.methods.nuslerp import NuSlerp
from merging.methods.obim import Obim
from merging.methods.regmean import RegMean
from merging.methods.sce import Sce
from merging.methods.slerp import Slerp
from merging.methods.task_arithmetic import TaskArithmetic
from merging.methods.ties import Ties

METHODS: dict[str, MergeMethod] = {
    "linear": Linear(),
    "slerp": Slerp(),
    "nuslerp": NuSlerp(),
    "multislerp": MultiSlerp(),
    "karcher": Karcher(),
    "task_arithmetic": TaskArithmetic(),
    "ties": Ties(),
    "dare_linear": DareLinear(),
    "dare_ties": DareTies(),
    "della": Della(),
    "della_linear": DellaLinear(),
    "breadcrumbs": Breadcrumbs(),
    "breadcrumbs_ties": BreadcrumbsTies(),
    "model_stock": ModelStock(),
    "consensus": Consensus(),
    "sce": Sce(),
    "regmean": RegMean(),
    "obim": Obim(),
    "fisher": Fisher(),
    "emr": Emr(),
}
"""The merge method of every kind of `campaigns.methods.Method`."""

__all__ = ["METHODS", "MergeMethod"]
