"""What a field may be to a step; the first part of its name has to agree."""

from __future__ import annotations

from typing import Literal, get_args

from replaystore.errors import SchemaError

__all__ = ["FLAGS", "ROLES", "Role", "check_role", "role_of"]

Role = Literal["observation", "action", "reward", "terminated", "truncated", "info", "mask", "extra"]
ROLES: tuple[Role, ...] = get_args(Role)
"""What a field may be. The first part of a name decides, except for `mask` (bool: where an optional value is
present) and `extra`."""


def role_of(name: str) -> Role:
    """The role of a field that another project's tensor becomes: what it is called, if that is a role, else
    `extra`."""
    return next((role for role in ROLES if role == name), "extra")


FLAGS: tuple[Role, ...] = ("terminated", "truncated")
_NAMED_ROLES = frozenset(ROLES[:5])


def check_role(name: str, role: str) -> None:
    """SchemaError: a field of this name cannot have this role."""
    top = name.partition("/")[0]
    if top in _NAMED_ROLES or role in _NAMED_ROLES:
        if top != role:
            raise SchemaError(
                f"field {name!r} has the role {role!r}, but its name begins with {top!r}: they must agree"
            )
        if role in FLAGS and name != role:
            raise SchemaError(f"field {name!r}: {role} is one field, without further parts")
    elif (top == "info") != (role == "info") and role != "mask":
        raise SchemaError(
            f"field {name!r} has the role {role!r}: the role 'info' (or 'mask') belongs to "
            "names below 'info/'"
        )
