"""Where settings come from: one TOML file, then environment variables `N2Q_EDGE_<SECTION>_<KEY>`.

An unknown key is refused: a misspelt limit must not be a limit that silently does not hold.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import typing
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from n2q_edge.errors import UsageError
from n2q_edge.service.settings import Destination, Settings

PREFIX = "N2Q_EDGE_"
KINDS = ("dicom", "stow", "folder", "webhook")
OBJECTS = ("report", "overlays", "maps")


def load(path: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the file, if one is given, and the environment; the environment wins.

    Raises:
        UsageError: the file cannot be read, or a key or value is wrong; it is named.
    """
    content = _read(path) if path else {}
    where = str(path) if path else "the environment"
    for name, value in environment.items():
        _override(content, name, value)
    try:
        settings = _build(Settings, content, "")
        _check(settings)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from None
    return settings


def dumps(settings: Settings) -> str:
    """One line of JSON that `loads` reads."""
    return json.dumps(asdict(settings))


def loads(text: str) -> Settings:
    """What `dumps` wrote."""
    return _build(Settings, json.loads(text), "")


def _read(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML file: {error}") from None
    return content


def _override(content: dict[str, Any], name: str, value: str) -> None:
    """Put `N2Q_EDGE_NODE_PORT=104` where `port` of `[node]` is. Lists are separated by commas."""
    if not name.startswith(PREFIX):
        return
    section, _, key = name[len(PREFIX) :].lower().partition("_")
    table = next((each for each in fields(Settings) if each.name == section), None)
    if table is None or section == "destination":
        return  # another part of n2q-edge, or the user's own
    kind = typing.get_type_hints(Settings)[section]
    hints = typing.get_type_hints(kind)
    if key not in hints:
        raise UsageError(f"the environment variable {name} sets no key of [{section}]: {', '.join(hints)}")
    content.setdefault(section, {})
    if isinstance(content[section], dict):
        content[section][key] = _parsed(value, hints[key], name)


def _parsed(value: str, kind: Any, name: str) -> Any:
    if kind is str:
        return value
    if kind is bool:
        if value.lower() not in ("0", "1", "true", "false"):
            raise UsageError(f"the environment variable {name} is {value!r}: true or false")
        return value.lower() in ("1", "true")
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            raise UsageError(f"the environment variable {name} is {value!r}, not a number") from None
    return [part.strip() for part in value.split(",") if part.strip()]


T = TypeVar("T")


def _build(kind: type[T], table: Any, where: str) -> T:
    """A dataclass from a table; unknown keys and wrong types are named."""
    if not isinstance(table, dict):
        raise ValueError(f"{where or 'the file'} is not a table")
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(table) - set(hints)):
        place = where or "the file"
        raise ValueError(f"{place} has the unknown key {unknown[0]!r}; known: {', '.join(hints)}")
    return kind(**{key: _value(hints[key], value, _name(where, key)) for key, value in table.items()})


def _name(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _value(kind: Any, value: Any, where: str) -> Any:
    if is_dataclass(kind):
        return _build(typing.cast(type, kind), value, where)
    if typing.get_origin(kind) is tuple:
        (inner, _) = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{where} is not a list")
        return tuple(_value(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and number and value >= 0:
        return float(value)
    if kind is int and number and isinstance(value, int) and value >= 0:
        return value
    if kind in (str, bool) and type(value) is kind:
        return value
    names = {str: "a text", bool: "true or false", int: "a whole number", float: "a number from 0"}
    raise ValueError(f"{where} is {value!r}, not {names.get(kind, 'what it should be')}")


def _check(settings: Settings) -> None:
    """What types cannot say."""
    node = settings.node
    for name, title in (
        ("ae_title", node.ae_title),
        *(("calling_ae_titles", t) for t in node.calling_ae_titles),
    ):
        check_ae_title(f"node.{name}", title)
    for network in node.allowed_networks:
        try:
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            raise ValueError(f"node.allowed_networks: {network!r} is no address or network") from None
    for name, port in (("node.port", node.port), ("status.port", settings.status.port)):
        if port > 65535:
            raise ValueError(f"{name} is {port}: a TCP port is at most 65535")
    if bool(node.tls_certificate) != bool(node.tls_key):
        raise ValueError("node.tls_certificate and node.tls_key: give both or neither")
    if node.tls_client_ca and not node.tls_certificate:
        raise ValueError("node.tls_client_ca needs node.tls_certificate and node.tls_key")
    if not node.max_associations:
        raise ValueError("node.max_associations is 0: nobody could send")
    names = [each.name for each in settings.destination]
    for index, destination in enumerate(settings.destination):
        _check_destination(destination, f"destination[{index}]")
        if names.count(destination.name) > 1:
            raise ValueError(f"two destinations have the name {destination.name!r}")
    if settings.email.server and not (settings.email.sender and settings.email.to):
        raise ValueError("email.server needs email.sender and email.to")


def check_ae_title(where: str, title: str) -> None:
    """PS3.5 6.2, AE: 1 to 16 characters of the default repertoire, no backslash, not only spaces."""
    if (
        not title.strip()
        or len(title) > 16
        or not title.isascii()
        or not title.isprintable()
        or "\\" in title
    ):
        raise ValueError(f"{where} is {title!r}, no AE title (1 to 16 characters, no backslash)")


def _check_destination(destination: Destination, where: str) -> None:
    name = destination.name
    if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{where}.name is {name!r}: letters, digits, - and _ only")
    if destination.kind not in KINDS:
        raise ValueError(f"{where}.kind is {destination.kind!r}; known: {', '.join(KINDS)}")
    needed = {"dicom": ("host", "ae_title"), "stow": ("url",), "webhook": ("url",), "folder": ("folder",)}
    for key in needed[destination.kind]:
        if not getattr(destination, key):
            raise ValueError(f"{where}.{key} is missing, which kind {destination.kind!r} needs")
    if destination.kind == "dicom":
        check_ae_title(f"{where}.ae_title", destination.ae_title)
    if destination.url and urlsplit(destination.url).scheme not in ("http", "https"):
        raise ValueError(f"{where}.url is no http:// or https:// URL")
    if unknown := sorted(set(destination.objects) - set(OBJECTS)):
        raise ValueError(f"{where}.objects has {unknown[0]!r}; known: {', '.join(OBJECTS)}")
