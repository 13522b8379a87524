"""The configuration: what is refused, and by which name."""

from dataclasses import fields
from pathlib import Path

import pytest

from n2q_edge.errors import UsageError
from n2q_edge.service import settings
from n2q_edge.service.configuration import dumps, load, loads

DOCS = Path(__file__).parents[2] / "docs" / "reference" / "listen.md"


def write(folder: Path, text: str) -> Path:
    path = folder / "n2q-edge.toml"
    path.write_text(text)
    return path


def test_without_a_file_it_listens_on_loopback_only() -> None:
    node = load(None, {}).node
    assert (node.host, node.port) == ("127.0.0.1", 11112)
    assert load(None, {}).status.host == "127.0.0.1"


def test_a_file_and_the_environment_which_wins(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        '[node]\nport = 104\nae_title = "CTQ"\n[[destination]]\nname = "pacs"\nkind = "dicom"\n'
        'host = "pacs"\nae_title = "PACS"\n',
    )
    environment = {
        "N2Q_EDGE_NODE_PORT": "11113",
        "N2Q_EDGE_NODE_CALLING_AE_TITLES": "CT1, CT2",
        "N2Q_EDGE_ASSESS_MAPS": "true",
        "N2Q_EDGE_SERIES_QUIET_S": "2.5",
        "HOME": "/root",
    }
    loaded = load(path, environment)
    assert (loaded.node.port, loaded.node.ae_title) == (11113, "CTQ")
    assert loaded.node.calling_ae_titles == ("CT1", "CT2")
    assert loaded.assess.maps
    assert loaded.series.quiet_s == 2.5
    assert loaded.destination[0].objects == ("report", "overlays")
    assert loads(dumps(loaded)) == loaded


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[node]\nprot = 104", "node has the unknown key 'prot'"),
        ("[nodes]\n", "unknown key 'nodes'"),
        ("[node]\nport = '104'", "node.port is '104', not a whole number"),
        ("[node]\nport = true", "node.port is True"),
        ("[node]\nport = 70000", "node.port is 70000"),
        ("[node]\nae_title = 'SEVENTEEN-LETTERS'", "node.ae_title"),
        ("[node]\nallowed_networks = ['10.0.0.0/99']", "10.0.0.0/99"),
        ("[node]\ntls_key = 'k.pem'", "give both or neither"),
        ("[spool]\nhold_s = -1", "spool.hold_s is -1"),
        ("node = 3", "node is not a table"),
        ("[[destination]]\nname = 'a'\nkind = 'ftp'", "destination[0].kind is 'ftp'"),
        ("[[destination]]\nname = '../a'\nkind = 'folder'", "destination[0].name"),
        ("[[destination]]\nname = 'a'\nkind = 'dicom'\nhost = 'h'", "destination[0].ae_title is missing"),
        ("[[destination]]\nname = 'a'\nkind = 'stow'\nurl = 'file:///etc'", "destination[0].url"),
        ("[email]\nserver = 'smtp'", "email.server needs"),
        ("not toml", "is no TOML file"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        load(write(tmp_path, text), {})
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("N2Q_EDGE_NODE_PROT", "1"), ("N2Q_EDGE_NODE_PORT", "x"), ("N2Q_EDGE_NODE_MPPS", "maybe")],
)
def test_a_wrong_variable_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name):
        load(None, {name: value})


def test_every_key_is_documented() -> None:
    text = DOCS.read_text("utf-8")
    for section in fields(settings.Settings):
        kind = {"destination": settings.Destination}.get(section.name) or section.default_factory
        missing = [each.name for each in fields(kind) if f"`{each.name}`" not in text]
        assert not missing, f"[{section.name}]"
