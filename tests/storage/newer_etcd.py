"""An etcd newer than Debian 12 has, where `.ci/setup` has put one."""

from pathlib import Path

_PLACE = Path(__file__).parents[2] / ".venv" / "etcd" / "usr" / "bin" / "etcd"
NEWER = _PLACE if _PLACE.exists() else None
