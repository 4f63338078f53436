"""Write the published documents to `openapi/`: `python -m apiserver.api.openapi_files`.

They are committed, so that a change of the API is seen in review; a test says that they equal
what the server serves.
"""

from pathlib import Path

from apiserver.api import builtin, encoding, openapi


def documents() -> dict[str, bytes]:
    """The content of each file, by its path below `openapi/`."""
    found = {"v2.json": encoding.pretty(openapi.openapi_v2(builtin.ALL))}
    for root in dict.fromkeys(resource.root for resource in builtin.ALL):
        listed = [resource for resource in builtin.ALL if resource.root == root]
        name = root.strip("/").replace("/", "__")
        found[f"v3/{name}.json"] = encoding.pretty(openapi.openapi_v3(listed))
    return found


def main() -> None:
    folder = Path(__file__).resolve().parents[2] / "openapi"
    for name, content in documents().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


if __name__ == "__main__":
    main()
