"""`callstream schemas`: the registry beside `schemas/versions/`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from services.cli.console import Stop, out
from services.runtime.registry import HttpRegistry
from services.settings import PREFIX, load

schemas_app = typer.Typer(
    help="Whether the schema registry holds the schemas of this suite.", no_args_is_help=True
)


@schemas_app.command()
def register(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
) -> None:
    """Register every version that is missing, and require full compatibility."""
    done = 0
    with _registry() as (registry, url):
        for line in registry.register(dry_run):
            out.print(line)
            done += 1
    if not done:
        out.print(f"nothing to do: {url} holds every version")


@schemas_app.command()
def check() -> None:
    """Compare the registry with the versions of this suite; exit status 1 where they differ."""
    with _registry() as (registry, url):
        found = list(registry.drift())
    for drift in found:
        out.print(f"{drift.subject}: {drift.what}")
    if found:
        raise Stop(
            f"{url} differs in {len(found)}; `callstream schemas register` adds what is missing"
        )
    out.print(f"{url} holds every version")


@contextmanager
def _registry() -> Iterator[tuple[HttpRegistry, str]]:
    settings = load().registry
    if settings.url is None:
        raise Stop(
            f"{PREFIX}REGISTRY__URL is not set: the schemas that come with this suite are the "
            "registry, and there is nothing to register"
        )
    with closing(HttpRegistry(settings)) as registry:
        yield registry, settings.url
