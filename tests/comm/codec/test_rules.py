"""Which codec a parameter gets."""

import pytest
import torch
from torch import nn

from drivetrain.base.errors import InvalidValue
from drivetrain.comm.codec import FP16, CodecRules, Raw, Rule, ThreeLC, TopK


def test_small_parameters_are_raw_and_the_others_get_the_default() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8))
    assigned = CodecRules().assign(model.named_parameters())
    assert [name for name, codec in assigned.items() if codec == ThreeLC()] == ["0.weight"]
    assert all(codec == Raw() for name, codec in assigned.items() if name != "0.weight")


def test_the_first_rule_that_fits_decides_also_for_small_parameters() -> None:
    rules = CodecRules(
        ThreeLC(1.5),
        [
            Rule("fp16", match="head.*"),
            Rule("raw", regex=r"norm\d+\."),
            Rule("topk", max_numel=2000, min_numel=1500, options={"ratio": 0.5}),
            Rule("raw", match="*.weight", regex="^embed"),
        ],
    )
    for name, numel, wanted in [
        ("head.weight", 10_000, FP16()),
        ("head.bias", 3, FP16()),
        ("block.norm2.weight", 10_000, Raw()),
        ("block.fc.weight", 1500, TopK(0.5)),
        ("block.fc.weight", 2000, TopK(0.5)),
        ("block.fc.weight", 2001, ThreeLC(1.5)),
        ("block.fc.bias", 1023, Raw()),
        ("block.fc.bias", 1024, ThreeLC(1.5)),
        ("embed.weight", 10_000, Raw()),
        ("embed.table", 10_000, ThreeLC(1.5)),
    ]:
        assert rules(name, numel) == wanted, name
    assert rules("w", torch.empty(40, 50)) == TopK(0.5)


def test_rules_from_toml_tables() -> None:
    assert Rule.from_table({"match": "*.bias", "codec": "raw"}) == Rule("raw", match="*.bias")
    rule = Rule.from_table({"regex": "^conv", "codec": "3lc", "s": 1.75, "block": 256})
    assert rule.build() == ThreeLC(1.75, 256)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"match": "*.bias"}, "has no codec"),
        ({"match": "*", "codek": "raw"}, "is 'codek' meant to be 'codec'"),
        ({"match": "*", "codec": "3lcc"}, "did you mean '3lc'"),
        ({"mach": "*", "codec": "raw"}, "did you mean 'match'|takes no option 'mach'"),
        ({"match": "*", "codec": "3lc", "s": 3.0}, "at least 1 and less than 2"),
        ({"codec": "raw"}, "has no condition"),
        ({"regex": "(", "codec": "raw"}, "is not valid"),
        ({"min_numel": 5, "max_numel": 4, "codec": "raw"}, "fits nothing"),
    ],
)
def test_bad_rules(table: dict, words: str) -> None:
    with pytest.raises(InvalidValue, match=words):
        Rule.from_table(table)


def test_a_rule_that_fits_nothing_is_most_likely_misspelt() -> None:
    with pytest.raises(InvalidValue, match=r"fits none of the 2 parameters\nthe nearest name is 'layer1\.weight'"):
        CodecRules(rules=[Rule("raw", match="layr1.weight")]).assign([("layer1.weight", 9), ("layer2.weight", 9)])
    with pytest.raises(InvalidValue, match="min_numel is -1"):
        CodecRules(min_numel=-1)
