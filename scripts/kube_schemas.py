"""Make JSON schemas for kubeconform from Kubernetes' own API description.

Usage: python scripts/kube_schemas.py API.json DIRECTORY

API.json is api/openapi-spec/swagger.json of a Kubernetes release (scripts/get-helm-tools.sh gets it). Every kind of the groups below
becomes one self-contained file, named as kubeconform's template {{.ResourceKind}}{{.KindSuffix}}.json asks. Unknown fields are errors, as
they are for an API server with strict validation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

GROUPS = frozenset({"", "apps", "autoscaling", "batch", "networking.k8s.io", "policy"})
PREFIX = "#/definitions/"
Schema = dict[str, Any]


def schema_of(node: Schema) -> Schema:
    """One node of the description as JSON Schema: without prose and extensions, and closed to unknown fields."""
    if node.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    made: Schema = {key: node[key] for key in ("$ref", "type", "enum", "required") if key in node}
    if "properties" in node:
        made["properties"] = {name: schema_of(child) for name, child in node["properties"].items()}
        made["additionalProperties"] = False
    if "additionalProperties" in node:
        made["additionalProperties"] = schema_of(node["additionalProperties"])
    if "items" in node:
        made["items"] = schema_of(node["items"])
    return made


def names_used(node: object) -> set[str]:
    """Names of the definitions that a schema refers to directly."""
    if isinstance(node, dict):
        own = {node["$ref"].removeprefix(PREFIX)} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(names_used(child) for child in node.values()))
    if isinstance(node, list):
        return set().union(*(names_used(child) for child in node))
    return set()


def with_definitions(name: str, definitions: dict[str, Schema]) -> Schema:
    """The definition called `name` with all that it refers to, directly or not."""
    found: dict[str, Schema] = {}
    wanted = {name}
    while wanted:
        current = wanted.pop()
        found[current] = definitions[current]
        wanted |= names_used(definitions[current]) - found.keys()
    return {"$schema": "http://json-schema.org/draft-07/schema#", "$ref": PREFIX + name, "definitions": found}


def file_name(kind: str, group: str, version: str) -> str:
    """As kubeconform names it: deployment-apps-v1.json, networkpolicy-networking-v1.json, pod-v1.json."""
    parts = [kind, group.partition(".")[0], version]
    return "-".join(part.lower() for part in parts if part) + ".json"


def write_schemas(description: Schema, directory: Path) -> int:
    """Write a file for each kind and return how many there are."""
    definitions = {name: schema_of(node) for name, node in description["definitions"].items()}
    definitions["io.k8s.apimachinery.pkg.api.resource.Quantity"] = {"type": ["string", "number"]}
    directory.mkdir(parents=True, exist_ok=True)
    count = 0
    for name, node in description["definitions"].items():
        # An object that belongs to several kinds (DeleteOptions) is none by itself.
        kinds = node.get("x-kubernetes-group-version-kind", [])
        if len(kinds) == 1 and kinds[0]["group"] in GROUPS:
            path = directory / file_name(kinds[0]["kind"], kinds[0]["group"], kinds[0]["version"])
            path.write_text(json.dumps(with_definitions(name, definitions)), encoding="utf-8")
            count += 1
    return count


def main() -> None:
    """Read the description named by the first argument and write into the directory named by the second."""
    source, target = sys.argv[1:]
    write_schemas(json.loads(Path(source).read_text(encoding="utf-8")), Path(target))


if __name__ == "__main__":
    main()
