"""How a study file is read: safe YAML without two of its traps."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["StudyLoader"]


class StudyLoader(yaml.SafeLoader):
    """Safe YAML in which a key that is written twice is an error, and only ``true`` and ``false`` are truth values.

    Plain YAML would drop the first of two keys silently. YAML 1.1 reads ``on``, an option of many methods, as true.

    Raises:
        yaml.constructor.ConstructorError: a key is written twice.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is written twice", key.start_mark)
            seen.add(str(key.value))
        return yaml.SafeLoader.construct_mapping(self, node, deep)


StudyLoader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if first in "tTfF" or not rule[0].endswith(":bool")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
