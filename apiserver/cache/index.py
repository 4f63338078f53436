"""Which objects have a name with a value: their labels, or the fields that are indexed. Pure."""

from collections.abc import Iterable, Mapping


class Index:
    """Keys of objects by (name, value). A pair of a single object needs no set."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str], str | set[str]] = {}

    def add(self, key: str, pairs: Mapping[str, str]) -> None:
        for pair in pairs.items():
            found = self._keys.get(pair)
            if found is None:
                self._keys[pair] = key
            elif isinstance(found, str):
                self._keys[pair] = {found, key}
            else:
                found.add(key)

    def remove(self, key: str, pairs: Mapping[str, str]) -> None:
        for pair in pairs.items():
            found = self._keys.get(pair)
            if isinstance(found, set):
                found.discard(key)
                if not found:
                    del self._keys[pair]
            elif found == key:
                del self._keys[pair]

    def count(self, name: str, values: Iterable[str]) -> int:
        """How many objects have the name with one of the values."""
        found = [self._keys.get((name, value)) for value in values]
        return sum(1 if isinstance(keys, str) else len(keys) for keys in found if keys)

    def find(self, name: str, values: Iterable[str]) -> list[str]:
        """Their keys, in no order."""
        keys: list[str] = []
        for value in values:
            found = self._keys.get((name, value), ())
            keys += (found,) if isinstance(found, str) else found
        return keys
