"""The S3-compatible store for MLflow's artifacts and DVC's remote: SeaweedFS, a real one, of one node.

Its three parts (master, volume, filer with the S3 gateway) trust each other by certificates that are made here, and
take data by signed tokens only. Without them each of its ports refuses; only the volume's status page, which tells the
size of the disk, is open.
"""

import contextlib
import datetime
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from infra.services import processes
from infra.services.layout import BUCKETS, HOST, Layout, private
from tasks.stage.errors import PolmError

PARTS = ("master", "volume", "store")
"""Parts in the order of their start; `store` is the filer with the S3 gateway."""
IDENTITIES = {"admin": None, "mlflow": "mlflow", "dvc": "dvc"}
"""Access key to the only bucket that it may use; None for all."""


def start(layout: Layout) -> bool:
    """Start the parts; returns whether one of them had to be started.

    Raises:
        PolmError: the program is missing, or a port is taken.
    """
    weed = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if weed is None:
        raise PolmError("SeaweedFS's program `weed` is missing; `infra/services/setup.sh .venv`")
    home = layout.home / "store"
    for part in ("master", "volume", "filer"):
        (home / part).mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (home / "security.toml").exists():
        _secure(home, layout)
    private(home / "s3.json", json.dumps({"identities": [_identity(layout, name) for name in IDENTITIES]}))
    master = f"{HOST}:{layout.port('master')}"
    common = [f"-ip={HOST}", f"-ip.bind={HOST}"]
    commands = {
        "master": ["master", *common, f"-port={layout.port('master')}", "-mdir=master", "-telemetry=false",
                   "-volumeSizeLimitMB=1024", "-disableHttp"],
        "volume": ["volume", *common, f"-port={layout.port('volume')}", "-dir=volume", "-max=0",
                   "-preStopSeconds=1", f"-master={master}"],
        "store": ["filer", *common, f"-port={layout.port('filer')}", "-defaultStoreDir=filer", f"-master={master}",
                  "-disableHttp", "-iam=false", "-s3", f"-s3.port={layout.port('store')}", "-s3.config=s3.json",
                  "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.allowedOrigins=http://{HOST}"],
    }  # fmt: skip
    ports = {name: [layout.port(name), layout.port(name) + 10000] for name in ("master", "volume")}
    ports["store"] = [layout.port("store"), layout.port("filer"), layout.port("filer") + 10000]
    # Its configuration is looked for in HOME too: this one's only.
    started = [
        processes.start(layout, part, [weed, *commands[part]], ports[part], {"HOME": str(home)}, folder=home)
        for part in PARTS
    ]
    return any(started)


def healthy(layout: Layout) -> bool:
    """Tell whether the gateway lists its buckets for the administrator."""
    import botocore.exceptions

    try:
        client(layout, "admin").list_buckets()
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
        return False
    return True


def refuses(layout: Layout) -> bool:
    """Tell whether the gateway refuses who comes without credentials."""
    return processes.status(f"{layout.url('store')}/{BUCKETS[0]}") in (401, 403)


def prepare(layout: Layout) -> None:
    """Make the buckets that are not there."""
    import botocore.exceptions

    admin = client(layout, "admin")
    there = {bucket["Name"] for bucket in admin.list_buckets()["Buckets"]}
    for bucket in BUCKETS:
        if bucket not in there:
            try:
                admin.create_bucket(Bucket=bucket)
            except botocore.exceptions.ClientError as e:
                raise PolmError(f"bucket '{bucket}' was not made: {e}; see {layout.log('store')}") from e


def size(layout: Layout) -> int:
    """Count the bytes of the store's files; those that it deletes meanwhile do not count."""
    total = 0
    for path in (layout.home / "store").rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def client(layout: Layout, identity: str) -> Any:
    """Make boto3's client for one of the identities. Raises PolmError where boto3 is missing."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise PolmError("boto3 is missing; `infra/services/setup.sh .venv`") from None
    return boto3.client(
        "s3", endpoint_url=layout.url("store"), aws_access_key_id=identity, region_name="us-east-1",
        aws_secret_access_key=layout.secrets[f"store_{identity}"],
        config=Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 1}, proxies={}),
    )  # fmt: skip


def _identity(layout: Layout, name: str) -> dict[str, Any]:
    bucket = IDENTITIES[name]
    actions = ["Admin"] if bucket is None else [f"{verb}:{bucket}" for verb in ("Read", "Write", "List", "Tagging")]
    keys = {"accessKey": name, "secretKey": layout.secrets[f"store_{name}"]}
    return {"name": name, "credentials": [keys], "actions": actions}


def _secure(home: Path, layout: Layout) -> None:
    """Write certificates for the parts among each other, and the keys of their tokens."""
    _certificates(home)
    sections = {
        "jwt.signing": {"key": layout.secrets["volume_write"]},
        "jwt.signing.read": {"key": layout.secrets["volume_read"]},
        "jwt.filer_signing": {"key": layout.secrets["filer_write"]},
        "jwt.filer_signing.read": {"key": layout.secrets["filer_read"]},
        "cors.allowed_origins": {"values": f"http://{HOST}"},
        "grpc": {"ca": str(home / "ca.pem")},
    }
    pair = {"cert": str(home / "part.pem"), "key": str(home / "part.key")}
    sections |= {f"grpc.{part}": pair for part in ("master", "volume", "filer", "s3", "client")}
    lines = [
        f"[{name}]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items())
        for name, values in sections.items()
    ]
    private(home / "security.toml", "\n".join(lines))


def _certificates(home: Path) -> None:
    """Write a certificate for the parts, and that of the authority that signed it, whose key is not kept."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)
    authority, part = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(name: str, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "polm-store-authority")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (home / "ca.pem").write_bytes(certificate("polm-store-authority", authority, ca=True))
    (home / "part.pem").write_bytes(certificate("polm-store-part", part, ca=False))
    text = part.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    private(home / "part.key", text.decode())
