"""Runs the endpoints on their own: `python -m services.notify`."""

from services.serve import main

if __name__ == "__main__":
    raise SystemExit(main(["notify"]))
