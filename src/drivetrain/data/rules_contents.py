"""Rules about contents and about columns that belong together: texts, images, times, sparse and weighted features.

They need statistics that `analyze(..., schema=schema)` computes because the schema asks for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .contents import ImageStats, LanguageStats, TimeStats
from .domains import ImageDomain, TextDomain, TimeDomain, TokenConstraint
from .domains_toml import domain_to_dict
from .edits import Edit
from .paired import PairedStats
from .report import Finding
from .rule import Case, Rule
from .schema import UNCHECKED_STAGES, Schema
from .stats import Stats

HOW = "not computed: analyze(..., schema=schema)"


def unavailable(wanted: str, edit: Edit) -> Finding:
    """The warning that a promise could not be checked."""
    return Finding("STATS_NOT_AVAILABLE", wanted, HOW, edits=(edit,), severity="WARNING")


def text_available(case: Case) -> Finding | None:
    """Language statistics are there, if anything needs them."""
    domain = case.domain
    assert isinstance(domain, TextDomain)
    promises = replace(domain, vocabulary=None, excluded_tokens=[], oov_tokens=[])
    if _language(case) is not None or promises == TextDomain() or not case.seen.num_non_missing:
        return None
    return unavailable("language statistics", case.edit("text", value={}))


def coverage(case: Case) -> Finding | None:
    """Too small a share of the tokens is in the vocabulary."""
    return _low(case, "FEATURE_COVERAGE_TOO_LOW", "min_coverage", "coverage", "of the tokens in the vocabulary")


def token_length(case: Case) -> Finding | None:
    """Tokens are too short on average: a sign that a vocabulary falls back to single characters."""
    kind = "FEATURE_COVERAGE_TOO_SHORT_AVG_TOKEN_LENGTH"
    return _low(case, kind, "min_avg_token_length", "avg_token_length", "bytes in an average token")


def short_sequence(case: Case) -> Finding | None:
    """A sequence has too few tokens."""
    return _low(case, "SEQUENCE_LENGTH_TOO_SHORT", "min_sequence_length", "min_length", "tokens in every sequence")


def long_sequence(case: Case) -> Finding | None:
    """A sequence has too many tokens."""
    limit, seen = case.domain.max_sequence_length, _language(case)  # type: ignore[union-attr]
    if limit is None or seen is None or seen.max_length is None or seen.max_length <= limit:
        return None
    edit = case.edit("text", "max_sequence_length", value=seen.max_length)
    return Finding(
        "SEQUENCE_LENGTH_TOO_LONG", f"at most {limit} tokens in a sequence", f"{seen.max_length}", edits=(edit,)
    )


def _low(case: Case, kind: str, promise: str, statistic: str, words: str) -> Finding | None:
    limit, language = getattr(case.domain, promise), _language(case)
    if limit is None or language is None:
        return None
    seen = getattr(language, statistic)
    if seen is None or not seen < limit:
        return None
    return Finding(kind, f"at least {limit:g} {words}", f"{seen:.4g}", edits=(case.edit("text", promise, value=seen),))


def token(case: Case, kind: str, promise: str) -> Finding | None:
    """A token occurs too rarely or too often; the first such one is told, all are edited."""
    domain, language = case.domain, _language(case)
    assert isinstance(domain, TextDomain)
    for item in domain.tokens if language is not None else ():
        limit, seen = getattr(item, promise), _seen_of(item, promise, language)
        if limit is None or seen is None or (seen >= limit if promise.startswith("min") else seen <= limit):
            continue
        words = promise.replace("_", " ").replace("min", "at least").replace("max", "at most")
        wanted = f"token {item.token!r}: {words} {limit:g}"
        return Finding(
            kind, wanted, f"{seen:.4g}", examples=((item.token, None),), edits=(_all_tokens(case, language),)
        )
    return None


def _seen_of(item: TokenConstraint, promise: str, language: LanguageStats | None) -> float | None:
    name = str(item.token)
    if language is None or name not in language.watched:
        return None
    if promise.endswith("fraction"):
        return language.fraction(name)
    low, _, high = language.occurrences(name)
    return low if promise.startswith("min") else high


def _all_tokens(case: Case, language: LanguageStats | None) -> Edit:
    """Every promised bound of every token moved to what was seen, where it is broken."""
    domain = case.domain
    assert isinstance(domain, TextDomain)
    wide = []
    for item in domain.tokens:
        bounds: dict[str, Any] = {}
        for promise in ("min_per_sequence", "max_per_sequence", "min_fraction", "max_fraction"):
            limit, seen = getattr(item, promise), _seen_of(item, promise, language)
            if limit is not None and seen is not None:
                bounds[promise] = min(limit, seen) if promise.startswith("min") else max(limit, seen)
        wide.append(replace(item, **bounds))
    return case.edit("text", "tokens", value=domain_to_dict(replace(domain, tokens=wide), "string")["text"]["tokens"])


def _language(case: Case) -> LanguageStats | None:
    return case.seen.extras.get("language")


def image_format(case: Case) -> Finding | None:
    """Too many values aren't images of a known format."""
    domain, seen = case.domain, case.seen.extras.get("image")
    assert isinstance(domain, ImageDomain)
    limit = domain.min_supported_fraction
    if limit is None or not case.seen.num_non_missing:
        return None
    wanted = f"at least {limit:.2%} readable images"
    if not isinstance(seen, ImageStats):
        return unavailable(wanted, case.edit("image", "min_supported_fraction", op="remove", value=None))
    if not seen.supported_fraction < limit:
        return None
    edit = case.edit("image", "min_supported_fraction", value=seen.supported_fraction)
    unknown = seen.formats.get("unknown", 0)
    share = 1 - seen.supported_fraction
    return Finding(
        "LOW_SUPPORTED_IMAGE_FRACTION", wanted, f"{seen.supported_fraction:.2%}", unknown, share, edits=(edit,)
    )


def image_size(case: Case) -> Finding | None:
    """An image is too large."""
    domain, seen = case.domain, case.seen.extras.get("image")
    assert isinstance(domain, ImageDomain)
    sized = seen.max_num_bytes if isinstance(seen, ImageStats) else case.seen.bytes and case.seen.bytes.max_num_bytes
    if domain.max_bytes is None or not sized or sized <= domain.max_bytes:
        return None
    edit = case.edit("image", "max_bytes", value=sized)
    return Finding("MAX_IMAGE_BYTE_SIZE_EXCEEDED", f"at most {domain.max_bytes:,} bytes", f"{sized:,}", edits=(edit,))


def time_format(case: Case) -> Finding | None:
    """Texts that don't follow the promised date or time format."""
    domain, seen = case.domain, case.seen.extras.get("time")
    assert isinstance(domain, TimeDomain)
    if not domain.format or case.seen.type != "string" or not case.seen.num_non_missing:
        return None
    if not isinstance(seen, TimeStats) or domain.format not in seen.formats:
        return unavailable(f"times in the format {domain.format}", case.edit("time", op="remove", value=None))
    bad = seen.num_values - seen.formats[domain.format]
    if not bad:
        return None
    share = bad / seen.num_values
    edits = case.replace_domain()
    return Finding(
        "TIME_TYPE_UNEXPECTED_FORMAT",
        f"times in the format {domain.format}",
        f"{bad:,} others",
        bad,
        share,
        edits=edits,
    )


def paired_findings(stats: Stats, schema: Schema) -> Iterator[tuple[str, Finding]]:
    """Findings about sparse and weighted features, by name."""
    taken = {name for name, feature in schema.features.items() if feature.checked}
    for group, kind, partner in (("sparse", "SPARSE_FEATURE", "INDEX"), ("weighted", "WEIGHTED_FEATURE", "WEIGHT")):
        for name, item in getattr(schema, group).items():
            if item.stage in UNCHECKED_STAGES:
                continue
            gone = (Edit("set", (group, name, "stage"), "DEPRECATED"),)
            if name in taken:
                yield name, Finding(f"{kind}_NAME_COLLISION", "a name of its own", "a feature of this name", edits=gone)
            taken.add(name)
            seen = stats.extras.get(f"paired {name}")
            if not isinstance(seen, PairedStats):
                yield name, replace(unavailable("statistics of paired columns", gone[0]))
                continue
            n = max(1, seen.num_examples)
            if count := seen.missing_value:
                words = f"{count:,} examples without {seen.value!r}"
                yield (
                    name,
                    Finding(
                        f"{kind}_MISSING_VALUE", "a value beside every partner", words, count, count / n, edits=gone
                    ),
                )
            for column, count in seen.missing_partner.items():
                if count:
                    words = f"{count:,} examples without {column!r}"
                    yield (
                        name,
                        Finding(
                            f"{kind}_MISSING_{partner}", "a partner to every value", words, count, count / n, edits=gone
                        ),
                    )
            for column, count in seen.length_mismatch.items():
                if count:
                    words = f"{count:,} examples where {column!r} and {seen.value!r} differ"
                    yield (
                        name,
                        Finding(
                            f"{kind}_LENGTH_MISMATCH", "equal numbers of values", words, count, count / n, edits=gone
                        ),
                    )


def _token_rule(kind: str, promise: str, condition: str) -> Rule:
    return Rule(kind, condition, f"{promise} = what was seen", lambda case: token(case, kind, promise))


SEEN = "the bound moves to what was seen"
TEXTS = (
    Rule(
        "STATS_NOT_AVAILABLE",
        "a promise needs a statistic that wasn't computed (WARNING)",
        "the promise is removed",
        text_available,
    ),
    Rule("FEATURE_COVERAGE_TOO_LOW", "share of tokens in the vocabulary < text.min_coverage", SEEN, coverage),
    Rule(
        "FEATURE_COVERAGE_TOO_SHORT_AVG_TOKEN_LENGTH",
        "average token length < text.min_avg_token_length",
        SEEN,
        token_length,
    ),
    Rule("SEQUENCE_LENGTH_TOO_SHORT", "tokens in a sequence < text.min_sequence_length", SEEN, short_sequence),
    Rule("SEQUENCE_LENGTH_TOO_LONG", "tokens in a sequence > text.max_sequence_length", SEEN, long_sequence),
    _token_rule(
        "SEQUENCE_VALUE_TOO_FEW_OCCURRENCES",
        "min_per_sequence",
        "a token occurs in a sequence fewer times than its min_per_sequence",
    ),
    _token_rule(
        "SEQUENCE_VALUE_TOO_MANY_OCCURRENCES",
        "max_per_sequence",
        "a token occurs in a sequence more often than its max_per_sequence",
    ),
    _token_rule(
        "SEQUENCE_VALUE_TOO_SMALL_FRACTION", "min_fraction", "share of sequences with a token < its min_fraction"
    ),
    _token_rule(
        "SEQUENCE_VALUE_TOO_LARGE_FRACTION", "max_fraction", "share of sequences with a token > its max_fraction"
    ),
)
IMAGES = (
    Rule("LOW_SUPPORTED_IMAGE_FRACTION", "share of readable images < image.min_supported_fraction", SEEN, image_format),
    Rule("MAX_IMAGE_BYTE_SIZE_EXCEEDED", "greatest image > image.max_bytes", SEEN, image_size),
)
TIMES = (
    Rule(
        "TIME_TYPE_UNEXPECTED_FORMAT", "a text that doesn't follow the format of `time`", "domain as seen", time_format
    ),
)
PAIRED = tuple(
    Rule(f"{kind}_{what}", condition, 'stage = "DEPRECATED"')
    for kind, partner in (("SPARSE_FEATURE", "INDEX"), ("WEIGHTED_FEATURE", "WEIGHT"))
    for what, condition in (
        ("MISSING_VALUE", f"an example has the {partner.lower()} column but not the value column"),
        (f"MISSING_{partner}", f"an example has the value column but not the {partner.lower()} column"),
        ("LENGTH_MISMATCH", "the columns have different numbers of values in an example"),
        ("NAME_COLLISION", "its name is also that of a feature"),
    )
)
