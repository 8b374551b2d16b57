"""The Ollama client library: basics, context manager, errors, pull. Needs an Ollama server, or Modelyard.

OLLAMA_BASE_URL=http://localhost:11434 OLLAMA_DEFAULT_MODEL=llama3.2 python -m examples.ollama_example
"""

import asyncio

from modelyard.client import (
    OllamaConnectionError,
    OllamaModelNotFoundError,
    OllamaService,
    OllamaServiceError,
    Retries,
    get_settings,
)


async def basics() -> None:
    """Ask, and close at the end."""
    service = OllamaService()
    try:
        print("well:", await service.health_check())
        print("models:", ", ".join(model["name"] for model in await service.list_models()))
        print("answer:", await service.generate(prompt="Say hello.", temperature=0.2))
        answer = await service.chat(None, [{"role": "user", "content": "And goodbye?"}])
        print("chat:", answer["message"]["content"])
    finally:
        await service.close()


async def context_manager() -> None:
    """The same without having to close; and an answer as it is made."""
    async with OllamaService(timeout=120, max_connections=2) as service:
        print("streamed: ", end="")
        async with await service.generate(prompt="Count to three.", stream=True) as pieces:
            async for text in pieces:
                print(text, end="", flush=True)
        print()


async def errors() -> None:
    """What goes wrong is of one tree, and says what to do."""
    async with OllamaService() as service:
        try:
            await service.generate("no-such-model", "Hello?")
        except OllamaModelNotFoundError as error:
            print("not found:", error, *error.suggestions)

    async with OllamaService("http://127.0.0.1:9", retries=Retries(attempts_max=1)) as nowhere:
        try:
            await nowhere.list_models()
        except OllamaConnectionError as error:
            print("not reached:", error)


async def pull() -> None:
    """Fetch a model; what is there already is not fetched again."""
    async with OllamaService() as service:
        async for progress in service.pull_model(get_settings().ollama_default_model):
            share = f" {progress['completed'] / progress['total']:.0%}" if "total" in progress else ""
            print(f"pull: {progress['status']}{share}")


async def main() -> None:
    for part in (basics, context_manager, errors, pull):
        print(f"# {part.__name__}")
        await part()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except OllamaServiceError as error:
        raise SystemExit(f"{error} {' '.join(error.suggestions)}") from None
