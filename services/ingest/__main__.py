"""Runs ingest on its own: `python -m services.ingest`."""

from services.serve import main

if __name__ == "__main__":
    raise SystemExit(main(["ingest"]))
