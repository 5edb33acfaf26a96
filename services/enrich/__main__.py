"""Runs enrich on its own: `python -m services.enrich`."""

from services.serve import main

if __name__ == "__main__":
    raise SystemExit(main(["enrich"]))
