"""Move files to and from an OpenAI-compatible Files API, from asyncio, in constant memory."""

__version__ = "0.1.0"
