#!/usr/bin/env python3
"""Writes crates/core/data/prices.tsv from the genai-prices package (MIT) and the list of output limits below.

    python3 -m venv /tmp/prices && /tmp/prices/bin/pip install genai-prices
    /tmp/prices/bin/python scripts/refresh-prices.py

Prices are kept as the decimal strings of the source, in US dollars per million tokens; the program reads them into
integers. Only models priced by tokens are taken. A price that holds from a day on has a line of its own with that day.
"""

import datetime
import decimal
import pathlib
import re

from genai_prices import __version__ as source_version
from genai_prices.data import providers

TARGET = pathlib.Path(__file__).parent.parent / "crates/core/data/prices.tsv"
PROVIDERS = ["openai", "anthropic"]
DATE = "YYYY-MM-DD"
SHORT_DATE = "YYYYMMDD"

# Published by the providers; the source has no field for it. A model not listed is bounded by its context window.
MAX_OUTPUT = {
    "gpt-3.5-turbo": 4096, "gpt-4": 8192, "gpt-4-turbo": 4096, "gpt-4o-2024-05-13": 4096, "gpt-4o": 16384,
    "gpt-4o-mini": 16384, "chatgpt-4o-latest": 16384, "gpt-4.1": 32768, "gpt-4.1-mini": 32768,
    "gpt-4.1-nano": 32768, "o1": 100000, "o1-preview": 32768, "o1-mini": 65536, "o3": 100000, "o3-mini": 100000,
    "o4-mini": 100000, "gpt-5": 128000, "gpt-5-mini": 128000, "gpt-5-nano": 128000,
}

# The most tokens that one image is counted as, by the providers' published rules: tiles of 512 pixels on a side, of which
# the largest image has 8 (base + 8 tiles), or patches of 32 pixels, of which it has 1,536 (times the model's factor).
# A model not listed is bounded by its context window.
IMAGE_TOKENS = {
    "gpt-4-turbo": 85 + 8 * 170, "gpt-4o": 85 + 8 * 170, "gpt-4.1": 85 + 8 * 170, "gpt-4o-mini": 2833 + 8 * 5667,
    "o1": 75 + 8 * 150, "o3": 75 + 8 * 150, "gpt-5": 70 + 8 * 140,
    # Anthropic scales an image to what is at most so many tokens; newer models take larger ones.
    **{f"claude-{name}": 1600 for name in [
        "3-haiku", "3-opus-latest", "3-sonnet", "3-5-haiku-latest", "3-5-sonnet", "3-7-sonnet-latest", "sonnet-4-0", "sonnet-4-5",
        "haiku-4-5", "opus-4-0", "opus-4-1", "opus-4-5"]},
    "gpt-4.1-mini": 2489, "gpt-5-mini": 2489, "gpt-4.1-nano": 3779, "gpt-5-nano": 3779, "o4-mini": 2642,
}

# Where the source has rounded what the provider publishes, down: the context bounds what an input can cost.
CONTEXT = {
    "gpt-4.1": 1_047_576, "gpt-4.1-mini": 1_047_576, "gpt-4.1-nano": 1_047_576, "gpt-4-32k": 32_768,
}

# Free by the provider's own word, and not in the source.
FREE = ["omni-moderation-2024-09-26", "omni-moderation-latest", "text-moderation-007", "text-moderation-latest", "text-moderation-stable"]

RATES = ["input_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_1h_mtok", "output_mtok"]

# What they are called in the table, and by the API.
NAMES = ["input_price", "cached_input_price", "cache_write_price", "cache_write_1h_price", "output_price"]

COLUMNS = [
    "model", "from", *NAMES, "audio_input_price", "audio_output_price", "web_search_price", "long_context_above", *("long_" + name for name in NAMES),
    "context_tokens", "max_output_tokens", "image_tokens",
]

AUDIO_RATES = ["input_audio_mtok", "output_audio_mtok"]

OTHER_KINDS = re.compile("tts|transcribe|image|realtime|live|search|computer-use|deep-research")


def names(match):
    """The exact names of a match clause; a trailing date pattern is kept as YYYY-MM-DD or YYYYMMDD, prefixes as NAME*."""
    kind = type(match).__name__
    if kind == "ClauseOr":
        return [name for clause in match.or_ for name in names(clause)]
    if kind == "ClauseEquals":
        return [match.equals]
    if kind == "ClauseStartsWith":
        return [match.starts_with + "*"]
    if kind == "ClauseRegex":
        for pattern, date in [(r"-\d{4}-\d{2}-\d{2}$", DATE), (r"-\d{8}$", SHORT_DATE), (r"[-@]\d{8}$", SHORT_DATE)]:
            name = match.regex.removeprefix("^").removesuffix(pattern)
            if name != match.regex.removeprefix("^"):
                return [name.replace("\\", "") + "-" + date]
    return []


def by_date(prices):
    """(day from which they hold or None, prices) of plain or dated prices; None if they depend on something else."""
    if not isinstance(prices, list):
        return [(None, prices)]
    dated = []
    for conditional in prices:
        start = getattr(conditional.constraint, "start_date", None)
        if conditional.constraint is not None and start is None:
            return None
        dated.append((start, conditional.prices))
    return sorted(dated, key=lambda pair: pair[0] or datetime.date.min)


def split(value):
    """(base, threshold, long-context price) of a plain or tiered price; None if it has a shape we do not read."""
    if value is None or not hasattr(value, "tiers"):
        return value, None, None
    if len(value.tiers) != 1:
        return None
    return value.base, value.tiers[0].start, value.tiers[0].price


def row(model, prices):
    """The figures by the names of their columns; None if something of the price cannot be said in them."""
    fields = {k: v for k, v in vars(prices).items() if v is not None and not k.startswith("_")}
    # A model with another kind of input, output or fee would be charged wrongly by its text price alone.
    audio = [fields.pop(rate, None) for rate in AUDIO_RATES]
    other_units = [k for k in fields if k not in RATES and not k.endswith("_kcount")]
    if "input_mtok" not in fields or other_units or OTHER_KINDS.search(model.id):
        return None
    parts = [split(fields.get(rate)) for rate in RATES]
    if any(part is None for part in parts):
        return None
    thresholds = {threshold for _, threshold, _ in parts if threshold is not None}
    if len(thresholds) > 1:
        return None
    # A model that hears or speaks at a price that is not known would be charged as if it read and wrote.
    if "audio" in model.id and None in audio:
        return None
    figures = dict(zip(NAMES, (part[0] for part in parts)))
    figures.update(zip(["audio_input_price", "audio_output_price"], audio))
    if fields.get("web_searches_kcount") is not None:
        figures["web_search_price"] = decimal.Decimal(fields["web_searches_kcount"]) / 1000
    if thresholds:
        figures["long_context_above"] = thresholds.pop()
        figures.update(("long_" + name, part[2] if part[1] is not None else part[0]) for name, part in zip(NAMES, parts))
    return figures


def text(value):
    return "" if value is None else format(value, "f") if hasattr(value, "as_tuple") else str(value)


def main():
    lines = {}
    for provider in providers:
        if provider.id not in PROVIDERS:
            continue
        for model in provider.models:
            dated = by_date(model.prices)
            rows = [(start, row(model, prices)) for start, prices in dated or []]
            if not rows or any(figures is None for _, figures in rows):
                continue
            for name in filter(lambda name: not OTHER_KINDS.search(name), names(model.match)):
                limits = {
                    "context_tokens": CONTEXT.get(model.id, model.context_window),
                    "max_output_tokens": MAX_OUTPUT.get(name, MAX_OUTPUT.get(model.id)),
                    "image_tokens": IMAGE_TOKENS.get(
                        name.removesuffix("-" + DATE).removesuffix("-" + SHORT_DATE), IMAGE_TOKENS.get(model.id)),
                }
                cells = [{"model": name, "from": start, **figures, **limits} for start, figures in rows]
                lines.setdefault(name, "\n".join("\t".join(text(line.get(column)) for column in COLUMNS) for line in cells))
    for name in FREE:
        lines[name] = "\t".join([name, "", "0"] + [""] * (len(COLUMNS) - 3))
    header = [
        f"# Made by scripts/refresh-prices.py from genai-prices {source_version} (MIT) on {datetime.date.today()}.",
        "# US dollars per million tokens. NAME* is a prefix, a name that ends in YYYY-MM-DD or YYYYMMDD stands for any date.",
        "\t".join(COLUMNS),
    ]
    TARGET.write_text("\n".join(header + [lines[name] for name in sorted(lines)]) + "\n")
    print(f"{len(lines)} models written to {TARGET}")


main()
