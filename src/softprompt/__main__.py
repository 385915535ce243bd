"""`python -m softprompt` is the `softprompt` command."""

from __future__ import annotations

from softprompt.cli.app import main

if __name__ == "__main__":
    main()
