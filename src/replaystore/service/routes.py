"""What a route is: declared once, with its types and the scope that it needs, from which come the matching of
paths, the checks of what is asked, and the OpenAPI document.

A handler gets an `Asked` and gives an `Answer`; one that is no coroutine runs in a thread, for it may wait
for a disk. What it raises is answered as refused.py says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

from replaystore.service.answers import Answer
from replaystore.service.readers import Pin
from replaystore.service.root import STORE
from replaystore.service.service import Service
from replaystore.service.tokens import Grant, Scope

__all__ = ["PARAMETERS", "Asked", "Failure", "Flag", "Gives", "Handler", "Model", "Parameter", "Route"]

Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True)
class Parameter:
    """A part of a path."""

    pattern: str
    says: str
    number: bool = False


PARAMETERS: Mapping[str, Parameter] = {
    "store": Parameter(STORE, "The path of a store below the root, such as `runs/ant.zarr`."),
    "id": Parameter("[0-9a-f]{32}", "The id of the store, made when that was."),
    "commit": Parameter("[0-9]{1,18}", "The number of a commit.", number=True),
    "name": Parameter("[A-Za-z0-9_.+=@-]{1,80}", "The name of a commit; `latest` is the newest."),
    "key": Parameter(".*", "A key of the Zarr hierarchy, such as `steps/reward/c.0`."),
    "rest": Parameter(".*", "What is asked of the commit."),
    "file": Parameter(".*", "The name of a file of the store."),
    "session": Parameter("[0-9a-f]{32}", "The id of a session."),
    "number": Parameter("[0-9]{1,18}", "The number of an append or a batch of the session.", number=True),
}
"""By the name that stands in braces in the path of a route."""


class Model(BaseModel):
    """What is asked for in a query or a body of JSON; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Failure(Model):
    """What went wrong."""

    error: str
    """The class of the error, as the library has it."""
    message: str
    """What was wrong, and what to do."""


Flag = Annotated[bool, BeforeValidator(lambda given: True if given == "" else given)]
"""A parameter that says yes by being there: `?commits`."""


@dataclass(frozen=True)
class Gives:
    """An answer, for the OpenAPI document."""

    says: str
    type: str = ""
    """Of what is not JSON."""
    model: Any = None
    """What the JSON is: a type that pydantic knows, or a JSON schema."""
    also: str = ""
    """Another media type that may come in its place."""


@dataclass
class Asked:
    """A request, as a handler gets it."""

    service: Service
    headers: Mapping[str, str]
    """By their names in small letters."""
    head: bool
    """Only the headers of the answer are wanted."""
    path: Mapping[str, str]
    """The parameters of the path."""
    question: str
    """The query as it was sent, with its question mark; empty: there is none."""
    grant: Grant | None
    """What the token gives; None: the route is open."""
    values: BaseModel | None
    """The parameters of the query."""
    body: bytes
    content: BaseModel | None
    """The body, if that is JSON."""
    exits: AsyncExitStack
    """What is to be released when the answer has been sent."""
    gone: Callable[[], Awaitable[None]]
    """Returns when the client has gone."""

    @property
    def store(self) -> str:
        """The path of the store that is asked."""
        return self.path["store"]

    @property
    def pin(self) -> Pin:
        """The commit that is asked."""
        return Pin(self.path["store"], self.path["id"], int(self.path["commit"]))

    def query(self, kind: type[Kind]) -> Kind:
        """The query, of the model that the route declares."""
        assert isinstance(self.values, kind), "the route declares another query"
        return self.values

    def json(self, kind: type[Kind]) -> Kind:
        """The body, of the model that the route declares."""
        assert isinstance(self.content, kind), "the route declares another body"
        return self.content

    async def hold(self, size: int) -> None:
        """Have so many bytes of memory until the answer is sent."""
        await self.exits.enter_async_context(self.service.room.hold(size))


Handler = Callable[[Asked], Answer] | Callable[[Asked], Awaitable[Answer]]


@dataclass(frozen=True)
class Route:
    """A route."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    scope: Scope | None
    """What a token must give; None: nothing, and no token is looked at."""
    handle: Handler
    says: str
    """What it does, in a sentence."""
    query: type[BaseModel] | None = None
    takes: type[BaseModel] | str = ""
    """The body: JSON of a model, or bytes of a media type; empty: none."""
    gives: Mapping[int, Gives] = field(default_factory=dict, repr=False)
    """By status; errors that every route has are left out."""
    writes: bool = False
    """It changes a store: a server that only reads refuses it."""
