"""Our resource types in the API: paths, and the definitions (CRDs) that make them."""

from __future__ import annotations

from importlib import resources
from typing import Any, NamedTuple

from common.rules import API_VERSION, ENDPOINT_KIND, RULE_KIND
from common.yamlnodes import compose, plain

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
PART_OF, PRODUCT = "app.kubernetes.io/part-of", "fieldpost"  # the label that says whose a definition is


class Resource(NamedTuple):
    """A resource type: its kind, and the plural in which paths name it."""

    kind: str
    plural: str

    def collection(self, namespace: str = "") -> str:
        """The path of all objects, or of those of a namespace."""
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"/apis/{API_VERSION}{inside}/{self.plural}"

    def path(self, namespace: str, name: str) -> str:
        """The path of one object."""
        return f"{self.collection(namespace)}/{name}"

    def status(self, namespace: str, name: str) -> str:
        """The path of its status subresource."""
        return f"{self.path(namespace, name)}/status"


RULES = Resource(RULE_KIND, "rules")
ENDPOINTS = Resource(ENDPOINT_KIND, "ruleendpoints")


def definition(resource: Resource) -> dict[str, Any]:
    """The CustomResourceDefinition of a type, as it is in ``deploy/crds``."""
    file = f"{resource.plural}.yaml"
    text = resources.files("common.kube").joinpath("crds", file).read_text()
    value: dict[str, Any] = plain(compose(text, file)[0], file)
    return value
