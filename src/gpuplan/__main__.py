"""Run ``python -m gpuplan``."""

from gpuplan.cli.main import main

if __name__ == "__main__":
    main()
