"""What a node is told. Every table of its TOML file is a dataclass, every key a field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Node:
    """`[node]`: who may send here, and how.

    Attributes:
        ae_title: ours.
        host: address to listen on.
        port: TCP port; 0 lets the system choose.
        data: folder of spool, index and results.
        require_called_ae_title: refuse associations that call another AE title.
        calling_ae_titles: senders allowed; empty allows any.
        allowed_networks: addresses or networks (CIDR) allowed; empty allows any.
        max_associations: at the same time.
        idle_timeout_s: an association that is silent for so long is aborted.
        tls_certificate: PEM file; with `tls_key` TLS is on.
        tls_key: PEM file.
        tls_client_ca: PEM file of who signs the senders' certificates; with it a sender must have one.
        mpps: accept Modality Performed Procedure Steps; COMPLETED closes the series it names.
    """

    ae_title: str = "N2Q-EDGE"
    host: str = "127.0.0.1"
    port: int = 11112
    data: str = "n2q-edge-data"
    require_called_ae_title: bool = False
    calling_ae_titles: tuple[str, ...] = ()
    allowed_networks: tuple[str, ...] = ()
    max_associations: int = 16
    idle_timeout_s: float = 30.0
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    mpps: bool = False


@dataclass(frozen=True)
class Spool:
    """`[spool]`: what is kept, for how long, and when to refuse.

    Attributes:
        reserve_mb: free space (MB) below which nothing is accepted.
        hold_s: how long a response is held back for space to appear, before 0xA700.
        chunk_mb: objects larger than this are written to disk while they arrive.
        keep_images_h: how long images stay after their result and all its deliveries, hours.
        keep_results_d: how long results stay, days.
    """

    reserve_mb: int = 1024
    hold_s: float = 5.0
    chunk_mb: int = 64
    keep_images_h: float = 24.0
    keep_results_d: float = 90.0


@dataclass(frozen=True)
class Series:
    """`[series]`: when a series is complete.

    Attributes:
        quiet_s: seconds without a new slice, and no open association that carried it.
        cap_s: seconds after its first slice without a result when it is closed in any case.
    """

    quiet_s: float = 10.0
    cap_s: float = 600.0


@dataclass(frozen=True)
class Assess:
    """`[assess]`: the model, and what is written.

    Attributes:
        model: a model file or the name of one that comes with the package; empty for the default.
        runtime: what runs it.
        threads: CPU threads of the runtime; 0 for its own choice.
        nice: niceness of the worker.
        policy: TOML policy; empty for the default.
        reference: full-dose noise: a file of `n2q-edge reference`, or a full-dose series; empty for none.
        worst: slices of every series that get an overlay and a picture.
        maps: write DICOM quality maps, too.
        trend_database: SQLite file of scores and doses; empty for none.
        with_phi: keep UIDs and descriptions in the trend database and on the status page.
    """

    model: str = ""
    runtime: str = "auto"
    threads: int = 0
    nice: int = 10
    policy: str = ""
    reference: str = ""
    worst: int = 5
    maps: bool = False
    trend_database: str = ""
    with_phi: bool = False


@dataclass(frozen=True)
class Status:
    """`[status]`: the status page.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 lets the system choose.
    """

    host: str = "127.0.0.1"
    port: int = 8080


@dataclass(frozen=True)
class Watch:
    """`[watch]`: a folder to take files from, beside the network.

    Attributes:
        folder: empty for none.
        poll_s: how often it is looked into.
        settle_s: how long size and time of a file must not change before it is taken.
    """

    folder: str = ""
    poll_s: float = 1.0
    settle_s: float = 5.0


@dataclass(frozen=True)
class Retry:
    """`[retry]`: how a delivery that failed is tried again.

    Attributes:
        first_s: wait after the first failure; doubled after each.
        longest_s: the longest wait.
        give_up_h: after so many hours it is a dead letter.
    """

    first_s: float = 5.0
    longest_s: float = 900.0
    give_up_h: float = 72.0


@dataclass(frozen=True)
class Destination:
    """`[[destination]]`: where results go.

    Attributes:
        name: of your choice; letters, digits, `-` and `_`.
        kind: `dicom` (C-STORE), `stow` (DICOMweb), `folder` or `webhook`.
        objects: `report`, `overlays`, `maps`; of `folder` and `webhook` ignored.
        host: of `dicom`.
        port: of `dicom`.
        ae_title: of `dicom`: the peer's.
        tls_ca: of `dicom`: PEM file that the peer's certificate is checked with; TLS is on with it.
        commitment: of `dicom`: ask for storage commitment, and call it delivered when it is granted.
        url: of `stow` and `webhook`.
        token_file: of `stow` and `webhook`: file with a bearer token.
        folder: of `folder`.
        timeout_s: for every answer.
    """

    name: str = ""
    kind: str = ""
    objects: tuple[str, ...] = ("report", "overlays")
    host: str = ""
    port: int = 104
    ae_title: str = ""
    tls_ca: str = ""
    commitment: bool = False
    url: str = ""
    token_file: str = ""
    folder: str = ""
    timeout_s: float = 30.0


@dataclass(frozen=True)
class Email:
    """`[email]`: a message for a series with one of the verdicts.

    Attributes:
        server: SMTP host; empty for no mail.
        port: SMTP port.
        starttls: encrypt.
        user: to log in with; empty for no login.
        password_file: file with the password.
        sender: address.
        to: addresses.
        verdicts: codes that are reported.
        cooldown_h: no second message for the same scanner and rule within so many hours.
    """

    server: str = ""
    port: int = 25
    starttls: bool = False
    user: str = ""
    password_file: str = ""
    sender: str = ""
    to: tuple[str, ...] = ()
    verdicts: tuple[str, ...] = ("unusable", "usable_does_not_meet")
    cooldown_h: float = 12.0


@dataclass(frozen=True)
class Settings:
    """All of it."""

    node: Node = field(default_factory=Node)
    spool: Spool = field(default_factory=Spool)
    series: Series = field(default_factory=Series)
    assess: Assess = field(default_factory=Assess)
    status: Status = field(default_factory=Status)
    watch: Watch = field(default_factory=Watch)
    retry: Retry = field(default_factory=Retry)
    email: Email = field(default_factory=Email)
    destination: tuple[Destination, ...] = ()

    @property
    def data(self) -> Path:
        """Folder of spool, index and results."""
        return Path(self.node.data)
