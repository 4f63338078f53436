"""Who set which field: `metadata.managedFields`, and server-side apply on top of it.

The writer calls `track` on every create, update and patch, and `apply` on an apply patch; both are
pure. The rules are those of k8s.io/apimachinery `pkg/util/managedfields`.
"""

from apiserver.api.managedfields.apply import apply
from apiserver.api.managedfields.conflict import Conflicts, apply_conflict
from apiserver.api.managedfields.managers import Origin, problem, track
from apiserver.api.managedfields.typed import check

__all__ = ["Conflicts", "Origin", "apply", "apply_conflict", "check", "problem", "track"]
