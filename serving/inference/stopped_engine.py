"""What is left of an engine once its memory is given back: it says that it is dead."""

from collections.abc import AsyncGenerator

from serving.inference.engine import EngineStats, EngineStopped, Generation, Tokens


class StoppedEngine:
    """An `Engine` that was stopped; holds nothing of it."""

    max_context_tokens = 0
    memory_bytes = None
    alive = False

    def start(self) -> None:
        raise EngineStopped("an engine is started once; load the model anew")

    async def generate(self, generation: Generation) -> AsyncGenerator[Tokens, None]:
        raise EngineStopped("the engine of this model has stopped; it takes no requests")
        yield  # a generator, as of every engine

    def stats(self) -> EngineStats:
        return EngineStats(running=0, waiting=0)

    def stop(self) -> None:
        """There is nothing left to end."""
