"""Runs sink on its own: `python -m services.sink`."""

from services.serve import main

if __name__ == "__main__":
    raise SystemExit(main(["sink"]))
