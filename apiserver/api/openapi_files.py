"""Write the published documents to `openapi/`: `python -m apiserver.api.openapi_files`.

They are committed, so that a change of the API is seen in review; a test says that they equal
what the server serves.
"""

from pathlib import Path

from apiserver.api import builtin, encoding, openapi


def documents() -> dict[str, bytes]:
    """The content of each file, by its path below `openapi/`."""
    found = {"v2.json": encoding.pretty(openapi.openapi_v2(builtin.ALL))}
    for path, document in openapi.documents_v3(builtin.ALL).items():
        found[f"v3/{path.replace('/', '__')}.json"] = encoding.pretty(document)
    return found


def main() -> None:
    folder = Path(__file__).resolve().parents[2] / "openapi"
    for name, content in documents().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
