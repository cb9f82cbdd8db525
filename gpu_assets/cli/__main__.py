"""`python -m gpu_assets.cli`, where the console script is not installed."""

from gpu_assets.cli.main import app

app(prog_name="gpu-assets")
