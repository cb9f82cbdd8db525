"""The OpenAI-compatible inference server: `python -m serving.inference`."""
