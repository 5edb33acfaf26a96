"""Runs transcribe on its own: `python -m services.transcribe`."""

from services.serve import main

if __name__ == "__main__":
    raise SystemExit(main(["transcribe"]))
