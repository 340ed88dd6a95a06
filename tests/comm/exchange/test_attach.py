"""The exchange as DDP's communication hook, beside plain DDP and beside its own full form."""

import torch


def flat(found: list[dict]) -> torch.Tensor:
    assert len({left["digest"] for left in found}) == 1, "replicas differ"
    return found[0]["flat"]


def test_the_hook_gives_ddps_numbers_with_raw_and_prepares_numbers_with_any_codec(ranks):
    """Buckets of 50 kB: several of them, rebuilt after the first step."""
    runs = ranks(
        3, "by('ddp')", "by('attach')", "by('attach', '3lc', topology='sharded')",
        "by('prepare', '3lc', topology='sharded')", "by('attach', '3lc', topology='sharded', on_nonfinite='skip')",
        "by('attach', 'raw', aggregate='krum', f=0, hidden=100)",
    )  # fmt: skip
    ddp, raw, streamed, prepared, whole, krum = runs
    assert torch.allclose(flat(ddp), flat(raw), atol=1e-6)
    assert torch.equal(flat(streamed), flat(prepared))
    assert torch.equal(flat(streamed), flat(whole))
    assert streamed[0]["keys"] == prepared[0]["keys"], "residuals are known by parameter, whatever the bucket"
    assert streamed[0]["steps"] > whole[0]["steps"] == 6, "buckets one by one, or a step at a time"
    assert krum[0]["steps"] == 6, "a rule of distances decides once for the whole gradient"
    flat(krum)


def test_accumulation_without_sync_unused_parameters_and_buffers(ranks):
    ddp, raw, lossy, unused = ranks(
        2, "by('ddp', accumulate=3)", "by('attach', accumulate=3)", "by('attach', '3lc', accumulate=3)", "unused()"
    )
    assert torch.allclose(flat(ddp), flat(raw), atol=1e-6)
    assert raw[0]["steps"] == lossy[0]["steps"], "an exchange a step, not a backward pass"
    assert len({left["digest"] for left in unused}) == 1
    norms = unused[0]["norms"]
    assert norms[0] > 0
    assert norms[-1] < norms[0], "a head that is not used still drains what its codec held back"


def test_auto_turns_itself_off_on_a_fast_link_and_compresses_on_a_slow_one(ranks):
    """What the steps compute on the fast link is plain DDP's."""
    ddp, fast, slow = ranks(2, "by('ddp', steps=8)", "auto(1e-6, 1e-7)", "auto(1.0, 1e-3)")
    assert torch.allclose(flat(ddp), flat(fast), atol=1e-6)
    assert "plain float32 is the fastest" in fast[0]["decision"]
    assert "3lc takes" in slow[0]["decision"]
    assert slow[0]["keys"]
    assert len({left["digest"] for left in slow}) == 1


REFUSED = [
    ("unfit_hook(sync='adacomm')", ("sync='adacomm' averages models now and then", "exchange.prepare")),
    ("unfit_hook(pull='delta')", ("does not see the optimizer", "exchange.prepare")),
    ("sparse('attach')", ("'0.weight' has a sparse gradient", "sparse=False")),
    ("sparse('prepare')", ("'0.weight' has a sparse gradient", "sparse=False")),
    ("Exchange().attach(nn.Linear(2, 2))", ("this is a Linear", "prepare")),
]


def test_what_a_hook_cannot_hold_is_refused_with_the_reason(ranks):
    for (left,), (call, parts) in zip(ranks(1, *(call for call, _ in REFUSED)), REFUSED, strict=True):
        assert all(part in left["error"] for part in parts), (call, left)
