"""The services that several people share, started natively on loopback: what `infra/services.sh` runs."""
